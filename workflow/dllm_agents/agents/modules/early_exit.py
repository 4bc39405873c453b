"""Post-hoc early-exit verifier (DiffuAgent section 5.1, equation 5), online and replayed on stored episodes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

from dllm_agents import prompts
from dllm_agents.agents.policy import Complete, add_usage
from dllm_agents.client.client import PromptTooLong
from dllm_agents.records import Episode, EpisodeStep, Exit, RoleUsage

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
    usage: dict[str, RoleUsage] = field(default_factory=dict)

    def exits(self, benchmark: str, goal: str, initial_observation: str, steps: Sequence[EpisodeStep], seed: int) -> bool:
        """Verifier(e[1..t], u_task) for t = len(steps); False between its turns. As in the released code it sees
        the instruction and the thoughts, and says why as well."""
        if not steps or len(steps) % self.every:
            return False
        content = prompts.render(
            self.style,
            "early_exit.j2",
            strength=self.strength,
            instruction=prompts.slot(self.style, "instructions", benchmark),
            goal=goal,
            initial_observation=initial_observation,
            steps=list(steps),
        )
        completion = self.complete([{"role": "user", "content": content}], seed=seed)
        add_usage(self.usage, "verifier", completion)
        return "YES" in completion.text


def replay(verifier: Verifier, episode: Episode, seed: int = 0) -> int | None:
    """The step after which the verifier would have ended a stored episode, None when it never would; what it cannot read because it is
    too long, it lets go on."""
    with suppress(PromptTooLong):
        for t in range(verifier.every, len(episode.steps), verifier.every):
            if verifier.exits(episode.benchmark, episode.goal, episode.initial_observation, episode.steps[:t], seed + t):
                return t
    return None


def exit_of(episode: Episode, e: int | None, backbone: str, verifier: Verifier) -> Exit:
    """What leaving a stored episode after step e saves and loses; without an exit, e is its end."""
    saved, lost = exit_metrics([step.progress for step in episode.steps], e) if e is not None else (0, 0.0)
    spent = verifier.usage.get("verifier", RoleUsage())
    return Exit(
        task_id=episode.task_id,
        benchmark=episode.benchmark,
        category=episode.category,
        agent=episode.agent,
        verifier=backbone,
        prompt=verifier.strength,
        every=verifier.every,
        steps=len(episode.steps),
        exit_step=e,
        success=episode.success,
        success_at_exit=episode.success and e is None,
        progress=episode.progress,
        progress_lost=lost,
        redundant_steps=redundant_steps([step.progress for step in episode.steps], len(episode.steps)),
        redundant_steps_saved=saved,
        **spent.model_dump(),
    )


def redundant_steps(progress: Sequence[float], e: int) -> int:
    """RS(e): steps since progress last rose, before step e. `progress[i]` is the best so far after step i + 1.

    A trajectory whose progress never rose is redundant from its first step: RS(e) = e.
    """
    last_rise = 0
    best = 0.0
    for index, value in enumerate(progress[:e], 1):
        if value > best:
            best, last_rise = value, index
    return e - last_rise


def exit_metrics(progress: Sequence[float], e: int) -> tuple[int, float]:
    """(RS(T) - RS(e), progress(T) - progress(e)): redundant steps saved and progress lost by leaving after step e <= T."""
    total = len(progress)
    if not 1 <= e <= total:
        raise ValueError(f"exit step {e} is outside the episode's 1..{total}")
    return redundant_steps(progress, total) - redundant_steps(progress, e), progress[-1] - progress[e - 1]
