"""The controlled comparison at three training seeds: same trajectories, tokenizer, size and optimiser; only the paradigm differs.

python benchmarks/study.py [--cores N]

Runs the workflow at scale `study` under results/study, and writes benchmarks/study.csv and benchmarks/study.md. Two budgets stand side by
side: as many supervised tokens as AR, and as many tokens read in training as AR. A second stage, VRPO on pairs of the first one's own
rollouts, is compared with the first. Chance is `random`, which draws from the valid actions of every state, and on multi-hop QA also
`constant`, which answers every question with the one name that is right most often, told to it in hindsight.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import yaml

from dllm_agents.analysis.statistics import bootstrap_interval, mcnemar, wilson_interval
from dllm_agents.benchmarks.qa_accuracy import contains_answer
from dllm_agents.files import read_jsonl
from dllm_agents.provenance import hardware, versions
from dllm_agents.records import Task

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path("results/study")
SEEDS = (42, 43, 44)
SDAR: dict[str, Any] = {"strategy": "sdar", "remasking": "low_confidence_dynamic", "threshold": 0.9, "block_length": 8}
AR: dict[str, Any] = {"strategy": "ar"}
# AR reads 1.17 times as many tokens on BabyAI for as many supervised ones: two noised copies share one prompt.
COMPUTE_FACTOR = 1.17
FAMILIES: dict[str, tuple[str, dict[str, Any], dict[str, Any], list[str]]] = {
    "ar": ("ar", AR, {"objective": "ar"}, ["babyai", "multihop_qa"]),
    "block": ("diffusion", SDAR, {"objective": "block_diffusion"}, ["babyai", "multihop_qa"]),
    "block-compute": ("diffusion", SDAR, {"objective": "block_diffusion", "budget_factor": COMPUTE_FACTOR}, ["babyai"]),
    "block-vrpo": ("diffusion", SDAR, {"objective": "agentic_vrpo", "learning_rate": 1e-4, "muon_learning_rate": None}, ["babyai"]),
}
# Short thoughts and a search that takes no time: what the demo adds for P-ReAct is not learnt within these minutes.
QUESTIONS = {
    "tasks": 90,
    "train_tasks": 2000,
    "names": None,
    "hops": [2, 3, 4],
    "thoughts": "short",
    "tool_delay": 0.0,
    "training": {"supervised_tokens": 200_000, "batch_size": 8, "max_prompt_tokens": 80, "response_tokens": 28},
}
CHANCE = ("random", "constant")
PREFERENCE = {"queries": 120, "temperature": 1.0, "epochs": 3, "batch_size": 4}


def study_config() -> dict[str, Any]:
    """The run: every family at every seed."""
    backbones: dict[str, Any] = {}
    for family, (paradigm, decoding, training, played) in FAMILIES.items():
        for seed in SEEDS:
            more = {"base": f"block-{seed}", "preference": PREFERENCE} if family == "block-vrpo" else {}
            backbones[f"{family}-{seed}"] = {
                "paradigm": paradigm,
                "prompt": "compact",
                "benchmarks": played,
                "training": {**training, **more, "seed": seed},
                "decoding": {**decoding, "max_new_tokens": 24},
                "benchmark_decoding": {"multihop_qa": {**decoding, "max_new_tokens": 32}},
            }
    return {
        "extends": str(ROOT / "config" / "demo.yaml"),
        "scale": "study",
        "benchmarks": {"multihop_qa": QUESTIONS},
        "backbones": backbones,
        "agents": {"random": {"policy": "random", "tasks": {"multihop_qa": QUESTIONS["tasks"]}}}
        | {name: {"policy": name} for name in backbones},
        "run": {"benchmarks": ["babyai", "multihop_qa"], "agents": ["random", *backbones], "verification": {"agents": []}},
    }


class Comparison(NamedTuple):
    """`first` against `second` on the same tasks, seed by seed."""

    benchmark: str
    first: str
    second: str


COMPARISONS = [
    Comparison("babyai", "ar", "random"),
    Comparison("babyai", "block", "random"),
    Comparison("multihop_qa", "ar", "random"),
    Comparison("multihop_qa", "block", "random"),
    Comparison("multihop_qa", "ar", "constant"),
    Comparison("multihop_qa", "block", "constant"),
    Comparison("babyai", "block", "ar"),
    Comparison("babyai", "block-compute", "ar"),
    Comparison("multihop_qa", "block", "ar"),
    Comparison("babyai", "block-vrpo", "block"),
]


def successes(benchmark: str, agent: str) -> pd.Series:
    """Task id -> success."""
    frame = pd.read_parquet(RESULTS / "scores" / benchmark / f"{agent}.parquet")
    return frame.set_index("task_id")["success"].astype(float).sort_index()


def constant(benchmark: str) -> pd.Series:
    """Task id -> success of the one answer that is right most often."""
    tasks = read_jsonl(RESULTS / "tasks" / f"{benchmark}.jsonl", Task)
    names = sorted({name for task in tasks for name in task.data["answers"]})
    right = {name: [float(contains_answer(name, task.data["answers"])) for task in tasks] for name in names}
    best = max(names, key=lambda name: sum(right[name]))
    return pd.Series(right[best], index=[task.id for task in tasks]).sort_index()


def of_family(benchmark: str, family: str) -> list[pd.Series]:
    """The successes of a family at each seed; of chance, the same ones every time. Seeds that were not run are left out."""
    if family in CHANCE:
        return [constant(benchmark) if family == "constant" else successes(benchmark, family)] * len(SEEDS)
    return [found for seed in SEEDS if len(found := successes(benchmark, f"{family}-{seed}"))]


def training(family: str, benchmark: str) -> list[dict[str, Any]]:
    """The training reports of a family on a benchmark."""
    paths = [RESULTS / "models" / f"{family}-{seed}" / benchmark / "training.json" for seed in SEEDS]
    return [json.loads(path.read_text()) for path in paths if path.is_file()]


def rate_rows() -> list[dict[str, Any]]:
    """One row per family and benchmark: success over seeds and tasks, what training cost."""
    rows = []
    trained = [(family, benchmark) for family, item in FAMILIES.items() for benchmark in item[3]]
    for family, benchmark in [("random", "babyai"), ("random", "multihop_qa"), ("constant", "multihop_qa"), *trained]:
        found = of_family(benchmark, family)[: 1 if family in CHANCE else None]
        reports = training(family, benchmark)
        row: dict[str, Any] = {"benchmark": benchmark, "agent": family, "against": "", "seeds": len(found), "n": sum(map(len, found))}
        if found:
            outcomes, tasks = pd.concat(found), pd.concat([pd.Series(series.index) for series in found])
            interval = bootstrap_interval(outcomes.to_numpy(), list(tasks), seed=0)
            low, high = (interval.low, interval.high) if 0 < outcomes.mean() < 1 else wilson_interval(int(outcomes.sum()), len(found[0]))
            row |= {"value": 100 * outcomes.mean(), "low": 100 * low, "high": 100 * high}
            row["by_seed"] = " ".join(f"{100 * series.mean():.1f}" for series in found)
        if reports:
            row["supervised_tokens"] = int(np.mean([report["supervised_tokens"] for report in reports]))
            row["tokens_read"] = int(np.mean([report["settings"]["input_tokens"] for report in reports]))
        rows.append(row)
    return rows


def comparison_rows() -> list[dict[str, Any]]:
    """One row per comparison: the difference in points with an interval over tasks, McNemar's exact p of each seed, the largest of them."""
    rows = []
    for benchmark, first, second in COMPARISONS:
        pairs = list(zip(of_family(benchmark, first), of_family(benchmark, second), strict=False))
        row: dict[str, Any] = {
            "benchmark": benchmark,
            "agent": first,
            "against": second,
            "seeds": len(pairs),
            "n": sum(len(a) for a, _ in pairs),
        }
        if pairs:
            # Seeds play the same tasks, so a task is one cluster: its differences over the seeds are drawn together.
            differences = pd.concat([a - b for a, b in pairs])
            interval = bootstrap_interval(differences.to_numpy(), list(differences.index), seed=0)
            tests = [mcnemar(list(a.astype(bool)), list(b.loc[a.index].astype(bool))).p for a, b in pairs]
            row |= {"value": 100 * differences.mean(), "low": 100 * interval.low, "high": 100 * interval.high}
            row |= {"by_seed": " ".join(f"{100 * (a - b).mean():+.1f}" for a, b in pairs), "largest_p": max(tests)}
        rows.append(row)
    return rows


