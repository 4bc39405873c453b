"""Tidy rows from scores and failures: rates, means and averages with their intervals, published values beside them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from dllm_agents.analysis import statistics
from dllm_agents.analysis.bfcl_averages import PARTS, averages
from dllm_agents.analysis.failures import ERROR, TAXONOMY
from dllm_agents.analysis.metrics import Errors
from dllm_agents.config import BFCL_MULTI_TURN, EMBODIED, Config
from dllm_agents.records import TableRow
from dllm_agents.reporting import published
from dllm_agents.reporting.inputs import Inputs
from dllm_agents.reporting.layout import NOT_RUN, Block, Layout, cell

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
SAME_AS = {"relevance": "live_relevance", "multi_turn_standard": "multi_turn_base"}
"""Columns of Table 2 that are one category under another name."""
NO_ERRORS = Errors()
Key = tuple[str, str, str]
"""(benchmark, category, metric) of a table's column."""


def arrange(
    inputs: Inputs,
    rows: Iterable[TableRow],
    columns: Sequence[Key],
    labels: Sequence[tuple[str, str]],
    corner: str,
    agents: Sequence[str],
    *,
    with_n: bool = False,
) -> Layout:
    """Tidy rows of `agents` in the paper's layout: one line per agent in blocks (published, baselines, this run), one column per key. With
    `with_n` each benchmark's group starts with the number of tasks; otherwise the row's largest n stands first."""
    found = {(row.agent, row.benchmark, row.category, row.metric): row for row in rows}
    published_agents = list(dict.fromkeys(row.agent for row in found.values() if row.value is None and row.published is not None))
    ours = [agent for agent in agents if agent not in inputs.baselines]
    blocks = [(PUBLISHED_BLOCK, published_agents), (BASELINE_BLOCK, inputs.baselines), (OURS_BLOCK, ours)]

    def line(agent: str, ours: bool) -> list[str]:
        cells = []
        previous = None
        for key in columns:
            row = found.get((agent, *key))
            if with_n and key[0] != previous and key[0] != "average":
                cells.append(counted(row.n if row else 0, inputs.errors(agent, key[0])))
            # The published number of a model must not stand in for a run of ours that is missing.
            cells.append(row.missing if ours and row is not None and row.value is None else cell(row))
            previous = key[0]
        largest = max((row.n or 0 for row in (found.get((agent, *key)) for key in columns) if row), default=0)
        return cells if with_n else [counted(largest, inputs.errors(agent, columns[0][0])), *cells]

    heads: list[tuple[str, str]] = [] if with_n else [("", "n")]
    previous = None
    for key, label in zip(columns, labels, strict=True):
        if with_n and key[0] != previous and key[0] != "average":
            heads.append((label[0], "n"))
        heads.append(label)
        previous = key[0]
    lines = [
        Block(
            title,
            [
                (agent, line(agent, title != PUBLISHED_BLOCK))
                for agent in agents
                if agent not in inputs.config.agents or title != PUBLISHED_BLOCK
            ],
        )
        for title, agents in blocks
    ]
    return Layout(corner, heads, [block for block in lines if block.rows])


def counted(n: int | None, errors: Errors) -> str:
    """A number of episodes, and beside it how many more ended in an error."""
    return str(n or 0) + (f" (+ {errors.number} error{'s' * (errors.number > 1)})" if errors.number else "")


