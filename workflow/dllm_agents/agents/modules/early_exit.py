"""Post-hoc early-exit verifier (DiffuAgent section 5.1, equation 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dllm_agents import prompts
from dllm_agents.agents.policy import Complete
from dllm_agents.records import EpisodeStep

Strength = Literal["strict", "modest"]


@dataclass(slots=True)
class Verifier:
    """Asked after every `every` steps (5 in the paper) whether the agent is stuck; it exits when the reply contains YES.

    The two prompt strengths are crossed with backbones, so that prompt and paradigm are not confounded.
    """

    complete: Complete
    style: str
    strength: Strength = "modest"
    every: int = 5

    def exits(self, benchmark: str, goal: str, initial_observation: str, steps: Sequence[EpisodeStep], seed: int) -> bool:
        """Verifier(e[1..t], u_task) for t = len(steps); False between its turns. As in the released code it sees
        the instruction and the thoughts, and says why as well."""
        if not steps or len(steps) % self.every:
            return False
        messages = prompts.request(
            self.style,
            "early_exit.j2",
            strength=self.strength,
            instruction=prompts.slot(self.style, "instructions", benchmark),
            goal=goal,
            initial_observation=initial_observation,
            steps=list(steps),
        )
        return "YES" in self.complete(messages, seed=seed).text
