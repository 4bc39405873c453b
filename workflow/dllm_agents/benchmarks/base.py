"""The small interface behind which every benchmark stands."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Self

from dllm_agents.errors import StageError
from dllm_agents.records import EpisodeStep, Task

Split = Literal["train", "pairs", "test"]
"""What is evaluated (`test`), what a teacher plays (`train`), and what preferences are learnt on, where it is other tasks (`pairs`)."""


class Step(NamedTuple):
    """What an environment answers to an action. `progress` is the best so far, in [0, 1]; `valid` says the action was accepted."""

    observation: str
    progress: float
    done: bool
    valid: bool


class Verdict(NamedTuple):
    """What the official checker says of a single answer; `error_type` is the checker's own name, None when valid."""

    valid: bool
    error_type: str | None = None


class Environment(ABC):
    """One task, played step by step. Not re-entrant; `close` frees what it holds."""

    success: bool = False
    native_score: float | None = None
    executed: str | None = None
    """What the last action became, where that is not the action itself."""
    answer: str | None = None
    """The final answer, where a task asks for one and it was given."""

    @abstractmethod
    def reset(self) -> str:
        """Start the task; returns the initial observation."""

    @abstractmethod
    def step(self, action: str) -> Step:
        """Play one action given as text. Never raises on hostile text: an unknown action is `valid=False`."""

    def valid_actions(self) -> list[str]:
        """The actions that are admissible now, sorted; empty where the benchmark has no such list."""
        return []

    def expert_action(self) -> tuple[str, str] | None:
        """The teacher's (thought, action) for the present state; None when it knows none."""
        return None

    def close(self) -> None:  # noqa: B027 - most environments hold nothing
        """Free simulators and files. Safe to call twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class Dialogue(Environment):
    """A task whose requests a user makes one after another: an action is the policy's whole reply, and one without a call ends the turn."""

    conversation: list[dict[str, str]]
    """The chat so far, ready to be sent to a policy."""
    turns: list[list[list[str]]]
    """What was called, turn by turn and reply by reply."""
    verdict: Verdict | None = None
    """What the official checker says of the whole; None before its end."""

    @property
    @abstractmethod
    def offered(self) -> list[dict[str, Any]]:
        """The functions offered so far."""

    @property
    @abstractmethod
    def request(self) -> str:
        """What the user asks in the present turn."""

    @abstractmethod
    def showing(self, functions: list[dict[str, Any]]) -> list[dict[str, str]]:
        """The chat so far with only these functions in its system prompt."""


class Benchmark(ABC):
    """A benchmark with its frozen tasks. `options` is its typed section of the configuration."""

    name: ClassVar[str]
    lists_actions: ClassVar[bool] = False
    """Whether the published prompt lists the valid actions at every step (DiffuAgent appendix D.1: ALFWorld and ScienceWorld)."""

    def __init__(self, options: Any, seed: int = 42) -> None:
        self.options = options
        self.seed = seed

    @property
    def workflow(self) -> str:
        """How agents act on it."""
        return str(self.options.workflow)

    @property
    def max_steps(self) -> int:
        """Steps an episode may take."""
        return int(self.options.max_steps)

    def interactive(self, task: Task) -> bool:
        """Whether the task is played step by step through `environment`; otherwise it is answered once and judged."""
        return self.workflow != "tool_calling"

    @property
    @abstractmethod
    def version(self) -> str:
        """Package and version of the source, as stored in every task."""

    @abstractmethod
    def tasks(self, split: Split) -> list[Task]:
        """The tasks of a split as configured: same options and seed, same tasks. Train and test never share an instance."""

    def task(self, path: str, split: Split, category: str, goal: str, data: dict[str, Any], seed: int | None = None) -> Task:
        """A frozen task of this benchmark, whose id ends in `path`; its seed is the run's where it has none of its own."""
        return Task(
            id=f"{self.name}/{path}",
            benchmark=self.name,
            split=split,
            category=category,
            seed=self.seed if seed is None else seed,
            version=self.version,
            goal=goal,
            data=data,
        )

    def environment(self, task: Task) -> Environment:
        """The task as a step-by-step environment."""
        raise TypeError(f"{self.name} is a single-answer benchmark: it has judge(), not environment()")

    def dialogue(self, task: Task) -> Dialogue:
        """The task as a dialogue, where a tool-calling benchmark has such tasks."""
        raise TypeError(f"{self.name} has no dialogues")

    def judge(self, task: Task, completion: str) -> Verdict:
        """The official checker's verdict on a single answer."""
        raise TypeError(f"{self.name} is an interactive benchmark: it has environment(), not judge()")

    def judge_many(self, answers: Sequence[tuple[Task, str]]) -> list[Verdict]:
        """The verdicts on many (task, completion) pairs, in order."""
        return [self.judge(task, completion) for task, completion in answers]

    def random_answer(self, task: Task, generator: random.Random) -> str:
        """A random well-formed answer, for the random row of single-answer benchmarks."""
        return ""

    def reference_answer(self, task: Task) -> str:
        """The ground truth as a completion, for the teacher row of single-answer benchmarks."""
        return ""

    def messages(self, task: Task) -> list[dict[str, str]]:
        """The official prompt of a single-answer task as chat messages."""
        raise TypeError(f"{self.name} has no official prompt of its own")

    def check_trajectory(self, steps: Sequence[EpisodeStep]) -> str | None:
        """A benchmark's own reason to reject a teacher trajectory; None accepts it."""
        return None


def check_tasks(benchmark: Benchmark, tasks: Iterable[Task]) -> None:
    """Raise StageError when a task belongs to another benchmark, or to another version of this one."""
    for task in tasks:
        if task.benchmark != benchmark.name:
            raise StageError(f"task {task.id}: belongs to {task.benchmark}, not {benchmark.name}; pass the tasks of {benchmark.name}")
        if task.version != benchmark.version:
            raise StageError(f"task {task.id}: made with {task.version}, here is {benchmark.version}; run sample-tasks again")
