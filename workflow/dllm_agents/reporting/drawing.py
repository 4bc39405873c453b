"""What figures share: bars with their counts, points with their names, legends, and the words for what was not run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from dllm_agents.records import TableRow
from dllm_agents.reporting import published, style
from dllm_agents.reporting.cells import NOT_RUN

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

# Offsets of a name from its point, in points, in order of preference.
LABEL_PLACES = (
    *((6, 0), (0, 9), (0, -9), (6, 9), (6, -9), (-6, 0), (-6, 9), (-6, -9)),
    *((dx, sign * dy) for dy in range(18, 110, 12) for sign in (-1, 1) for dx in (4, 0, -4)),
)
Box = tuple[float, float, float, float]
"""Left, lower, right and upper edge, in pixels."""


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

    def covers(self, other: Point) -> bool:
        """Whether its marker would hide the other's."""
        return abs(math.log(self.speed / other.speed)) < 0.05 and abs(self.value - other.value) < 1


def rate_bar(agent: str, row: TableRow) -> Bar:
    if row.value is None or not row.n:
        return Bar(agent, None, None, None, row.missing)
    return Bar(agent, row.value, row.low, row.high, f"{round(row.value * row.n / 100)}/{row.n}")


def count_bars(values: Iterable[published.Value]) -> list[Bar]:
    """Published counts as shares."""
    return [Bar(item.agent, 100 * float(item.value or 0) / (item.n or 1), None, None, f"{item.value:.0f}/{item.n}") for item in values]


