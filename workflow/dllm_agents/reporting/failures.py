"""Failures of episodes: how many have which class, retry loops, the classes of DiffuAgent's Figure 4, agreement with the benchmarks' own
checkers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from dllm_agents.analysis.failures import ERROR, TAXONOMY
from dllm_agents.config import BFCL_SINGLE_TURN, EMBODIED
from dllm_agents.records import TableRow
from dllm_agents.reporting import published
from dllm_agents.reporting.captions import display_name
from dllm_agents.reporting.cells import bare, mean_row, rate_row
from dllm_agents.reporting.inputs import Inputs
from dllm_agents.reporting.layout import Block, Cell, Key, Layout, Line, Table, Text, count, plain_heads

FIGURE4_CLASSES = {"schema": "Schema", "parameter_value": "Parameter / value", "wrong_function": "Wrong function"}
FIGURE4_SETS = tuple(name for name in BFCL_SINGLE_TURN if "relevance" not in name and name not in ("java", "javascript"))
AGREEMENT = {"bfcl": "class", **dict.fromkeys(EMBODIED, "refused steps")}
"""Benchmark -> the measure of agreement with its checker that the table of failures shows; the others are in its CSV."""


def failures(inputs: Inputs) -> Table:
    """Share of episodes with each failure class, per agent and benchmark; retry loops at both thresholds, loops per episode, loops with
    unchanged observation, first-loop hazard per step; the three Figure 4 classes over 440 and 340 single-turn entries; agreement with the
    benchmarks' own checkers."""
    rows = published_failures()
    blocks: dict[str, list[Line]] = {benchmark: [] for benchmark in inputs.config.run.benchmarks}
    for agent in inputs.players(*inputs.config.run.benchmarks):
        twins = _published_counts(inputs, agent)
        for benchmark in [name for name in inputs.config.run.benchmarks if agent in inputs.players(name)]:
            by_class, agreement = failure_rows(inputs, agent, benchmark), agreement_rows(inputs, agent, benchmark)
            rows += by_class + agreement
            if benchmark in EMBODIED:
                rows += loop_rows(inputs, agent, benchmark, twins)
            if benchmark == "bfcl":
                rows += figure4_rows(inputs, agent, twins)
            cells: list[Cell] = [count(by_class[0].model_copy(update={"metric": "episodes"}), inputs.errors(agent, benchmark))]
            cells += [Text(bare(row), row) for row in by_class]
            cells += [Text(bare(row), row) for row in agreement if row.category == AGREEMENT.get(benchmark)] or [""]
            blocks[benchmark].append(Line(agent, cells))
    heads = plain_heads("n", *(kind.replace("_", " ") for kind in TAXONOMY), "agreement")
    classes = "; ".join(f"{kind.replace('_', ' ')}: {meaning}" for kind, meaning in TAXONOMY.items())
    notes = (
        f"Classes: {classes}. Agreement: share of episodes in which the rules alone and the benchmark's own checker name the "
        "same class (BFCL's single Python answers, no failure among the classes), or both or neither see a refused step (embodied)."
    )
    return Table(rows, Layout("Agent", heads, [Block(display_name(name), lines) for name, lines in blocks.items()]), notes=notes)


def _published_counts(inputs: Inputs, agent: str) -> dict[Key, published.Value]:
    """The published counts of Figures 3 and 4 of the model that an agent's policy is."""
    name = published.published_name(inputs.config, agent)
    values = (*published.values("diffuagent_figure3"), *published.values("diffuagent_figure4"))
    return {(value.benchmark, value.category, value.metric): value for value in values if value.agent == name}


def failure_rows(inputs: Inputs, agent: str, benchmark: str) -> list[TableRow]:
    """Share of an agent's episodes with each class of failure; of all its episodes for errors, which count for no other class."""
    scores, errors, failures = inputs.rows(agent, benchmark), inputs.errors(agent, benchmark), inputs.failures(benchmark)
    n = len(scores) if inputs.classified(agent, benchmark) else 0
    failures = failures[(failures["agent"] == agent) & failures["task_id"].isin(scores["task_id"])]
    episodes = failures.groupby("kind")["task_id"].nunique()
    rows = [
        rate_row(agent, benchmark, kind, "episodes_with_failure", int(episodes.get(kind, 0)) if n else 0, n, errors=errors)
        for kind in TAXONOMY
        if kind != ERROR
    ]
    every = errors.episodes if inputs.classified(agent, benchmark) else 0
    return [*rows, rate_row(agent, benchmark, ERROR, "episodes_with_failure", errors.number if every else 0, every)]


