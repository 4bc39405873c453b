"""The tables, one function each, named as in `config.report.tables`. Every function takes the run's inputs and gives tidy rows (rates as
percentages) and the layout of the paper's table."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from dllm_agents.analysis import statistics
from dllm_agents.analysis.bfcl_averages import PARTS, averages
from dllm_agents.analysis.failures import TAXONOMY
from dllm_agents.config import BFCL_MULTI_TURN, EMBODIED, Config
from dllm_agents.errors import StageError
from dllm_agents.records import TableRow, write_aside
from dllm_agents.reporting import published
from dllm_agents.reporting.captions import caption, display_name
from dllm_agents.reporting.claims import evaluate, load_claims
from dllm_agents.reporting.inputs import Inputs
from dllm_agents.reporting.layout import NOT_RUN, Block, Layout, Table, cell, number, to_csv, to_latex, to_markdown

PUBLISHED_BLOCK, BASELINE_BLOCK, OURS_BLOCK = "Published", "Baselines", "This run"
FIGURE4_CLASSES = {"schema": "Schema", "parameter_value": "Parameter / value", "wrong_function": "Wrong function"}
FIGURE4_SETS = (
    "simple",
    "multiple",
    "parallel",
    "parallel_multiple",
    "live_simple",
    "live_multiple",
    "live_parallel",
    "live_parallel_multiple",
)
Key = tuple[str, str, str]
"""(benchmark, category, metric) of a table's column."""


def diffuagent_table1(inputs: Inputs) -> Table:
    """DiffuAgent Table 1: success and progress rate on the embodied benchmarks and their unweighted mean."""
    columns = [(name, "", metric) for name in (*EMBODIED, "average") for metric in ("success_rate", "progress_rate")]
    rows = published_rows("diffuagent_table1")
    for agent in (*inputs.baselines, *inputs.agents):
        twin = published_values(inputs.config, agent, "diffuagent_table1")
        rows += [row for name in EMBODIED for row in _outcome_rows(inputs, agent, name, twin)]
        rows += _embodied_average(inputs, agent, twin)
    timing = [row for agent in (*inputs.baselines, *inputs.agents) for name in EMBODIED for row in _timing_rows(inputs, agent, name)]
    labels = [
        (display_name(name) if name != "average" else "Avg.", label) for name in (*EMBODIED, "average") for label in ("Success", "Progress")
    ]
    return Table(rows, arrange(inputs, rows, columns, labels, "Embodied agent", with_n=True), timing)


def diffuagent_table2(inputs: Inputs) -> Table:
    """DiffuAgent Table 2: BFCL-v3 by category, with the averages of the paper (`analysis.bfcl_averages`)."""
    shown = {
        "non_live": ("Non-Live", "Avg."),
        "live_simple": ("Live", "S."),
        "live_multiple": ("Live", "M."),
        "live_parallel": ("Live", "P."),
        "live_parallel_multiple": ("Live", "PM."),
        "live": ("Live", "Avg."),
        "multi_turn_standard": ("Multi-Turn", "Standard"),
        "multi_turn_challenge": ("Multi-Turn", "Challenge"),
        "multi_turn": ("Multi-Turn", "Avg."),
        "relevance": ("Hallucination", "Rel."),
        "irrelevance": ("Hallucination", "Irrel."),
        "overall": ("", "Overall"),
    }
    rows = published_rows("diffuagent_table2")
    for agent in (*inputs.baselines, *inputs.agents):
        twin = published_values(inputs.config, agent, "diffuagent_table2")
        rows += bfcl_rows(inputs, agent, list(shown), twin)
    timing = [row for agent in (*inputs.baselines, *inputs.agents) for row in _timing_rows(inputs, agent, "bfcl")]
    columns = [("bfcl", category, "success_rate") for category in shown]
    return Table(rows, arrange(inputs, rows, columns, list(shown.values()), "Tool-calling agent"), timing)


