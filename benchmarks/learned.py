"""Whether the demo's learned results and claims hold whatever the seed and the kernels: the demo, run after run.

    python benchmarks/learned.py [--runs 42 43 44 42-avx2 42-two-threads] [--only babyai] [--config FILE] [--folder DIR] [--cores N]

Each run has its own seed (tasks, trajectories, weights, order) and folder below DIR, and goes on where it was interrupted;
the last two repeat the first one with the kernels of an older processor, and on two threads. `--only` plays some of the rows alone. The
tables of all runs in DIR, rows and claims, are printed, and written to paper/reference/demo/ with --write.
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
from study import table

from dllm_agents.analysis.statistics import wilson_interval
from dllm_agents.provenance import hardware, versions
from dllm_agents.reporting.failures import FIGURE4_SETS

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


class Learned(NamedTuple):
    """A row of the demo that every run should reach."""

    agent: str
    benchmark: str
    backbone: str
    least: int
    """Success in %."""
    categories: tuple[str, ...] = ()
    """All where empty."""

    @property
    def target(self) -> str:
        """Its scores, below a run's folder."""
        return f"results/demo/scores/{self.benchmark}/{self.agent}.parquet"


ROWS = (
    Learned("tiny-ar", "babyai", "tiny-ar", 80),
    Learned("tiny-block", "babyai", "tiny-block", 80),
    Learned("tiny-ar", "multihop_qa", "tiny-ar", 90),
    Learned("full-react", "multihop_qa", "tiny-full", 85),
    Learned("ar-team", "multihop_qa", "tiny-ar", 90),
    Learned("full-team", "multihop_qa", "tiny-full", 85),
    Learned("smollm2-ar-constrained", "bfcl", "smollm2-ar", 30, FIGURE4_SETS),
    Learned("smollm2-twin-constrained", "bfcl", "smollm2-twin", 20, FIGURE4_SETS),
)
VERDICTS = {"holds": "holds", "does_not_hold": "does not", "not_applicable": "not applicable"}


def play(name: str, config: Path, folder: Path, only: str, cores: str) -> None:
    """Train and play a run, or the rows that are asked for, as far as it is not there."""
    setting, place = RUNS[name], folder / name
    place.mkdir(parents=True, exist_ok=True)
    settings = {"extends": str(config), "scale": "demo", "seed": setting.seed, "resources": {"train": {"cpus": setting.threads}}}
    file = place / "config.yaml"
    file.write_text(yaml.safe_dump(settings))
    targets = [row.target for row in ROWS if only in f"{row.agent}.{row.benchmark}"] if only else ["report"]
    snakemake = [sys.executable, "-m", "snakemake", *targets, "--snakefile", str(ROOT / "Snakefile"), "--directory", str(place)]
    more = ["--cores", str(max(int(cores), setting.threads)), "--configfile", str(file), "--keep-going", "--quiet"]
    subprocess.run([*snakemake, *more], env=os.environ | setting.environment, check=False)


def line(name: str, folder: Path, row: Learned) -> dict[str, Any] | None:
    """What a run gave, with its Wilson interval; None for a row that is not there."""
    results = folder / name / "results" / "demo"
    if not (scores := folder / name / row.target).is_file():
        return None
    frame = pd.read_parquet(scores)
    success = frame[frame["category"].isin(row.categories)]["success"] if row.categories else frame["success"]
    low, high = wilson_interval(int(success.sum()), len(success))
    values = {
        "run": name,
        "agent": row.agent,
        "benchmark": row.benchmark,
        "success": f"{100 * success.mean():.1f} % of {len(success)} [{100 * low:.0f}, {100 * high:.0f}]",
        "target": f">= {row.least} %",
        "reached": "yes" if 100 * success.mean() >= row.least else "no",
    }
    report = results / "models" / row.backbone / row.benchmark / "training.json"
    if not report.is_file():  # pretrained, from an adapter that comes with the package
        return values
    training = json.loads(report.read_text())
    used = pd.read_csv(results / "benchmarks" / "train" / f"{row.backbone}.{row.benchmark}.tsv", sep="\t")
    return values | {
        "learnt": {True: "yes", False: "not learnt", None: ""}[training["learnt"]],
        "held-out accuracy": training["held_out_accuracy"],
        "supervised tokens": f"{training['supervised_tokens']:,}",
        "training loss": training["final_loss"],
        "CPU seconds": float(used["cpu_time"].iloc[-1]),
    }


def claims(folder: Path) -> pd.DataFrame:
    """Claim x run -> its verdict, of the claims that a run tells; the last row counts them."""
    verdicts = {}
    for name in RUNS:
        if (file := folder / name / "results" / "demo" / "tables" / "claims.csv").is_file():
            frame = pd.read_csv(file)
            frame = frame[frame["benchmark"].isna() & frame["metric"].isin(VERDICTS)]
            verdicts[name] = dict(zip(frame["agent"], frame["metric"].map(VERDICTS), strict=True))
    named = sorted({claim for by_claim in verdicts.values() for claim in by_claim})
    rows = [{"claim": claim} | {name: by_claim.get(claim, "cannot tell") for name, by_claim in verdicts.items()} for claim in named]
    counts = {name: str(sum(verdict != "not applicable" for verdict in by_claim.values())) for name, by_claim in verdicts.items()}
    return pd.DataFrame([*rows, {"claim": "told, without a clock"} | counts])


def markdown(frame: pd.DataFrame, verdicts: pd.DataFrame, config: Path) -> str:
    """The tables with what they stand on."""
    packages = ", ".join(f"{name} {number}" for name, number in versions("torch", "transformers").items())
    other = " ".join(f"{key}={value}" for key, value in RUNS["42-avx2"].environment.items())
    lines = [
        "# The demo over seeds and kernels",
        "",
        f"`python benchmarks/learned.py --write`; {config.name}; {hardware()}; {packages}. Every seed has tasks, trajectories and weights",
        f"of its own; `42-avx2` is seed 42 with {other}, `42-two-threads` seed 42 on two threads.",
        f"Brackets: 95 % Wilson intervals over tasks. Rows: {len(frame)} of {len(RUNS) * len(ROWS)}; the others were not run.",
        "",
        table(frame),
        "",
        "Claims that a run tells, those about time apart:",
        "",
        table(verdicts),
    ]
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="*", choices=list(RUNS), default=list(RUNS))
    parser.add_argument("--only", default="", help="part of <agent>.<benchmark>; without it the whole demo is played")
    parser.add_argument("--config", type=Path, default=ROOT / "config" / "demo.yaml")
    parser.add_argument("--folder", type=Path, default=ROOT / "results" / "learned")
    parser.add_argument("--cores", default="2")
    parser.add_argument("--write", action="store_true", help=f"write {TABLE.relative_to(ROOT)}")
    args = parser.parse_args()
    for name in args.runs:
        play(name, args.config.resolve(), args.folder.resolve(), args.only, args.cores)
    rows = [line(name, args.folder, row) for row in ROWS for name in RUNS]
    text = markdown(pd.DataFrame([row for row in rows if row is not None]), claims(args.folder), args.config)
    print(text)
    if args.write:
        TABLE.parent.mkdir(parents=True, exist_ok=True)
        TABLE.write_text(text)


if __name__ == "__main__":
    main()