def loop_rows(inputs: Inputs, agent: str, benchmark: str, twins: Mapping[Key, published.Value]) -> list[TableRow]:
    """Retry loops of an agent: episodes with one at >= the configured length and above it, loops per episode, share of loops in which the
    observation never changed, and the hazard of a first loop at each step among episodes still running without one."""
    scores = inputs.rows(agent, benchmark)
    n = len(scores) if inputs.classified(agent, benchmark) else 0
    faults = inputs.failures(benchmark)
    faults = faults[(faults["agent"] == agent) & (faults["kind"] == "loop") & faults["task_id"].isin(scores["task_id"])]
    length = inputs.config.report.loop_length
    twin = twins.get((benchmark, "", "episodes_with_loop"))
    share = None if twin is None else twin.share
    longer = faults[faults["count"] > length]
    errors = inputs.errors(agent, benchmark)
    rows = [
        rate_row(agent, benchmark, f"at least {length}", "episodes_with_loop", faults["task_id"].nunique(), n, share, errors),
        rate_row(agent, benchmark, f"more than {length}", "episodes_with_loop", longer["task_id"].nunique(), n, errors=errors),
    ]
    if n == 0:
        return rows
    per_episode = faults.groupby("task_id").size().reindex(scores["task_id"], fill_value=0)
    rows.append(mean_row(agent, benchmark, "", "loops_per_episode", per_episode.to_numpy().astype(np.float64), inputs.config.seed))
    if len(faults):
        unchanged = int((faults["detail"] == "unchanged observation").sum())
        rows.append(rate_row(agent, benchmark, "", "loops_with_unchanged_observation", unchanged, len(faults)))
    # A loop is complete, and so first seen, at its length-th action.
    first = (faults.groupby("task_id")["first_step"].min() + length - 1).reindex(scores["task_id"]).to_numpy(dtype=float)
    steps = scores["steps"].to_numpy(dtype=int)
    for step in range(length - 1, int(steps.max(initial=0))):
        at_risk = int(np.sum((steps > step) & ~(first < step)))
        if at_risk:
            rows.append(rate_row(agent, benchmark, f"step {step + 1}", "first_loop_hazard", int(np.sum(first == step)), at_risk))
    return rows


def figure4_rows(inputs: Inputs, agent: str, twins: Mapping[Key, published.Value]) -> list[TableRow]:
    """The three classes of Figure 4 as shares of single-turn entries: over all of them, and without Java and JavaScript."""
    scores, faults = inputs.rows(agent, "bfcl"), inputs.failures("bfcl")
    faults = faults[(faults["agent"] == agent) & faults["task_id"].isin(scores["task_id"])]
    rows = []
    for metric, sets in (
        ("single_turn_failures", FIGURE4_SETS),
        ("single_turn_failures_all_languages", (*FIGURE4_SETS, "java", "javascript")),
    ):
        n = int(scores["category"].isin(sets).sum()) if inputs.classified(agent, "bfcl") else 0
        inside = faults[faults["category"].isin(sets)]
        errors = inputs.errors(agent, "bfcl", sets)
        for kind in FIGURE4_CLASSES:
            twin = twins.get(("bfcl", kind, "failures")) if metric == "single_turn_failures" else None
            share = None if twin is None else twin.share
            episodes = inside[inside["kind"] == kind]["task_id"].nunique()
            rows.append(rate_row(agent, "bfcl", kind, metric, episodes, n, share, errors))
    return rows


def agreement_rows(inputs: Inputs, agent: str, benchmark: str) -> list[TableRow]:
    """How far the rules and the benchmark's own checker agree, episode by episode; none for a benchmark without such a checker.

    BFCL, over the single answers of FIGURE4_SETS: whether an answer is well formed; which class its failure has, none among them; and, of
    the answers that the rules refuse, how many the checker refuses. Rules know no right values, so the class can differ where both are
    right. Embodied: whether any step was refused, and whether the episode failed, by its environment against by its failure classes.
    """
    scores = inputs.rows(agent, benchmark)
    faults = inputs.failures(benchmark)
    faults = faults[faults["agent"] == agent]
    n = len(scores) if inputs.classified(agent, benchmark) else 0
    errors = inputs.errors(agent, benchmark)

    def row(category: str, agreed: pd.Series) -> TableRow:
        agreeing, total = (int(agreed.sum()), len(agreed)) if n else (0, 0)
        return rate_row(agent, benchmark, category, "agreement_with_checker", agreeing, total, errors=errors)

    if benchmark == "bfcl":
        tasks = pd.Index(scores[scores["category"].isin(FIGURE4_SETS) & (scores["ended"] == "answered")]["task_id"].unique())
        ours = _first_class(inputs.readings(benchmark).query("agent == @agent"), tasks)
        theirs = _first_class(faults[faults["source"] == "checker"], tasks)
        refused = ours != ""
        return [
            row("well formed", (ours == "schema") == (theirs == "schema")),
            row("class", ours == theirs),
            row("refused by the rules", theirs[refused] != ""),
        ]
    if benchmark not in EMBODIED:
        return []
    refused = scores["task_id"].isin(faults[faults["kind"].isin(("unclosed_thought", "format", "empty", "invalid_action"))]["task_id"])
    failed = scores["task_id"].isin(faults[faults["kind"].isin(("premature_exit", "step_limit", "prompt_too_long"))]["task_id"])
    return [
        row("refused steps", refused == (scores["invalid_steps"] > 0)),
        row("outcome", failed == ~scores["success"].astype(bool)),
    ]


def _first_class(faults: pd.DataFrame, tasks: pd.Index) -> pd.Series:
    """The most basic of FIGURE4_CLASSES faults in each task's answer, empty where there is none."""
    order = {"schema": 0, "wrong_function": 1, "parameter_value": 2}
    faults = faults[faults["kind"].isin(order)]
    first = faults.loc[faults["kind"].map(order).sort_values(kind="stable").index].drop_duplicates("task_id")
    return first.set_index("task_id")["kind"].reindex(tasks, fill_value="").astype(object)


def published_failures() -> list[TableRow]:
    """The published counts of Figures 3 and 4 as shares."""
    rows = []
    for item in (*published.values("diffuagent_figure3"), *published.values("diffuagent_figure4")):
        if (share := item.share) is not None:
            loop = item.metric == "episodes_with_loop"
            category, metric = ("at least 3", item.metric) if loop else (item.category, "single_turn_failures")
            rows.append(TableRow(agent=item.agent, benchmark=item.benchmark, category=category, metric=metric, n=item.n, published=share))
    return rows