def comparisons(inputs: Inputs) -> Table:
    """Every agent against the random one, and every diffusion agent against every AR one of its kind (both trained in this run, or both
    ready-made), on the tasks both have: difference in success with a paired bootstrap interval over tasks and clusters, exact McNemar p,
    Holm's correction over the table, Cohen's h, and whether the two are equivalent within `report.margin` points."""
    random_agent = inputs.random_agent()
    pairs = [(agent, random_agent) for agent in inputs.agents if random_agent is not None]
    paradigm = {agent: inputs.paradigm(agent) for agent in inputs.agents}
    pairs += [
        (a, b)
        for a, b in product(inputs.agents, inputs.agents)
        if (paradigm[a], paradigm[b]) == ("diffusion", "ar") and inputs.trained(a) == inputs.trained(b)
    ]
    found = [
        (agent, other, benchmark, _compare(inputs, agent, other, benchmark))
        for benchmark in inputs.config.run.benchmarks
        for agent, other in pairs
        if benchmark in inputs.config.agent_benchmarks(agent) and benchmark in inputs.config.agent_benchmarks(other)
    ]
    corrected = iter(statistics.holm([result["mcnemar_p"].value or 1.0 for *_, result in found if result]))
    rows: list[TableRow] = []
    lines = []
    for agent, other, benchmark, result in found:
        if not result:
            rows.append(TableRow(agent=agent, benchmark=benchmark, category=f"against {other}", metric="success_difference", n=0))
            lines.append((f"{agent} against {other}", [display_name(benchmark), "0", *[NOT_RUN] * 5]))
            continue
        result["holm_p"] = result["mcnemar_p"].model_copy(update={"metric": "holm_p", "value": next(corrected)})
        rows += result.values()
        p = [f"{result[name].value:.2g}" for name in ("mcnemar_p", "holm_p")]
        comparable = "yes" if result["comparable"].value else "no"
        difference = result["success_difference"]
        lines.append(
            (
                f"{agent} against {other}",
                [display_name(benchmark), str(difference.n), cell(difference), *p, f"{result['cohens_h'].value:.2f}", comparable],
            )
        )
    names = ["Benchmark", "n", "Difference (points)", "p", "p (Holm)", "Cohen's h", f"Within ±{number(inputs.config.report.margin)}"]
    notes = (
        "Intervals of differences: paired bootstrap over clusters (BabyAI levels, shared multi-turn ids). "
        f"'Within' is an equivalence test at a margin of {number(inputs.config.report.margin)} points, alpha 0.05."
    )
    return Table(rows, Layout("Pair", [("", name) for name in names], [Block("", lines)]), notes=notes)


def failures(inputs: Inputs) -> Table:
    """Share of episodes with each failure class, per agent and benchmark; retry loops at both thresholds, loops per episode, loops with
    unchanged observation, first-loop hazard per step; the three Figure 4 classes over 440 and 340 single-turn entries."""
    rows = _published_failures()
    for agent in (*inputs.baselines, *inputs.agents):
        twins = {
            (value.benchmark, value.category, value.metric): value
            for name in ("diffuagent_figure3", "diffuagent_figure4")
            for value in published.values(name)
            if value.agent == published.published_name(inputs.config, agent)
        }
        for benchmark in inputs.config.run.benchmarks:
            rows += _failure_rows(inputs, agent, benchmark)
            if benchmark in EMBODIED:
                rows += loop_rows(inputs, agent, benchmark, twins)
            if benchmark == "bfcl":
                rows += figure4_rows(inputs, agent, twins)
    kinds = list(TAXONOMY)
    blocks = []
    for benchmark in inputs.config.run.benchmarks:
        lines = []
        for agent in (*inputs.baselines, *inputs.agents):
            by_kind = {
                row.category: row for row in rows if (row.agent, row.benchmark, row.metric) == (agent, benchmark, "episodes_with_failure")
            }
            n = next(iter(by_kind.values())).n or 0
            lines.append(
                (agent, [str(n), *(NOT_RUN if by_kind[kind].value is None else number(by_kind[kind].value or 0.0) for kind in kinds)])
            )
        blocks.append(Block(display_name(benchmark), lines))
    columns = [("", "n"), *(("", kind.replace("_", " ")) for kind in kinds)]
    return Table(
        rows,
        Layout("Agent", columns, blocks),
        notes="Classes: " + "; ".join(f"{k.replace('_', ' ')}: {v}" for k, v in TAXONOMY.items()) + ".",
    )


