"""The figures, one function each, named as in `config.report.figures`; published values beside ours. Every function takes the run's inputs
and an empty matplotlib figure of the size asked for, and draws into it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dllm_agents.config import BFCL_MULTI_TURN, EMBODIED, Config
from dllm_agents.errors import StageError
from dllm_agents.records import TableRow, write_aside
from dllm_agents.reporting import episode_rows, published, rows, style
from dllm_agents.reporting.captions import display_name
from dllm_agents.reporting.inputs import Inputs
from dllm_agents.reporting.layout import NOT_RUN
from dllm_agents.reporting.training import training_curves

BENCHMARK_MARKER = {"alfworld": "^", "scienceworld": "s", "babyai": "o"}
SAVING_PARTS = (("tool wait hidden behind decoding", "#0173B2"), ("less decoding", "#DE8F05"), ("less time in tools", "#029E73"))

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Bar(NamedTuple):
    """One bar: a rate in percent with its interval and what is written beside it; no value draws "not run". `model` is whose look it has
    where that is not its label."""

    label: str
    value: float | None
    low: float | None
    high: float | None
    note: str
    model: str = ""


class Point(NamedTuple):
    """One model in the plane of speed and performance; `published` points are pale."""

    label: str
    speed: float
    value: float
    low: float | None
    high: float | None
    published: bool


def diffuagent_figure1(inputs: Inputs, figure: Figure) -> None:
    """DiffuAgent Figure 1: performance against throughput, embodied and tool calling. Where the run has no multi-turn entries, the
    tool-calling panel shows the mean of Non-Live and Live for both, published and ours."""
    speeds = {value.agent: float(value.value or 0) for value in published.values("diffuagent_figure1")}
    embodied = {
        value.agent: float(value.value or 0)
        for value in published.values("diffuagent_table1")
        if (value.benchmark, value.metric) == ("average", "success_rate")
    }
    agents = [agent for agent in inputs.agents if inputs.alone(agent)]
    played = [name for name in EMBODIED if any(name in inputs.config.agent_benchmarks(agent) for agent in agents)]
    names = ", ".join(map(display_name, played)) or "none"
    whole = set(BFCL_MULTI_TURN) <= set(inputs.config.benchmarks.bfcl.categories)
    averaged = ("overall",) if whole else ("non_live", "live")
    tools = {agent: _mean(_published_bfcl(agent, name) for name in averaged) for agent in speeds}
    panels: list[tuple[str, str, str, dict[str, float], dict[str, TableRow | None]]] = [
        (
            "Embodied agents",
            f"ours: {names}",
            "Mean success rate (%)",
            embodied,
            {
                a: rows.macro_row(inputs, a, played, "success", "success_rate")
                for a in agents
                if set(played) & set(inputs.config.agent_benchmarks(a))
            },
        ),
        (
            "Tool-calling agents",
            "ours: BFCL-v3, sampled",
            "BFCL overall (%)" if whole else "BFCL, mean of Non-Live and Live (%)",
            tools,
            {a: rows.bfcl_mean(inputs, a, averaged) for a in agents if "bfcl" in inputs.config.agent_benchmarks(a)},
        ),
    ]
    axes = figure.subplots(1, 2)
    drawn = []
    for axis, (title, subtitle, label, known, ours) in zip(axes, panels, strict=True):
        points = [Point(agent, speed, known[agent], None, None, True) for agent, speed in speeds.items()]
        for agent, row in ours.items():
            speed = _speed(inputs, agent)
            if speed is not None and row is not None and row.value is not None:
                points.append(Point(agent, speed, row.value, row.low, row.high, False))
        _scatter(axis, points, style.looks(inputs.config))
        axis.set(xlabel="Tokens per second (log scale)", ylabel=label)
        axis.set_title(f"{title} ({subtitle})", fontsize=style.FONT)
        absent = [agent for agent in ours if agent not in {point.label for point in points}]
        if absent or not ours:
            missing: dict[str, list[str]] = {} if absent else {NOT_RUN: ["this run"]}
            for agent in absent:
                missing.setdefault(row.missing if (row := ours[agent]) is not None else NOT_RUN, []).append(agent)
            text = "\n".join(f"{why}: {', '.join(names)}" for why, names in missing.items())
            axis.text(0.02, 0.98, text, transform=axis.transAxes, va="top", fontsize=style.FONT - 2, color="#666666", style="italic")
        drawn.append((axis, points))
    _legend(
        figure,
        [
            ("published (pale), autoregressive", "ar", True),
            ("published (pale), diffusion", "diffusion", True),
            ("ours, autoregressive", "ar", False),
            ("ours, diffusion", "diffusion", False),
        ],
        markers=True,
    )
    # Where names go depends on the final places of the points.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axis, points in drawn:
        _label_points(axis, points)


def diffuagent_figure3(inputs: Inputs, figure: Figure) -> None:
    """DiffuAgent Figure 3: episodes with at least one retry loop, per benchmark, published beside ours."""
    length = inputs.config.report.loop_length
    agents = inputs.players(*EMBODIED, alone=True)
    groups = []
    for benchmark in EMBODIED:
        known = _published_bars([value for value in published.values("diffuagent_figure3") if value.benchmark == benchmark])
        groups.append((display_name(benchmark), known, [_bar(agent, rows.loop_rows(inputs, agent, benchmark, {})[0]) for agent in agents]))
    _bars(figure, groups, f"Episodes with a run of at least {length} identical actions (%)", style.looks(inputs.config))


def diffuagent_figure4(inputs: Inputs, figure: Figure) -> None:
    """DiffuAgent Figure 4: single-turn BFCL failures in three classes, published beside ours."""
    agents = inputs.players("bfcl", alone=True)
    shares = {
        (agent, row.category): row
        for agent in agents
        for row in rows.figure4_rows(inputs, agent, {})
        if row.metric == "single_turn_failures"
    }
    groups = []
    for kind, title in rows.FIGURE4_CLASSES.items():
        known = _published_bars([value for value in published.values("diffuagent_figure4") if value.category == kind])
        groups.append((title, known, [_bar(agent, shares[agent, kind]) for agent in agents]))
    _bars(figure, groups, "Single-turn entries (%)", style.looks(inputs.config))


def diffuagent_figure6(inputs: Inputs, figure: Figure) -> None:
    """DiffuAgent Figure 6: redundant steps saved against progress lost, one panel per verifier prompt; a marker's shape is the benchmark,
    its filling the verifier's paradigm, its colour the verifier."""
    found: dict[tuple[str, str, str], dict[str, TableRow]] = {}
    for row in episode_rows.exit_rows(inputs):
        found.setdefault((row.agent, row.benchmark, row.category), {})[row.metric] = row
    looks = style.backbone_looks(inputs.config)
    axes = figure.subplots(1, 2, sharex=True, sharey=True)
    seen: dict[str, style.Look] = {}
    for axis, prompt in zip(axes, ("strict", "modest"), strict=True):
        drawn = 0
        for (_, benchmark, category), by_metric in found.items():
            verifier, _, asked = category.removeprefix("verifier=").partition(";prompt=")
            if asked != prompt:
                continue
            saved, lost = by_metric["redundant_steps_saved"], by_metric["progress_lost"]
            look = seen.setdefault(verifier, looks[verifier])
            # Hollow markers are larger, so that a filled one at the same place is seen inside.
            face, size = (look.colour, 5) if look.paradigm == "ar" else ("none", 9)
            for row, along in ((saved, "x"), (lost, "y")):
                ends = (row.low or 0.0, row.high or 0.0)
                middle = float((lost if along == "x" else saved).value or 0.0)
                points = (ends, (middle, middle)) if along == "x" else ((middle, middle), ends)
                axis.plot(*points, color=look.colour, linewidth=0.8, alpha=0.6, zorder=1)
            axis.plot(
                saved.value,
                lost.value,
                BENCHMARK_MARKER[benchmark],
                markersize=size,
                markerfacecolor=face,
                markeredgecolor=look.colour,
                zorder=2,
            )
            drawn += 1
        axis.set(title=f"{prompt} prompt", xlabel="Redundant steps saved per episode")
        if not drawn:
            _say_not_run(axis)
    axes[0].set_ylabel("Progress lost (points)")
    # Verifiers that never leave early all lie at 0, where axes fitted to the points would show noise.
    (left, right), (bottom, top) = axes[0].get_xlim(), axes[0].get_ylim()
    axes[0].set(xlim=(min(left, -0.2), max(right, 1.0)), ylim=(min(bottom, -1.0), max(top, 10.0)))
    _verifier_legend(figure, seen, {benchmark for _, benchmark, _ in found})


