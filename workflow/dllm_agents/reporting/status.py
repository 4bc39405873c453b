"""`dllm-agents status`: what stands, what runs, what is missing or stale, and why, as Snakemake itself would decide it."""

from __future__ import annotations

import argparse
import base64
import binascii
import csv
import re
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from dllm_agents.config import load
from dllm_agents.dag.prepare import NOTE
from dllm_agents.errors import StageError
from dllm_agents.layout import SNAKEFILE

TARGETS = ["report", "episodes", "serving"]
ORDER = ["sample", "collect", "filter", "train", "probe", "rollout", "merge", "replay", "score", "classify", "table", "figure", "browser"]
STATES = ("done", "running", "interrupted", "missing", "stale")


class Output(NamedTuple):
    """A file of the run: how it stands, and why it would be made again."""

    path: Path
    state: str
    reason: str


class Stage(NamedTuple):
    """The outputs of one rule."""

    rule: str
    outputs: list[Output]

    def count(self, state: str) -> int:
        return sum(output.state == state for output in self.outputs)


def stages(files: Sequence[str]) -> tuple[list[Stage], list[str]]:
    """The stages of a run of these configuration files in this folder, in the data's order, and what the plan notes beside them, such as
    results of unknown settings. Raises StageError when Snakemake refuses."""
    plan, notes = _snakemake(files, "--dry-run")
    planned = dict(_planned(plan))
    unfinished = _unfinished(Path(".snakemake"))
    by_rule: dict[str, list[Output]] = defaultdict(list)
    for row in csv.DictReader(_snakemake(files, "--summary")[0].splitlines(), delimiter="\t"):
        if not row.get("rule"):
            continue
        path = Path(row["output_file"])
        reason = planned.get(str(path), "")
        state = unfinished.get(str(path)) or ("done" if not reason and path.exists() else "stale" if path.exists() else "missing")
        by_rule[row["rule"]].append(Output(path, state, reason if state == "stale" else ""))
    rank = {start: position for position, start in enumerate(ORDER)}
    rules = sorted(by_rule, key=lambda rule: rank.get(rule.partition("_")[0], len(ORDER)))
    return [Stage(rule, by_rule[rule]) for rule in rules], notes


def show(files: Sequence[str]) -> None:
    """Print the stages of a run: how many files are in which state, their size and age, and why stale ones are."""
    from rich.console import Console
    from rich.table import Table

    table = Table("stage", *STATES, "size", "age", "why", box=None, header_style="bold")
    rows, notes = stages(files)
    for stage in rows:
        ages = sorted(time.time() - output.path.stat().st_mtime for output in stage.outputs if output.path.exists())
        age = f"{duration(ages[0])} - {duration(ages[-1])}" if ages else ""
        reasons = Counter(output.reason for output in stage.outputs if output.reason)
        why = "; ".join(f"{reason} ({count})" for reason, count in reasons.items())
        taken = amount(sum(size(output.path) for output in stage.outputs))
        table.add_row(stage.rule, *(str(stage.count(state) or "") for state in STATES), taken, age, why)
    Console(width=None if sys.stdout.isatty() else 1000).print(table)
    for note in notes:
        print(note)


def _snakemake(files: Sequence[str], option: str) -> tuple[str, list[str]]:
    """What Snakemake prints with an option, and the notes of the workflow itself."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(SNAKEFILE), "--cores", "1", "--nocolor", option, *TARGETS]
    done = subprocess.run([*command, "--configfile", *files], capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("dllm-agents: ")]
        raise StageError(lines[0].removeprefix("dllm-agents: ") if lines else f"snakemake {option}: {done.stderr.strip()[-300:]}")
    return done.stdout, [line for line in done.stderr.splitlines() if line.startswith(NOTE)]


def _planned(dry_run: str) -> Iterator[tuple[str, str]]:
    """(output, reason in short) of every job of a dry run."""
    for block in re.split(r"^ *(?:local)?rule ", dry_run, flags=re.MULTILINE)[1:]:
        lines = dict(re.findall(r"^ +(output|reason): (.*)$", block, re.MULTILINE))
        for path in lines.get("output", "").split(", "):
            yield path, _short(lines.get("reason", ""))


def _short(reason: str) -> str:
    """The kind of a reason, without the files and values that follow it."""
    kinds = [part.partition(":")[0].strip() for part in reason.split("; ")]
    return ", ".join(kind for kind in kinds if kind in KINDS) or kinds[0]


KINDS = {
    "Missing output files",
    "Input files updated by another job",
    "Updated input files",
    "Set of input files has changed since last execution",
    "Params have changed since last execution",
    "Forced execution",
}


def _unfinished(folder: Path) -> Mapping[str, str]:
    """Outputs of jobs that were started and have not ended, with `running`, or `interrupted` where no workflow holds the lock."""
    state = "running" if any((folder / "locks").glob("*")) else "interrupted"
    outputs: dict[str, str] = {}
    for marker in (folder / "incomplete").rglob("*"):
        try:
            name = marker.relative_to(folder / "incomplete").as_posix().replace("/@", "")
            outputs[base64.b64decode(name, validate=True).decode()] = state
        except (binascii.Error, UnicodeDecodeError):
            continue
    return outputs


def size(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; 0 when it is not there."""
    if path.is_dir():
        return sum(item.stat().st_size for item in path.rglob("*") if item.is_file())
    return path.stat().st_size if path.exists() else 0


def amount(count: int) -> str:
    """Bytes as a short text."""
    value, units = float(count), iter(("B", "kB", "MB", "GB", "TB"))
    unit = next(units)
    while value >= 1000 and unit != "TB":
        value, unit = value / 1000, next(units)
    return f"{value:.0f} {unit}"


def duration(seconds: float) -> str:
    """Seconds as a short text."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Beside the configuration there are none."""


def run(args: argparse.Namespace) -> None:
    load(args.config)  # a mistake in it is said before Snakemake is started
    show(list(map(str, args.config)))