def error_rows(inputs: Inputs, agent: str, benchmark: str) -> list[TableRow]:
    """How many of an agent's episodes are left out of its numbers; none where all count."""
    errors = inputs.errors(agent, benchmark)
    row = TableRow(agent=agent, benchmark=benchmark, metric="errors", n=errors.episodes, value=errors.number)
    return [row] if errors.number else []


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
    return row.model_copy(update={"missing": str(errors)}) if errors.number else row


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
    episodes ended in an error."""
    row = TableRow(agent=agent, benchmark=benchmark, category=category, metric=metric, n=len(values), published=published_value)
    if len(values) == 0 or errors.too_many:
        return without_value(row, errors)
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
    found = found[(found["agent"] == agent) & (found["kind"] == "loop") & found["task_id"].isin(scores["task_id"])]
    length = inputs.config.report.loop_length
    twin = twins.get((benchmark, "", "episodes_with_loop"))
    share = None if twin is None or twin.value is None or not twin.n else 100 * twin.value / twin.n
    longer = found[found["count"] > length]
    errors = inputs.errors(agent, benchmark)
    rows = [
        rate_row(agent, benchmark, f"at least {length}", "episodes_with_loop", found["task_id"].nunique(), n, share, errors),
        rate_row(agent, benchmark, f"more than {length}", "episodes_with_loop", longer["task_id"].nunique(), n, errors=errors),
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
    found = found[(found["agent"] == agent) & found["task_id"].isin(scores["task_id"])]
    rows = []
    for metric, sets in (
        ("single_turn_failures", FIGURE4_SETS),
        ("single_turn_failures_all_languages", (*FIGURE4_SETS, "java", "javascript")),
    ):
        n = int(scores["category"].isin(sets).sum()) if inputs.classified(agent, "bfcl") else 0
        inside = found[found["category"].isin(sets)]
        errors = inputs.errors(agent, "bfcl", sets)
        for kind in FIGURE4_CLASSES:
            twin = twins.get(("bfcl", kind, "failures")) if metric == "single_turn_failures" else None
            share = None if twin is None or twin.value is None or not twin.n else 100 * twin.value / twin.n
            count = inside[inside["kind"] == kind]["task_id"].nunique()
            rows.append(rate_row(agent, "bfcl", kind, metric, count, n, share, errors))
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
        parts = PARTS.get(name, (SAME_AS.get(name, name),))
        errors = inputs.errors(agent, "bfcl", parts)
        if len(parts) == 1 and parts[0] in outcomes:
            solved = int(outcomes[parts[0]]["success"].sum())
            rows.append(rate_row(agent, "bfcl", name, "success_rate", solved, sizes[parts[0]], known, errors))
            continue
        row = TableRow(agent=agent, benchmark="bfcl", category=name, metric="success_rate", n=0, published=known)
        # An average is no better than its worst part.
        spoilt = any(inputs.errors(agent, "bfcl", [part]).too_many for part in parts)
        row = without_value(row, errors)
        if rates.get(name) is not None and not spoilt:
            n = sum(sizes[part] for part in parts)
            low, high = statistics.share_interval(draws[name], n)
            row = row.model_copy(update={"n": n, "value": 100 * rates[name], "low": 100 * low, "high": 100 * high})
        rows.append(row)
    return rows + error_rows(inputs, agent, "bfcl")


def bfcl_mean(inputs: Inputs, agent: str, names: Sequence[str]) -> TableRow | None:
    """The unweighted mean of some of an agent's BFCL averages, None unless all of them were run, without value where errors took one; the
    mean of their ends is an interval that is wide enough, since it takes the parts to err together."""
    rows = bfcl_rows(inputs, agent, names, {})[: len(names)]
    if any(row.value is None or row.low is None or row.high is None for row in rows):
        return next((row for row in rows if row.missing != NOT_RUN), None)
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


def published_failures() -> list[TableRow]:
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


def failure_rows(inputs: Inputs, agent: str, benchmark: str) -> list[TableRow]:
    """Share of an agent's episodes with each class of failure; of all its episodes for errors, which count for no other class."""
    scores, errors, found = inputs.rows(agent, benchmark), inputs.errors(agent, benchmark), inputs.failures(benchmark)
    n = len(scores) if inputs.classified(agent, benchmark) else 0
    found = found[(found["agent"] == agent) & found["task_id"].isin(scores["task_id"])]
    count = found.groupby("kind")["task_id"].nunique()
    rows = [
        rate_row(agent, benchmark, kind, "episodes_with_failure", int(count.get(kind, 0)) if n else 0, n, errors=errors)
        for kind in TAXONOMY
        if kind != ERROR
    ]
    every = errors.episodes if inputs.classified(agent, benchmark) else 0
    return [*rows, rate_row(agent, benchmark, ERROR, "episodes_with_failure", errors.number if every else 0, every)]