def diffuagent_figure7(inputs: Inputs, figure: Figure) -> None:
    """DiffuAgent Figure 7: tool calling with a selector, an editor or both, by backbone of the module; the agent alone stands first. Where
    the run has no multi-turn entries, ours are the mean of Non-Live and Live."""
    config = inputs.config
    averaged = ("multi_turn",) if set(BFCL_MULTI_TURN) <= set(config.benchmarks.bfcl.categories) else ("non_live", "live")
    helped = {
        agent: config.agents[agent].backbones for agent in inputs.agents if {"selector", "editor"} & set(config.agents[agent].backbones)
    }
    helped = {agent: roles for agent, roles in helped.items() if "bfcl" in config.agent_benchmarks(agent)}
    pairs = list(dict.fromkeys((roles["policy"], roles.get("selector", roles.get("editor", ""))) for roles in helped.values()))
    policies = list(dict.fromkeys(policy for policy, _ in pairs))
    alone = {config.agents[agent].policy: agent for agent in inputs.agents if inputs.alone(agent)}
    means = {agent: rows.bfcl_mean(inputs, agent, averaged) for agent in (*helped, *(alone[name] for name in policies if name in alone))}
    groups = []
    for title, roles in (("Selector", ("selector",)), ("Editor", ("editor",)), ("Selector and editor", ("selector", "editor"))):
        known = []
        for model in ("Qwen-8B", "Ministral-8B"):
            known.append(_published_bar(model, f"{model} alone", _published_bfcl(model, "multi_turn"), model))
            for module, value in _published_modules(model, roles).items():
                known.append(_published_bar(module, f"{model} + {module}", value, module))
        ours = []
        for policy in policies:
            ours.append(_module_bar(f"{policy} alone", means.get(alone.get(policy, "")), policy))
            for module in [name for owner, name in pairs if owner == policy]:
                wanted = {"policy": policy} | dict.fromkeys(roles, module)
                agent = next((name for name, given in helped.items() if given == wanted), "")
                ours.append(_module_bar(f"{policy} + {module}", means.get(agent), module))
        groups.append((title, known, ours or [Bar("this run", None, None, None, NOT_RUN, "random")]))
    label = "BFCL multi-turn (%)" if averaged == ("multi_turn",) else "Published: BFCL multi-turn (%); ours: mean of Non-Live and Live (%)"
    _bars(figure, groups, label, style.looks(config) | style.backbone_looks(config))


