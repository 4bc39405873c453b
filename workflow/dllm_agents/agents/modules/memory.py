"""Pre-hoc memory: the trajectory so far, summarised every few steps (DiffuAgent section 5.1, equations 3 and 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dllm_agents import prompts
from dllm_agents.agents.policy import Complete
from dllm_agents.records import EpisodeStep, Task

MAX_CHARACTERS = 4000


@dataclass(slots=True)
class Memory:
    """m' = Memory(m, e[t-k .. t-1], u_task), asked for at steps t = k, 2k, ...; reused as it is in between.

    `every` is k_mem (5 in the paper), `keep` the number of latest interactions the policy sees beside the memory (2), and more of them
    where the memory does not hold them yet: none is in neither. The memory reads actions and observations, not thoughts, as released.
    """

    complete: Complete
    style: str
    every: int = 5
    keep: int = 2
    text: str = ""
    summarised: int = 0
    """Interactions that the text stands for."""

    def update(self, task: Task, initial_observation: str, steps: Sequence[EpisodeStep], seed: int) -> str:
        """The memory to act on at step t = len(steps). An empty summary keeps the old one."""
        if steps and len(steps) % self.every == 0:
            messages = prompts.request(
                self.style,
                "memory.j2",
                goal=task.goal,
                initial_observation=initial_observation,
                memory=self.text,
                steps=list(steps[self.summarised :]),
                exemplars=prompts.exemplars(self.style, "memory"),
            )
            if text := self.complete(messages, seed=seed).text.strip()[:MAX_CHARACTERS]:
                self.text, self.summarised = text, len(steps)
        return self.text

    def window(self, steps: int) -> int:
        """The latest interactions, of so many, that the policy sees beside the memory."""
        return max(self.keep, steps - self.summarised)