def trajectory_filter(inputs: Inputs) -> Table:
    """Teacher trajectories per benchmark: collected, accepted, rejected by reason."""
    rows: list[TableRow] = []
    lines: list[tuple[str, list[str]]] = []
    for benchmark in inputs.config.run.benchmarks:
        counts = inputs.filtered(benchmark)
        if counts is None:
            rows.append(TableRow(agent="teacher", benchmark=benchmark, metric="accepted_share", n=0))
            lines.append((display_name(benchmark), ["0", NOT_RUN, NOT_RUN, ""]))
            continue
        n = counts.accepted + counts.rejected.total()
        share = rate_row("teacher", benchmark, "", "accepted_share", counts.accepted, n)
        rows += [share, TableRow(agent="teacher", benchmark=benchmark, metric="accepted", n=n, value=counts.accepted)]
        rows += [
            TableRow(agent="teacher", benchmark=benchmark, category=reason, metric="rejected", n=n, value=count)
            for reason, count in sorted(counts.rejected.items())
        ]
        reasons = "; ".join(f"{reason}: {count}" for reason, count in counts.rejected.most_common())
        lines.append((display_name(benchmark), [str(n), str(counts.accepted), cell(share), reasons or "none"]))
    columns = [("", name) for name in ("Collected", "Accepted", "Share (%)", "Rejected because")]
    return Table(rows, Layout("Benchmark", columns, [Block("", lines)]))


def serving(inputs: Inputs) -> Table:
    """The serving probe of every backbone: health, canary against the reference, speed at each concurrency."""
    rows: list[TableRow] = [
        TableRow(agent=value.agent, benchmark="serving", category="published", metric=value.metric, published=value.value)
        for value in published.values("diffuagent_figure1")
    ]
    lines: list[tuple[str, list[str]]] = [
        (value.agent, ["", "", "", "1", number(value.value or 0.0), "", "", ""]) for value in published.values("diffuagent_figure1")
    ]
    ours: list[tuple[str, list[str]]] = []
    for backbone in inputs.config.used_backbones():
        probe = inputs.probes.get(backbone)
        if probe is None:
            rows.append(TableRow(agent=backbone, benchmark="serving", metric="tokens_per_second", n=0))
            ours.append((backbone, [*[NOT_RUN] * 3, "", *[NOT_RUN] * 4]))
            continue
        canary = {"equal": 1.0, "different": 0.0}.get(probe.canary)
        rows.append(TableRow(agent=backbone, benchmark="serving", metric="healthy", n=1, value=float(probe.healthy)))
        rows.append(TableRow(agent=backbone, benchmark="serving", metric="canary_equal", n=int(canary is not None), value=canary))
        rows.append(TableRow(agent=backbone, benchmark="serving", metric="peak_memory_mb", n=1, value=probe.peak_memory_mb))
        for level in probe.concurrency:
            category = f"concurrency={level['concurrency']:.0f}"
            metrics = ("tokens_per_second", "p50_s", "p95_s", "nfe_per_token")
            rows += [
                TableRow(agent=backbone, benchmark="serving", category=category, metric=name, n=int(level["requests"]), value=level[name])
                for name in metrics
                if name in level
            ]
            speed = [number(level[name]) if name in level else NOT_RUN for name in metrics]
            ours.append((backbone, [probe.engine, "yes" if probe.healthy else "no", probe.canary, f"{level['concurrency']:.0f}", *speed]))
        if not probe.concurrency:
            ours.append((backbone, [probe.engine, "yes" if probe.healthy else "no", probe.canary, "", *[NOT_RUN] * 4]))
    names = ("Engine", "Healthy", "Canary", "Concurrency", "Tokens/s", "p50 (s)", "p95 (s)", "NFE per token")
    hardware = sorted({probe.hardware for probe in inputs.probes.values() if probe.hardware})
    blocks = [Block("Published (one A800, read off Figure 1)", lines), Block(OURS_BLOCK, ours)]
    return Table(rows, Layout("Backbone", [("", name) for name in names], blocks), notes=f"Hardware: {'; '.join(hardware) or NOT_RUN}.")


