"""Builds the manuscript (data/paper/paper.typ) from a run's tables and figures."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from dllm_agents.commands import add_paths, add_results, say
from dllm_agents.config import Config, load
from dllm_agents.errors import StageError
from dllm_agents.files import write_aside
from dllm_agents.layout import MANUSCRIPT, Results


def build(config: Config, results_dir: str | Path, output: str | Path) -> Path:
    """Compile the manuscript to `output` (PDF) from whatever tables and figures are under `results_dir`; what is not there reads "not
    run". Equal results give equal bytes. Raises StageError when the manuscript does not compile."""
    import typst

    results = Path(results_dir).resolve()
    # Typst reads nothing outside its root, so the root holds both the manuscript and the results.
    root = Path(os.path.commonpath([MANUSCRIPT.parent, results]))
    tables = sorted(path.stem for path in Results(results).table("*").parent.glob("*.csv"))
    figures = sorted(f"figure:{path.stem}" for path in Results(results).figure("*").parent.glob("*.png"))
    inputs = {"results": f"/{results.relative_to(root).as_posix()}", "scale": config.scale, "there": ",".join([*tables, *figures])}
    try:
        pdf = typst.compile(MANUSCRIPT, root=root, sys_inputs=inputs, ignore_system_fonts=True)
    except RuntimeError as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else "unknown error"
        raise StageError(f"{MANUSCRIPT}: {first}; make the tables again (`snakemake tables`)") from None
    with write_aside(output, "wb") as handle:
        handle.write(pdf)
    return Path(output)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_results(parser)
    add_paths(parser, output="")


def run(args: argparse.Namespace) -> None:
    say(f"{build(load(args.config), args.results, args.output)}: written")