def searcher_figure3(inputs: Inputs, figure: Figure) -> None:
    """DLLM-Searcher Figure 3: how much less time P-ReAct takes than ReAct, and in which part of a turn."""
    found = episode_rows.savings(inputs)
    looks = style.looks(inputs.config)
    left, right = figure.subplots(1, 2)
    known = [(item.category, float(item.value or 0), None, None) for item in published.values("searcher_figure3")]
    ours = [(f"{item.parallel}, {item.category}", item.reduction, item.low, item.high) for item in found]
    for place, (_, value, low, high) in enumerate([*known, *ours]):
        colour = style.PALE[0] if place < len(known) else looks[found[place - len(known)].parallel].colour
        left.barh(place, value, height=0.72, color=colour, hatch=style.HATCH["diffusion"], edgecolor="#222222", linewidth=0.6)
        if low is not None and high is not None:
            left.plot([low, high], [place, place], color="#222222", linewidth=0.9)
        left.text(max(value, high or value, 0) + 1, place, f"{value:.1f}", va="center", fontsize=style.FONT - 2)
    left.set_yticks(range(len(known) + len(ours)), [name for name, *_ in (*known, *ours)])
    left.set_ylim(len(known) + max(len(ours), 1) - 0.3, -0.7)
    left.axhline(len(known) - 0.5, color="#444444", linewidth=0.8)
    left.set(title="Less time than ReAct (%)", xlabel="published above, ours below the rule")
    left.set_xlim(min([0.0, *(item.low for item in found)]) - 5, max([40.0, *(item.high for item in found)]) + 12)
    left.grid(visible=False, axis="y")
    if not found:
        left.text(20, len(known) + 0.1, NOT_RUN, ha="center", va="center", color="#666666", style="italic")
    for place, item in enumerate(found):
        for (label, colour), value, offset in zip(SAVING_PARTS, (item.overlap, item.decoding, item.tool), (-0.25, 0.0, 0.25), strict=True):
            right.barh(
                place + offset, value, height=0.23, color=colour, edgecolor="#222222", linewidth=0.5, label=label if place == 0 else None
            )
    right.axvline(0, color="#444444", linewidth=0.8)
    right.set_yticks(range(len(found)), [f"{item.parallel}\nn = {item.n}" for item in found])
    right.set(title="Where it comes from", xlabel="Seconds saved per question", ylim=(max(len(found), 1) - 0.4, -0.6))
    right.grid(visible=False, axis="y")
    if found:
        handles, names = right.get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False)
    else:
        _say_not_run(right)