def agreement_rows(inputs: Inputs, agent: str, benchmark: str) -> list[TableRow]:
    """How far the rules and the benchmark's own checker agree, episode by episode; none for a benchmark without such a checker.

    BFCL, over the single answers of FIGURE4_SETS: whether an answer is well formed; which class its failure has, none among them; and, of
    the answers that the rules refuse, how many the checker refuses. Rules know no right values, so the class can differ where both are
    right. Embodied: whether any step was refused, and whether the episode failed, by its environment against by its failure classes.
    """
    scores = inputs.rows(agent, benchmark)
    found = inputs.failures(benchmark)
    found = found[found["agent"] == agent]
    n = len(scores) if inputs.classified(agent, benchmark) else 0
    errors = inputs.errors(agent, benchmark)

    def row(category: str, agreed: pd.Series) -> TableRow:
        count, total = (int(agreed.sum()), len(agreed)) if n else (0, 0)
        return rate_row(agent, benchmark, category, "agreement_with_checker", count, total, errors=errors)

    if benchmark == "bfcl":
        tasks = pd.Index(scores[scores["category"].isin(FIGURE4_SETS) & (scores["ended"] == "answered")]["task_id"].unique())
        ours = _first_class(inputs.readings(benchmark).query("agent == @agent"), tasks)
        theirs = _first_class(found[found["source"] == "checker"], tasks)
        refused = ours != ""
        return [
            row("well formed", (ours == "schema") == (theirs == "schema")),
            row("class", ours == theirs),
            row("refused by the rules", theirs[refused] != ""),
        ]
    if benchmark not in EMBODIED:
        return []
    refused = scores["task_id"].isin(found[found["kind"].isin(("format", "empty", "invalid_action"))]["task_id"])
    failed = scores["task_id"].isin(found[found["kind"].isin(("premature_exit", "step_limit", "prompt_too_long"))]["task_id"])
    return [
        row("refused steps", refused == (scores["invalid_steps"] > 0)),
        row("outcome", failed == ~scores["success"].astype(bool)),
    ]


def _first_class(found: pd.DataFrame, tasks: pd.Index) -> pd.Series:
    """The most basic of FIGURE4_CLASSES found in each task's answer, empty where there is none."""
    order = {"schema": 0, "wrong_function": 1, "parameter_value": 2}
    found = found[found["kind"].isin(order)]
    first = found.loc[found["kind"].map(order).sort_values(kind="stable").index].drop_duplicates("task_id")
    return first.set_index("task_id")["kind"].reindex(tasks, fill_value="").astype(object)


def outcome_rows(inputs: Inputs, agent: str, benchmark: str, twin: Mapping[Key, float]) -> list[TableRow]:
    scores = inputs.rows(agent, benchmark)
    success, progress = (twin.get((benchmark, "", metric)) for metric in ("success_rate", "progress_rate"))
    values = scores["progress"].to_numpy(dtype=float)
    errors = inputs.errors(agent, benchmark)
    return [
        rate_row(agent, benchmark, "", "success_rate", int(scores["success"].sum()), len(scores), success, errors),
        mean_row(agent, benchmark, "", "progress_rate", values, inputs.config.seed, share=True, published_value=progress, errors=errors),
        *error_rows(inputs, agent, benchmark),
    ]


def embodied_average(inputs: Inputs, agent: str, twin: Mapping[Key, float]) -> list[TableRow]:
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
        worst = max((inputs.errors(agent, benchmark) for benchmark in benchmarks), key=lambda errors: errors.too_many, default=NO_ERRORS)
        return without_value(row, worst) if worst.too_many else row
    n = sum(map(len, parts))
    draws = [statistics.bootstrap_means(part, seed=inputs.config.seed + index) for index, part in enumerate(parts)]
    low, high = statistics.share_interval(np.mean(draws, axis=0), n)
    value = 100 * float(np.mean([part.mean() for part in parts]))
    return row.model_copy(update={"n": n, "value": value, "low": 100 * low, "high": 100 * high})


