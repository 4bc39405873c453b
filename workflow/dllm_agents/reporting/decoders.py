"""The decoder against the paradigm: one set of weights decoded in several ways, beside autoregressive agents on the same tasks. What
differs within a set of weights is due to the decoder alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dllm_agents.analysis.failures import MALFORMED
from dllm_agents.records import TableRow
from dllm_agents.reporting import drawing, style
from dllm_agents.reporting.captions import display_name
from dllm_agents.reporting.cells import NOT_RUN
from dllm_agents.reporting.comparison import families
from dllm_agents.reporting.inputs import Inputs
from dllm_agents.reporting.layout import OURS_BLOCK, Block, Layout, Line, Table, plain_heads
from dllm_agents.reporting.rows import Outcomes, outcomes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RATES = {"success_rate": "Success", "loop": "Retry loops", "malformed": "Malformed"}
"""Metric -> what a table's column and a figure's panel call it."""


def decoder_or_paradigm(inputs: Inputs) -> Table:
    """Success, retry loops and malformed replies of each way to decode, by the tokens that a forward decides."""
    rows: list[TableRow] = []
    blocks: list[Block] = []
    for benchmark, agents in compared(inputs):
        lines = []
        for played in _shared(inputs, benchmark, agents):
            own = [_speed(played), played.mean("nfe", played.column("nfe")), *_rates(played)]
            lines.append(Line(played.agent, [str(len(played)), *own]))
            rows += own
        blocks.append(Block(f"{display_name(benchmark)}, {inputs.config.agents[agents[0]].policy}", lines))
    heads = plain_heads("n", "Tokens / forward", "NFE", *RATES.values())
    if not blocks:
        rows.append(TableRow(agent="decoder", benchmark="", metric="success_rate", n=0))
        blocks.append(Block(OURS_BLOCK, [Line("no two agents that differ in their decoding alone", [NOT_RUN] * len(heads))]))
    notes = "Agents of a block play the same tasks. All but the autoregressive ones have the same weights and differ in `decoding` alone."
    return Table(rows, Layout("Agent", heads, blocks), notes=notes)


def draw(inputs: Inputs, figure: Figure) -> None:
    """The rates of the table against the tokens that a forward decides, a row of panels for each set of weights."""
    sets = compared(inputs)
    axes = figure.subplots(max(1, len(sets)), len(RATES), squeeze=False)
    looks, drawn = style.looks(inputs.config), []
    if not sets:
        for axis in axes[0]:
            drawing.say_not_run(axis)
    for panels, (benchmark, agents) in zip(axes, sets, strict=False):
        drawable = [(own.agent, _speed(own).value, _rates(own)) for own in _shared(inputs, benchmark, agents)]
        for index, (axis, label) in enumerate(zip(panels, RATES.values(), strict=True)):
            points = [
                drawing.Point(agent, speed, row.value, row.low, row.high, False)
                for agent, speed, rates in drawable
                if speed and (row := rates[index]).value is not None
            ]
            axis.set(title=display_name(benchmark), xlabel="Tokens per forward (log scale)", ylabel=f"{label} (%)")
            drawn.append(drawing.scatter(axis, points, looks))
            line = sorted((point.speed, point.value) for point in points if inputs.paradigm(point.label) != "ar")
            axis.plot(*zip(*line, strict=True), color="#888888", linewidth=0.6, zorder=0)
    drawing.finish(figure, drawn)


def compared(inputs: Inputs) -> list[tuple[str, list[str]]]:
    """(benchmark, agents): diffusion agents that differ in their decoding alone, and the autoregressive ones that play there as plainly."""
    sets = []
    for family in families(inputs, "decoding"):
        if not all(inputs.alone(agent) and inputs.paradigm(agent) == "diffusion" for agent in family):
            continue
        for benchmark in inputs.config.run.benchmarks:
            autoregressive = [agent for agent in inputs.players(benchmark, alone=True) if inputs.paradigm(agent) == "ar"]
            agents = [agent for agent in (*family, *autoregressive) if len(inputs.rows(agent, benchmark))]
            if sum(agent in family for agent in agents) > 1 and all(inputs.classified(agent, benchmark) for agent in agents):
                sets.append((benchmark, agents))
    return sets


def _shared(inputs: Inputs, benchmark: str, agents: list[str]) -> list[Outcomes]:
    """Each agent's outcomes on the tasks that all of them have."""
    frames = [outcomes(inputs, agent, benchmark).once_a_task() for agent in agents]
    shared = set.intersection(*(set(own.scores["task_id"]) for own in frames))
    return [own.select(own.scores["task_id"].isin(shared)) for own in frames]


def _speed(own: Outcomes) -> TableRow:
    return own.ratio("tokens_per_forward", own.column("completion_tokens"), own.column("nfe"))


def _rates(own: Outcomes) -> list[TableRow]:
    """The rows of RATES, in order. A model that has not learnt the benchmark says so in place of each number."""
    loops, malformed = own.failing("loop"), own.failing(*MALFORMED)
    return [own.success(), own.rate("loop", len(loops), len(own)), own.rate("malformed", len(malformed), len(own))]
