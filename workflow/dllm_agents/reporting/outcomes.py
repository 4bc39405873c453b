"""An agent's outcomes on a benchmark: its scores, failures and errors, and the tidy rows that are made of them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from dllm_agents.analysis import statistics
from dllm_agents.records import TableRow
from dllm_agents.reporting.cells import Rows
from dllm_agents.reporting.inputs import Inputs


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

    def success(self, category: str = "", metric: str = "success_rate", published: float | None = None) -> TableRow:
        """Share of the tasks that succeed."""
        return self.rate(metric, self.scores["success"].sum(), len(self), category, published)


def outcomes(inputs: Inputs, agent: str, benchmark: str) -> Outcomes:
    """An agent's outcomes on a benchmark; empty when it has none, and when too many of its episodes ended in an error."""
    errors, scores = inputs.errors(agent, benchmark), inputs.rows(agent, benchmark)
    return Outcomes(agent, benchmark, inputs.config.seed, errors, inputs=inputs, scores=scores)


def measure_of(scores: pd.DataFrame, name: str) -> statistics.Floats:
    """One of the numbers that a workflow noted of its episodes; not a number where it did not."""
    return np.array([noted.get(name, np.nan) for noted in scores["measures"]], dtype=np.float64)


def calls_of(scores: pd.DataFrame) -> statistics.Floats:
    """The calls of all roles in each episode."""
    return np.array([sum(value for name, value in noted.items() if name.endswith(".calls")) for noted in scores["measures"]], dtype=float)
