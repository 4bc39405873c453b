"""The figures of DiffuAgent (arXiv 2601.12979), published values beside ours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dllm_agents.config import BFCL_MULTI_TURN, EMBODIED, Config
from dllm_agents.records import TableRow
from dllm_agents.reporting import drawing, published, style
from dllm_agents.reporting.captions import display_name
from dllm_agents.reporting.cells import NOT_RUN, Rows
from dllm_agents.reporting.diffuagent import bfcl_mean
from dllm_agents.reporting.drawing import Bar, Point
from dllm_agents.reporting.failures import FIGURE4_CLASSES, figure4_rows, loop_rows
from dllm_agents.reporting.inputs import Inputs
from dllm_agents.reporting.rows import macro_row, outcomes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SETS = (("published (pale)", True), ("ours", False))
MODULE_PANELS = {"Selector": ("selector",), "Editor": ("editor",), "Selector and editor": ("selector", "editor")}
BENCHMARK_MARKER = {"alfworld": "^", "scienceworld": "s", "babyai": "o"}


class Plane(NamedTuple):
    """One panel of Figure 1: published performance by model, ours by agent."""

    title: str
    ylabel: str
    benchmarks: Sequence[str]
    published: Mapping[str, float]
    ours: Mapping[str, TableRow | None]


class Replay(NamedTuple):
    """What a verifier, asked in one way, would have done on the stored episodes of an agent: metric -> row."""

    agent: str
    benchmark: str
    verifier: str
    prompt: str
    rows: Mapping[str, TableRow]


def figure1(inputs: Inputs, figure: Figure) -> None:
    """DiffuAgent Figure 1: performance against throughput, embodied and tool calling. Where the run has no multi-turn entries, the
    tool-calling panel shows the mean of Non-Live and Live for both, published and ours."""
    speeds = {value.agent: float(value.value or 0) for value in published.values("diffuagent_figure1")}
    looks = style.looks(inputs.config)
    drawn = []
    for axis, plane in zip(figure.subplots(1, 2), _planes(inputs, speeds), strict=True):
        points = [Point(model, speed, plane.published[model], None, None, True) for model, speed in speeds.items()]
        strokes: list[float] = []
        for agent, row in plane.ours.items():
            speed = _speed(inputs, agent, plane.benchmarks)
            if speed is not None and row is not None and row.value is not None:
                points.append(Point(agent, speed, row.value, row.low, row.high, False))
                if probed := _probed_speed(inputs, agent):
                    strokes.append(probed)
                    axis.plot(probed, row.value, "|", markersize=7, color=looks[agent].colour)
        drawn.append(drawing.scatter(axis, points, looks))
        left, right = axis.get_xlim()
        axis.set_xlim(min([left, *(0.8 * probed for probed in strokes)]), max([right, *(1.3 * probed for probed in strokes)]))
        axis.set(xlabel="Tokens per second (log scale)", ylabel=plane.ylabel)
        axis.set_title(plane.title, fontsize=style.FONT)
        absent = [agent for agent in plane.ours if agent not in {point.label for point in points}]
        if absent or not plane.ours:
            text = _absence({agent: plane.ours[agent] for agent in absent})
            axis.text(0.02, 0.98, text, transform=axis.transAxes, va="top", fontsize=style.FONT - 2, color="#666666", style="italic")
    sets = ((f"{whose}, {style.PARADIGM[paradigm]}", paradigm, pale) for whose, pale in SETS for paradigm in ("ar", "diffusion"))
    drawing.finish(figure, drawn, list(sets))


def _absence(absent: Mapping[str, TableRow | None]) -> str:
    """Which agents have no point, and why."""
    agents: dict[str, list[str]] = {} if absent else {NOT_RUN: ["this run"]}
    for agent, row in absent.items():
        agents.setdefault(NOT_RUN if row is None else row.missing, []).append(agent)
    return "\n".join(f"{why}: {', '.join(names)}" for why, names in agents.items())


def _planes(inputs: Inputs, models: Iterable[str]) -> tuple[Plane, Plane]:
    agents = [agent for agent in inputs.agents if inputs.alone(agent)]
    plays = {agent: inputs.config.agent_benchmarks(agent) for agent in agents}
    played = [name for name in EMBODIED if any(name in plays[agent] for agent in agents)]
    averaged = ("overall",) if _has_multi_turn(inputs.config) else ("non_live", "live")
    embodied = {
        value.agent: float(value.value or 0)
        for value in published.values("diffuagent_table1")
        if (value.benchmark, value.metric) == ("average", "success_rate")
    }
    return (
        Plane(
            f"Embodied agents (ours: {', '.join(map(display_name, played)) or 'none'})",
            "Mean success rate (%)",
            played,
            embodied,
            {
                agent: macro_row([outcomes(inputs, agent, name) for name in played], "success", "success_rate")
                for agent in agents
                if set(played) & set(plays[agent])
            },
        ),
        Plane(
            "Tool-calling agents (ours: BFCL-v3, sampled)",
            "BFCL overall (%)" if _has_multi_turn(inputs.config) else "BFCL, mean of Non-Live and Live (%)",
            ("bfcl",),
            {model: float(np.mean([_published_bfcl(model, name) for name in averaged])) for model in models},
            {agent: bfcl_mean(outcomes(inputs, agent, "bfcl"), averaged) for agent in agents if "bfcl" in plays[agent]},
        ),
    )


def _speed(inputs: Inputs, agent: str, benchmarks: Sequence[str]) -> float | None:
    """Kept tokens per second of an agent's model over all its calls on the benchmarks; None where it wrote nothing, was not timed, or its
    server does not count."""
    scores = [inputs.rows(agent, name) for name in benchmarks]
    tokens, seconds = (sum(float(part[column].sum(skipna=False)) for part in scores) for column in ("completion_tokens", "model_seconds"))
    return tokens / seconds if tokens > 0 and seconds > 0 else None


def _probed_speed(inputs: Inputs, agent: str) -> float | None:
    """Kept tokens per second of an agent's policy at the lowest probed concurrency."""
    probe = inputs.probes.get(inputs.config.agents[agent].policy)
    levels = [level for level in probe.concurrency if level.get("tokens_per_second")] if probe else []
    return min(levels, key=lambda level: level["concurrency"])["tokens_per_second"] if levels else None


