"""The oracle as planner and writer of a team, for questions whose gold hops are known; as a searcher it is `expert_action`."""

from __future__ import annotations

from typing import Literal, NamedTuple

from dllm_agents.benchmarks.plan_reply import Finding, plan_text
from dllm_agents.benchmarks.search_reply import answer_text, reply_text
from dllm_agents.records import Task


class TeamReply(NamedTuple):
    """What a role of the team replies, knowing some findings."""

    role: Literal["planner", "writer"]
    findings: list[Finding]
    reply: str


def reference_plan(task: Task) -> list[str]:
    """The gold plan of a question: one step per hop, bridges as references."""
    hops = task.data["hops"]
    steps = [hops[0]["query"]] if hops else []
    for number, hop in enumerate(hops[1:], 1):
        # In a generated chain each hop's subject is the answer of the hop before; published sets give titles only.
        steps.append(hop["query"].replace(hop["title"], f"#{number}") if hop["text"] else hop["query"])
    return steps


def team_replies(task: Task) -> list[TeamReply]:
    """The oracle as planner, before and after the search, and as writer: what a backbone is trained on beside the search agent's own
    turns, which teach it to seek."""
    hops = task.data["hops"]
    objects = [hop["title"] for hop in hops[1:]] + task.data["answers"][:1]
    findings = [Finding(hop["query"], answer) for hop, answer in zip(hops, objects, strict=True)]
    return [
        TeamReply("planner", [], reply_text(f"The question has {len(hops)} hops.", plan_text(reference_plan(task)))),
        TeamReply("planner", findings, reply_text("Nothing is missing.", plan_text([]))),
        TeamReply("writer", findings, answer_text(task.data["answers"][0])),
    ]
