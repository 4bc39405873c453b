"""What the benchmarks whose simulators live in worker processes share."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from dllm_agents.benchmarks.base import Environment
from dllm_agents.benchmarks.simulator_process import SimulatorError, SimulatorPool, SimulatorProcess
from dllm_agents.records import Task

STEP_SECONDS = 120.0  # a step takes tenths of a second on a free core
CHECK_ACTIONS = "check valid actions"


class SimulatedEnvironment(Environment):
    """A task played in a worker of `pool`, taken at reset and given back at close."""

    def __init__(self, task: Task, pool: SimulatorPool) -> None:
        self._task = task
        self._pool = pool
        self._simulator: SimulatorProcess | None = None

    def close(self) -> None:
        if self._simulator is not None:
            self._pool.give(self._simulator)
            self._simulator = None

    def _take(self) -> None:
        self.close()
        self._simulator = self._pool.take()

    def _call(self, method: str, seconds: float = STEP_SECONDS, **arguments: Any) -> Any:
        if self._simulator is None:
            raise SimulatorError(f"{self._task.id}: reset the environment first")
        try:
            return self._simulator.call(method, seconds, **arguments)
        except SimulatorError as error:
            raise SimulatorError(f"{self._task.id}: {error}") from None


def listing(actions: Sequence[str]) -> str:
    """AgentBoard's answer to CHECK_ACTIONS."""
    return f"Choose an action from these valid actions: {', '.join([*actions, CHECK_ACTIONS])}"


def thought(reasons: Sequence[tuple[str, str]], action: str) -> str:
    """The teacher's reason for an action, one short sentence made from the action alone. `reasons`: (pattern of the whole action,
    sentence that names the pattern's groups) pairs, the first that fits counts."""
    for pattern, sentence in reasons:
        match = re.fullmatch(pattern, action)
        if match:
            return sentence.format(**match.groupdict())
    return f"The next thing to do is to {action}."