def _has_multi_turn(config: Config) -> bool:
    return set(BFCL_MULTI_TURN) <= set(config.benchmarks.bfcl.categories)


def _published_bfcl(model: str, category: str) -> float:
    values = published.values("diffuagent_table2")
    return next(float(value.value or 0) for value in values if (value.agent, value.category) == (model, category))


def figure3(inputs: Inputs, figure: Figure) -> None:
    """DiffuAgent Figure 3: episodes with at least one retry loop, per benchmark, published beside ours."""
    length = inputs.config.report.loop_length
    agents = inputs.players(*EMBODIED, alone=True)
    groups = []
    for benchmark in EMBODIED:
        counts = drawing.count_bars(value for value in published.values("diffuagent_figure3") if value.benchmark == benchmark)
        ours = [drawing.rate_bar(agent, loop_rows(outcomes(inputs, agent, benchmark))[0]) for agent in agents]
        groups.append((display_name(benchmark), counts, ours))
    drawing.bars(figure, groups, f"Episodes with a run of at least {length} identical actions (%)", style.looks(inputs.config))


def figure4(inputs: Inputs, figure: Figure) -> None:
    """DiffuAgent Figure 4: single-turn BFCL failures in three classes, published beside ours."""
    agents = inputs.players("bfcl", alone=True)
    rows = [row for agent in agents for row in figure4_rows(outcomes(inputs, agent, "bfcl")) if row.metric == "single_turn_failures"]
    shares = {(row.agent, row.category): row for row in rows}
    groups = []
    for kind, title in FIGURE4_CLASSES.items():
        counts = drawing.count_bars(value for value in published.values("diffuagent_figure4") if value.category == kind)
        groups.append((title, counts, [drawing.rate_bar(agent, shares[agent, kind]) for agent in agents]))
    drawing.bars(figure, groups, "Single-turn entries (%)", style.looks(inputs.config))


def figure6(inputs: Inputs, figure: Figure) -> None:
    """DiffuAgent Figure 6: redundant steps saved against progress lost, one panel per verifier prompt; a marker's shape is the benchmark,
    its filling the verifier's paradigm, its colour the verifier."""
    replayed = replays(inputs)
    looks = style.backbone_looks(inputs.config)
    axes = figure.subplots(1, 2, sharex=True, sharey=True)
    for axis, prompt in zip(axes, ("strict", "modest"), strict=True):
        shown = [replay for replay in replayed if replay.prompt == prompt]
        for replay in shown:
            _draw_replay(axis, replay, looks[replay.verifier])
        axis.set(title=f"{prompt} prompt", xlabel="Redundant steps saved per episode")
        if not shown:
            drawing.say_not_run(axis)
    axes[0].set_ylabel("Progress lost (points)")
    # Verifiers that never leave early all lie at 0, where axes fitted to the points would show noise.
    (left, right), (bottom, top) = axes[0].get_xlim(), axes[0].get_ylim()
    axes[0].set(xlim=(min(left, -0.2), max(right, 1.0)), ylim=(min(bottom, -1.0), max(top, 10.0)))
    verifiers = [replay.verifier for prompt in ("strict", "modest") for replay in replayed if replay.prompt == prompt]
    _verifier_legend(figure, {name: looks[name] for name in verifiers}, {replay.benchmark for replay in replayed})


def _draw_replay(axis: Axes, replay: Replay, look: style.Look) -> None:
    saved, lost = replay.rows["redundant_steps_saved"], replay.rows["progress_lost"]
    # Hollow markers are larger, so that a filled one at the same place is seen inside.
    face, size = (look.colour, 5) if look.paradigm == "ar" else ("none", 9)
    (left, x, right), (bottom, y, top) = ((row.low or 0.0, row.value or 0.0, row.high or 0.0) for row in (saved, lost))
    for whisker in ([left, right], [y, y]), ([x, x], [bottom, top]):
        axis.plot(*whisker, color=look.colour, linewidth=0.8, alpha=0.6, zorder=1)
    marker = BENCHMARK_MARKER[replay.benchmark]
    axis.plot(x, y, marker, markersize=size, markerfacecolor=face, markeredgecolor=look.colour, zorder=2)


