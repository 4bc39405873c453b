"""The workflow's teacher, for questions whose gold hops are known: a task a hop, one search a task, and the gold answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dllm_agents.agents.deepdiver import team, tools
from dllm_agents.agents.policy import Message
from dllm_agents.config import TeamBudget
from dllm_agents.records import Call as Answer
from dllm_agents.records import Task
from dllm_agents.tool_calls import Call

Taught = tuple[team.Role, list[Message], str]
"""Role, messages, reply: what a backbone is trained on."""


class Teacher:
    """Both backbones of an episode; `taught` holds what they were asked and what they replied, in order. A blank before an answer makes its
    first word the token that it is in running text."""

    def __init__(self, task: Task) -> None:
        self.taught: list[Taught] = []
        self._hops: list[dict[str, str]] = task.data["hops"]
        self._objects = [hop["title"] for hop in self._hops[1:]] + task.data["answers"][:1]
        self._begun = 0  # hops that were handed out
        self._searched = False

    def planner(self, messages: Sequence[Message], *, seed: int, constraint: dict[str, Any] | None = None) -> Answer:
        """Hand out the next hop, or end with the answer."""
        thought = f"I know {self._begun} of {len(self._hops)}."
        if self._begun == len(self._hops):
            answer = self._objects[-1]
            call = done(tools.PLANNER_DONE, "", final_answer=f" {answer}")
            return self._reply("planner", messages, f"{thought} The answer is {answer}.", call)
        hop = self._hops[self._begun]
        self._begun, self._searched = self._begun + 1, False
        return self._reply("planner", messages, thought, {"name": tools.ASSIGN, "arguments": {"tasks": [{"task_content": hop["query"]}]}})

    def seeker(self, messages: Sequence[Message], *, seed: int, constraint: dict[str, Any] | None = None) -> Answer:
        """Search for the hop, then report what the gold passage says."""
        hop, bridge = self._hops[self._begun - 1], self._objects[self._begun - 1]
        if self._searched:
            return self._reply("seeker", messages, hop["text"] or "The passages say so.", done(tools.SEEKER_DONE, f" {bridge}"))
        self._searched = True
        search = {"name": "batch_web_search", "arguments": {"queries": [hop["query"]]}}
        return self._reply("seeker", messages, f"I need the {hop['query']}.", search)

    def _reply(self, role: team.Role, messages: Sequence[Message], thought: str, call: Call) -> Answer:
        text = team.reply_text(thought, [call])
        self.taught.append((role, list(messages), text))
        return Answer(role=role, seed=len(self.taught), text=text)


def done(name: str, summary: str, **more: Any) -> Call:
    """A call of a done tool."""
    arguments = {"task_summary": summary, "task_name": "", "key_files": [], "completion_status": "completed", **more}
    return {"name": name, "arguments": arguments}


def taught_replies(task: Task, library: tools.Library, style: str) -> list[Taught]:
    """What the teacher is asked and replies on a question, played through the workflow itself: first as the planner, then as one seeker
    after the other, so that the turns of a conversation stand together."""
    teacher = Teacher(task)
    team.play(task.goal, teacher.planner, teacher.seeker, library, style=style, budget=TeamBudget())
    return sorted(teacher.taught, key=lambda reply: reply[0])
