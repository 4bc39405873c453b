"""Whether the demo's tiny models learn whatever the seed and the kernels: only their trainings and rollouts, run after run.

    python benchmarks/learned.py [--runs 42 43 44 42-avx2 42-two-threads] [--only babyai] [--config FILE] [--folder DIR] [--cores N]

Each run has its own seed (tasks, trajectories, weights, order) and folder below DIR, and goes on where it was interrupted;
the last two repeat the first one with the kernels of an older processor, and on two threads. The table of all runs in DIR is printed, and
written to paper/reference/demo/ with --write.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import yaml

from dllm_agents.analysis.statistics import wilson_interval
from dllm_agents.provenance import hardware, versions

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "paper" / "reference" / "demo" / "learned.md"


class Setting(NamedTuple):
    """What differs between two runs: everything by the seed, or sums by their order."""

    seed: int
    threads: int = 1
    environment: dict[str, str] = {}


RUNS = {
    "42": Setting(42),
    "43": Setting(43),
    "44": Setting(44),
    "42-avx2": Setting(42, 1, {"ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}),
    "42-two-threads": Setting(42, 2),
}
# (agent, benchmark) -> success in % that every run should reach
ASKED = {
    ("tiny-ar", "babyai"): 80,
    ("tiny-block", "babyai"): 80,
    ("tiny-ar", "multihop_qa"): 90,
    ("tiny-full", "multihop_qa"): 85,
}


def play(name: str, config: Path, folder: Path, only: str, cores: str) -> None:
    """Train and play what is asked of a run, as far as it is not there."""
    setting, place = RUNS[name], folder / name
    place.mkdir(parents=True, exist_ok=True)
    settings = {"extends": str(config), "scale": "demo", "seed": setting.seed, "resources": {"train": {"cpus": setting.threads}}}
    file = place / "config.yaml"
    file.write_text(yaml.safe_dump(settings))
    targets = [f"results/demo/scores/{benchmark}/{agent}.parquet" for agent, benchmark in ASKED if only in f"{agent}.{benchmark}"]
    snakemake = [sys.executable, "-m", "snakemake", *targets, "--snakefile", str(ROOT / "Snakefile"), "--directory", str(place)]
    more = ["--cores", str(max(int(cores), setting.threads)), "--configfile", str(file), "--keep-going", "--quiet"]
    subprocess.run([*snakemake, *more], env=os.environ | setting.environment, check=False)


def row(name: str, folder: Path, agent: str, benchmark: str) -> dict[str, Any] | None:
    """What a run gave, with its Wilson interval; None for a row that is not there."""
    results = folder / name / "results" / "demo"
    scores, report = results / "scores" / benchmark / f"{agent}.parquet", results / "models" / agent / benchmark / "training.json"
    if not scores.is_file():
        return None
    success = pd.read_parquet(scores)["success"].astype(bool)
    training = json.loads(report.read_text())
    used = pd.read_csv(results / "benchmarks" / "train" / f"{agent}.{benchmark}.tsv", sep="\t")
    low, high = wilson_interval(int(success.sum()), len(success))
    asked = ASKED[agent, benchmark]
    return {
        "run": name,
        "agent": agent,
        "benchmark": benchmark,
        "success": f"{100 * success.mean():.1f} % of {len(success)} [{100 * low:.0f}, {100 * high:.0f}]",
        "asked": f">= {asked} %",
        "reached": "yes" if 100 * success.mean() >= asked else "no",
        "learnt": {True: "yes", False: "not learnt", None: ""}[training["learnt"]],
        "held-out accuracy": training["held_out_accuracy"],
        "supervised tokens": training["supervised_tokens"],
        "training loss": training["final_loss"],
        "CPU seconds": float(used["cpu_time"].iloc[-1]),
    }


def markdown(frame: pd.DataFrame, config: Path) -> str:
    """The table with what it stands on."""
    packages = ", ".join(f"{name} {number}" for name, number in versions("torch", "transformers").items())
    other = " ".join(f"{key}={value}" for key, value in RUNS["42-avx2"].environment.items())
    lines = [
        "# The demo's tiny models over seeds and kernels",
        "",
        f"`python benchmarks/learned.py --write`; {config.name}; {hardware()}; {packages}. Every seed has tasks, trajectories and weights",
        f"of its own; `42-avx2` is seed 42 with {other}, `42-two-threads` seed 42 on two threads.",
        f"Brackets: 95 % Wilson intervals over tasks. Rows: {len(frame)} of {len(RUNS) * len(ASKED)}; the others were not run.",
        "",
        "| " + " | ".join(frame.columns) + " |",
        "|" + " --- |" * len(frame.columns),
        *("| " + " | ".join("" if pd.isna(value) else str(value) for value in line) + " |" for line in frame.to_numpy()),
    ]
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="*", choices=list(RUNS), default=list(RUNS))
    parser.add_argument("--only", default="", help="part of <agent>.<benchmark>")
    parser.add_argument("--config", type=Path, default=ROOT / "config" / "demo.yaml")
    parser.add_argument("--folder", type=Path, default=ROOT / "results" / "learned")
    parser.add_argument("--cores", default="2")
    parser.add_argument("--write", action="store_true", help=f"write {TABLE.relative_to(ROOT)}")
    args = parser.parse_args()
    for name in args.runs:
        play(name, args.config.resolve(), args.folder.resolve(), args.only, args.cores)
    rows = [row(name, args.folder, agent, benchmark) for agent, benchmark in ASKED for name in RUNS]
    text = markdown(pd.DataFrame([line for line in rows if line is not None]), args.config)
    print(text)
    if args.write:
        TABLE.parent.mkdir(parents=True, exist_ok=True)
        TABLE.write_text(text)


if __name__ == "__main__":
    main()