def searcher_figure4(inputs: Inputs, figure: Figure) -> None:
    """DLLM-Searcher Figure 4: accuracy of thinking first (hollow) and calling first (filled), with the same weights."""
    pairs = [pair for acting in ("tool_first", "p_react") for pair in episode_rows.call_first_pairs(inputs, acting)]
    looks = style.looks(inputs.config)
    axis = figure.subplots()
    names = []
    for place, (first, plain) in enumerate(pairs):
        measured = [episode_rows.accuracy(inputs, agent) for agent in (plain, first)]
        look = looks[first]
        for row, face, shift in zip(measured, ("white", look.colour), (-0.12, 0.12), strict=True):
            if row.value is None or row.low is None or row.high is None:
                continue
            axis.plot([row.low, row.high], [place + shift] * 2, color=look.colour, linewidth=0.9)
            axis.plot(row.value, place + shift, look.marker, markersize=7, markerfacecolor=face, markeredgecolor=look.colour)
        absent = next((row.missing for row in measured if row.value is None), None)
        names.append(f"{first}\n({style.PARADIGM[look.paradigm]}, {absent or f'n = {measured[1].n}'})")
    axis.set_yticks(range(len(pairs)), names)
    axis.set(xlabel="ACC_R (%)", xlim=(-3, 103), ylim=(max(len(pairs), 1) - 0.5, -0.5))
    axis.grid(visible=False, axis="y")
    if not pairs:
        _say_not_run(axis)
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], linestyle="", marker="o", markerfacecolor=face, markeredgecolor="#444444", label=text)
        for face, text in (("white", "thinks first"), ("#444444", "calls first"))
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)


def dllm_agent_attention(inputs: Inputs, figure: Figure) -> None:
    """DLLM Agent: where a planning agent's replies look, one bar per agent and workflow stage."""
    means = {(row.agent, row.category, row.metric): row for row in episode_rows.attention_rows(inputs)}
    bars = [key for key in dict.fromkeys(key[:2] for key in means) if means[(*key, "entropy")].n]
    axis = figure.subplots()
    if not bars:
        _say_not_run(axis)
        return
    shades = [str(0.15 + 0.17 * index) for index in range(len(episode_rows.ATTENTION_SPANS))]
    for place, (agent, stage) in enumerate(reversed(bars)):
        left = 0.0
        for metric, shade in zip(episode_rows.ATTENTION_SPANS, shades, strict=True):
            value = means[agent, stage, metric].value or 0.0
            label = episode_rows.ATTENTION_SPANS[metric] if place == 0 else None
            axis.barh(place, value, left=left, color=shade, edgecolor="white", linewidth=0.5, label=label)
            left += value
        entropy = means[agent, stage, "entropy"]
        axis.annotate(f"H {entropy.value:.0f} %, n {entropy.n}", (101, place), va="center", fontsize=7, annotation_clip=False)
    axis.set_yticks(range(len(bars)), [f"{agent}: {stage}" for agent, stage in reversed(bars)])
    axis.set(xlim=(0, 100), xlabel="Attention (%)")
    axis.legend(ncols=5, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False, fontsize=7)


