"""The sample-tasks stage: the tasks of a split are drawn once and frozen."""

from __future__ import annotations

import argparse

from dllm_agents import benchmarks
from dllm_agents.commands import add_paths, say
from dllm_agents.config import load
from dllm_agents.errors import StageError
from dllm_agents.files import write_jsonl


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--benchmark", required=True)
    parser.add_argument("--split", choices=["test", "train", "pairs"], default="test")
    add_paths(parser, output="")


def run(args: argparse.Namespace) -> None:
    benchmark = benchmarks.load(args.benchmark, load(args.config))
    if args.split == "pairs" and benchmark.options.pair_split != "pairs":
        raise StageError(f"benchmarks.{args.benchmark}: has no questions for pairs of their own; take --split train, or set pair_sets")
    count = write_jsonl(args.output, benchmark.tasks(args.split))
    if count == 0 and args.split == "test":
        args.output.unlink()
        raise StageError(f"benchmarks.{args.benchmark}: the configuration selects no task; widen it in {args.config[-1]}")
    say(f"{args.output}: {count} {args.split} tasks")
