"""Pre-hoc tool selector (DiffuAgent section 5.2, equations 6 and 7)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from dllm_agents import prompts
from dllm_agents.agents.policy import Complete

SKIP_AT = 3
MAX_REPLY = 4000
MAX_MESSAGES, MAX_MESSAGE = 20, 500  # of the history that is shown


class Seen(NamedTuple):
    """What tools are chosen by: the request, the tool called last, and the messages exchanged so far without the system prompt."""

    request: str
    before: str = ""
    history: Sequence[Mapping[str, str]] = ()


class Selecting(Protocol):
    """What chooses tools: a backbone, or statistics in front of one. `saved_calls` counts choices made
    without asking a backbone."""

    @property
    def saved_calls(self) -> int: ...

    def select(self, seen: Seen, functions: Sequence[Mapping[str, Any]], seed: int) -> list[Mapping[str, Any]]: ...


@dataclass(slots=True)
class Selector:
    """D' = Selector(u_user, history, D): the tools the agent is shown. Skipped for three tools or fewer; a reply that names no
    offered tool keeps them all."""

    complete: Complete
    style: str
    saved_calls: int = 0

    def select(self, seen: Seen, functions: Sequence[Mapping[str, Any]], seed: int) -> list[Mapping[str, Any]]:
        """The kept functions, in the order offered."""
        if len(functions) <= SKIP_AT:
            return list(functions)
        history = [f"{message['role']}: {message['content']}"[:MAX_MESSAGE] for message in seen.history[-MAX_MESSAGES:]]
        tools = [dict(function) for function in functions]
        messages = prompts.request(self.style, "selector.j2", user=seen.request, history=history, functions=tools)
        completion = self.complete(messages, seed=seed)
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
