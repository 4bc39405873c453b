"""How fast BFCL answers are judged in the isolated process, and what its own ground truth scores: `python benchmarks/bfcl_rates.py`."""

from __future__ import annotations

import time
from importlib.resources import files

import yaml

from dllm_agents.benchmarks.bfcl import BFCL
from dllm_agents.config import BFCL_MULTI_TURN, BFCL_SINGLE_TURN, BFCLOptions

EVERYTHING = 10_000


def main() -> None:
    listed = yaml.safe_load(files("dllm_agents.benchmarks").joinpath("bfcl_data_errors.yaml").read_text())
    single = BFCL(BFCLOptions(per_category=EVERYTHING, categories=BFCL_SINGLE_TURN))
    tasks = single.tasks("test")
    answers = [(task, single.reference_answer(task)) for task in tasks]
    single.judge_many(answers)  # reads the files
    started = time.perf_counter()
    verdicts = single.judge_many(answers)
    seconds = time.perf_counter() - started
    failed = [task.data["id"] for task, verdict in zip(tasks, verdicts, strict=True) if not verdict.valid]
    print(
        f"single-turn: {len(answers)} answers in {seconds:.2f} s, {len(answers) / seconds:.0f}/s; {len(failed)} ground truths fail, ",
        end="",
    )
    print(f"{len(set(failed) - set(listed))} of them not listed as data errors")

    multi = BFCL(BFCLOptions(per_category=EVERYTHING, categories=BFCL_MULTI_TURN))
    for category in BFCL_MULTI_TURN:
        chosen = [task for task in multi.tasks("test") if task.category == category]
        replays = [(task, [[turn] if turn else [] for turn in multi.checker.reference_turns(task.data["id"])]) for task in chosen]
        started = time.perf_counter()
        verdicts = multi.judge_multi_turn(replays)
        print(f"{category}: {sum(v.valid for v in verdicts)} of {len(verdicts)} replays valid, {time.perf_counter() - started:.2f} s")
    for benchmark in (single, multi):
        benchmark.checker.close()


if __name__ == "__main__":
    main()
