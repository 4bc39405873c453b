"""AgentBoard's task lists with sub-goals: JSON Lines that users download themselves."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from dllm_agents import foreign
from dllm_agents.errors import StageError

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


def read(benchmark: str, path: str, parse: Callable[[Any, str], tuple[K, V]], layout: str) -> dict[K, V]:
    """The tasks of a list: `parse` maps a line's object and its place to a key and a value. Raises StageError for an unreadable file, and
    naming the line for one in another layout."""
    problem = f"not a task of AgentBoard's list; each line is {layout}"
    tasks = dict(foreign.json_lines(_content(benchmark, path), path, parse, problem))
    if not tasks:
        raise StageError(f"{path}: lists no task; give AgentBoard's {benchmark} test.jsonl or leave task_list out")
    return tasks


def version(benchmark: str, path: str | None) -> str:
    """The list's part of its tasks' version; empty without a list."""
    return f", sub-goals sha256:{sha256(_content(benchmark, path)).hexdigest()[:12]}" if path is not None else ""


def _content(benchmark: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise StageError(f"{path}: {error.strerror}; correct benchmarks.{benchmark}.task_list or leave it out") from None
