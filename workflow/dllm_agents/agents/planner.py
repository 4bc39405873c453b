"""Planner, seekers, writer (DLLM Agent, after DeepDiver): a planner decomposes the question, seekers search for its steps side by side, and
a writer answers from what they found.

The plain form of a team, for models too small for DeepDiver's tool calls (`agents.deepdiver`): a plan is a list of sub-questions in which
`#k` stands for the answer of step k (`benchmarks.plan_reply`); after each round the planner sees the findings and plans again, until its
plan is empty or the rounds are used up.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from dllm_agents import prompts
from dllm_agents.agents.policy import Complete, EpisodeLimit, ending_of
from dllm_agents.agents.react import call_seed
from dllm_agents.benchmarks.base import Environment
from dllm_agents.benchmarks.plan_reply import Finding, fill, levels, parse_plan, plan_text
from dllm_agents.benchmarks.search_reply import Reply, parse_reply
from dllm_agents.client.client import PromptTooLong
from dllm_agents.records import Call, Ending, EpisodeStep, Outcome, PlannerMeasures, Task


@dataclass(frozen=True)
class Roles:
    """The backbones of the workflow; one may play several roles."""

    planner: Complete
    seeker: Complete
    writer: Complete


@dataclass
class _Search:
    """One seeker's work on one step of a plan."""

    question: str
    steps: list[EpisodeStep] = field(default_factory=list)
    answer: str | None = None


def play(
    environment: Environment,
    task: Task,
    roles: Roles,
    *,
    style: str,
    max_rounds: int = 3,
    seeker_turns: int = 3,
    seekers: int = 4,
    seed: int = 42,
) -> Outcome:
    """Play a question. `environment` must bear searches from several threads at once. Every step is labelled with its stage: plan,
    search or write. A first reply without a readable plan ends the episode; a later one ends the planning."""
    noted = PlannerMeasures()
    outcome = Outcome(initial_observation=environment.reset(), planner=noted)
    findings: list[Finding] = []
    ended: Ending | None = None
    try:
        for number in range(max_rounds):
            plan = _plan(task, roles.planner, style, findings, outcome, call_seed(seed, task, number, 0))
            if isinstance(plan, str) or not plan:
                noted.failure = plan if isinstance(plan, str) and not noted.plans else None
                break
            noted.plans.append(plan)
            latest = _carry_out(environment, task, plan, roles.seeker, style, seeker_turns, seekers, outcome, seed + 1000 * (number + 1))
            noted.asked.append([finding.question for finding in latest])
            findings += latest
            noted.coverage.append(outcome.steps[-1].progress)
        if noted.failure is None:
            _write(environment, task, roles.writer, style, findings, outcome, call_seed(seed, task, max_rounds, 0))
    except (EpisodeLimit, PromptTooLong) as stop:
        ended = ending_of(stop)
    outcome.success, outcome.native_score = environment.success, environment.native_score
    outcome.ended = ended or ("success" if environment.success else "answered" if outcome.answer is not None else "no_action")
    return outcome


def _plan(task: Task, planner: Complete, style: str, findings: Sequence[Finding], outcome: Outcome, seed: int) -> list[str] | str:
    """The next plan, or the name of the reply's failure."""
    completion = planner(prompts.team_messages(style, "planner", task.goal, findings), seed=seed)
    read = parse_plan(completion.text)
    step = _step("plan", completion, progress=_progress(outcome))
    if isinstance(read, str):
        outcome.steps.append(_numbered(outcome, step, valid=False, error=read))
        return read
    thought, plan = read
    outcome.steps.append(_numbered(outcome, step, thought=thought, action=plan_text(plan)))
    return plan