def bars(figure: Figure, groups: Sequence[tuple[str, list[Bar], list[Bar]]], label: str, looks: dict[str, style.Look]) -> None:
    """One panel of horizontal bars per group: published models above, the run's agents below a rule. Every bar carries its count."""
    axes = figure.subplots(1, len(groups), sharey=True)
    top = 50 if max((bar.high or bar.value or 0 for _, theirs, ours in groups for bar in (*theirs, *ours)), default=100) <= 50 else 100
    for axis, (title, theirs, ours) in zip(axes, groups, strict=True):
        gap = 0.7 if theirs and ours else 0.0
        places = [*range(len(theirs)), *(len(theirs) + gap + index for index in range(len(ours)))]
        empty = all(bar.value is None and bar.note == NOT_RUN for bar in ours)
        for place, bar in zip(places, [*theirs, *ours], strict=True):
            if bar.value is not None or not empty:
                look = looks[bar.model or bar.label]
                draw_bar(axis, place, bar, look.colour, look.hatch)
        if ours and empty:
            middle = (places[len(theirs)] + places[-1]) / 2
            axis.text(top / 2, middle, NOT_RUN, ha="center", va="center", fontsize=style.FONT, color="#666666", style="italic")
        if gap:
            axis.axhline(len(theirs) - 1 + (1 + gap) / 2, color="#444444", linewidth=0.8)
        # Room for the count beside the longest bar.
        axis.set(title=title, xlim=(0, 1.35 * top), ylim=(places[-1] + 0.7, -0.7), xticks=range(0, top + 1, 25))
        axis.set_yticks(places, [bar.label for bar in (*theirs, *ours)])
        axis.grid(visible=False, axis="y")
    axes[len(axes) // 2].set_xlabel(label)
    note = "published above,\nours below the rule"
    axes[0].text(-0.02, 1.02, note, transform=axes[0].transAxes, ha="right", va="bottom", fontsize=style.FONT - 2, color="#666666")
    used = {looks[bar.model or bar.label].paradigm for _, theirs, ours in groups for bar in (*theirs, *ours)}
    legend(figure, [(text, paradigm, False) for paradigm, text in style.PARADIGM.items() if paradigm in used], markers=False)


def draw_bar(axis: Axes, place: float, bar: Bar, colour: str, hatch: str, gap: float = 2) -> None:
    """A bar with its interval, and its note at a distance; a bar without value is a note alone."""
    if bar.value is None:
        axis.text(1.5, place, bar.note, va="center", fontsize=style.FONT - 2, color="#666666", style="italic")
        return
    axis.barh(place, bar.value, height=0.72, color=colour, hatch=hatch, edgecolor="#222222", linewidth=0.6)
    if bar.low is not None and bar.high is not None:
        axis.plot([bar.low, bar.high], [place, place], color="#222222", linewidth=0.9)
    axis.text(max(bar.value, bar.high or 0.0, 0.0) + gap, place, bar.note, va="center", fontsize=style.FONT - 2)


def legend(figure: Figure, entries: Sequence[tuple[str, str, bool]], *, markers: bool) -> None:
    """What hatch or marker stands for; (text, paradigm, pale) each."""
    from matplotlib.patches import Patch

    handles: list[Any]
    if markers:
        faces = ("#DDDDDD" if pale else "#555555" for *_, pale in entries)
        handles = [marker_handle(text, style.MARKER[kind], face, "#111111") for (text, kind, _), face in zip(entries, faces, strict=True)]
    else:
        handles = [
            Patch(facecolor="#DDDDDD", edgecolor="#222222", hatch=style.HATCH[kind], linewidth=0.6, label=text) for text, kind, _ in entries
        ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, handletextpad=0.5)


def marker_handle(text: str, marker: str, face: str, edge: str, size: float | None = 6) -> Line2D:
    """What a marker stands for, in a legend."""
    from matplotlib.lines import Line2D

    return Line2D([], [], linestyle="", marker=marker, markersize=size, markerfacecolor=face, markeredgecolor=edge, label=text)


PARADIGMS = [(style.PARADIGM[paradigm], paradigm, False) for paradigm in ("ar", "diffusion")]
"""Legend entries of a figure that shows both paradigms of this run alone."""


def finish(figure: Figure, drawn: Sequence[tuple[Axes, Sequence[Point]]], entries: Sequence[tuple[str, str, bool]] = PARADIGMS) -> None:
    """The legend of a figure of points, and the points' names, whose places depend on the final layout."""
    legend(figure, entries, markers=True)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axis, points in drawn:
        label_points(axis, points)


def scatter(axis: Axes, points: Sequence[Point], looks: dict[str, style.Look]) -> tuple[Axes, Sequence[Point]]:
    """Draw points with their intervals, or that there are none; returns what `finish` labels."""
    from matplotlib.ticker import LogLocator, NullFormatter

    if not points:
        say_not_run(axis)
        return axis, points
    axis.set_xscale("log")
    for at, point in enumerate(points):
        look = looks[point.label]
        if point.low is not None and point.high is not None:
            axis.plot([point.speed, point.speed], [point.low, point.high], color=look.colour, linewidth=1)
        edge, width = ("#777777", 0.6) if point.published else ("#111111", 1.0)
        size = 6 * 0.55 ** sum(point.covers(other) for other in points[:at])  # what is drawn on another one leaves it visible
        axis.plot(
            point.speed, point.value, look.marker, markersize=size, markerfacecolor=look.colour, markeredgecolor=edge, markeredgewidth=width
        )
    speeds = [point.speed for point in points]
    beside = (max(speeds) / min(speeds)) ** 0.15  # room for names, as a share of what the axis spans
    left, right = min(speeds) / max(2, beside), max(speeds) * max(4, beside)
    axis.set(xlim=(left, right), ylim=(-7, 107), yticks=range(0, 101, 20))
    axis.xaxis.set_major_locator(LogLocator(subs=(1.0,) if right / left > 30 else (1.0, 2.0, 5.0)))
    plain_numbers(axis.xaxis)
    axis.xaxis.set_minor_formatter(NullFormatter())
    return axis, points


def plain_numbers(*axes: Axis) -> None:
    """Label logarithmic axes without formulas, which `text.parse_math` turns off."""
    from matplotlib.ticker import LogFormatter

    for axis in axes:
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(LogFormatter())


def label_points(axis: Axes, points: Sequence[Point]) -> None:
    """Names beside the points, each at the place where it hides least: no point, no other name and no line to one, and where its own line
    crosses no name; the first of equal places. From the right, so that names further left find room below or above those."""
    taken = [(float(x), float(y)) for x, y in axis.transData.transform([(point.speed, point.value) for point in points])]
    scale = axis.figure.dpi / 72
    marks = [(x - 4 * scale, y - 4 * scale, x + 4 * scale, y + 4 * scale) for x, y in taken]
    intervals: list[Box] = []
    for point, (x, _) in zip(points, taken, strict=True):
        if point.low is not None and point.high is not None:
            ends = [axis.transData.transform((point.speed, end))[1] for end in (point.low, point.high)]
            intervals.append((x - scale, ends[0], x + scale, ends[1]))
    names: list[Box] = []
    lines: list[Box] = []

    def cost(box: Box, line: list[Box]) -> int:
        inside = frame.x0 < box[0] and box[2] < frame.x1 and frame.y0 < box[1] and box[3] < frame.y1
        hidden = 20 * _overlaps([box], names + marks) + 5 * _overlaps([box], intervals) + 2 * _overlaps([box], lines)
        return hidden + 2 * _overlaps(line, names) + (0 if inside else 1000)

    frame = axis.bbox
    for point, at in sorted(zip(points, taken, strict=True), key=lambda pair: -pair[0].speed):
        placed = [(dx, dy, *_label(at, dx, dy, len(point.label), scale)) for dx, dy in LABEL_PLACES]
        dx, dy, box, line = min(placed, key=lambda place: cost(*place[2:]))
        names.append(box)
        lines += line
        side = 1.0 if dx < 0 else 0.5 if dx == 0 else 0.0
        arrow = {"arrowstyle": "-", "linewidth": 0.4, "color": "#888888", "shrinkB": 3, "relpos": (side, float(dy < 0))}
        axis.annotate(
            point.label,
            (point.speed, point.value),
            xytext=(dx, dy),
            textcoords="offset points",
            ha={1.0: "right", 0.5: "center", 0.0: "left"}[side],
            va="center",
            fontsize=style.FONT - 1,
            arrowprops=arrow if line else None,
        )


def _label(point: tuple[float, float], dx: int, dy: int, letters: int, scale: float) -> tuple[Box, list[Box]]:
    """The box of a name at an offset from its point, and small boxes along the line to it where it is not beside it."""
    height = (style.FONT - 1) * scale
    width = 0.52 * height * letters
    left = point[0] + dx * scale - (width if dx < 0 else width / 2 if dx == 0 else 0)
    middle = point[1] + dy * scale
    box = (left, middle - height / 2, left + width, middle + height / 2)
    if abs(dy) <= 9:
        return box, []
    (x, y), (to_x, to_y) = point, (point[0] + dx * scale, box[3] if dy < 0 else box[1])
    steps = 1 + int(abs(to_y - y) / (2 * scale))
    dots = [(x + step / steps * (to_x - x), y + step / steps * (to_y - y)) for step in range(1, steps)]
    return box, [(a - scale / 2, b - scale / 2, a + scale / 2, b + scale / 2) for a, b in dots]


def _overlaps(boxes: Sequence[Box], others: Sequence[Box]) -> int:
    return sum(a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3] for a in boxes for b in others)


def say_not_run(axis: Axes) -> None:
    axis.text(0.5, 0.5, NOT_RUN, transform=axis.transAxes, ha="center", va="center", color="#666666", style="italic")
