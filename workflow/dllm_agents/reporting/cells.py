"""Tidy rows from counts and values, with their intervals, and how a row reads in a cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from dllm_agents.analysis import statistics
from dllm_agents.analysis.metrics import Errors
from dllm_agents.records import TableRow

NOT_RUN = "not run"
UNKNOWN = "unknown"
NO_ERRORS = Errors()
Key = tuple[str, str, str]
"""(benchmark, category, metric) of a number."""


def without_value(row: TableRow, errors: Errors) -> TableRow:
    """A row that has no number, with the errors that are why, if they are."""
    return row.model_copy(update={"missing": str(errors)}) if errors.number or errors.unlearnt or errors.unjudged else row


@dataclass(frozen=True)
class Rows:
    """The tidy rows of an agent on a benchmark. `errors` left episodes out of what is counted, and stand in place of a number where there
    is none left, or where they are too many; `seed` is that of the bootstrap; `theirs` are the published numbers, which rows of the same
    key have beside them."""

    agent: str
    benchmark: str
    seed: int = 0
    errors: Errors = NO_ERRORS
    theirs: Mapping[Key, float] = field(default_factory=dict)

    def row(self, metric: str, category: str = "", n: int | None = None, value: float | None = None) -> TableRow:
        beside = self.theirs.get((self.benchmark, category, metric))
        return TableRow(agent=self.agent, benchmark=self.benchmark, category=category, metric=metric, n=n, value=value, published=beside)

    def rate(self, metric: str, successes: float, n: int, category: str = "") -> TableRow:
        """A rate in percent with its Wilson interval."""
        row = self.row(metric, category, n)
        if n == 0 or self.errors.too_many:
            return without_value(row, self.errors)
        low, high = statistics.wilson_interval(int(successes), n)
        return row.model_copy(update={"value": 100 * int(successes) / n, "low": 100 * low, "high": 100 * high})

    def mean(self, metric: str, values: Sequence[float] | statistics.Floats, category: str = "", *, share: bool = False) -> TableRow:
        """A mean with its bootstrap interval, in percent where the values are shares in [0, 1]; "unknown" when a server did not count for
        an episode."""
        row = self.row(metric, category, len(values))
        if len(values) == 0 or self.errors.too_many:
            return without_value(row, self.errors)
        if np.isnan(values).any():
            return row.model_copy(update={"missing": UNKNOWN})
        draws = statistics.bootstrap_means(values, seed=self.seed)
        low, high = statistics.share_interval(draws, len(values)) if share else statistics.percentile_interval(draws)
        scale = 100.0 if share else 1.0
        return row.model_copy(update={"value": scale * float(np.mean(values)), "low": scale * low, "high": scale * high})

    def macro(self, metric: str, parts: Sequence[statistics.Floats], category: str = "") -> TableRow:
        """The unweighted mean of shares over parts, with an interval from independent draws of each; none unless every part has values."""
        row, n = self.row(metric, category, n=0), sum(map(len, parts))
        if not all(map(len, parts)):
            return without_value(row, self.errors)
        draws = [statistics.bootstrap_means(part, seed=self.seed + index) for index, part in enumerate(parts)]
        low, high = statistics.share_interval(np.mean(draws, axis=0), n)
        value = 100 * float(np.mean([part.mean() for part in parts]))
        return row.model_copy(update={"n": n, "value": value, "low": 100 * low, "high": 100 * high})

    def ratio(self, metric: str, top: statistics.Floats, bottom: statistics.Floats, category: str = "") -> TableRow:
        """A ratio of totals over episodes with its bootstrap interval; "not run" when there is nothing to divide by, "unknown" when a
        server did not count for an episode."""
        row = self.row(metric, category, len(top))
        if len(top) == 0:
            return without_value(row, self.errors)
        if np.isnan(top).any() or np.isnan(bottom).any():
            return row.model_copy(update={"missing": UNKNOWN})
        if bottom.sum() <= 0:
            return row.model_copy(update={"n": 0})
        low, high = statistics.ratio_interval(top, bottom, seed=self.seed)
        return row.model_copy(update={"value": float(top.sum() / bottom.sum()), "low": low, "high": high})


def number(value: float) -> str:
    """A value with one decimal, or with three significant digits when it is small."""
    return f"{value:.1f}" if value == 0 or abs(value) >= 0.1 else f"{value:.2g}"


def cell(row: TableRow | None) -> str:
    """A tidy row as a cell: value with its interval, the published value for a published row, or why there is none."""
    if row is None or (row.value is None and row.published is None):
        return NOT_RUN if row is None else row.missing
    if row.value is None:
        return number(float(row.published or 0.0))
    interval = f" [{number(row.low)}, {number(row.high)}]" if row.low is not None and row.high is not None else ""
    beside = f" (published {number(row.published)})" if row.published is not None else ""
    return f"{number(row.value)}{interval}{beside}"


def bare(row: TableRow | None) -> str:
    """A row's value alone, without its interval."""
    return NOT_RUN if row is None else row.missing if row.value is None else number(row.value)


def counted(n: int | None, errors: Errors) -> str:
    """A number of episodes, and beside it how many more ended in an error or are not judged."""
    more = [f"{errors.number} error{'s' * (errors.number > 1)}"] * (errors.number > 0)
    more += [f"{errors.unjudged} not judged"] * (errors.unjudged > 0)
    return str(n or 0) + (f" (+ {', '.join(more)})" if more else "")
