"""The figures of DLLM-Searcher: time that P-ReAct saves, and what it costs to call before thinking."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from dllm_agents.analysis import statistics
from dllm_agents.reporting import published, style
from dllm_agents.reporting.cells import NOT_RUN
from dllm_agents.reporting.comparison import pair_up
from dllm_agents.reporting.dllm_searcher import SEARCH
from dllm_agents.reporting.drawing import Bar, draw_bar, marker_handle, say_not_run
from dllm_agents.reporting.inputs import Inputs
from dllm_agents.reporting.rows import measure_of, outcomes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SAVING_PARTS = (("tool wait hidden behind decoding", "#0173B2"), ("less decoding", "#DE8F05"), ("less time in tools", "#029E73"))


class Saving(NamedTuple):
    """P-ReAct against ReAct with the same weights on a set of questions. `reduction`: percent of ReAct's time; the rest: mean seconds a
    question by which time fell, and of these hidden behind decoding, not spent decoding, not spent in tools."""

    parallel: str
    sequential: str
    category: str
    n: int
    reduction: float
    low: float
    high: float
    saved: float
    overlap: float
    decoding: float
    tool: float


def figure3(inputs: Inputs, figure: Figure) -> None:
    """DLLM-Searcher Figure 3: how much less time P-ReAct takes than ReAct, and in which part of a turn."""
    shown = savings(inputs)
    left, right = figure.subplots(1, 2)
    _draw_reductions(left, shown, style.looks(inputs.config))
    for place, item in enumerate(shown):
        for (label, colour), value, offset in zip(SAVING_PARTS, (item.overlap, item.decoding, item.tool), (-0.25, 0.0, 0.25), strict=True):
            right.barh(
                place + offset, value, height=0.23, color=colour, edgecolor="#222222", linewidth=0.5, label=label if place == 0 else None
            )
    right.axvline(0, color="#444444", linewidth=0.8)
    right.set_yticks(range(len(shown)), [f"{item.parallel}\nn = {item.n}" for item in shown])
    right.set(title="Where it comes from", xlabel="Seconds saved per question", ylim=(max(len(shown), 1) - 0.4, -0.6))
    right.grid(visible=False, axis="y")
    if shown:
        handles, names = right.get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False)
    else:
        say_not_run(right)


def _draw_reductions(axis: Axes, shown: Sequence[Saving], looks: dict[str, style.Look]) -> None:
    """Percent of ReAct's time that P-ReAct saves: published above, this run's below a rule."""
    theirs = [Bar(item.category, item.value, None, None, f"{item.value:.1f}") for item in published.values("searcher_figure3")]
    ours = [Bar(f"{own.parallel}, {own.category}", own.reduction, own.low, own.high, f"{own.reduction:.1f}") for own in shown]
    colours = [style.PALE[0]] * len(theirs) + [looks[own.parallel].colour for own in shown]
    for place, (bar, colour) in enumerate(zip([*theirs, *ours], colours, strict=True)):
        draw_bar(axis, place, bar, colour, style.HATCH["diffusion"], gap=1)
    axis.set_yticks(range(len(colours)), [bar.label for bar in (*theirs, *ours)])
    axis.set_ylim(len(theirs) + max(len(ours), 1) - 0.3, -0.7)
    axis.axhline(len(theirs) - 0.5, color="#444444", linewidth=0.8)
    axis.set(title="Less time than ReAct (%)", xlabel="published above, ours below the rule")
    axis.set_xlim(min([0.0, *(item.low for item in shown)]) - 5, max([40.0, *(item.high for item in shown)]) + 12)
    axis.grid(visible=False, axis="y")
    if not shown:
        axis.text(20, len(theirs) + 0.1, NOT_RUN, ha="center", va="center", color="#666666", style="italic")


def figure4(inputs: Inputs, figure: Figure) -> None:
    """DLLM-Searcher Figure 4: accuracy of thinking first (hollow) and calling first (filled), with the same weights."""
    pairs = [pair for acting in ("tool_first", "p_react") for pair in call_first_pairs(inputs, acting)]
    looks = style.looks(inputs.config)
    axis = figure.subplots()
    names = []
    for place, (first, plain) in enumerate(pairs):
        rates = [outcomes(inputs, agent, SEARCH).success("all", "acc_r") for agent in (plain, first)]
        look = looks[first]
        for row, face, shift in zip(rates, ("white", look.colour), (-0.12, 0.12), strict=True):
            if row.value is None or row.low is None or row.high is None:
                continue
            axis.plot([row.low, row.high], [place + shift] * 2, color=look.colour, linewidth=0.9)
            axis.plot(row.value, place + shift, look.marker, markersize=7, markerfacecolor=face, markeredgecolor=look.colour)
        absent = next((row.missing for row in rates if row.value is None), None)
        names.append(f"{first}\n({style.PARADIGM[look.paradigm]}, {absent or f'n = {rates[1].n}'})")
    axis.set_yticks(range(len(pairs)), names)
    axis.set(xlabel="ACC_R (%)", xlim=(-3, 103), ylim=(max(len(pairs), 1) - 0.5, -0.5))
    axis.grid(visible=False, axis="y")
    if not pairs:
        say_not_run(axis)
    faces = {"thinks first": "white", "calls first": "#444444"}
    handles = [marker_handle(text, "o", face, "#444444", size=None) for text, face in faces.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)


def call_first_pairs(inputs: Inputs, acting: str) -> list[tuple[str, str]]:
    """(agent that calls first in this way, the one with the same weights that thinks first) of the run's search agents."""
    config = inputs.config

    def weights(agent: str) -> tuple[object, ...]:
        backbone = config.backbones[config.agents[agent].policy]
        return (backbone.model, backbone.url, backbone.training)

    players = [agent for agent in inputs.agents if SEARCH in config.agent_benchmarks(agent) and config.agents[agent].workflow is None]
    plain = [agent for agent in players if config.agents[agent].acting == "react" and not config.agents[agent].decoding]
    pairs = []
    for agent in players:
        if config.agents[agent].acting == acting:
            own = config.agents[agent]
            alike = [one for one in plain if (config.agents[one].constrain, config.agents[one].dialect) == (own.constrain, own.dialect)]
            same_name = [other for other in alike if config.agents[other].policy == config.agents[agent].policy]
            same_weights = [other for other in alike if weights(other) == weights(agent)]
            pairs += [(agent, other) for other in (same_name or same_weights)[:1]]
    return pairs


