"""The parts of a rollout that was dealt out over several jobs, as one file."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from dllm_agents.commands import add_paths, say
from dllm_agents.errors import StageError
from dllm_agents.files import iter_jsonl, write_jsonl
from dllm_agents.records import Task, TracedEpisode


def merge(tasks: Path, parts: Sequence[Path], output: Path) -> int:
    """Write the episodes of all parts as one file, in task order; returns how many.

    Raises StageError naming a task that is played twice or by no part of those given.
    """
    order = {task.id: position for position, task in enumerate(iter_jsonl(tasks, Task))}
    episodes: dict[str, TracedEpisode] = {}
    for part in parts:
        for episode in iter_jsonl(part, TracedEpisode):
            if episode.task_id in episodes:
                raise StageError(f"{part}: task {episode.task_id} is in another part too; delete the parts to play them again")
            if episode.task_id not in order:
                raise StageError(f"{part}: task {episode.task_id} is not in {tasks}; delete the part to play it again")
            episodes[episode.task_id] = episode
    return write_jsonl(output, (episodes[name] for name in sorted(episodes, key=order.__getitem__)))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_paths(parser, tasks="the benchmark's tasks", output="")
    parser.add_argument("--parts", type=Path, nargs="+", required=True, metavar="FILE", help="the episodes of all parts")


def run(args: argparse.Namespace) -> None:
    say(f"{args.output}: {merge(args.tasks, args.parts, args.output)} episodes")