def _carry_out(
    environment: Environment,
    task: Task,
    plan: Sequence[str],
    seeker: Complete,
    style: str,
    turns: int,
    seekers: int,
    outcome: Outcome,
    seed: int,
) -> list[Finding]:
    """Search for every step of a plan, level by level, the steps of a level side by side; findings in the plan's order.

    Steps are recorded in the plan's order with the progress reached at the end of their level, so that the record does not
    depend on which seeker was faster.
    """
    findings: list[Finding | None] = [None] * len(plan)
    answers: list[str | None] = [None] * len(plan)
    with ThreadPoolExecutor(seekers) as pool:
        for level in levels(plan):
            filled = {index: fill(plan[index], answers) for index in level}
            running = {
                index: pool.submit(_seek, environment, task, question, seeker, style, turns, seed + 10 * index)
                for index, question in filled.items()
                if question is not None
            }
            searches = {index: future.result() for index, future in running.items()}
            progress = max((step.progress for search in searches.values() for step in search.steps), default=0.0)
            for index in level:
                answers[index] = searches[index].answer if index in searches else None
                findings[index] = Finding(filled[index] or plan[index], answers[index])
                _record_search(outcome, searches.get(index), progress)
    return [finding for finding in findings if finding is not None]


def _seek(environment: Environment, task: Task, question: str, seeker: Complete, style: str, turns: int, seed: int) -> _Search:
    """One seeker: a search agent on a sub-question. Its answer is a finding and does not end the episode."""
    search = _Search(question)
    for turn in range(turns):
        messages = prompts.search_messages(style, question, search.steps, turns)
        completion = seeker(messages, seed=call_seed(seed, task, turn, 0))
        reply = parse_reply(completion.whole_text.strip())
        step = _step("search", completion)
        if not isinstance(reply, Reply):
            search.steps.append(step.model_copy(update={"valid": False, "error": reply}))
            break
        update: dict[str, object] = {"thought": reply.thought, "action": reply.action}
        if reply.answer is None:
            started = time.perf_counter()
            observation, progress, _, valid = environment.step(reply.action)
            update |= {"observation": observation, "progress": progress, "valid": valid}
            update["environment_seconds"] = time.perf_counter() - started
        search.steps.append(step.model_copy(update=update))
        if reply.answer is not None:
            search.answer = reply.answer
            break
    return search


def _record_search(outcome: Outcome, search: _Search | None, progress: float) -> None:
    progress = max(progress, _progress(outcome))
    if search is None:
        skipped = EpisodeStep(index=0, stage="search", progress=progress, valid=False, error="a step it needs found nothing")
        outcome.steps.append(_numbered(outcome, skipped))
        return
    for step in search.steps:
        outcome.steps.append(_numbered(outcome, step, progress=progress))


def _write(
    environment: Environment, task: Task, writer: Complete, style: str, findings: Sequence[Finding], outcome: Outcome, seed: int
) -> None:
    """The answer from the findings, given to the environment."""
    completion = writer(prompts.team_messages(style, "writer", task.goal, findings), seed=seed)
    reply = parse_reply(completion.text)
    step = _step("write", completion, progress=_progress(outcome))
    if not isinstance(reply, Reply) or reply.answer is None:
        outcome.steps.append(_numbered(outcome, step, valid=False, error=reply if isinstance(reply, str) else "no answer"))
        return
    observation, progress, done, valid = environment.step(reply.action)
    outcome.answer = reply.answer
    answered = {"observation": observation, "progress": max(progress, step.progress), "done": done, "valid": valid}
    outcome.steps.append(_numbered(outcome, step, thought=reply.thought, action=reply.action, **answered))


def _step(stage: str, completion: Call, progress: float = 0.0) -> EpisodeStep:
    return EpisodeStep(index=0, stage=stage, call=completion.key, progress=progress)


def _numbered(outcome: Outcome, step: EpisodeStep, **update: object) -> EpisodeStep:
    return step.model_copy(update={"index": len(outcome.steps), **update})


def _progress(outcome: Outcome) -> float:
    return outcome.steps[-1].progress if outcome.steps else 0.0