def savings(inputs: Inputs) -> list[Saving]:
    """DLLM-Searcher Figure 3: time of P-ReAct against ReAct on the same questions, per question set, and where the difference comes from:
    tool wait hidden behind decoding, less time spent decoding, less in tools."""
    shown = []
    for parallel, sequential in call_first_pairs(inputs, "p_react"):
        both = pair_up(inputs.rows(sequential, SEARCH), inputs.rows(parallel, SEARCH))
        for category, part in both.groupby("category_x", sort=False):
            sides = [pd.DataFrame({"measures": part[f"measures_{side}"]}) for side in "xy"]
            before, after = (
                {name: measure_of(side, f"{name}_seconds") for name in ("turns", "overlap", "decoding", "tool")} for side in sides
            )
            if len(part) < 2 or not np.isfinite(before["turns"] + after["turns"]).all() or before["turns"].sum() <= 0:
                continue
            low, high = statistics.ratio_interval(after["turns"], before["turns"], seed=inputs.config.seed)
            reduction = 100 * (1 - float(after["turns"].sum() / before["turns"].sum()))
            saved, overlap, decoding, tool = (
                float((before[name] - after[name]).mean()) for name in ("turns", "overlap", "decoding", "tool")
            )
            interval = (100 * (1 - high), 100 * (1 - low))
            shown.append(Saving(parallel, sequential, str(category), len(part), reduction, *interval, saved, -overlap, decoding, tool))
    return shown
