"""The thought of a reply, `<think>...</think>`, where a model writes one: the one place that tells it from the rest.

Replies are hostile: reading takes linear time and never raises.
"""

from __future__ import annotations

from typing import NamedTuple

OPEN, CLOSE = "<think>", "</think>"


class Thought(NamedTuple):
    """What stands before a thought, the thought, and what stands behind it; `behind` is None where it is not closed, or is nested."""

    before: str
    text: str
    behind: str | None


def first(text: str) -> Thought | None:
    """The first thought of a text; None when none begins."""
    before, begun, rest = text.partition(OPEN)
    if not begun:
        return None
    inner, closed, behind = rest.partition(CLOSE)
    return Thought(before, inner.strip(), behind if closed and OPEN not in inner else None)


def unclosed(text: str) -> bool:
    """Whether the last thought of a text is begun and not closed: the model was still thinking."""
    return text.rfind(OPEN) > text.rfind(CLOSE)


def behind(text: str) -> str:
    """What stands behind the last thought of a text: all of it where there is no thought."""
    return text.rpartition(CLOSE)[2]


def written(thought: str) -> str:
    """A thought with its tags."""
    return f"{OPEN}{thought}{CLOSE}"