def claims(inputs: Inputs) -> Table:
    """The papers' claims tested on this run: one verdict each, and the numbers behind it. What reads the clock stands with the timing."""
    rows: list[TableRow] = []
    timing: list[TableRow] = []
    lines = []
    for name, claim in load_claims().items():
        verdict, findings = evaluate(claim, inputs, name)
        target = timing if any(finding.test.timed for finding in findings) else rows
        smallest = min(finding.n for finding in findings)
        target.append(TableRow(agent=name, benchmark="", category=claim.source, metric=verdict.replace(" ", "_"), n=smallest, value=1.0))
        cells = []
        for finding in findings:
            test = finding.test
            where = test.benchmarks if isinstance(test.benchmarks, str) else "+".join(test.benchmarks)
            row = TableRow(agent=name, benchmark=where, category=test.expect, metric=test.metric, n=finding.n, published=test.published)
            row = row.model_copy(update={"value": finding.value, "low": finding.low, "high": finding.high})
            target.append(row)
            cells.append(f"{test.metric} {test.expect.replace('_', ' ')}: {finding.why or cell(row)}")
        lines.append((claim.statement, [claim.source, verdict, str(smallest), "; ".join(cells)]))
    columns = [("", name) for name in ("Source", "On this run", "n", "Numbers (differences and levels in points, times as ratios)")]
    notes = (
        f"'Same' and 'not less' use a margin of {number(inputs.config.report.margin)} points. Agents trained in this run are compared "
        "with each other, not with ready-made ones."
    )
    return Table(rows, Layout("Claim", columns, [Block("", lines)]), timing, notes)


TABLES: dict[str, Callable[[Inputs], Table]] = {
    "diffuagent_table1": diffuagent_table1,
    "diffuagent_table2": diffuagent_table2,
    "comparisons": comparisons,
    "failures": failures,
    "trajectory_filter": trajectory_filter,
    "serving": serving,
    "claims": claims,
}


def tabulate(name: str, config: Config, results_dir: str | Path, output_base: str | Path) -> list[Path]:
    """Write a table from a run's results as `<output_base>.csv`, `.md` and `.tex`, and `<output_base>_timing.csv` where it has wall-clock
    metrics; returns the paths. Missing scores make exactly the cells "not run". Raises StageError for an unknown table."""
    if name not in TABLES:
        raise StageError(f"{name}: unknown table; allowed: {', '.join(sorted(TABLES))}")
    table = TABLES[name](Inputs(config, Path(results_dir)))
    text = f"{caption(name, config)} {table.notes}".strip()
    base = Path(output_base)
    texts = {
        f"{base}.csv": to_csv(table.rows),
        f"{base}.md": to_markdown(table.layout, text),
        f"{base}.tex": to_latex(table.layout, text, name),
    }
    if table.timing:
        texts[f"{base}_timing.csv"] = to_csv(table.timing)
    for path, content in texts.items():
        with write_aside(path) as handle:
            handle.write(content)
    return [Path(path) for path in texts]


