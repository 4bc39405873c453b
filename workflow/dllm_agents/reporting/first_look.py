"""What a run says at first sight: who solves how much of what, what that costs, and what follows from it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from dllm_agents.records import TableRow
from dllm_agents.reporting import drawing, reference, style
from dllm_agents.reporting.captions import display_name
from dllm_agents.reporting.cells import cell, number
from dllm_agents.reporting.comparison import compare, matched_pairs
from dllm_agents.reporting.inputs import Inputs
from dllm_agents.reporting.layout import BASELINE_BLOCK, OURS_BLOCK, Cell, Sheet, Table, Text, plain_heads
from dllm_agents.reporting.rows import success_row

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def scoreboard(inputs: Inputs) -> Table:
    """Success rate of every agent on every benchmark of the run, with its interval and n. A cell is marked where the agent is not
    better than a scripted one that needs no model; the notes say in sentences what the run tells."""
    sheet = Sheet("Agent", plain_heads(*map(display_name, inputs.config.run.benchmarks)))
    for agent in (*inputs.baselines, *inputs.agents):
        cells: list[Cell] = []
        rows: list[TableRow] = []
        for benchmark in inputs.config.run.benchmarks:
            if benchmark not in inputs.config.agent_benchmarks(agent):
                cells.append("")
                continue
            row = success_row(inputs, agent, benchmark)
            baselines = [] if agent in inputs.baselines else unbeaten(inputs, agent, benchmark)
            rows.append(row)
            unbeaten_row = {"metric": "not_better_than", "value": 1.0, "low": None, "high": None}
            rows += [row.model_copy(update={"category": name} | unbeaten_row) for name in baselines]
            like = f" ≤ {' and '.join(baselines)}" if baselines else ""
            cells.append(row if row.value is None else Text(f"{cell(row)} (n {row.n}){like}", row))
        sheet.line(agent, cells, rows, BASELINE_BLOCK if agent in inputs.baselines else OURS_BLOCK)
    _add_reference(sheet, inputs)
    legend = "≤: not better than this scripted agent, which needs no model (95 % interval of the paired difference)."
    notes = "\n\n".join([legend, *sentences(inputs)])
    return sheet.table(notes)


def _add_reference(sheet: Sheet, inputs: Inputs) -> None:
    """The agents of the reference run of this scale, where it is kept in the package."""
    benchmarks = inputs.config.run.benchmarks
    rows = [row for row in reference.scoreboard(inputs.config.scale) if row.benchmark in benchmarks]
    cells = {(row.agent, row.benchmark): Text(f"{cell(row)} (n {row.n})") for row in rows if row.value is not None}
    for agent in dict.fromkeys(row.agent for row in rows if row.agent not in inputs.baselines):
        sheet.line(agent, [cells.get((agent, name), "") for name in benchmarks], block="Reference run (paper/reference)")
    sheet.rows += rows


def unbeaten(inputs: Inputs, agent: str, benchmark: str) -> list[str]:
    """The scripted agents that an agent is not shown to be better than by success, on the tasks that both have; the teacher apart."""
    scripted = [name for name in inputs.baselines if inputs.config.agents[name].policy != "teacher"]
    compared = {name: compare(inputs, [agent], [name], benchmark).get("success_difference") for name in scripted}
    return [name for name, row in compared.items() if row is not None and not (row.low or 0.0) > 0]


def sentences(inputs: Inputs) -> list[str]:
    """What the run tells, a sentence for every benchmark."""
    return [_finding(inputs, benchmark) for benchmark in inputs.config.run.benchmarks]


def _finding(inputs: Inputs, benchmark: str) -> str:
    name = display_name(benchmark)
    rates = {agent: success_row(inputs, agent, benchmark) for agent in inputs.agents if len(inputs.rows(agent, benchmark))}
    if not rates:
        return f"{name}: no model played it."
    telling = [agent for agent in rates if not unbeaten(inputs, agent, benchmark)]
    if not telling:
        best = max(rates.values(), key=lambda row: row.value or 0.0)
        reason = f"none is better than the random and the empty agent (the best, {best.agent}, solves {cell(best)} %)"
        return f"{name} cannot tell the models apart: {reason}."
    pairs = [(first, second) for first, second, where in matched_pairs(inputs) if where == benchmark and {first, second} & set(telling)]
    pairs = [pair for pair in pairs if pair[0] in rates and pair[1] in rates]
    if not pairs:
        best = max((rates[agent] for agent in telling), key=lambda row: row.value or 0.0)
        return f"{name}: {best.agent} solves most, {cell(best)} %; there is no diffusion and autoregressive agent to compare."
    first, second = max(pairs, key=lambda pair: sum(rates[agent].value or 0.0 for agent in pair))
    difference = compare(inputs, [first], [second], benchmark)["success_difference"]
    verdict = "better than" if (difference.low or 0) > 0 else "worse than" if (difference.high or 0) < 0 else "not distinguishable from"
    costs = [inputs.rows(agent, benchmark)["nfe"].mean(skipna=False) for agent in (first, second)]
    cost = f"; it takes {costs[0] / costs[1]:.2f} times the forward evaluations" if all(value > 0 for value in costs) else ""
    return (
        f"{name}: {first} (diffusion) solves {number(rates[first].value or 0.0)} %, {second} (autoregressive) "
        f"{number(rates[second].value or 0.0)} %: {verdict} it, {cell(difference)} points{cost}."
    )


def success_over_nfe(inputs: Inputs, figure: Figure) -> None:
    """Success against forward evaluations per episode, a panel per benchmark that a model plays, agents without modules."""
    played = [name for name in inputs.config.run.benchmarks if any(len(inputs.rows(agent, name)) for agent in inputs.agents)]
    panels = max(1, len(played))
    columns = min(3 if figure.get_figwidth() > 6 else 2, panels)
    axes = figure.subplots(math.ceil(panels / columns), columns, squeeze=False).flatten()
    for axis in axes[panels:]:
        axis.remove()
    looks = style.looks(inputs.config)
    if not played:
        drawing.say_not_run(axes[0])
    drawn = []
    for axis, benchmark in zip(axes, played, strict=False):
        points = []
        for agent in (name for name in inputs.players(benchmark, alone=True) if name not in inputs.baselines):
            row, nfe = success_row(inputs, agent, benchmark), inputs.rows(agent, benchmark)["nfe"].to_numpy(dtype=float)
            if row.value is not None and nfe.sum() > 0:
                points.append(drawing.Point(agent, float(nfe.mean()), row.value, row.low, row.high, False))
        axis.set(title=display_name(benchmark), xlabel="NFE per episode (log scale)")
        drawn.append(drawing.scatter(axis, points, looks))
        chance = success_row(inputs, inputs.random_agent() or "", benchmark).value
        if points and chance is not None:
            axis.axhline(chance, color="#888888", linewidth=0.8, linestyle="--", zorder=0)
    for axis in axes[::columns]:
        axis.set_ylabel("Success rate (%)")
    drawing.finish(figure, drawn)
