"""Planners and seekers of DLLM Agent: Table 1 and Figure 2."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from dllm_agents.analysis.statistics import calibration_error
from dllm_agents.config import QUESTIONS
from dllm_agents.records import TableRow
from dllm_agents.reporting import published
from dllm_agents.reporting.captions import display_name
from dllm_agents.reporting.drawing import say_not_run
from dllm_agents.reporting.inputs import Inputs
from dllm_agents.reporting.layout import PUBLISHED_BLOCK, Block, Cell, Layout, Line, Table, count, own_block, plain_heads
from dllm_agents.reporting.rows import Outcomes, error_rows, outcomes, published_rows, values_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

METRICS = {
    "accuracy": "Accuracy",
    "tool_calls": "Tool calls per seeker",
    "turns": "Turns per seeker",
    "tool_calls_per_episode": "Tool calls per episode",
    "turns_per_episode": "Turns per episode",
    "invalid_action_rate": "Invalid actions",
    "calibration_error": "Calibration error",
}
"""Metric -> column. Accuracy and the share of episodes with an invalid action are in percent; the paper's caption counts tool calls and
turns per seeker, its text per episode, so that ours has both."""


def table1(inputs: Inputs) -> Table:
    """DLLM Agent Table 1: accuracy, tool calls and turns, share of episodes with an invalid action, of teams of one planner and its
    seekers, and how their training treats the context."""
    rows = published_rows("dllm_agent_table1")
    theirs = {(row.agent, row.metric): row for row in rows}
    printed = []
    for name in dict.fromkeys(row.agent for row in rows):
        values: list[Cell] = [theirs.get((name, metric), "") for metric in METRICS]
        printed.append(Line(name, [display_name("browsecomp_zh"), "", str(rows[0].n), *values]))
    lines = []
    for benchmark in (name for name in inputs.config.run.benchmarks if name in QUESTIONS):
        for agent in (name for name in teams(inputs) if benchmark in inputs.config.agent_benchmarks(name)):
            played = outcomes(inputs, agent, benchmark, values_of("dllm_agent_table1", published.team_name(inputs.config, agent)))
            own = _row(played)
            rows += own + error_rows(played)
            cells: list[Cell] = [display_name(benchmark), _context(inputs, agent), count(own[0], played.errors)]
            lines.append(Line(agent, [*cells, *own, *[""] * (len(METRICS) - len(own))]))
    heads = plain_heads("Benchmark", "Context in training", "n", *METRICS.values())
    blocks = [Block(PUBLISHED_BLOCK, printed), own_block(lines, len(heads), "no team of planner and seekers")]
    notes = "Seekers, one a task: means over an episode's seekers, then over episodes that have any. Published rows on another draw of 110."
    return Table(rows, Layout("Agent", heads, blocks), notes=notes)


def teams(inputs: Inputs) -> list[str]:
    """The run's agents with a planner and seekers."""
    return [agent for agent in inputs.agents if inputs.kind(agent) == "team"]


def _row(own: Outcomes) -> list[TableRow]:
    """A team's line, in the order of METRICS; without the calibration error, which needs the judge of BrowseComp-ZH, where no answer states
    a confidence."""

    def mean(metric: str, measure: str) -> TableRow:
        row = own.mean(metric, own.stated(measure))
        return row.model_copy(update={"missing": "no seeker"}) if len(own) and not row.n else row

    rows = [
        own.success(metric="accuracy"),
        mean("tool_calls", "seeker_tool_calls"),
        mean("turns", "seeker_turns"),
        mean("tool_calls_per_episode", "tool_calls"),
        mean("turns_per_episode", "turns"),
        own.rate("invalid_action_rate", own.stated("invalid_action").sum(), len(own)),
    ]
    sure = own.select(np.isfinite(own.measure("confidence")))
    if len(sure):
        error = calibration_error(sure.scores["success"].astype(bool).tolist(), sure.measure("confidence").tolist())
        rows.append(sure.row("calibration_error", n=len(sure), value=error))
    return rows


def _context(inputs: Inputs, agent: str) -> str:
    """Noise and attention mask of context in the training of an agent's policy; empty for untrained and AR policies."""
    training = inputs.training(agent)
    if training is None or inputs.paradigm(agent) != "diffusion":
        return ""
    return f"{training.context_noise}, {training.context_mask}"


def figure2(inputs: Inputs, figure: Figure) -> None:
    """DLLM Agent Figure 2: seekers per episode, the paper's counts above, and below those of the run's first team of each paradigm."""
    axes = figure.subplots(2, 2, sharex=True)
    for column, (paradigm, name) in enumerate({"diffusion": "DLLM Agent", "ar": "AR Agent"}.items()):
        items = [item for item in published.values("dllm_agent_figure2") if item.agent == name and item.category]
        theirs = Counter({int(item.category): round(item.value or 0) for item in items})
        _draw_counts(axes[0][column], f"{name} (published)", theirs)
        agent = next((agent for agent in teams(inputs) if inputs.paradigm(agent) == paradigm), None)
        ours: Counter[int] = Counter()
        for benchmark in QUESTIONS if agent is not None else ():
            ours.update(map(int, outcomes(inputs, str(agent), benchmark).stated("seekers")))
        _draw_counts(axes[1][column], agent or f"no {paradigm} team", ours)
        axes[1][column].set_xlabel("Seekers in an episode")
    for row in axes:
        row[0].set_ylabel("Episodes")


def _draw_counts(axis: Axes, title: str, counts: Counter[int]) -> None:
    episodes = counts.total()
    if not episodes:
        axis.set_title(title)
        say_not_run(axis)
        return
    mean = sum(seekers * number for seekers, number in counts.items()) / episodes
    axis.set_title(f"{title}: mean {mean:.1f}, n {episodes}")
    axis.bar(list(counts), list(counts.values()), width=0.84, color="#0173B2", edgecolor="#222222", linewidth=0.4)
    axis.axvline(mean, color="#D55E00", linewidth=1)