def arrange(
    inputs: Inputs,
    rows: Iterable[TableRow],
    columns: Sequence[Key],
    labels: Sequence[tuple[str, str]],
    corner: str,
    *,
    with_n: bool = False,
) -> Layout:
    """Tidy rows in the paper's layout: one line per agent in blocks (published, baselines, this run), one column per key. With `with_n`
    each benchmark's group starts with the number of tasks; otherwise the row's largest n stands first."""
    found = {(row.agent, row.benchmark, row.category, row.metric): row for row in rows}
    published_agents = list(dict.fromkeys(row.agent for row in found.values() if row.value is None and row.published is not None))
    blocks = [(PUBLISHED_BLOCK, published_agents), (BASELINE_BLOCK, inputs.baselines), (OURS_BLOCK, inputs.agents)]

    def line(agent: str) -> list[str]:
        cells = []
        previous = None
        for key in columns:
            row = found.get((agent, *key))
            if with_n and key[0] != previous and key[0] != "average":
                cells.append(str(row.n or 0) if row else "0")
            cells.append(cell(row))
            previous = key[0]
        largest = max((row.n or 0 for row in (found.get((agent, *key)) for key in columns) if row), default=0)
        return cells if with_n else [str(largest), *cells]

    heads: list[tuple[str, str]] = [] if with_n else [("", "n")]
    previous = None
    for key, label in zip(columns, labels, strict=True):
        if with_n and key[0] != previous and key[0] != "average":
            heads.append((label[0], "n"))
        heads.append(label)
        previous = key[0]
    lines = [
        Block(title, [(agent, line(agent)) for agent in agents if agent not in inputs.config.agents or title != PUBLISHED_BLOCK])
        for title, agents in blocks
    ]
    return Layout(corner, heads, [block for block in lines if block.rows])


def published_rows(name: str) -> list[TableRow]:
    """A published table as rows whose only number is the published one."""
    return [
        TableRow(agent=item.agent, benchmark=item.benchmark, category=item.category, metric=item.metric, n=item.n, published=item.value)
        for item in published.values(name)
    ]


def published_values(config: Config, agent: str, name: str) -> dict[Key, float]:
    """What the paper reports for the published model that an agent's policy is; empty for any other agent."""
    twin = published.published_name(config, agent)
    return {
        (item.benchmark, item.category, item.metric): item.value
        for item in published.values(name)
        if item.agent == twin and item.value is not None
    }


def rate_row(
    agent: str, benchmark: str, category: str, metric: str, successes: int, n: int, published_value: float | None = None
) -> TableRow:
    """A rate in percent with its Wilson interval; "not run" when n is 0."""
    if n == 0:
        return TableRow(agent=agent, benchmark=benchmark, category=category, metric=metric, n=0, published=published_value)
    low, high = statistics.wilson_interval(successes, n)
    return TableRow(
        agent=agent,
        benchmark=benchmark,
        category=category,
        metric=metric,
        n=n,
        value=100 * successes / n,
        low=100 * low,
        high=100 * high,
        published=published_value,
    )


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
) -> TableRow:
    """A mean with its bootstrap interval, in percent where the values are shares in [0, 1]; "not run" without values."""
    row = TableRow(agent=agent, benchmark=benchmark, category=category, metric=metric, n=len(values), published=published_value)
    if len(values) == 0:
        return row
    draws = statistics.bootstrap_means(values, seed=seed)
    low, high = statistics.share_interval(draws, len(values)) if share else statistics.percentile_interval(draws)
    scale = 100.0 if share else 1.0
    return row.model_copy(update={"value": scale * float(np.mean(values)), "low": scale * low, "high": scale * high})


def clusters(scores: pd.DataFrame) -> list[Hashable]:
    """What moves together under resampling: BabyAI's levels, the ids that BFCL's multi-turn sets share, single tasks elsewhere."""
    names: list[Hashable] = []
    for benchmark, category, task in zip(scores["benchmark"], scores["category"], scores["task_id"], strict=True):
        number_ = re.search(r"(\d+)$", task)
        if benchmark == "babyai":
            names.append(category)
        elif category in BFCL_MULTI_TURN and number_:
            names.append(("multi_turn", number_[1]))
        else:
            names.append(task)
    return names


