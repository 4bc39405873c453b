"""Pre-hoc tool selector (DiffuAgent section 5.2, equations 6 and 7)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from dllm_agents import prompts
from dllm_agents.agents.policy import Complete

SKIP_AT = 3
MAX_REPLY = 4000


class Selecting(Protocol):
    """What chooses tools: a backbone, or statistics in front of one. `saved_calls` counts choices made
    without asking a backbone."""

    @property
    def saved_calls(self) -> int: ...

    def select(self, user: str, functions: Sequence[Mapping[str, Any]], seed: int, before: str = "") -> list[Mapping[str, Any]]: ...


@dataclass(slots=True)
class Selector:
    """D' = Selector(u_user, D): the tools the agent is shown. Skipped for three tools or fewer; a reply that names no
    offered tool keeps them all."""

    complete: Complete
    style: str
    saved_calls: int = 0

    def select(self, user: str, functions: Sequence[Mapping[str, Any]], seed: int, before: str = "") -> list[Mapping[str, Any]]:
        """The kept functions, in the order offered; what was called before makes no difference."""
        if len(functions) <= SKIP_AT:
            return list(functions)
        content = prompts.render(self.style, "selector.j2", user=user, functions=[dict(function) for function in functions])
        completion = self.complete([{"role": "user", "content": content}], seed=seed)
        names = named_tools(completion.text[:MAX_REPLY], [str(function["name"]) for function in functions])
        if not names:
            return list(functions)
        return [function for function in functions if function["name"] in names]


def named_tools(reply: str, offered: Sequence[str]) -> set[str]:
    """The offered names a reply lists: a JSON list where there is one, else names split by commas and lines. Names that
    were not offered are left out."""
    start, end = reply.find("["), reply.rfind("]")
    items: list[object] = []
    if 0 <= start < end:
        try:
            parsed = json.loads(reply[start : end + 1])
            items = parsed if isinstance(parsed, list) else []
        except (ValueError, RecursionError):
            items = []
    if not items:
        items = [part.strip(" \t-*`'\"[]().") for line in reply.splitlines() for part in line.split(",")]
    return {item for item in items if isinstance(item, str) and item in offered}
