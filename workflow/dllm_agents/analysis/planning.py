"""What a planner's plans were worth, on questions whose gold hops are known.

DLLM Agent speaks of hit rate, convergence and backtracking in its abstract, and defines none of them in its text: these definitions are
this project's own. What its Table 1 and Figure 2 count of a team is `team_metrics`.
"""

from __future__ import annotations

from collections.abc import Sequence

from dllm_agents.benchmarks.plan_reply import with_references
from dllm_agents.benchmarks.qa_accuracy import normalise
from dllm_agents.records import Outcome, Task

_SMALL_WORDS = frozenset(["of", "in", "at", "by", "is", "was", "who", "what", "where", "when", "which", "whose", "for", "to"])


def planner_metrics(outcome: Outcome, task: Task) -> dict[str, float]:
    """The metrics of a planner's episode: whether its first plan hits, recall of gold hops (where they are known), rounds, the first that
    covers all hops (where one does), backtracks. None for other workflows."""
    noted = outcome.planner
    if noted is None:
        return {}
    metrics: dict[str, float] = {
        "planner_hit": bool(noted.plans) and planner_hit(noted.plans[0], task),
        "rounds": len(noted.plans),
        "backtracks": backtracks(noted.asked, task),
    }
    if task.data["hops"]:
        metrics["hop_recall"] = outcome.steps[-1].progress if outcome.steps else 0.0
    first = next((number for number, reached in enumerate(noted.coverage, 1) if reached >= 1), None)
    return metrics if first is None else metrics | {"first_full_round": first}


def team_metrics(outcome: Outcome) -> dict[str, float]:
    """What DLLM Agent's Table 1 and Figure 2 count in a team's episode: seekers (one a task that was handed out), turns and tool calls of
    the whole episode and per seeker (where there is one), whether any action was invalid. None for other workflows."""
    if (team := outcome.team) is not None:
        seekers, own = len(team.seeker_turns), (sum(team.seeker_turns), sum(team.seeker_tool_calls))
        turns, calls = team.planner_turns + own[0], team.planner_tool_calls + own[1]
        invalid = team.invalid_turns > 0
    elif outcome.planner is not None:
        searches = [step for step in outcome.steps if step.stage == "search" and step.call is not None]
        seekers, calls = sum(map(len, outcome.planner.asked)), sum(bool(step.observation) for step in searches)
        turns, own = len(outcome.steps), (len(searches), calls)
        invalid = any(step.error is not None and step.call is not None for step in outcome.steps)
    else:
        return {}
    metrics: dict[str, float] = {"seekers": seekers, "turns": turns, "tool_calls": calls, "invalid_action": invalid}
    return metrics | ({"seeker_turns": own[0] / seekers, "seeker_tool_calls": own[1] / seekers} if seekers else {})


def covered_hops(plan: Sequence[str], task: Task) -> list[int | None]:
    """For each step of a plan, the gold hop it asks for: the first that is still free and all of whose content words the step
    has, once its references stand for what the steps they name would truly find."""
    hops = task.data["hops"]
    objects = [hop["title"] for hop in hops[1:]] + task.data["answers"][:1]
    covered: list[int | None] = []
    for step in plan:
        answers = [objects[hop] if hop is not None else "" for hop in covered]
        words = _content_words(with_references(step, lambda number: answers[number - 1]))  # noqa: B023 - used up here
        free = (hop for hop in range(len(hops)) if hop not in covered and _content_words(hops[hop]["query"]) <= words)
        covered.append(next(free, None))
    return covered


def planner_hit(plan: Sequence[str], task: Task) -> bool:
    """Whether a plan covers every gold hop with one step per hop: the planner hit rate is the share of first plans that do."""
    hops = len(task.data["hops"])
    return hops > 0 and len(plan) == hops and None not in covered_hops(plan, task)


def backtracks(rounds: Sequence[Sequence[str]], task: Task) -> int:
    """Sub-questions of later rounds that go back: they ask again what an earlier round has asked, or for a gold hop it has covered."""
    count, earlier, hops = 0, set[str](), set[int]()
    for questions in rounds:
        covered = covered_hops(questions, task)
        count += sum(normalise(question) in earlier or hop in hops for question, hop in zip(questions, covered, strict=True))
        earlier |= set(map(normalise, questions))
        hops |= {hop for hop in covered if hop is not None}
    return count


def _content_words(text: str) -> set[str]:
    return set(normalise(text).split()) - _SMALL_WORDS
