"""Prints what a run says at first sight, and where the rest lies."""

from __future__ import annotations

import argparse
import csv
import re
from pathlib import Path

from dllm_agents.catalogue import TABLES
from dllm_agents.config import Config, load
from dllm_agents.errors import StageError
from dllm_agents.foreign import visible
from dllm_agents.layout import Results
from dllm_agents.reporting.claims import load_claims

FIRST = "scoreboard"


def show(config: Config, *, every: bool = False) -> None:
    """Print the scoreboard and the claims that the run decides, then the other tables by title, or all of them in full (`every`). Raises
    StageError naming the first table that is missing."""
    results = Results(Path(config.results))
    texts = {name: _text(results.table(name, "md")) for name in config.report.tables}
    print(f"Scale {config.scale}, seed {config.seed}: {len(config.run.agents)} agents on {', '.join(config.run.benchmarks)}\n")
    first = [FIRST] if FIRST in texts else []
    for name in texts if every else first:
        print(texts[name], end="\n\n")
    if "claims" in texts:
        _claims(results)
    if not every:
        print("Tables (`dllm-agents show --all` prints them):")
        for name in texts:
            print(f"  {name:<24} {TABLES[name].title.strip()}")
    place = results.report if results.report.is_file() else "run `make report`"
    print(f"Tables: {results.table('x').parent}   Figures: {results.figure('x').parent}   Report: {place}")


def _text(path: Path) -> str:
    if not path.is_file():
        raise StageError(f"{path}: not there yet; run `make report`")
    text = re.sub(r"\*\*|\\(?=[^\w\s])", "", path.read_text(encoding="utf-8"))  # Markdown's marks say nothing in a terminal
    return "\n".join(map(visible, text.split("\n")))


def _claims(results: Results) -> None:
    """The claims that hold and that do not, and how many others there are."""
    statements = {name: claim.statement for name, claim in load_claims().items()}
    verdicts: dict[str, str] = {}
    for path in (results.table("claims"), results.table("claims_timing")):
        if path.is_file():
            with open(path, encoding="utf-8", newline="") as handle:
                verdicts |= {row["agent"]: row["metric"] for row in csv.DictReader(handle) if not row["benchmark"] and row["value"] == "1"}
    words = {"holds": "holds", "does_not_hold": "does not hold"}
    for verdict, text in words.items():
        for name in (name for name, own in verdicts.items() if own == verdict):
            print(f"{text:<14} {visible(statements.get(name, name))}")
    others = sum(verdict not in words for verdict in verdicts.values())
    print(f"{others} of {len(verdicts)} claims are not decided by this run; {results.table('claims', 'md')} says why\n")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--all", action="store_true", help="print every table in full")
    parser.add_argument("--where", action="store_true", help="print the results folder instead")


def run(args: argparse.Namespace) -> None:
    config = load(args.config)
    print(config.results) if args.where else show(config, every=args.all)