def loop_rows(inputs: Inputs, agent: str, benchmark: str, twins: Mapping[Key, published.Value]) -> list[TableRow]:
    """Retry loops of an agent: episodes with one at >= the configured length and above it, loops per episode, share of loops in which the
    observation never changed, and the hazard of a first loop at each step among episodes still running without one."""
    scores = inputs.rows(agent, benchmark)
    n = len(scores) if inputs.classified(agent, benchmark) else 0
    found = inputs.failures(benchmark)
    found = found[(found["agent"] == agent) & (found["kind"] == "loop")]
    length = inputs.config.report.loop_length
    twin = twins.get((benchmark, "", "episodes_with_loop"))
    share = None if twin is None or twin.value is None or not twin.n else 100 * twin.value / twin.n
    longer = found[found["count"] > length]
    rows = [
        rate_row(agent, benchmark, f"at least {length}", "episodes_with_loop", found["task_id"].nunique(), n, share),
        rate_row(agent, benchmark, f"more than {length}", "episodes_with_loop", longer["task_id"].nunique(), n),
    ]
    if n == 0:
        return rows
    per_episode = found.groupby("task_id").size().reindex(scores["task_id"], fill_value=0)
    rows.append(mean_row(agent, benchmark, "", "loops_per_episode", per_episode.to_numpy().astype(np.float64), inputs.config.seed))
    if len(found):
        unchanged = int((found["detail"] == "unchanged observation").sum())
        rows.append(rate_row(agent, benchmark, "", "loops_with_unchanged_observation", unchanged, len(found)))
    # A loop is complete, and so first seen, at its length-th action.
    first = (found.groupby("task_id")["first_step"].min() + length - 1).reindex(scores["task_id"]).to_numpy(dtype=float)
    steps = scores["steps"].to_numpy(dtype=int)
    for step in range(length - 1, int(steps.max(initial=0))):
        at_risk = int(np.sum((steps > step) & ~(first < step)))
        if at_risk:
            rows.append(rate_row(agent, benchmark, f"step {step + 1}", "first_loop_hazard", int(np.sum(first == step)), at_risk))
    return rows


def figure4_rows(inputs: Inputs, agent: str, twins: Mapping[Key, published.Value]) -> list[TableRow]:
    """The three classes of Figure 4 as shares of single-turn entries: over all of them, and without Java and JavaScript."""
    scores, found = inputs.rows(agent, "bfcl"), inputs.failures("bfcl")
    found = found[found["agent"] == agent]
    rows = []
    for metric, sets in (
        ("single_turn_failures", FIGURE4_SETS),
        ("single_turn_failures_all_languages", (*FIGURE4_SETS, "java", "javascript")),
    ):
        n = int(scores["category"].isin(sets).sum()) if inputs.classified(agent, "bfcl") else 0
        inside = found[found["category"].isin(sets)]
        for kind in FIGURE4_CLASSES:
            twin = twins.get(("bfcl", kind, "failures")) if metric == "single_turn_failures" else None
            share = None if twin is None or twin.value is None or not twin.n else 100 * twin.value / twin.n
            rows.append(rate_row(agent, "bfcl", kind, metric, inside[inside["kind"] == kind]["task_id"].nunique(), n, share))
    return rows


def bfcl_rows(inputs: Inputs, agent: str, shown: Sequence[str], twin: Mapping[Key, float]) -> list[TableRow]:
    """An agent's BFCL rates and averages; an average is "not run" unless every category in it was. Wilson intervals for single categories,
    bootstrap ones for averages, where the multi-turn sets share their ids and so are drawn together."""
    scores = inputs.rows(agent, "bfcl")
    outcomes = {str(name): part for name, part in scores.groupby("category", sort=False)}
    sizes = {name: len(part) for name, part in outcomes.items()}
    rates = averages({name: float(part["success"].mean()) for name, part in outcomes.items()}, sizes)
    draws = averages(_category_draws(outcomes, inputs.config.seed), sizes)
    rows = []
    for name in shown:
        known = twin.get(("bfcl", name, "success_rate"))
        parts = PARTS.get(name, (name,))
        if len(parts) == 1 and parts[0] in outcomes:
            rows.append(rate_row(agent, "bfcl", name, "success_rate", int(outcomes[parts[0]]["success"].sum()), sizes[parts[0]], known))
            continue
        row = TableRow(agent=agent, benchmark="bfcl", category=name, metric="success_rate", n=0, published=known)
        if rates.get(name) is not None:
            n = sum(sizes[part] for part in parts)
            low, high = statistics.share_interval(draws[name], n)
            row = row.model_copy(update={"n": n, "value": 100 * rates[name], "low": 100 * low, "high": 100 * high})
        rows.append(row)
    return rows


