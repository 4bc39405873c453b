"""Prints a run's tables and where its report lies."""

from __future__ import annotations

from pathlib import Path

from dllm_agents.config import Config
from dllm_agents.errors import StageError
from dllm_agents.layout import Results


def show(config: Config) -> None:
    """Print the Markdown form of every table of the run. Raises StageError naming the first that is missing."""
    results = Results(Path(config.results))
    for name in config.report.tables:
        path = results.table(name, "md")
        if not path.is_file():
            raise StageError(f"{path}: not there yet; run `make report`")
        print(path.read_text(encoding="utf-8"), end="\n\n")
    report = results.report
    place = report if report.is_file() else "run `make report`"
    print(f"Tables: {results.table('x').parent}   Figures: {results.figure('x').parent}   Report: {place}")
