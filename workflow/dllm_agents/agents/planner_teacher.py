"""The oracle in every role of a planner's team, for questions with known gold hops: the source of training data for team roles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dllm_agents.agents import planner
from dllm_agents.agents.policy import Message
from dllm_agents.benchmarks.base import Environment
from dllm_agents.benchmarks.plan_reply import plan_text
from dllm_agents.benchmarks.search_reply import answer_text, reply_text, tool_call
from dllm_agents.records import Call, Task

Taught = tuple[str, list[Message], str]
"""Role, messages, reply."""


def reference_plan(task: Task) -> list[str]:
    """The gold plan of a question: one step per hop, bridges as references."""
    hops = task.data["hops"]
    steps = [hops[0]["query"]] if hops else []
    for number, hop in enumerate(hops[1:], 1):
        # In a generated chain each hop's subject is the answer of the hop before; published sets give titles only.
        steps.append(hop["query"].replace(hop["title"], f"#{number}") if hop["text"] else hop["query"])
    return steps


class Teacher:
    """All roles of an episode; `taught` holds what they were asked and what they replied, in order."""

    def __init__(self, task: Task) -> None:
        self.taught: list[Taught] = []
        self._task = task
        self._hops: list[dict[str, str]] = task.data["hops"]
        self._objects = [hop["title"] for hop in self._hops[1:]] + task.data["answers"][:1]
        self._planned = False
        self._searched: set[str] = set()

    def roles(self) -> planner.Roles:
        """The teacher in every role."""
        return planner.Roles(self.planner, self.seeker, self.writer)

    def planner(self, messages: Sequence[Message], *, seed: int, constraint: dict[str, Any] | None = None) -> Call:
        """The gold plan, then an empty one."""
        plan, thought = (reference_plan(self._task), f"The question has {len(self._hops)} hops.")
        if self._planned:
            plan, thought = [], "Nothing is missing."
        self._planned = True
        return self._reply("planner", messages, seed, reply_text(thought, plan_text(plan)))

    def seeker(self, messages: Sequence[Message], *, seed: int, constraint: dict[str, Any] | None = None) -> Call:
        """A search for the sub-question, then what the gold passage says."""
        prompt = messages[0]["content"] + "\n"
        number = next(at for at, hop in enumerate(self._hops) if f"Question: {hop['query']}\n" in prompt)
        query, text = self._hops[number]["query"], self._hops[number]["text"] or "The passages say so."
        if query in self._searched:
            return self._reply("seeker", messages, seed, reply_text(text, answer_text(self._objects[number])))
        self._searched.add(query)
        return self._reply("seeker", messages, seed, reply_text(f"I need the {query}.", tool_call([query])))

    def writer(self, messages: Sequence[Message], *, seed: int, constraint: dict[str, Any] | None = None) -> Call:
        """The gold answer."""
        return self._reply("writer", messages, seed, answer_text(self._task.data["answers"][0]))

    def _reply(self, role: str, messages: Sequence[Message], seed: int, text: str) -> Call:
        self.taught.append((role, list(messages), text))
        return Call(role=role, seed=seed, text=text)


def taught_replies(task: Task, environment: Environment, style: str) -> list[Taught]:
    """What the teacher is asked and replies on a question, played through the workflow itself."""
    teacher = Teacher(task)
    planner.play(environment, task, teacher.roles(), style=style)
    return teacher.taught
