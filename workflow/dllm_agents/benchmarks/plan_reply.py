"""A planner's reply: a plan is a list of sub-questions in which `#k` stands for the answer of step k, counted from 1."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from dllm_agents import thoughts

MAX_PLAN_STEPS = 6
MAX_PLAN_CHARACTERS = 4_096
MAX_STEP_CHARACTERS = 300
NO_PLAN, PLAN_FORMAT_ERROR, PLAN_REFERENCE_ERROR = "no plan", "plan format error", "plan reference error"
_REFERENCE = re.compile(r"#(\d{1,2})")


class Finding(NamedTuple):
    """What a seeker found out: its sub-question, references filled in, and the answer, or None."""

    question: str
    answer: str | None


def parse_plan(text: str) -> tuple[str, list[str]] | str:
    """(thought, steps) of a planner's reply, or the name of its failure. An empty list says that nothing is missing.
    Bounded: at most 6 steps of 300 characters; a step refers to earlier ones only."""
    if not text.strip():
        return "empty output"
    _, opened, rest = text[: 4 * MAX_PLAN_CHARACTERS].partition("<plan>")
    if not opened:
        return NO_PLAN
    body, closed, _ = rest.partition("</plan>")
    if not closed or len(body) > MAX_PLAN_CHARACTERS:
        return PLAN_FORMAT_ERROR
    try:
        steps = json.loads(body)
    except (ValueError, RecursionError):
        return PLAN_FORMAT_ERROR
    if not isinstance(steps, list) or len(steps) > MAX_PLAN_STEPS:
        return PLAN_FORMAT_ERROR
    if not all(isinstance(step, str) and step.strip() and len(step) <= MAX_STEP_CHARACTERS for step in steps):
        return PLAN_FORMAT_ERROR
    if any(not 1 <= reference <= index for index, step in enumerate(steps) for reference in references(step)):
        return PLAN_REFERENCE_ERROR
    thought = thoughts.first(text)
    return thought.text if thought else "", [step.encode("utf-8", "ignore").decode().strip() for step in steps]


def plan_text(plan: Sequence[str]) -> str:
    """A plan in the format of the prompt."""
    return f"<plan>{json.dumps(list(plan), ensure_ascii=False)}</plan>"


def references(step: str) -> list[int]:
    """The numbers of the steps, from 1, whose answers a step needs."""
    return [int(number) for number in _REFERENCE.findall(step)]


def levels(plan: Sequence[str]) -> list[list[int]]:
    """Indices of the plan's steps in the order they can be carried out: those of one level wait for no other of it."""
    depth: list[int] = []
    for step in plan:
        depth.append(1 + max((depth[reference - 1] for reference in references(step)), default=-1))
    return [[index for index, own in enumerate(depth) if own == level] for level in range(max(depth, default=-1) + 1)]


def fill(step: str, answers: Sequence[str | None]) -> str | None:
    """A step with the answers in place of its references; None when one of them was not found."""
    if any(answers[reference - 1] is None for reference in references(step)):
        return None
    return with_references(step, lambda number: answers[number - 1] or "")


def with_references(step: str, answer: Callable[[int], str]) -> str:
    """A step with `answer(k)` in place of every `#k`."""
    return _REFERENCE.sub(lambda match: answer(int(match[1])), step)
