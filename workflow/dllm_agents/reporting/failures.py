"""Failures of episodes: how many have which class, retry loops, the classes of DiffuAgent's Figure 4, agreement with the benchmarks' own
checkers."""

from __future__ import annotations

import numpy as np
import pandas as pd

from dllm_agents.analysis.failures import ERROR, TAXONOMY
from dllm_agents.config import BFCL_SINGLE_TURN, EMBODIED
from dllm_agents.records import TableRow
from dllm_agents.reporting import published
from dllm_agents.reporting.captions import display_name
from dllm_agents.reporting.cells import Key, Rows, bare
from dllm_agents.reporting.inputs import Inputs
from dllm_agents.reporting.layout import Cell, Line, Sheet, Table, Text, count, plain_heads
from dllm_agents.reporting.rows import Outcomes, outcomes

FIGURE4_CLASSES = {"schema": "Schema", "parameter_value": "Parameter / value", "wrong_function": "Wrong function"}
FIGURE4_SETS = tuple(name for name in BFCL_SINGLE_TURN if "relevance" not in name and name not in ("java", "javascript"))
AGREEMENT = {"bfcl": "class", **dict.fromkeys(EMBODIED, "refused steps")}
"""Benchmark -> the measure of agreement with its checker that the table of failures shows; the others are in its CSV."""


def failures(inputs: Inputs) -> Table:
    """Share of episodes with each failure class, per agent and benchmark; retry loops at both thresholds, loops per episode, loops with
    unchanged observation, first-loop hazard per step; the three Figure 4 classes over 440 and 340 single-turn entries; agreement with the
    benchmarks' own checkers."""
    heads = plain_heads("n", *(kind.replace("_", " ") for kind in TAXONOMY), "agreement")
    blocks: dict[str, list[Line]] = {display_name(benchmark): [] for benchmark in inputs.config.run.benchmarks}
    sheet = Sheet("Agent", heads, published_failures(), blocks=blocks)
    for agent in inputs.players(*inputs.config.run.benchmarks):
        theirs = _published_shares(inputs, agent)
        for benchmark in [name for name in inputs.config.run.benchmarks if agent in inputs.players(name)]:
            own = outcomes(inputs, agent, benchmark, theirs)
            by_class, agreement = failure_rows(own), agreement_rows(own)
            more = loop_rows(own) if benchmark in EMBODIED else figure4_rows(own) if benchmark == "bfcl" else []
            cells: list[Cell] = [count(by_class[0].model_copy(update={"metric": "episodes"}), own.errors)]
            cells += [Text(bare(row), row) for row in by_class]
            cells += [Text(bare(row), row) for row in agreement if row.category == AGREEMENT.get(benchmark)] or [""]
            sheet.line(agent, cells, by_class + agreement + more, display_name(benchmark))
    classes = "; ".join(f"{kind.replace('_', ' ')}: {meaning}" for kind, meaning in TAXONOMY.items())
    notes = (
        f"Classes: {classes}. Agreement: share of episodes in which the rules alone and the benchmark's own checker name the "
        "same class (BFCL's single Python answers, no failure among the classes), or both or neither see a refused step (embodied)."
    )
    return sheet.table(notes)


def _published_shares(inputs: Inputs, agent: str) -> dict[Key, float]:
    """What Figures 3 and 4 report of the model that an agent's policy is."""
    name, rows = published.published_name(inputs.config, agent), published_failures(inputs.config.report.loop_length)
    return {(row.benchmark, row.category, row.metric): row.published for row in rows if row.agent == name and row.published is not None}


def failure_rows(own: Outcomes) -> list[TableRow]:
    """Share of an agent's episodes with each class of failure; of all its episodes for errors, which count for no other class."""
    n = own.n_classified
    rows = [own.rate("episodes_with_failure", len(own.failing(kind)), n, kind) for kind in TAXONOMY if kind != ERROR]
    looked_at = own.inputs.classified(own.agent, own.benchmark)
    errors, episodes = (own.errors.number, own.errors.episodes) if looked_at else (0, 0)
    return [*rows, Rows(own.agent, own.benchmark).rate("episodes_with_failure", errors, episodes, ERROR)]