def efficiency_roofline(inputs: Inputs, figure: Figure) -> None:
    """Arithmetic speed of one forward over its arithmetic intensity, per backbone, under the ceilings measured where it was probed."""
    axis = figure.subplots()
    looks = style.backbone_looks(inputs.config)
    probed = {name: probe for name, probe in inputs.probes.items() if probe.forwards and probe.roof}
    axis.set(xscale="log", yscale="log", xlabel="Floating-point operations per byte moved", ylabel="GFLOP/s reached")
    roofs = list(dict.fromkeys((probe.hardware, *_roof(probe.roof)) for probe in probed.values()))
    points = [(name, level) for name, probe in probed.items() for level in probe.forwards]
    if not points:
        axis.set(xlim=(0.1, 1000), ylim=(0.1, 1000))
        _say_not_run(axis)
        return
    intensity = [level["flops"] / level["bytes"] for _, level in points]
    ends = (min(intensity) / 2, max(intensity) * 3)
    # One line per machine: the highest ceilings its probes measured.
    for hardware in dict.fromkeys(hardware for hardware, *_ in roofs):
        memory = max(bandwidth for place, bandwidth, _ in roofs if place == hardware)
        peak = max(speed for place, _, speed in roofs if place == hardware)
        ridge = peak / memory
        line = sorted({*ends, min(max(ridge, ends[0]), ends[1])})
        axis.plot(line, [min(peak, memory * x) / 1e9 for x in line], color="#444444", linewidth=1.2)
        text = f"{hardware}: {memory / 1e9:.1f} GB/s, {peak / 1e9:.0f} GFLOP/s"
        axis.set_title(text, fontsize=style.FONT)
    for name, probe in probed.items():
        look = looks[name]
        levels = sorted(probe.forwards, key=lambda level: level["tokens"])
        xs = [level["flops"] / level["bytes"] for level in levels]
        ys = [level["flops"] / level["seconds"] / 1e9 for level in levels]
        label = f"{name} ({probe.parameters / 1e6:.1f}M): " + ", ".join(
            f"{level['tokens']:.0f}: {_milliseconds(level)}" for level in levels
        )
        axis.plot(xs, ys, color=look.colour, linewidth=0.7, zorder=1)
        axis.plot(xs, ys, look.marker, markersize=5, markerfacecolor=look.colour, markeredgecolor="#222222", linestyle="", label=label)
    axis.set_xlim(*ends)
    figure.legend(loc="outside lower center", ncols=1, frameon=False, title="tokens a forward: milliseconds", title_fontsize=style.FONT - 1)


def _roof(roof: Mapping[str, float]) -> tuple[float, float]:
    return roof["bytes_per_second"], roof["flops_per_second"]


def _milliseconds(level: Mapping[str, float]) -> str:
    return f"{1000 * level['seconds']:.2g} ms" if level["seconds"] < 0.1 else f"{1000 * level['seconds']:.0f} ms"


def _say_not_run(axis: Axes) -> None:
    axis.text(0.5, 0.5, NOT_RUN, transform=axis.transAxes, ha="center", va="center", color="#666666", style="italic")


