"""The interface of workflows to a task: ask a role, search, act, answer. Each is recorded as a step of the episode."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from dllm_agents import prompts, thoughts
from dllm_agents.agents.policy import Complete, EpisodeLimit, Message, ending_of
from dllm_agents.agents.react import call_seed, close, take_step
from dllm_agents.agents.recording import Recording
from dllm_agents.agents.search import read_reply
from dllm_agents.benchmarks.base import Benchmark, Environment
from dllm_agents.benchmarks.multihop_qa import SearchEnvironment
from dllm_agents.benchmarks.search import Passage
from dllm_agents.benchmarks.search_reply import MAX_ANSWER_CHARACTERS, MAX_QUERY_CHARACTERS, Reply, answer_text, tool_call
from dllm_agents.client.client import PromptTooLong
from dllm_agents.config import Agent
from dllm_agents.records import Call, Ending, EpisodeStep, Outcome, Task

MAX_OBSERVATION_CHARACTERS = 20_000


@dataclass
class Game:
    """A task in play. `options` are the workflow's settings, `learnt` is the result of its `learn` on accepted trajectories."""

    workflow: str
    task: Task
    benchmark: Benchmark
    environment: Environment | None
    roles: Recording
    agent: Agent
    style: str
    seed: int
    options: Mapping[str, Any]
    learnt: Any = None
    dialect: str | None = None
    outcome: Outcome = field(default_factory=Outcome)
    counts: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Counts of the workflow, kept in the record and the scores."""
    calls: int = 0

    @property
    def question(self) -> str:
        return self.task.goal

    @property
    def progress(self) -> float:
        return max((step.progress for step in self.outcome.steps), default=0.0)

    def next_seed(self) -> int:
        """A seed for the next call, unique within the episode."""
        self.calls += 1
        return call_seed(self.seed, self.task, self.calls, 0)

    def complete(self, role: str = "policy") -> Complete:
        """The backbone of a role, for messages that the workflow builds itself."""
        return self.roles.required(role)

    def prompt(self, template: str, **values: Any) -> list[Message]:
        """One of the workflow's templates as messages; every template gets the question."""
        style = prompts.style_of(self.style, self.workflow)
        return prompts.request(style, f"{self.workflow}/{template}.j2", question=self.question, **values)

    def ask(self, template: str, role: str = "policy", so_far: str = "", **values: Any) -> Call:
        """Ask a role with a template; the role continues its reply `so_far`. Recorded as a step whose action is the reply's text."""
        messages = self.prompt(template, **values)
        if so_far:
            messages.append({"role": "assistant", "content": so_far})
        call = self.complete(role)(messages, seed=self.next_seed())
        self.step(template, call=call.key, action=plain_text(call) or None)
        return call

    def step(self, stage: str, **fields: Any) -> EpisodeStep:
        """Record a step."""
        index, progress = len(self.outcome.steps), max(self.progress, fields.pop("progress", 0.0))
        self.outcome.steps.append(EpisodeStep(index=index, stage=stage, progress=progress, **fields))
        return self.outcome.steps[-1]

    def note(self, **fields: Any) -> None:
        """Update fields of the latest step."""
        self.outcome.steps[-1] = self.outcome.steps[-1].model_copy(update=fields)

    def search(self, query: str, count: int) -> list[Passage]:
        """The best passages for a query."""
        return self.search_all([query], count)[0]

    def search_all(self, queries: Sequence[str], count: int) -> list[list[Passage]]:
        """The best passages for each query. Queries run in parallel and are recorded in order, with the progress after all of them."""
        assert isinstance(self.environment, SearchEnvironment), "this workflow plays search tasks"
        queries = [query[:MAX_QUERY_CHARACTERS].strip() for query in queries]
        started, environment = time.perf_counter(), self.environment
        with ThreadPoolExecutor(max(1, len(queries))) as pool:
            hits = list(pool.map(lambda query: environment.search(query, count), queries))
        seconds = time.perf_counter() - started
        for query, passages in zip(queries, hits, strict=True):
            self.searched(query, passages, seconds / len(queries))
        return hits

    def searched(self, query: str, passages: Sequence[Passage], seconds: float) -> None:
        """Record a search that was made."""
        assert isinstance(self.environment, SearchEnvironment)
        text = self.environment.present([query], [passages])[:MAX_OBSERVATION_CHARACTERS]
        self.step("search", action=tool_call([query]), observation=text, progress=self.environment.progress, environment_seconds=seconds)
        self.counts["searches"] += 1

    def answer(self, text: str) -> None:
        """Give the final answer to the environment and record it as a step; an empty answer is an invalid step."""
        text = " ".join(text.split())[:MAX_ANSWER_CHARACTERS]
        if not text:
            self.step("answer", valid=False, error="no answer")
            return
        assert self.environment is not None
        played = self.environment.step(answer_text(text))
        self.step("answer", action=answer_text(text), done=played.done, valid=played.valid, progress=played.progress)
        self.outcome.answer = text

    def act(self, action: str | None, stage: str = "act", **fields: Any) -> EpisodeStep:
        """Play an action of an embodied task."""
        assert self.environment is not None
        step = take_step(self.environment, len(self.outcome.steps), action, stage=stage, **fields)
        self.outcome.steps.append(step.model_copy(update={"progress": max(self.progress, step.progress)}))
        return self.outcome.steps[-1]

    def play(self, workflow: Callable[[Game], None]) -> Outcome:
        """Play the task. The outcome is read from the environment unless the workflow sets its own."""
        ended: Ending | None = None
        begun = self.outcome
        if self.environment is not None:
            self.outcome.initial_observation = self.environment.reset()
        try:
            workflow(self)
        except (EpisodeLimit, PromptTooLong) as stop:
            ended = ending_of(stop)
        if self.outcome is begun:
            self._close()
        self.outcome.ended = ended or self.outcome.ended
        self.outcome.counts = dict(sorted(self.counts.items()))
        return self.outcome

    def _close(self) -> None:
        if self.environment is None:
            return
        answer = self.outcome.answer
        close(self.environment, self.outcome)
        if isinstance(self.environment, SearchEnvironment):
            self.outcome.answer = answer
            self.outcome.ended = "success" if self.outcome.success else "answered" if answer is not None else "no_action"


def plain_text(call: Call) -> str:
    """The text of a reply without the tags of our format: its thought and its query or answer."""
    reply = read_reply(call)
    if isinstance(reply, str):
        return call.whole_text.strip()[:MAX_OBSERVATION_CHARACTERS]
    action = reply.answer if reply.answer is not None else "; ".join(reply.queries)
    return f"{reply.thought or ''} {action}".strip()


def answer_in(call: Call) -> str:
    """The answer in a reply: the text in its answer tags, or after "answer is", or all of it; empty for a reply that calls a tool."""
    reply = read_reply(call)
    if isinstance(reply, Reply):
        return reply.answer or ""
    text = thoughts.behind(call.text).strip()
    _, marked, tail = text.rpartition("answer is")
    return (tail if marked else text).strip(" \n:.")[:MAX_ANSWER_CHARACTERS]
