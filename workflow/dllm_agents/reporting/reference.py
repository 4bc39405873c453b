"""Reference results: what a run of a scale said on a named machine at a named commit, kept in the package beside the user's own run."""

from __future__ import annotations

import argparse
import csv
import shutil
from pathlib import Path

from dllm_agents import provenance
from dllm_agents.commands import say
from dllm_agents.config import load
from dllm_agents.errors import StageError
from dllm_agents.files import write_aside
from dllm_agents.layout import REFERENCE, Results
from dllm_agents.records import TableRow

ABOUT = "README.md"
SCOREBOARD = "scoreboard"
CATEGORY = "reference"


def keep(results: Path, config: str, target: Path) -> list[Path]:
    """Copy a finished run's tables but the timings, as CSV, and write where they come from; returns the files. Raises StageError for a run
    without tables."""
    tables = sorted(path for path in Results(results).table("x").parent.glob("*.csv") if not path.stem.endswith("_timing"))
    if not tables:
        raise StageError(f"{results}: has no tables; run `make report` first")
    revision = provenance.git_revision() or "unknown"  # before the copies change the tree
    target.mkdir(parents=True, exist_ok=True)
    copies = [_copy(path, target / path.name) for path in tables if path.stem != "serving"]
    with write_aside(target / ABOUT) as handle:
        handle.write(
            f"# Reference results of {config}\n\n`make report CONFIG={config}`, then `dllm-agents reference --config {config}`.\n\n"
            f"- commit: {revision}\n- hardware: {provenance.hardware()}\n"
            f"- packages: {', '.join(f'{name} {number}' for name, number in provenance.versions('torch', 'transformers').items())}\n"
        )
    return [*copies, target / ABOUT]


def _copy(table: Path, target: Path) -> Path:
    """Copy a table; of a scoreboard what this run played, without the reference run beside it."""
    if table.stem != SCOREBOARD:
        return Path(shutil.copyfile(table, target))
    with open(table, encoding="utf-8", newline="") as handle, write_aside(target) as copy:
        rows = csv.DictReader(handle)
        writer = csv.DictWriter(copy, rows.fieldnames or [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(row for row in rows if row["category"] != CATEGORY)
    return target


def scoreboard(scale: str) -> list[TableRow]:
    """The success rates of the reference run of a scale; none where the package has no such run."""
    path = REFERENCE / scale / f"{SCOREBOARD}.csv"
    if not path.is_file():
        return []
    with open(path, encoding="utf-8", newline="") as handle:
        rows = [row for row in csv.DictReader(handle) if row["metric"] == "success_rate" and not row["category"]]
    kept = ("agent", "benchmark", "metric", "n", "value", "low", "high")
    return [TableRow.model_validate({"category": CATEGORY} | {key: row[key] or None for key in kept}) for row in rows if row["low"]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: paper/reference/<scale>")


def run(args: argparse.Namespace) -> None:
    config = load(args.config)
    for path in keep(Path(config.results), str(args.config[-1]), args.output or REFERENCE / config.scale):
        say(f"{path}: written")
