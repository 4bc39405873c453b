"""Draws the figures of the catalogue."""

from __future__ import annotations

import argparse
from pathlib import Path

from dllm_agents.catalogue import FIGURES, unnamed
from dllm_agents.commands import add_result, say
from dllm_agents.config import Config, load
from dllm_agents.errors import StageError
from dllm_agents.files import write_aside
from dllm_agents.reporting import published, style
from dllm_agents.reporting.inputs import Inputs
from dllm_agents.reporting.tables import function

BAR_FIGURES = ("diffuagent_figure3", "diffuagent_figure4")
BAR_HEIGHT = 0.17  # inches a bar needs at least; figures of many agents grow
STYLE_KEYS = ("width", "height", "dpi", "title")


def plot(name: str, config: Config, results_dir: str | Path, output_base: str | Path) -> list[Path]:
    """Draw a figure from a run's results as `<output_base>.png` and `.pdf`; returns the paths. `config.report.style[name]` may set width
    and height (inches), dpi and title. Equal inputs give equal bytes: no dates in the files. Raises StageError for an unknown figure or
    key."""
    if name not in FIGURES:
        raise StageError(unnamed(name, "figure", FIGURES))
    settings = config.report.style.get(name, {})
    unknown = sorted(set(settings) - set(STYLE_KEYS))
    if unknown:
        raise StageError(f"report.style.{name}.{unknown[0]}: unknown key; allowed: {', '.join(STYLE_KEYS)}")
    style.theme()
    from matplotlib.figure import Figure

    width, height = FIGURES[name].size
    if name in BAR_FIGURES:
        height = max(height, BAR_HEIGHT * (len(published.models()) + len(config.run.agents)) + 1.0)
    figure = Figure(figsize=(float(settings.get("width", width)), float(settings.get("height", height))))
    if settings.get("title"):
        figure.suptitle(str(settings["title"]), fontsize=style.FONT + 2)
    function(FIGURES[name])(Inputs(config, Path(results_dir)), figure)
    base = Path(output_base)
    paths = [Path(f"{base}.png"), Path(f"{base}.pdf")]
    with write_aside(paths[0], "wb") as handle:
        figure.savefig(handle, format="png", dpi=int(settings.get("dpi", style.DPI)), metadata={"Software": None})
    figure.set_layout_engine("none")  # laid out once; the vector form is the same picture
    with write_aside(paths[1], "wb") as handle:
        figure.savefig(handle, format="pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None})
    return paths


add_arguments = add_result


def run(args: argparse.Namespace) -> None:
    plot(args.name, load(args.config), args.results, args.output)
    say(f"{args.output}.png: written")
