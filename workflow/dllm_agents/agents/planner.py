"""Planner, seekers, writer (DLLM Agent, after DeepDiver): a planner decomposes the question, seekers search for its steps in parallel, and
a writer answers from their findings.

The plain form of a team, for models too small for DeepDiver's tool calls (`agents.deepdiver`): a plan is a list of sub-questions in which
`#k` stands for the answer of step k (`benchmarks.plan_reply`); after each round the planner sees the findings and plans again, until its
plan is empty or the rounds are used up.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from dllm_agents import prompts
from dllm_agents.agents.policy import Complete, EpisodeLimit, ending_of
from dllm_agents.agents.react import call_seed, take_step
from dllm_agents.agents.search import read_reply
from dllm_agents.benchmarks.base import Environment
from dllm_agents.benchmarks.plan_reply import Finding, fill, levels, parse_plan, plan_text
from dllm_agents.benchmarks.search_reply import Reply, parse_reply
from dllm_agents.client.client import PromptTooLong
from dllm_agents.records import Ending, EpisodeStep, Outcome, PlannerMeasures, Task

SEEKERS = 4
"""Seekers that search at the same time."""


@dataclass(frozen=True)
class Roles:
    """The backbones of the workflow; one may play several roles."""

    planner: Complete
    seeker: Complete
    writer: Complete


def play(
    environment: Environment, task: Task, roles: Roles, *, style: str, max_rounds: int = 3, seeker_turns: int = 3, seed: int = 42
) -> Outcome:
    """Play a question. `environment` must support searches from several threads. Every step is labelled with its stage: plan,
    search or write. A first reply without a readable plan ends the episode; a later one ends the planning."""
    noted = PlannerMeasures()
    outcome = Outcome(initial_observation=environment.reset(), planner=noted)
    team = _Team(environment, task, roles, style, seeker_turns, outcome)
    findings: list[Finding] = []
    ended: Ending | None = None
    try:
        for number in range(max_rounds):
            plan = team.plan(findings, call_seed(seed, task, number, 0))
            if isinstance(plan, str) or not plan:
                noted.failure = plan if isinstance(plan, str) and not noted.plans else None
                break
            noted.plans.append(plan)
            latest = team.carry_out(plan, seed + 1000 * (number + 1))
            noted.asked.append([finding.question for finding in latest])
            findings += latest
            noted.coverage.append(team.progress)
        if noted.failure is None:
            team.write(findings, call_seed(seed, task, max_rounds, 0))
    except (EpisodeLimit, PromptTooLong) as stop:
        ended = ending_of(stop)
    outcome.success, outcome.native_score = environment.success, environment.native_score
    outcome.ended = ended or ("success" if environment.success else "answered" if outcome.answer is not None else "no_action")
    return outcome


@dataclass(frozen=True)
class _Team:
    """A team at work on one question, and the record of the episode."""

    environment: Environment
    task: Task
    roles: Roles
    style: str
    seeker_turns: int
    outcome: Outcome

    @property
    def progress(self) -> float:
        return self.outcome.steps[-1].progress if self.outcome.steps else 0.0

    def record(self, stage: str, progress: float = 0.0, **fields: Any) -> None:
        self.append(EpisodeStep(index=0, stage=stage, **fields), progress)

    def append(self, step: EpisodeStep, progress: float) -> None:
        """Record a step; progress never falls."""
        update = {"index": len(self.outcome.steps), "progress": max(progress, self.progress)}
        self.outcome.steps.append(step.model_copy(update=update))

    def plan(self, findings: Sequence[Finding], seed: int) -> list[str] | str:
        """The next plan, or the name of the reply's failure."""
        call = self.roles.planner(prompts.team_messages(self.style, "planner", self.task.goal, findings), seed=seed)
        read = parse_plan(call.text)
        if isinstance(read, str):
            self.record("plan", call=call.key, valid=False, error=read)
            return read
        thought, plan = read
        self.record("plan", call=call.key, thought=thought, action=plan_text(plan))
        return plan

    def carry_out(self, plan: Sequence[str], seed: int) -> list[Finding]:
        """Search for every step of a plan, level by level, the steps of a level in parallel; findings in the plan's order.

        Steps are recorded in the plan's order with the progress reached at the end of their level, so that the record does not
        depend on which seeker was faster.
        """
        questions = list(plan)
        answers: list[str | None] = [None] * len(plan)
        with ThreadPoolExecutor(SEEKERS) as pool:
            for level in levels(plan):
                running = {}
                for index in level:
                    if (question := fill(plan[index], answers)) is not None:
                        questions[index] = question
                        running[index] = pool.submit(self.seek, question, seed + 10 * index)
                searches = {index: future.result() for index, future in running.items()}
                progress = max((step.progress for steps, _ in searches.values() for step in steps), default=0.0)
                for index in level:
                    if index not in searches:
                        self.record("search", progress, valid=False, error="a step it needs found nothing")
                        continue
                    steps, answers[index] = searches[index]
                    for step in steps:
                        self.append(step, progress)
        return list(map(Finding, questions, answers))

    def seek(self, question: str, seed: int) -> tuple[list[EpisodeStep], str | None]:
        """One seeker, a search agent on a sub-question: its steps, and its answer, which is a finding and does not end the episode."""
        steps: list[EpisodeStep] = []
        for turn in range(self.seeker_turns):
            messages = prompts.search_messages(self.style, question, steps, self.seeker_turns)
            call = self.roles.seeker(messages, seed=call_seed(seed, self.task, turn, 0))
            reply = read_reply(call)
            if isinstance(reply, str):
                steps.append(EpisodeStep(index=turn, stage="search", call=call.key, valid=False, error=reply))
                break
            if reply.answer is not None:
                steps.append(EpisodeStep(index=turn, stage="search", call=call.key, thought=reply.thought, action=reply.action))
                return steps, reply.answer
            steps.append(take_step(self.environment, turn, reply.action, stage="search", call=call.key, thought=reply.thought))
        return steps, None

    def write(self, findings: Sequence[Finding], seed: int) -> None:
        """The answer from the findings, given to the environment."""
        call = self.roles.writer(prompts.team_messages(self.style, "writer", self.task.goal, findings), seed=seed)
        reply = parse_reply(call.text)
        if not isinstance(reply, Reply) or reply.answer is None:
            self.record("write", call=call.key, valid=False, error=reply if isinstance(reply, str) else "no answer")
            return
        played = self.environment.step(reply.action)
        self.outcome.answer = reply.answer
        self.record("write", call=call.key, thought=reply.thought, action=reply.action, **played._asdict())