def _verifier_legend(figure: Figure, verifiers: Mapping[str, style.Look], benchmarks: set[str]) -> None:
    """Verifiers by colour and filling, benchmarks by shape."""
    from matplotlib.lines import Line2D

    def handle(text: str, marker: str, face: str, edge: str) -> Line2D:
        return Line2D([], [], linestyle="", marker=marker, markersize=6, markerfacecolor=face, markeredgecolor=edge, label=text)

    handles = [
        handle(f"{name} ({style.PARADIGM[look.paradigm]})", "o", look.colour if look.paradigm == "ar" else "white", look.colour)
        for name, look in verifiers.items()
    ]
    handles += [handle(display_name(name), marker, "#AAAAAA", "#444444") for name, marker in BENCHMARK_MARKER.items() if name in benchmarks]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(handles)), frameon=False)


def _published_modules(model: str, roles: Sequence[str]) -> dict[str, float]:
    """Backbone of the module -> multi-turn average of a published agent with it in exactly these roles."""
    found = {}
    for item in published.values("diffuagent_table6"):
        *modules, last = item.category.split(";")
        given = dict(part.split("=") for part in modules)
        if item.agent == model and last == "multi_turn" and set(given) == set(roles) and len(set(given.values())) == 1:
            found[next(iter(given.values()))] = float(item.value or 0)
    return found


def _published_bar(model: str, label: str, value: float, look: str) -> Bar:
    return Bar(label, value, None, None, f"{value:.1f}", look)


def _module_bar(label: str, row: TableRow | None, model: str) -> Bar:
    if row is None or row.value is None:
        return Bar(label, None, None, None, row.missing if row else NOT_RUN, model)
    return Bar(label, row.value, row.low, row.high, f"{row.value:.1f}", model)


FIGURES: dict[str, Callable[[Inputs, Any], None]] = {
    "diffuagent_figure1": diffuagent_figure1,
    "diffuagent_figure3": diffuagent_figure3,
    "diffuagent_figure4": diffuagent_figure4,
    "diffuagent_figure6": diffuagent_figure6,
    "diffuagent_figure7": diffuagent_figure7,
    "searcher_figure3": searcher_figure3,
    "searcher_figure4": searcher_figure4,
    "efficiency_roofline": efficiency_roofline,
    "dllm_agent_attention": dllm_agent_attention,
    "training_curves": training_curves,
}
SIZES = {
    "diffuagent_figure1": (7.0, 3.3),
    "diffuagent_figure3": (7.0, 3.4),
    "diffuagent_figure4": (7.0, 3.4),
    "diffuagent_figure6": (7.0, 3.3),
    "diffuagent_figure7": (7.0, 4.4),
    "searcher_figure3": (7.0, 3.0),
    "searcher_figure4": (5.0, 2.6),
    "efficiency_roofline": (5.2, 3.6),
    "dllm_agent_attention": (7.0, 2.8),
    "training_curves": (9.0, 3.2),
}
BAR_FIGURES = ("diffuagent_figure3", "diffuagent_figure4")
BAR_HEIGHT = 0.17  # inches a bar needs at least; figures of many agents grow
# Offsets of a name from its point, in points, in order of preference.
LABEL_PLACES = (
    (6, 0),
    (0, 9),
    (0, -9),
    (6, 9),
    (6, -9),
    (-6, 0),
    (-6, 9),
    (-6, -9),
    *((dx, dy) for dy in (17, 25, 33, 41) for dx in (6, 0, -6)),
)
STYLE_KEYS = ("width", "height", "dpi", "title")