def bfcl_mean(inputs: Inputs, agent: str, names: Sequence[str]) -> TableRow | None:
    """The unweighted mean of some of an agent's BFCL averages, None unless all of them were run; the mean of their ends is an interval that
    is wide enough, since it takes the parts to err together."""
    rows = bfcl_rows(inputs, agent, names, {})
    if any(row.value is None or row.low is None or row.high is None for row in rows):
        return None
    value, low, high = (sum(getattr(row, name) for row in rows) / len(rows) for name in ("value", "low", "high"))
    return rows[0].model_copy(
        update={"category": "+".join(names), "n": sum(row.n or 0 for row in rows), "value": value, "low": low, "high": high}
    )


def _category_draws(outcomes: Mapping[str, pd.DataFrame], seed: int) -> dict[str, statistics.Floats]:
    """Bootstrap distribution of every category's rate; the multi-turn sets draw the same ids."""
    draws = {}
    for index, (name, part) in enumerate(sorted(outcomes.items())):
        if name in BFCL_MULTI_TURN:
            ordered = part.sort_values("task_id", key=lambda column: column.str.extract(r"(\d+)$", expand=False).astype(int))
            draws[name] = statistics.bootstrap_means(ordered["success"].to_numpy(dtype=float), ordered["task_id"].tolist(), seed=seed)
        else:
            draws[name] = statistics.bootstrap_means(part["success"].to_numpy(dtype=float), seed=seed + 1 + index)
    return draws


def _published_failures() -> list[TableRow]:
    loops = [
        TableRow(
            agent=item.agent,
            benchmark=item.benchmark,
            category="at least 3",
            metric=item.metric,
            n=item.n,
            published=100 * item.value / item.n,
        )
        for item in published.values("diffuagent_figure3")
        if item.value is not None and item.n
    ]
    classes = [
        TableRow(
            agent=item.agent,
            benchmark="bfcl",
            category=item.category,
            metric="single_turn_failures",
            n=item.n,
            published=100 * item.value / item.n,
        )
        for item in published.values("diffuagent_figure4")
        if item.value is not None and item.n
    ]
    return loops + classes


def _failure_rows(inputs: Inputs, agent: str, benchmark: str) -> list[TableRow]:
    n = len(inputs.rows(agent, benchmark)) if inputs.classified(agent, benchmark) else 0
    found = inputs.failures(benchmark)
    with_failure = found[found["agent"] == agent].groupby("kind")["task_id"].nunique()
    return [rate_row(agent, benchmark, kind, "episodes_with_failure", int(with_failure.get(kind, 0)) if n else 0, n) for kind in TAXONOMY]


def _outcome_rows(inputs: Inputs, agent: str, benchmark: str, twin: Mapping[Key, float]) -> list[TableRow]:
    scores = inputs.rows(agent, benchmark)
    success, progress = (twin.get((benchmark, "", metric)) for metric in ("success_rate", "progress_rate"))
    values = scores["progress"].to_numpy(dtype=float)
    return [
        rate_row(agent, benchmark, "", "success_rate", int(scores["success"].sum()), len(scores), success),
        mean_row(agent, benchmark, "", "progress_rate", values, inputs.config.seed, share=True, published_value=progress),
    ]


def _embodied_average(inputs: Inputs, agent: str, twin: Mapping[Key, float]) -> list[TableRow]:
    return [
        macro_row(inputs, agent, EMBODIED, column, metric, twin.get(("average", "", metric)))
        for metric, column in (("success_rate", "success"), ("progress_rate", "progress"))
    ]


