"""The thought of a reply, `<think>...</think>`: the only place that separates it from the rest.

Replies are hostile: reading takes linear time and never raises.
"""

from __future__ import annotations

from typing import NamedTuple

OPEN, CLOSE = "<think>", "</think>"


class Thought(NamedTuple):
    """The text before a thought, the thought, and the text behind it; `behind` is None if the thought is not closed or is nested."""

    before: str
    text: str
    behind: str | None


def first(text: str) -> Thought | None:
    """The first thought of a text; None without one."""
    before, begun, rest = text.partition(OPEN)
    if not begun:
        return None
    inner, closed, behind = rest.partition(CLOSE)
    return Thought(before, inner.strip(), behind if closed and OPEN not in inner else None)


def unclosed(text: str) -> bool:
    """Whether the last thought of a text is not closed: the model was still thinking."""
    return text.rfind(OPEN) > text.rfind(CLOSE)


def behind(text: str) -> str:
    """The text behind the last thought; all of it without a thought."""
    return text.rpartition(CLOSE)[2]


def written(thought: str) -> str:
    """A thought with its tags."""
    return f"{OPEN}{thought}{CLOSE}"