def timing_rows(inputs: Inputs, agent: str, benchmark: str) -> list[TableRow]:
    """Wall-clock metrics: seconds per episode and per step, kept completion tokens per second of the model's time."""
    scores = inputs.rows(agent, benchmark)
    if not len(scores):
        return []
    seed = inputs.config.seed
    rows = [mean_row(agent, benchmark, "", "seconds_per_episode", scores["seconds"].to_numpy(dtype=float), seed)]
    for metric, top, bottom in (("seconds_per_step", "seconds", "steps"), ("tokens_per_second", "completion_tokens", "model_seconds")):
        below = scores[bottom].to_numpy(dtype=float)
        if below.sum() > 0:
            rows.append(ratio_row(agent, benchmark, metric, scores[top].to_numpy(dtype=float), below, seed))
    return rows


def compare(inputs: Inputs, first: Sequence[str], second: Sequence[str], benchmark: str) -> dict[str, TableRow]:
    """Metric -> row of a paired comparison of agents, one of each or as many of each as there are training seeds, paired in order; empty
    when they share no task. Over seeds p is the largest of the seeds' exact McNemar tests, and the interval's clusters are tasks and seeds.
    """
    seed = inputs.config.seed
    pairs = [pair_up(inputs.rows(one, benchmark), inputs.rows(other, benchmark)) for one, other in zip(first, second, strict=True)]
    both = pd.concat([part.assign(trained=index) for index, part in enumerate(pairs)])
    if not len(both):
        return {}
    ours, theirs = both["success_x"].to_numpy(dtype=float), both["success_y"].to_numpy(dtype=float)
    groups = clusters(both.rename(columns={"benchmark_x": "benchmark", "category_x": "category"}))
    trained = both["trained"].tolist() if len(pairs) > 1 else None
    low, high = statistics.paired_bootstrap(ours, theirs, groups, seed=seed, training_seeds=trained)
    same = statistics.equivalence(ours, theirs, inputs.config.report.margin / 100, groups, seed=seed, training_seeds=trained)
    tests = [statistics.mcnemar(part["success_x"].astype(bool).tolist(), part["success_y"].astype(bool).tolist()) for part in pairs]
    agent, category = family_name(first), f"against {family_name(second)}"

    def row(metric: str, value: float, low: float | None = None, high: float | None = None) -> TableRow:
        return TableRow(agent=agent, benchmark=benchmark, category=category, metric=metric, n=len(both), value=value, low=low, high=high)

    return {
        "success_difference": row("success_difference", 100 * float((ours - theirs).mean()), 100 * low, 100 * high),
        "mcnemar_p": row("mcnemar_p", max(test.p for test in tests)),
        "only_first_solves": row("only_first_solves", sum(test.gained for test in tests)),
        "only_second_solves": row("only_second_solves", sum(test.lost for test in tests)),
        "cohens_h": row("cohens_h", statistics.cohens_h(float(ours.mean()), float(theirs.mean()))),
        "success_difference_90": row("success_difference_90", 100 * same.difference, 100 * same.low, 100 * same.high),
        "comparable": row("comparable", float(same.holds)),
    }


def seed_families(inputs: Inputs) -> list[list[str]]:
    """The run's agents that differ in nothing but the seed their backbones were trained with, two or more of each kind, by seed."""
    found: dict[str, dict[int, str]] = {}
    for agent in inputs.agents:
        seed = inputs.training_seed(agent)
        if seed is not None:
            found.setdefault(_without_seeds(inputs.config, agent), {}).setdefault(seed, agent)
    return [[agent for _, agent in sorted(members.items())] for members in found.values() if len(members) > 1]