def macro_row(
    inputs: Inputs, agent: str, benchmarks: Sequence[str], column: str, metric: str, published_value: float | None = None
) -> TableRow:
    """The unweighted mean over benchmarks of a share, with an interval from independent draws of each; "not run" unless all were."""
    parts = [inputs.rows(agent, benchmark)[column].to_numpy(dtype=float) for benchmark in benchmarks]
    row = TableRow(agent=agent, benchmark="average", metric=metric, n=0, published=published_value)
    if not parts or not all(len(part) for part in parts):
        return row
    n = sum(map(len, parts))
    draws = [statistics.bootstrap_means(part, seed=inputs.config.seed + index) for index, part in enumerate(parts)]
    low, high = statistics.share_interval(np.mean(draws, axis=0), n)
    value = 100 * float(np.mean([part.mean() for part in parts]))
    return row.model_copy(update={"n": n, "value": value, "low": 100 * low, "high": 100 * high})


def _timing_rows(inputs: Inputs, agent: str, benchmark: str) -> list[TableRow]:
    """Wall-clock metrics: seconds per episode and per step, kept completion tokens per second of the model's time."""
    scores = inputs.rows(agent, benchmark)
    if not len(scores):
        return []
    seed = inputs.config.seed
    seconds, steps = scores["seconds"].to_numpy(dtype=float), scores["steps"].to_numpy(dtype=float)
    rows = [mean_row(agent, benchmark, "", "seconds_per_episode", seconds, seed)]
    for metric, top, bottom in (
        ("seconds_per_step", seconds, steps),
        ("tokens_per_second", scores["completion_tokens"].to_numpy(dtype=float), scores["model_seconds"].to_numpy(dtype=float)),
    ):
        if bottom.sum() > 0:
            low, high = statistics.ratio_interval(top, bottom, seed=seed)
            value = float(top.sum() / bottom.sum())
            rows.append(TableRow(agent=agent, benchmark=benchmark, metric=metric, n=len(scores), value=value, low=low, high=high))
    return rows


def _compare(inputs: Inputs, agent: str, other: str, benchmark: str) -> dict[str, TableRow]:
    """Metric -> row of a paired comparison; empty when the two share no task."""
    both = pair_up(inputs.rows(agent, benchmark), inputs.rows(other, benchmark))
    if not len(both):
        return {}
    first, second = both["success_x"].to_numpy(dtype=float), both["success_y"].to_numpy(dtype=float)
    groups = clusters(both.rename(columns={"benchmark_x": "benchmark", "category_x": "category"}))
    seed = inputs.config.seed
    low, high = statistics.paired_bootstrap(first, second, groups, seed=seed)
    test = statistics.mcnemar([bool(value) for value in first], [bool(value) for value in second])
    same = statistics.equivalence(first, second, inputs.config.report.margin / 100, groups, seed=seed)
    category = f"against {other}"

    def row(metric: str, value: float, low: float | None = None, high: float | None = None) -> TableRow:
        return TableRow(agent=agent, benchmark=benchmark, category=category, metric=metric, n=len(both), value=value, low=low, high=high)

    return {
        "success_difference": row("success_difference", 100 * float((first - second).mean()), 100 * low, 100 * high),
        "mcnemar_p": row("mcnemar_p", test.p),
        "only_first_solves": row("only_first_solves", test.gained),
        "only_second_solves": row("only_second_solves", test.lost),
        "cohens_h": row("cohens_h", statistics.cohens_h(float(first.mean()), float(second.mean()))),
        "success_difference_90": row("success_difference_90", 100 * same.difference, 100 * same.low, 100 * same.high),
        "comparable": row("comparable", float(same.holds)),
    }


def pair_up(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """The scores of two agents on the tasks both have, columns `_x` and `_y`, in task order. With several seeds the k-th of one meets
    the k-th of the other."""
    sides = []
    for frame in (first, second):
        ordered = frame.sort_values(["task_id", "seed"], kind="stable")
        sides.append(ordered.assign(draw=ordered.groupby("task_id").cumcount()))
    return sides[0].merge(sides[1], on=["task_id", "draw"], how="inner")
