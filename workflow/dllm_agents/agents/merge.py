"""Rollouts split over several jobs: merge their parts into one file, and reuse their episodes when the split changes."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from dllm_agents import __version__, foreign
from dllm_agents.agents import journal
from dllm_agents.commands import add_paths, say
from dllm_agents.errors import StageError
from dllm_agents.files import iter_jsonl, write_json, write_jsonl
from dllm_agents.layout import PARTS
from dllm_agents.provenance import sha256
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


def sign(output: Path, fingerprint: str) -> None:
    """Write a signature next to a file of episodes: version, fingerprint of the settings, checksum."""
    write_json(_signature(output), _signed(output, fingerprint))


def played_in_other_parts(output: Path, agent: str, count: int, fingerprint: str) -> Iterator[TracedEpisode]:
    """The episodes that an agent played with the same settings in a split over another number of jobs than `count`, from journals and
    from files whose signature matches."""
    folder = output.parent.parent if output.parent.name == PARTS else output.parent
    name = re.compile(rf"\.?{re.escape(agent)}(?:\.\d+-of-(\d+))?\.jsonl(\.journal)?")
    for path in sorted(path for place in (folder, folder / PARTS) for path in place.glob(f"*{agent}.*")):
        match = name.fullmatch(path.name)
        if match is None or int(match[1] or 1) == count:
            continue
        if match[2]:
            yield from journal.read(path, fingerprint)
        elif _is_signed(path, fingerprint):
            yield from iter_jsonl(path, TracedEpisode)


def _is_signed(output: Path, fingerprint: str) -> bool:
    """Whether a file has a signature of these settings; one that is damaged signs nothing."""
    try:
        return bool(foreign.loads(_signature(output).read_bytes()) == _signed(output, fingerprint))
    except (FileNotFoundError, ValueError):
        return False


def _signature(output: Path) -> Path:
    return output.with_name(f".{output.name}.settings")


def _signed(output: Path, fingerprint: str) -> dict[str, str]:
    return {"version": __version__, "fingerprint": fingerprint, "sha256": sha256(output)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_paths(parser, tasks="the benchmark's tasks", output="")
    parser.add_argument("--parts", type=Path, nargs="+", required=True, metavar="FILE", help="the episodes of all parts")


def run(args: argparse.Namespace) -> None:
    say(f"{args.output}: {merge(args.tasks, args.parts, args.output)} episodes")