def seed_pairs(inputs: Inputs) -> list[tuple[list[str], list[str], str]]:
    """(agents, as many others, benchmark): every kind that was trained at several seeds against random and, for diffusion, against AR kinds
    trained at as many."""
    kinds, random_agent = seed_families(inputs), inputs.random_agent()
    against = [(kind, [random_agent] * len(kind)) for kind in kinds if random_agent is not None]
    matched = {(first, second) for first, second, _ in matched_pairs(inputs)}
    against += [(kind, other) for kind in kinds for other in kinds if len(kind) == len(other) and (kind[0], other[0]) in matched]
    return [(kind, other, name) for kind, other in against for name in inputs.config.agent_benchmarks(kind[0])]


def _without_seeds(config: Config, agent: str) -> str:
    """What an agent is, its backbones spelt out in place of their names, and their training seeds left out."""

    def spelt(name: str | None) -> object:
        if name not in config.backbones:
            return name
        described = config.backbones[name].model_dump(mode="json")
        if described["training"]:
            described["training"] |= {"seed": None, "base": spelt(described["training"]["base"])}
        return described

    entry = config.agents[agent].model_dump(mode="json")
    for role, name in config.agents[agent].backbones.items():
        entry[role] = {**entry[role], "backbone": spelt(name)} if isinstance(entry[role], dict) else spelt(name)
    return json.dumps(entry, sort_keys=True)


def family_name(agents: Sequence[str]) -> str:
    """One agent's name; for agents that differ by seed what their names begin with, and how many they are."""
    if len(set(agents)) == 1:
        return agents[0]
    shared = os.path.commonprefix(list(agents)).rstrip("0123456789").rstrip("-_ ")
    return f"{shared or agents[0]} ({len(agents)} seeds)"