def loop_rows(own: Outcomes) -> list[TableRow]:
    """Retry loops of an agent: episodes with one at >= the configured length and above it, loops per episode, share of loops in which the
    observation never changed, and the hazard of a first loop at each step among episodes still running without one."""
    n, length = own.n_classified, own.inputs.config.report.loop_length
    loops = own.failures.query("kind == 'loop'")
    longer = loops[loops["count"] > length]
    rows = [
        own.rate("episodes_with_loop", loops["task_id"].nunique(), n, f"at least {length}"),
        own.rate("episodes_with_loop", longer["task_id"].nunique(), n, f"more than {length}"),
    ]
    if n == 0:
        return rows
    tasks, steps = own.scores["task_id"], own.column("steps")
    rows.append(own.mean("loops_per_episode", loops.groupby("task_id").size().reindex(tasks, fill_value=0).tolist()))
    if len(loops):
        rows.append(own.rate("loops_with_unchanged_observation", (loops["detail"] == "unchanged observation").sum(), len(loops)))
    # A loop is complete, and so first seen, at its length-th action.
    first = (loops.groupby("task_id")["first_step"].min() + length - 1).reindex(tasks).to_numpy(dtype=float)
    for step in range(length - 1, int(steps.max(initial=0))):
        at_risk = int(np.sum((steps > step) & ~(first < step)))
        if at_risk:
            rows.append(own.rate("first_loop_hazard", np.sum(first == step), at_risk, f"step {step + 1}"))
    return rows


def figure4_rows(own: Outcomes) -> list[TableRow]:
    """The three classes of Figure 4 as shares of single-turn entries: over all of them, and without Java and JavaScript."""
    rows = []
    for metric, sets in (
        ("single_turn_failures", FIGURE4_SETS),
        ("single_turn_failures_all_languages", (*FIGURE4_SETS, "java", "javascript")),
    ):
        inside = own.within(sets)
        for kind in FIGURE4_CLASSES:
            rows.append(inside.rate(metric, len(inside.failing(kind)), inside.n_classified, kind))
    return rows


def agreement_rows(own: Outcomes) -> list[TableRow]:
    """How far the rules and the benchmark's own checker agree, episode by episode; none for a benchmark without such a checker.

    BFCL, over the single answers of FIGURE4_SETS: whether an answer is well formed; which class its failure has, none among them; and, of
    the answers that the rules refuse, how many the checker refuses. Rules know no right values, so the class can differ where both are
    right. Embodied: whether any step was refused, and whether the episode failed, by its environment against by its failure classes.
    """

    def row(category: str, agreed: pd.Series) -> TableRow:
        return own.rate("agreement_with_checker", agreed.sum(), len(agreed) if own.n_classified else 0, category)

    scores = own.scores
    if own.benchmark == "bfcl":
        tasks = pd.Index(scores[scores["category"].isin(FIGURE4_SETS) & (scores["ended"] == "answered")]["task_id"].unique())
        ours = _first_class(own.inputs.readings("bfcl").query("agent == @own.agent"), tasks)
        theirs = _first_class(own.failures.query("source == 'checker'"), tasks)
        refused = ours != ""
        return [
            row("well formed", (ours == "schema") == (theirs == "schema")),
            row("class", ours == theirs),
            row("refused by the rules", theirs[refused] != ""),
        ]
    if own.benchmark not in EMBODIED:
        return []
    refused = scores["task_id"].isin(own.failing("unclosed_thought", "format", "empty", "invalid_action"))
    failed = scores["task_id"].isin(own.failing("premature_exit", "step_limit", "prompt_too_long"))
    return [
        row("refused steps", refused == (scores["invalid_steps"] > 0)),
        row("outcome", failed == ~scores["success"].astype(bool)),
    ]


def _first_class(failures: pd.DataFrame, tasks: pd.Index) -> pd.Series:
    """The most basic of FIGURE4_CLASSES in each task's answer, empty where there is none."""
    order = {"schema": 0, "wrong_function": 1, "parameter_value": 2}
    failures = failures[failures["kind"].isin(order)]
    first = failures.loc[failures["kind"].map(order).sort_values(kind="stable").index].drop_duplicates("task_id")
    return first.set_index("task_id")["kind"].reindex(tasks, fill_value="").astype(object)


def published_failures(loop_length: int = 3) -> list[TableRow]:
    """The published counts of Figures 3 and 4 as shares; of loops as rows of a run that counts from `loop_length` on, where they stand
    beside those."""
    rows = []
    for item in (*published.values("diffuagent_figure3"), *published.values("diffuagent_figure4")):
        if (share := item.share) is not None:
            loop = item.metric == "episodes_with_loop"
            category, metric = (f"at least {loop_length}", item.metric) if loop else (item.category, "single_turn_failures")
            rows.append(TableRow(agent=item.agent, benchmark=item.benchmark, category=category, metric=metric, n=item.n, published=share))
    return rows
