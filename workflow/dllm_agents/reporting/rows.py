"""Rows that several papers' tables show: outcomes, times, averages over benchmarks, published values beside ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from dllm_agents.analysis import statistics
from dllm_agents.config import Config
from dllm_agents.records import TableRow
from dllm_agents.reporting import published
from dllm_agents.reporting.cells import NO_ERRORS, without_value
from dllm_agents.reporting.inputs import Inputs
from dllm_agents.reporting.layout import BASELINE_BLOCK, OURS_BLOCK, PUBLISHED_BLOCK, Key
from dllm_agents.reporting.outcomes import Outcomes, outcomes


def published_rows(name: str) -> list[TableRow]:
    """A published table as rows whose only number is the published one."""
    return [
        TableRow(agent=item.agent, benchmark=item.benchmark, category=item.category, metric=item.metric, n=item.n, published=item.value)
        for item in published.values(name)
    ]


def published_values(config: Config, agent: str, name: str) -> dict[Key, float]:
    """What the paper reports for the published model that an agent's policy is; empty for any other agent."""
    return values_of(name, published.published_name(config, agent))


def values_of(name: str, agent: str | None, modules: Mapping[str, str | None] | None = None) -> dict[Key, float]:
    """What a published table reports for one of its agents, with exactly these modules."""
    return {
        (item.benchmark, item.part, item.metric): item.value
        for item in published.values(name)
        if item.agent == agent and item.value is not None and item.modules == (modules or {})
    }


def outcome_rows(own: Outcomes, twin: Mapping[Key, float]) -> list[TableRow]:
    """Success and progress rate, the published ones beside them."""
    success, progress = (twin.get((own.benchmark, "", metric)) for metric in ("success_rate", "progress_rate"))
    return [own.success(published=success), own.mean("progress_rate", own.column("progress"), share=True, published=progress)]


def macro_row(
    inputs: Inputs, agent: str, benchmarks: Sequence[str], column: str, metric: str, published_value: float | None = None
) -> TableRow:
    """The unweighted mean over benchmarks of a share, with an interval from independent draws of each; "not run" unless all were."""
    parts = [inputs.rows(agent, benchmark)[column].to_numpy(dtype=float) for benchmark in benchmarks]
    row = TableRow(agent=agent, benchmark="average", metric=metric, n=0, published=published_value)
    if not parts or not all(len(part) for part in parts):
        worst = max((inputs.errors(agent, benchmark) for benchmark in benchmarks), key=lambda errors: errors.too_many, default=NO_ERRORS)
        return without_value(row, worst) if worst.too_many else row
    return mean_of_parts(row, parts, inputs.config.seed)


def mean_of_parts(row: TableRow, parts: Sequence[statistics.Floats], seed: int) -> TableRow:
    """A row with the unweighted mean of shares, with an interval from independent draws of each part."""
    n = sum(map(len, parts))
    draws = [statistics.bootstrap_means(part, seed=seed + index) for index, part in enumerate(parts)]
    low, high = statistics.share_interval(np.mean(draws, axis=0), n)
    value = 100 * float(np.mean([part.mean() for part in parts]))
    return row.model_copy(update={"n": n, "value": value, "low": 100 * low, "high": 100 * high})


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
