"""From episodes to scores: one row per episode, pure given the official checker's verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from dllm_agents.analysis.planning import planner_metrics, team_metrics
from dllm_agents.benchmarks.base import Verdict
from dllm_agents.benchmarks.qa_accuracy import contains_words
from dllm_agents.errors import StageError
from dllm_agents.records import Episode, RoleUsage, Score, Task, total

ERROR_SHARE = 0.1
"""Share of a cell's episodes that may have ended in an error of server, client or environment. Those are left out of n; above this share
what is left need no longer be like the whole, and the cell says how many there were in place of a number."""


class Errors(NamedTuple):
    """How many of some episodes ended in an error of server, client or environment, which says nothing of the agent; whether it was
    played by a model whose training says that it has `unlearnt` things, whose numbers say nothing of its paradigm; and how many answers
    are not judged, for their judge gave no verdict that can be read."""

    number: int = 0
    episodes: int = 0
    unlearnt: bool = False
    unjudged: int = 0

    @property
    def too_many(self) -> bool:
        """Whether the other episodes do not speak for all, or none does."""
        return self.unlearnt or self.number > ERROR_SHARE * self.episodes

    def __str__(self) -> str:
        counts = {"errors": self.number, "not judged": self.unjudged}
        stated = [f"{count} of {self.episodes} {what}" for what, count in counts.items() if count]
        return "not learnt" if self.unlearnt else ", ".join(stated) or f"0 of {self.episodes} errors"


def score(
    episodes: Iterable[Episode],
    verdicts: Mapping[str, Verdict] | None = None,
    judged: Mapping[str, Sequence[str]] | None = None,
    tasks: Mapping[str, Task] | None = None,
    any_layout: Mapping[str, bool] | None = None,
) -> Iterator[Score]:
    """The score of every episode. `verdicts` (task id -> verdict) decide over single answers, where progress is 1 or 0; the
    environment's own outcome stands elsewhere. `judged` (task id -> verdicts of one or two LLM judges) is kept beside it;
    `tasks` (by id) hold the gold hops that a planner's metrics need; `any_layout` says of which answers the calls are right, however they
    are laid out, and is a measure beside the official score. Raises StageError for a task that comes twice with one seed."""
    seen: set[tuple[str, str, int]] = set()
    for episode in episodes:
        key = (episode.task_id, episode.agent, episode.seed)
        if key in seen:
            raise StageError(f"task {episode.task_id}: agent {episode.agent} has two episodes with seed {episode.seed}; delete one of them")
        seen.add(key)
        row = score_episode(episode, (verdicts or {}).get(episode.task_id), (tasks or {}).get(episode.task_id))
        if any_layout is not None and episode.task_id in any_layout:
            row.measures["any_layout"] = float(any_layout[episode.task_id])
        judgements = list((judged or {}).get(episode.task_id, ()))
        yield row.model_copy(update=dict(zip(("judge", "second_judge"), judgements, strict=False))) if judgements else row


def score_episode(episode: Episode, verdict: Verdict | None = None, task: Task | None = None) -> Score:
    """The score of one episode."""
    success = episode.success if verdict is None else verdict.valid
    usage = episode.usage
    costs = usage.values()
    noted = episode.tools.error_type if episode.tools is not None else None
    return Score(
        task_id=episode.task_id,
        benchmark=episode.benchmark,
        category=episode.category,
        agent=episode.agent,
        seed=episode.seed,
        success=success,
        progress=episode.progress if verdict is None else float(verdict.valid),
        error_type=noted if verdict is None else verdict.error_type,
        ended=episode.ended,
        steps=len(episode.steps),
        invalid_steps=sum(not step.valid for step in episode.steps),
        prompt_tokens=total(role.prompt_tokens for role in costs),
        completion_tokens=total(role.completion_tokens for role in costs),
        nfe=total(role.nfe for role in costs),
        version=episode.versions.get(episode.benchmark, ""),
        package=episode.versions.get("dllm-agents", ""),
        seconds=episode.seconds,
        model_seconds=sum(role.seconds for role in costs),
        started_seconds=datetime.fromisoformat(episode.started).timestamp() if episode.started else 0.0,
        measures=measures(episode, usage, task),
    )


def measures(episode: Episode, usage: Mapping[str, RoleUsage], task: Task | None = None) -> dict[str, float]:
    """The metrics of an episode's workflow, flags as 1 or 0, and what every role cost, where its server says."""
    spent = {f"{role}.{name}": float(value) for role, cost in usage.items() for name, value in cost.model_dump(exclude_none=True).items()}
    metrics = team_metrics(episode) | episode.counts
    if episode.search is not None:
        metrics |= episode.search.model_dump(exclude={"format_failure"})
    if task is not None and "answers" in task.data:
        metrics["acc_r_words"] = contains_words(episode.answer or "", task.data["answers"])
    if episode.planner is not None and task is not None:
        metrics |= planner_metrics(episode, task)
    if episode.tools is not None and episode.tools.selector_saved_calls is not None:
        metrics["selector_saved_calls"] = episode.tools.selector_saved_calls
    return {name: float(value) for name, value in metrics.items()} | spent