def pair_up(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """The scores of two agents on the tasks both have, columns `_x` and `_y`, in task order. With several seeds the k-th of one meets
    the k-th of the other."""
    sides = []
    for frame in (first, second):
        ordered = frame.sort_values(["task_id", "seed"], kind="stable")
        sides.append(ordered.assign(draw=ordered.groupby("task_id").cumcount()))
    return sides[0].merge(sides[1], on=["task_id", "draw"], how="inner")


def matched_pairs(inputs: Inputs) -> list[tuple[str, str, str]]:
    """(diffusion agent, AR agent, benchmark) of agents that differ in their policy's paradigm alone: no modules, the same way of acting,
    both trained in this run or both ready-made, both on the benchmark."""
    config = inputs.config
    plain = [agent for agent in inputs.agents if set(config.agents[agent].backbones) == {"policy"}]
    return [
        (first, second, benchmark)
        for benchmark in config.run.benchmarks
        for first in plain
        for second in plain
        if (inputs.paradigm(first), inputs.paradigm(second)) == ("diffusion", "ar")
        and inputs.trained(first) == inputs.trained(second)
        and config.agents[first].acting == config.agents[second].acting
        and benchmark in config.agent_benchmarks(first)
        and benchmark in config.agent_benchmarks(second)
    ]


def cost_rows(inputs: Inputs, agent: str, benchmark: str) -> list[TableRow]:
    """What an agent's episodes cost, without a clock: steps, tokens, forward evaluations."""
    scores = inputs.rows(agent, benchmark)
    columns = {name: scores[name].to_numpy(dtype=float) for name in ("steps", "completion_tokens", "forwards", "success")}
    errors = inputs.errors(agent, benchmark)
    rows = [mean_row(agent, benchmark, "", "steps_per_episode", columns["steps"], inputs.config.seed, errors=errors)]
    for metric, top, bottom in (
        ("tokens_per_step", "completion_tokens", "steps"),
        ("nfe_per_token", "forwards", "completion_tokens"),
        ("forwards_per_success", "forwards", "success"),
    ):
        row = ratio_row(agent, benchmark, metric, columns[top], columns[bottom], inputs.config.seed)
        rows.append(row if len(scores) else without_value(row, errors))
    invalid, steps = int(scores["invalid_steps"].sum()), int(scores["steps"].sum())
    return [*rows, rate_row(agent, benchmark, "", "executable_steps", steps - invalid, steps, errors=errors)]


def clock_rows(inputs: Inputs, agent: str, benchmark: str) -> list[TableRow]:
    """What an agent's episodes cost in time: the means of `timing_rows`, and the median and 95th percentile of an episode."""
    scores = inputs.rows(agent, benchmark)
    rows = timing_rows(inputs, agent, benchmark)
    for metric, share in (("p50_s", 0.5), ("p95_s", 0.95)):
        value = float(np.quantile(scores["seconds"].to_numpy(dtype=float), share)) if len(scores) else None
        rows.append(TableRow(agent=agent, benchmark=benchmark, metric=metric, n=len(scores), value=value))
    return rows


def ratio_row(agent: str, benchmark: str, metric: str, top: statistics.Floats, bottom: statistics.Floats, seed: int) -> TableRow:
    """A ratio of totals over episodes with its bootstrap interval; "not run" when there is nothing to divide by."""
    row = TableRow(agent=agent, benchmark=benchmark, metric=metric, n=len(top))
    if bottom.sum() <= 0:
        return row.model_copy(update={"n": 0})
    low, high = statistics.ratio_interval(top, bottom, seed=seed)
    return row.model_copy(update={"value": float(top.sum() / bottom.sum()), "low": low, "high": high})


def solved_by_both(inputs: Inputs, first: str, second: str, benchmark: str) -> tuple[list[TableRow], list[TableRow]]:
    """Rounds of the first agent less those of the second over the tasks that both solve, and (timing) the ratio of their times."""
    both = pair_up(inputs.rows(first, benchmark), inputs.rows(second, benchmark))
    both = both[both["success_x"].astype(bool) & both["success_y"].astype(bool)]
    category, n, seed = f"against {second}", len(both), inputs.config.seed
    rounds = TableRow(agent=first, benchmark=benchmark, category=category, metric="rounds_difference", n=n)
    ratio = TableRow(agent=first, benchmark=benchmark, category=category, metric="time_ratio", n=n)
    if n < 2:
        return [rounds], [ratio]
    steps = [both[name].to_numpy(dtype=float) for name in ("steps_x", "steps_y")]
    low, high = statistics.paired_bootstrap(steps[0], steps[1], seed=seed)
    rounds = rounds.model_copy(update={"value": float((steps[0] - steps[1]).mean()), "low": low, "high": high})
    seconds = [both[name].to_numpy(dtype=float) for name in ("seconds_x", "seconds_y")]
    measured = ratio_row(first, benchmark, "time_ratio", seconds[0], seconds[1], seed)
    return [rounds], [measured.model_copy(update={"category": category})]


def published_modules(name: str, columns: Sequence[tuple[str, str]]) -> tuple[list[TableRow], list[Block]]:
    """A published table of agents with modules: its tidy rows, and a block per agent with one line per choice of modules. `columns` are
    (benchmark, metric), or (benchmark, last part of the category); what is not published stays empty."""
    table = published_rows(name)
    lines: dict[str, dict[str, dict[tuple[str, str], str]]] = {}
    for row in table:
        modules, _, last = row.category.rpartition(";")
        key = (row.benchmark, last) if modules else (row.benchmark, row.metric)
        lines.setdefault(row.agent, {}).setdefault(modules or last, {})[key] = cell(row)
    return table, [
        Block(
            f"Published: {agent}",
            [(modules.replace(";", ", "), [cells.get(key, "") for key in columns]) for modules, cells in by_module.items()],
        )
        for agent, by_module in lines.items()
    ]


def own_block(lines: list[tuple[str, list[str]]], width: int) -> Block:
    """This run's lines, or one that says that there are none."""
    return Block(OURS_BLOCK, lines or [("no agent with such modules", [NOT_RUN] * width)])
