"""Tidy rows from counts and values, with their intervals, and how a row reads in a cell."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dllm_agents.analysis import statistics
from dllm_agents.analysis.metrics import Errors
from dllm_agents.records import TableRow

NOT_RUN = "not run"
UNKNOWN = "unknown"
NO_ERRORS = Errors()


def rate_row(
    agent: str,
    benchmark: str,
    category: str,
    metric: str,
    successes: int,
    n: int,
    published_value: float | None = None,
    errors: Errors = NO_ERRORS,
) -> TableRow:
    """A rate in percent with its Wilson interval; none when n is 0, and when too many of the episodes ended in an error."""
    row = TableRow(agent=agent, benchmark=benchmark, category=category, metric=metric, n=n, published=published_value)
    if n == 0 or errors.too_many:
        return without_value(row, errors)
    low, high = statistics.wilson_interval(successes, n)
    return row.model_copy(update={"value": 100 * successes / n, "low": 100 * low, "high": 100 * high})


def without_value(row: TableRow, errors: Errors) -> TableRow:
    """A row that has no number, with the errors that are why, if they are."""
    return row.model_copy(update={"missing": str(errors)}) if errors.number or errors.unlearnt or errors.unjudged else row


def mean_row(
    agent: str,
    benchmark: str,
    category: str,
    metric: str,
    values: Sequence[float] | statistics.Floats,
    seed: int,
    *,
    share: bool = False,
    published_value: float | None = None,
    errors: Errors = NO_ERRORS,
) -> TableRow:
    """A mean with its bootstrap interval, in percent where the values are shares in [0, 1]; none without values, and when too many of the
    episodes ended in an error; "unknown" when a server did not count for an episode."""
    row = TableRow(agent=agent, benchmark=benchmark, category=category, metric=metric, n=len(values), published=published_value)
    if len(values) == 0 or errors.too_many:
        return without_value(row, errors)
    if np.isnan(values).any():
        return row.model_copy(update={"missing": UNKNOWN})
    draws = statistics.bootstrap_means(values, seed=seed)
    low, high = statistics.share_interval(draws, len(values)) if share else statistics.percentile_interval(draws)
    scale = 100.0 if share else 1.0
    return row.model_copy(update={"value": scale * float(np.mean(values)), "low": scale * low, "high": scale * high})


def ratio_row(agent: str, benchmark: str, metric: str, top: statistics.Floats, bottom: statistics.Floats, seed: int) -> TableRow:
    """A ratio of totals over episodes with its bootstrap interval; "not run" when there is nothing to divide by, "unknown" when a server
    did not count for an episode."""
    row = TableRow(agent=agent, benchmark=benchmark, metric=metric, n=len(top))
    if np.isnan(top).any() or np.isnan(bottom).any():
        return row.model_copy(update={"missing": UNKNOWN})
    if bottom.sum() <= 0:
        return row.model_copy(update={"n": 0})
    low, high = statistics.ratio_interval(top, bottom, seed=seed)
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