def markdown(rates: pd.DataFrame, comparisons: pd.DataFrame) -> str:
    """Both tables, with what they stand on."""
    found = ", ".join(f"{name} {number}" for name, number in versions("torch", "transformers").items())
    head = [
        "# AR and block diffusion at matched budgets",
        "",
        f"`python benchmarks/study.py`; {hardware()}; {found}; training seeds {', '.join(map(str, SEEDS))}.",
        "Success in %, over seeds and tasks; 95 % bootstrap intervals by tasks. p: the largest of the seeds' exact McNemar tests.",
        "",
    ]
    return "\n".join([*head, table(rates), "", table(comparisons), ""])


def table(frame: pd.DataFrame) -> str:
    """A Markdown table, numbers to three digits."""
    cells = frame.map(
        lambda value: "" if pd.isna(value) else f"{value:.3g}" if isinstance(value, float) and abs(value) < 1e4 else str(value)
    )
    lines = ["| " + " | ".join(frame.columns) + " |", "|" + " --- |" * len(frame.columns)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in cells.to_numpy())])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cores", default="1", help="cores of the workflow; the result does not depend on it")
    cores = parser.parse_args().cores
    RESULTS.mkdir(parents=True, exist_ok=True)
    settings = RESULTS / "study.yaml"
    settings.write_text(yaml.safe_dump(study_config(), sort_keys=False))
    command = [sys.executable, "-m", "snakemake", "scores", "--snakefile", str(ROOT / "Snakefile"), "--cores", cores, "--directory", "."]
    subprocess.run([*command, "--configfile", str(settings)], check=True)
    rates, comparisons = pd.DataFrame(rate_rows()), pd.DataFrame(comparison_rows())
    pd.concat([rates, comparisons]).to_csv(ROOT / "benchmarks" / "study.csv", index=False, float_format="%.6g")
    (ROOT / "benchmarks" / "study.md").write_text(markdown(rates.drop(columns="against"), comparisons))
    print((ROOT / "benchmarks" / "study.md").read_text())


if __name__ == "__main__":
    main()