def plot(name: str, config: Config, results_dir: str | Path, output_base: str | Path) -> list[Path]:
    """Draw a figure from a run's results as `<output_base>.png` and `.pdf`; returns the paths. `config.report.style[name]` may set width
    and height (inches), dpi and title. Equal inputs give equal bytes: no dates in the files. Raises StageError for an unknown figure or
    key."""
    if name not in FIGURES:
        raise StageError(f"{name}: unknown figure; allowed: {', '.join(sorted(FIGURES))}")
    settings = config.report.style.get(name, {})
    unknown = sorted(set(settings) - set(STYLE_KEYS))
    if unknown:
        raise StageError(f"report.style.{name}.{unknown[0]}: unknown key; allowed: {', '.join(STYLE_KEYS)}")
    style.theme()
    from matplotlib.figure import Figure

    width, height = SIZES[name]
    if name in BAR_FIGURES:
        height = max(height, BAR_HEIGHT * (len(published.models()) + len(config.run.agents)) + 1.0)
    figure = Figure(figsize=(float(settings.get("width", width)), float(settings.get("height", height))))
    if settings.get("title"):
        figure.suptitle(str(settings["title"]), fontsize=style.FONT + 2)
    FIGURES[name](Inputs(config, Path(results_dir)), figure)
    base = Path(output_base)
    paths = [Path(f"{base}.png"), Path(f"{base}.pdf")]
    with write_aside(paths[0], "wb") as handle:
        figure.savefig(handle, format="png", dpi=int(settings.get("dpi", style.DPI)), metadata={"Software": None})
    figure.set_layout_engine("none")  # laid out once; the vector form is the same picture
    with write_aside(paths[1], "wb") as handle:
        figure.savefig(handle, format="pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None})
    return paths


def _bar(agent: str, row: TableRow) -> Bar:
    if row.value is None or not row.n:
        return Bar(agent, None, None, None, row.missing)
    return Bar(agent, row.value, row.low, row.high, f"{round(row.value * row.n / 100)}/{row.n}")


def _bars(figure: Figure, groups: Sequence[tuple[str, list[Bar], list[Bar]]], label: str, looks: dict[str, style.Look]) -> None:
    """One panel of horizontal bars per group: published models above, the run's agents below a rule. Every bar carries its count."""
    axes = figure.subplots(1, len(groups), sharey=True)
    top = 50 if max((bar.high or bar.value or 0 for _, known, ours in groups for bar in (*known, *ours)), default=100) <= 50 else 100
    for axis, (title, known, ours) in zip(axes, groups, strict=True):
        gap = 0.7 if known and ours else 0.0
        places = [*range(len(known)), *(len(known) + gap + index for index in range(len(ours)))]
        for place, bar in zip(places, [*known, *ours], strict=True):
            _draw_bar(axis, place, bar, looks[bar.model or bar.label], quiet=all(other.value is None for other in ours))
        if ours and all(bar.value is None for bar in ours):
            middle = (places[len(known)] + places[-1]) / 2
            axis.text(top / 2, middle, NOT_RUN, ha="center", va="center", fontsize=style.FONT, color="#666666", style="italic")
        if gap:
            axis.axhline(len(known) - 1 + (1 + gap) / 2, color="#444444", linewidth=0.8)
        # Room for the count beside the longest bar.
        axis.set(title=title, xlim=(0, 1.35 * top), ylim=(places[-1] + 0.7, -0.7), xticks=range(0, top + 1, 25))
        axis.set_yticks(places, [bar.label for bar in (*known, *ours)])
        axis.grid(visible=False, axis="y")
    axes[len(axes) // 2].set_xlabel(label)
    note = "published above,\nours below the rule"
    axes[0].text(-0.02, 1.02, note, transform=axes[0].transAxes, ha="right", va="bottom", fontsize=style.FONT - 2, color="#666666")
    used = {looks[bar.model or bar.label].paradigm for _, known, ours in groups for bar in (*known, *ours)}
    _legend(figure, [(text, paradigm, False) for paradigm, text in style.PARADIGM.items() if paradigm in used], markers=False)


def _draw_bar(axis: Axes, place: float, bar: Bar, look: style.Look, *, quiet: bool) -> None:
    """A bar with its interval and note; a bar without value is a note alone, or nothing where the whole panel says so (`quiet`)."""
    if bar.value is None:
        if not quiet:
            axis.text(1.5, place, bar.note, va="center", fontsize=style.FONT - 2, color="#666666", style="italic")
        return
    axis.barh(place, bar.value, height=0.72, color=look.colour, hatch=look.hatch, edgecolor="#222222", linewidth=0.6)
    end = bar.value
    if bar.low is not None and bar.high is not None:
        axis.plot([bar.low, bar.high], [place, place], color="#222222", linewidth=0.9)
        end = max(end, bar.high)
    axis.text(end + 2, place, bar.note, va="center", fontsize=style.FONT - 2)


def _legend(figure: Figure, entries: Sequence[tuple[str, str, bool]], *, markers: bool) -> None:
    """What hatch or marker stands for; (text, paradigm, pale) each."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = []
    for text, paradigm, pale in entries:
        if markers:
            face = "#DDDDDD" if pale else "#555555"
            marker = style.MARKER[paradigm]
            handles.append(
                Line2D([], [], linestyle="", marker=marker, markersize=6, markerfacecolor=face, markeredgecolor="#111111", label=text)
            )
        else:
            handles.append(Patch(facecolor="#DDDDDD", edgecolor="#222222", hatch=style.HATCH[paradigm], linewidth=0.6, label=text))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, handletextpad=0.5)


def _scatter(axis: Axes, points: Sequence[Point], looks: dict[str, style.Look]) -> None:
    axis.set_xscale("log")
    for point in points:
        look = looks[point.label]
        if point.low is not None and point.high is not None:
            axis.plot([point.speed, point.speed], [point.low, point.high], color=look.colour, linewidth=1)
        edge, width = ("#777777", 0.6) if point.published else ("#111111", 1.0)
        axis.plot(
            point.speed, point.value, look.marker, markersize=6, markerfacecolor=look.colour, markeredgecolor=edge, markeredgewidth=width
        )
    speeds = [point.speed for point in points]
    axis.set(xlim=(min(speeds) / 2, max(speeds) * 4), ylim=(-7, 107), yticks=range(0, 101, 20))


def _label_points(axis: Axes, points: Sequence[Point]) -> None:
    """Names beside the points, each at the first of a few places where it hides no point and no other name."""
    taken = [axis.transData.transform((point.speed, point.value)) for point in points]
    scale = axis.figure.dpi / 72
    boxes = [(x - 4 * scale, y - 4 * scale, x + 4 * scale, y + 4 * scale) for x, y in taken]
    for point, (x, _) in zip(points, taken, strict=True):
        if point.low is not None and point.high is not None:
            ends = [axis.transData.transform((point.speed, end))[1] for end in (point.low, point.high)]
            boxes.append((x - scale, ends[0], x + scale, ends[1]))
    frame = axis.bbox
    height = (style.FONT - 1) * scale
    for point, (x, y) in sorted(zip(points, taken, strict=True), key=lambda pair: -pair[0].value):
        width = 0.6 * height * len(point.label)
        for dx, dy in LABEL_PLACES:
            left = x + dx * scale - (width if dx < 0 else width / 2 if dx == 0 else 0)
            middle = y + dy * scale
            box = (left, middle - height / 2, left + width, middle + height / 2)
            inside = frame.x0 < box[0] and box[2] < frame.x1 and frame.y0 < box[1] and box[3] < frame.y1
            if inside and not any(box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3] for other in boxes):
                break
        boxes.append(box)
        side = "right" if dx < 0 else "center" if dx == 0 else "left"
        far = abs(dy) > 9
        axis.annotate(
            point.label,
            (point.speed, point.value),
            xytext=(dx, dy),
            textcoords="offset points",
            ha=side,
            va="center",
            fontsize=style.FONT - 1,
            arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": "#888888", "shrinkB": 3} if far else None,
        )


def _speed(inputs: Inputs, agent: str) -> float | None:
    """Kept tokens per second of an agent's policy at the lowest probed concurrency."""
    probe = inputs.probes.get(inputs.config.agents[agent].policy)
    levels = (
        sorted((level for level in probe.concurrency if level.get("tokens_per_second")), key=lambda level: level["concurrency"])
        if probe
        else []
    )
    return levels[0]["tokens_per_second"] if levels else None


def _published_bfcl(agent: str, category: str) -> float:
    return next(
        float(value.value or 0) for value in published.values("diffuagent_table2") if (value.agent, value.category) == (agent, category)
    )


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)


def _published_bars(values: Iterable[published.Value]) -> list[Bar]:
    """Published counts as shares."""
    return [Bar(item.agent, 100 * float(item.value or 0) / (item.n or 1), None, None, f"{item.value:.0f}/{item.n}") for item in values]
