"""From episodes to scores: one row per episode, pure given the official checker's verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from dllm_agents.benchmarks.base import Verdict
from dllm_agents.errors import StageError
from dllm_agents.records import Episode, Score

ERROR_SHARE = 0.1
"""Share of a cell's episodes that may have ended in an error of server, client or environment. Those are left out of n; above this share
what is left need no longer be like the whole, and the cell says how many there were in place of a number."""


class Errors(NamedTuple):
    """How many of some episodes ended in an error of server, client or environment, which says nothing of the agent."""

    number: int = 0
    episodes: int = 0

    @property
    def too_many(self) -> bool:
        """Whether the other episodes are too few to speak for all."""
        return self.number > ERROR_SHARE * self.episodes

    def __str__(self) -> str:
        return f"{self.number} of {self.episodes} errors"


def score(
    episodes: Iterable[Episode], verdicts: Mapping[str, Verdict] | None = None, judged: Mapping[str, Sequence[str]] | None = None
) -> Iterator[Score]:
    """The score of every episode. `verdicts` (task id -> verdict) decide over single answers, where progress is 1 or 0; the
    environment's own outcome stands elsewhere. `judged` (task id -> verdicts of one or two LLM judges) is kept beside it.
    Raises StageError for a task that comes twice with one seed."""
    seen: set[tuple[str, str, int]] = set()
    for episode in episodes:
        key = (episode.task_id, episode.agent, episode.seed)
        if key in seen:
            raise StageError(f"task {episode.task_id}: agent {episode.agent} has two episodes with seed {episode.seed}; delete one of them")
        seen.add(key)
        found = score_episode(episode, (verdicts or {}).get(episode.task_id))
        said = list((judged or {}).get(episode.task_id, ()))
        yield found.model_copy(update=dict(zip(("judge", "second_judge"), said, strict=False))) if said else found


def score_episode(episode: Episode, verdict: Verdict | None = None) -> Score:
    """The score of one episode."""
    success = episode.success if verdict is None else verdict.valid
    usage = episode.usage.values()
    return Score(
        task_id=episode.task_id,
        benchmark=episode.benchmark,
        category=episode.category,
        agent=episode.agent,
        seed=episode.seed,
        success=success,
        progress=episode.progress if verdict is None else float(verdict.valid),
        native_score=episode.native_score,
        error_type=episode.extra.get("error_type") if verdict is None else verdict.error_type,
        ended=episode.ended,
        steps=len(episode.steps),
        invalid_steps=sum(not step.valid for step in episode.steps),
        prompt_tokens=sum(role.prompt_tokens for role in usage),
        completion_tokens=sum(role.completion_tokens for role in usage),
        forwards=sum(role.forwards for role in usage),
        version=episode.versions.get(episode.benchmark, ""),
        package=episode.versions.get("dllm-agents", ""),
        seconds=episode.seconds,
        model_seconds=sum(role.seconds for role in usage),
        started_seconds=datetime.fromisoformat(episode.started).timestamp() if episode.started else 0.0,
        measures=measures(episode),
    )


def measures(episode: Episode) -> dict[str, float]:
    """The numbers a workflow noted in `extra`, flags as 1 or 0, and what every role cost."""
    noted = {name: float(value) for name, value in episode.extra.items() if isinstance(value, int | float)}
    spent = {f"{role}.{name}": float(value) for role, usage in episode.usage.items() for name, value in usage.model_dump().items()}
    return noted | spent