def _verifier_legend(figure: Figure, verifiers: Mapping[str, style.Look], benchmarks: set[str]) -> None:
    """Verifiers by colour and filling, benchmarks by shape."""
    handles = []
    for name, look in verifiers.items():
        face = look.colour if look.paradigm == "ar" else "white"
        handles.append(drawing.marker_handle(f"{name} ({style.PARADIGM[look.paradigm]})", "o", face, look.colour))
    for name, marker in BENCHMARK_MARKER.items():
        if name in benchmarks:
            handles.append(drawing.marker_handle(display_name(name), marker, "#AAAAAA", "#444444"))
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(handles)), frameon=False)


def replays(inputs: Inputs) -> list[Replay]:
    """Early-exit verifiers replayed on stored episodes: episodes left early, mean redundant steps and how many are saved, mean progress
    lost (points), success lost (points)."""
    replayed = []
    for benchmark in inputs.config.run.benchmarks:
        for key, part in inputs.exits(benchmark).groupby(["agent", "verifier", "prompt"], sort=False):
            agent, verifier, prompt = map(str, key)
            category = f"verifier={verifier};prompt={prompt}"
            columns = {name: part[name].to_numpy(dtype=float) for name in ("redundant_steps", "redundant_steps_saved", "progress_lost")}
            columns["success_lost"] = part["success"].to_numpy(dtype=float) - part["success_at_exit"].to_numpy(dtype=float)
            own = Rows(agent, benchmark, inputs.config.seed)
            rows = [own.rate("early_exits", part["exit_step"].notna().sum(), len(part), category)]
            rows += [own.mean(name, values, category, share=name.endswith("lost")) for name, values in columns.items()]
            replayed.append(Replay(agent, benchmark, verifier, prompt, {row.metric: row for row in rows}))
    return replayed


def figure7(inputs: Inputs, figure: Figure) -> None:
    """DiffuAgent Figure 7: tool calling with a selector, an editor or both, by backbone of the module; the agent alone stands first. Where
    the run has no multi-turn entries, ours are the mean of Non-Live and Live."""
    config = inputs.config
    averaged = ("multi_turn",) if _has_multi_turn(config) else ("non_live", "live")
    roles = {agent: config.agents[agent].backbones for agent in inputs.agents if "bfcl" in config.agent_benchmarks(agent)}
    helped = {agent: own for agent, own in roles.items() if {"selector", "editor"} & set(own)}
    pairs = list(dict.fromkeys((own["policy"], own.get("selector", own.get("editor", ""))) for own in helped.values()))
    policies = list(dict.fromkeys(policy for policy, _ in pairs))
    alone = {config.agents[agent].policy: agent for agent in reversed(inputs.agents) if inputs.alone(agent) and agent in roles}
    drawn = (*helped, *(alone[name] for name in policies if name in alone))
    means = {agent: bfcl_mean(outcomes(inputs, agent, "bfcl"), averaged) for agent in drawn}
    groups = []
    for title, module_roles in MODULE_PANELS.items():
        ours = []
        for policy in policies:
            ours.append(_module_bar(f"{policy} alone", means.get(alone.get(policy, "")), policy))
            for module in [name for owner, name in pairs if owner == policy]:
                lineup = {"policy": policy} | dict.fromkeys(module_roles, module)
                agent = next((name for name, own in helped.items() if own == lineup), "")
                ours.append(_module_bar(f"{policy} + {module}", means.get(agent), module))
        groups.append((title, _published_module_bars(module_roles), ours or [Bar("this run", None, None, None, NOT_RUN, "random")]))
    label = "BFCL multi-turn (%)" if averaged == ("multi_turn",) else "Published: BFCL multi-turn (%); ours: mean of Non-Live and Live (%)"
    drawing.bars(figure, groups, label, style.looks(config) | style.backbone_looks(config))


def _published_module_bars(roles: Sequence[str]) -> list[Bar]:
    """The published agents alone, and with one backbone in exactly these roles."""
    bars = []
    for model in ("Qwen-8B", "Ministral-8B"):
        values = {"alone": _published_bfcl(model, "multi_turn")}
        for item in published.values("diffuagent_table6"):
            backbones = set(item.modules.values())
            if (item.agent, item.part) == (model, "multi_turn") and set(item.modules) == set(roles) and len(backbones) == 1:
                values[backbones.pop()] = float(item.value or 0)
        for name, value in values.items():
            label, look = (f"{model} alone", model) if name == "alone" else (f"{model} + {name}", name)
            bars.append(Bar(label, value, None, None, f"{value:.1f}", look))
    return bars


def _module_bar(label: str, row: TableRow | None, model: str) -> Bar:
    if row is None or row.value is None:
        return Bar(label, None, None, None, row.missing if row else NOT_RUN, model)
    return Bar(label, row.value, row.low, row.high, f"{row.value:.1f}", model)
