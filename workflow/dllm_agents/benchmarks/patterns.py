"""Regular expressions of task files, which may be anybody's: matched within a time limit, which Python's own `re` does not have."""

from __future__ import annotations

from typing import Any

import regex

from dllm_agents.errors import StageError

LONGEST_PATTERN = 1_000  # characters
SECONDS = 1.0


class Pattern:
    """A sub-goal pattern of a task. Raises StageError when it is no regular expression, or longer than 1,000 characters."""

    def __init__(self, text: Any, where: str) -> None:
        self.where = where
        if not isinstance(text, str) or len(text) > LONGEST_PATTERN:
            raise StageError(f"{where}: a sub-goal is a regular expression of at most {LONGEST_PATTERN} characters")
        try:
            self._compiled = regex.compile(text)
        except (regex.error, RecursionError, OverflowError) as error:
            raise StageError(f"{where}: sub-goal {text[:80]!r} is not a regular expression ({error})") from None

    @property
    def text(self) -> str:
        return str(self._compiled.pattern)

    def search(self, observation: str) -> str | None:
        """What of `observation` matches first; None for no match. Raises TimeoutError naming the task when matching takes over a second."""
        try:
            match = self._compiled.search(observation, timeout=SECONDS)
        except TimeoutError:
            raise TimeoutError(f"{self.where}: sub-goal {self.text[:80]!r} takes over {SECONDS:g} s to match; simplify it") from None
        return None if match is None else str(match[0])
