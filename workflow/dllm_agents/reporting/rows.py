"""An agent's outcomes on a benchmark - its scores, failures and errors - and the rows that several papers' tables make of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from dllm_agents.analysis import statistics
from dllm_agents.records import TableRow
from dllm_agents.reporting import published
from dllm_agents.reporting.cells import NO_ERRORS, Key, Rows
from dllm_agents.reporting.inputs import Inputs
from dllm_agents.reporting.layout import BASELINE_BLOCK, OURS_BLOCK, PUBLISHED_BLOCK


@dataclass(frozen=True, kw_only=True)
class Outcomes(Rows):
    """The scores of an agent's episodes that count, all of a benchmark or some, and the rows made of them."""

    inputs: Inputs
    scores: pd.DataFrame

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def n_classified(self) -> int:
        """In how many of the episodes failures were looked for: in all of them or in none."""
        return len(self) if self.inputs.classified(self.agent, self.benchmark) else 0

    @property
    def failures(self) -> pd.DataFrame:
        """The failures in these episodes."""
        failures = self.inputs.failures(self.benchmark)
        return failures[(failures["agent"] == self.agent) & failures["task_id"].isin(self.scores["task_id"])]

    def failing(self, *kinds: str) -> set[str]:
        """The tasks that failed in one of these ways."""
        failures = self.failures
        return set(failures[failures["kind"].isin(kinds)]["task_id"])

    def within(self, categories: Collection[str]) -> Outcomes:
        """The outcomes on some of the benchmark's categories."""
        errors = self.inputs.errors(self.agent, self.benchmark, categories)
        return replace(self, scores=self.scores[self.scores["category"].isin(categories)], errors=errors)

    def select(self, mask: pd.Series[bool] | np.ndarray) -> Outcomes:
        """Some of these episodes."""
        return replace(self, scores=self.scores[mask])

    def once_a_task(self) -> Outcomes:
        """The first episode of each task."""
        return replace(self, scores=self.scores.drop_duplicates("task_id"))

    def column(self, name: str) -> statistics.Floats:
        return self.scores[name].to_numpy(dtype=float)

    def measure(self, name: str) -> statistics.Floats:
        """One of the numbers that the workflow noted; not a number in an episode where it did not."""
        return measure_of(self.scores, name)

    def stated(self, name: str) -> statistics.Floats:
        """The same of the episodes that have it."""
        values = self.measure(name)
        return values[np.isfinite(values)]

    def success(self, category: str = "", metric: str = "success_rate") -> TableRow:
        """Share of the tasks that succeed."""
        return self.rate(metric, self.scores["success"].sum(), len(self), category)


def outcomes(inputs: Inputs, agent: str, benchmark: str, theirs: Mapping[Key, float] | None = None) -> Outcomes:
    """An agent's outcomes on a benchmark; empty when it has none, and when too many of its episodes ended in an error."""
    errors, scores = inputs.errors(agent, benchmark), inputs.rows(agent, benchmark)
    return Outcomes(agent, benchmark, inputs.config.seed, errors, theirs or {}, inputs=inputs, scores=scores)


def measure_of(scores: pd.DataFrame, name: str) -> statistics.Floats:
    """One of the numbers that a workflow noted of its episodes; not a number where it did not."""
    return np.array([noted.get(name, np.nan) for noted in scores["measures"]], dtype=np.float64)


def calls_of(scores: pd.DataFrame) -> statistics.Floats:
    """The calls of all roles in each episode."""
    return np.array([sum(value for name, value in noted.items() if name.endswith(".calls")) for noted in scores["measures"]], dtype=float)


def published_rows(name: str) -> list[TableRow]:
    """A published table as rows whose only number is the published one."""
    return [
        TableRow(agent=item.agent, benchmark=item.benchmark, category=item.category, metric=item.metric, n=item.n, published=item.value)
        for item in published.values(name)
    ]


def values_of(name: str, agent: str | None, modules: Mapping[str, str | None] | None = None) -> dict[Key, float]:
    """What a published table reports for one of its agents, with exactly these modules."""
    return {
        (item.benchmark, item.part, item.metric): item.value
        for item in published.values(name)
        if item.agent == agent and item.value is not None and item.modules == (modules or {})
    }


def macro_row(played: Sequence[Outcomes], column: str, metric: str) -> TableRow:
    """The unweighted mean over benchmarks of a share of an agent's; "not run" unless all were."""
    first, worst = played[0], max((own.errors for own in played), key=lambda errors: errors.too_many)
    average = Rows(first.agent, "average", first.seed, worst if worst.too_many else NO_ERRORS, first.theirs)
    return average.macro(metric, [own.column(column) for own in played])


def timing_rows(own: Outcomes) -> list[TableRow]:
    """Wall-clock metrics: seconds per episode and per step, kept completion tokens per second of the model's time."""
    if not len(own):
        return []
    rows = [own.mean("seconds_per_episode", own.column("seconds"))]
    for metric, top, bottom in (("seconds_per_step", "seconds", "steps"), ("tokens_per_second", "completion_tokens", "model_seconds")):
        if own.column(bottom).sum() > 0:
            rows.append(own.ratio(metric, own.column(top), own.column(bottom)))
    return rows


def agent_blocks(inputs: Inputs, name: str, agents: Sequence[str]) -> list[tuple[str, list[str]]]:
    """The blocks of a table of agents: the published ones, the scripted ones, the others of the run."""
    return [
        (PUBLISHED_BLOCK, list(dict.fromkeys(value.agent for value in published.values(name)))),
        (BASELINE_BLOCK, inputs.baselines),
        (OURS_BLOCK, [agent for agent in agents if agent not in inputs.baselines]),
    ]


def success_row(inputs: Inputs, agent: str, benchmark: str) -> TableRow:
    """Share of an agent's tasks that succeed."""
    return outcomes(inputs, agent, benchmark).success()


def error_rows(own: Outcomes) -> list[TableRow]:
    """How many of an agent's episodes are left out of its numbers; none where all count."""
    counts = {"errors": own.errors.number, "not_judged": own.errors.unjudged}
    return [own.row(name, n=own.errors.episodes, value=count) for name, count in counts.items() if count]
