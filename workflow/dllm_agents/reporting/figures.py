"""The figures, one function each, named as in `config.report.figures`; published values beside ours. Every function takes the run's inputs
and an empty matplotlib figure of the size asked for, and draws into it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dllm_agents.config import BFCL_MULTI_TURN, EMBODIED, Config
from dllm_agents.errors import StageError
from dllm_agents.records import TableRow, write_aside
from dllm_agents.reporting import published, rows, style
from dllm_agents.reporting.captions import display_name
from dllm_agents.reporting.inputs import Inputs
from dllm_agents.reporting.layout import NOT_RUN

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Bar(NamedTuple):
    """One bar: a rate in percent with its interval and what is written beside it; no value draws "not run"."""

    label: str
    value: float | None
    low: float | None
    high: float | None
    note: str


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
    played = [name for name in EMBODIED if name in inputs.config.run.benchmarks]
    names = ", ".join(map(display_name, played)) or "none"
    whole = set(BFCL_MULTI_TURN) <= set(inputs.config.benchmark_options("bfcl").categories)
    averaged = ("overall",) if whole else ("non_live", "live")
    tools = {agent: _mean(_published_bfcl(agent, name) for name in averaged) for agent in speeds}
    panels: list[tuple[str, str, str, dict[str, float], dict[str, TableRow | None]]] = [
        (
            "Embodied agents",
            f"ours: {names}",
            "Mean success rate (%)",
            embodied,
            {a: rows.macro_row(inputs, a, played, "success", "success_rate") for a in inputs.agents},
        ),
        (
            "Tool-calling agents",
            "ours: BFCL-v3, sampled",
            "BFCL overall (%)" if whole else "BFCL, mean of Non-Live and Live (%)",
            tools,
            {agent: rows.bfcl_mean(inputs, agent, averaged) for agent in inputs.agents},
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
        absent = [agent for agent in inputs.agents if agent not in {point.label for point in points}]
        if absent:
            text = f"{NOT_RUN}: {', '.join(absent)}"
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
    agents = _players(inputs, EMBODIED)
    groups = []
    for benchmark in EMBODIED:
        known = _published_bars([value for value in published.values("diffuagent_figure3") if value.benchmark == benchmark])
        groups.append((display_name(benchmark), known, [_bar(agent, rows.loop_rows(inputs, agent, benchmark, {})[0]) for agent in agents]))
    _bars(figure, groups, f"Episodes with a run of at least {length} identical actions (%)", style.looks(inputs.config))


def diffuagent_figure4(inputs: Inputs, figure: Figure) -> None:
    """DiffuAgent Figure 4: single-turn BFCL failures in three classes, published beside ours."""
    agents = _players(inputs, ("bfcl",))
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


FIGURES: dict[str, Callable[[Inputs, Any], None]] = {
    "diffuagent_figure1": diffuagent_figure1,
    "diffuagent_figure3": diffuagent_figure3,
    "diffuagent_figure4": diffuagent_figure4,
}
SIZES = {"diffuagent_figure1": (7.0, 3.3), "diffuagent_figure3": (7.0, 3.4), "diffuagent_figure4": (7.0, 3.4)}
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
        return Bar(agent, None, None, None, NOT_RUN)
    return Bar(agent, row.value, row.low, row.high, f"{round(row.value * row.n / 100)}/{row.n}")


def _bars(figure: Figure, groups: Sequence[tuple[str, list[Bar], list[Bar]]], label: str, looks: dict[str, style.Look]) -> None:
    """One panel of horizontal bars per group: published models above, the run's agents below a rule. Every bar carries its count."""
    axes = figure.subplots(1, len(groups), sharey=True)
    for axis, (title, known, ours) in zip(axes, groups, strict=True):
        gap = 0.7 if known and ours else 0.0
        places = [*range(len(known)), *(len(known) + gap + index for index in range(len(ours)))]
        for place, bar in zip(places, [*known, *ours], strict=True):
            _draw_bar(axis, place, bar, looks[bar.label], quiet=all(other.value is None for other in ours))
        if ours and all(bar.value is None for bar in ours):
            middle = (places[len(known)] + places[-1]) / 2
            axis.text(50, middle, NOT_RUN, ha="center", va="center", fontsize=style.FONT, color="#666666", style="italic")
        if gap:
            axis.axhline(len(known) - 1 + (1 + gap) / 2, color="#444444", linewidth=0.8)
        # Room for the count beside the longest bar.
        axis.set(title=title, xlim=(0, 135), ylim=(places[-1] + 0.7, -0.7), xticks=[0, 25, 50, 75, 100])
        axis.set_yticks(places, [bar.label for bar in (*known, *ours)])
        axis.grid(visible=False, axis="y")
    axes[len(axes) // 2].set_xlabel(label)
    note = "published above,\nours below the rule"
    axes[0].text(-0.02, 1.02, note, transform=axes[0].transAxes, ha="right", va="bottom", fontsize=style.FONT - 2, color="#666666")
    used = {looks[bar.label].paradigm for _, known, ours in groups for bar in (*known, *ours)}
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


def _players(inputs: Inputs, benchmarks: Sequence[str]) -> list[str]:
    """The run's agents that play at least one of the benchmarks."""
    return [agent for agent in (*inputs.baselines, *inputs.agents) if set(benchmarks) & set(inputs.config.agent_benchmarks(agent))]


def _published_bars(values: Iterable[published.Value]) -> list[Bar]:
    """Published counts as shares."""
    return [Bar(item.agent, 100 * float(item.value or 0) / (item.n or 1), None, None, f"{item.value:.0f}/{item.n}") for item in values]
