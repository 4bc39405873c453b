"""Every table and figure as catalogue.yaml lists them: title, what it is made from, the function that makes it. Imports nothing heavy,
since the workflow reads it on every start."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import yaml

from dllm_agents.errors import StageError
from dllm_agents.layout import CATALOGUE

KINDS = frozenset({"scores", "failures", "episodes", "tasks", "exits", "attention", "trajectories", "models", "serving"})


@dataclass(frozen=True)
class Entry:
    """A table or figure. `source` is `<module of dllm_agents.reporting>.<function>`; `needs` maps kinds of results to benchmarks: one by
    name, `embodied`, `questions`, or `all` of the run; `size` is a figure's width and height in inches; `paper` is whose experiment it
    repeats; `agents` says in words whom it shows, where those who play its benchmarks are not enough."""

    name: str
    source: str
    title: str
    needs: dict[str, str]
    paper: str = ""
    agents: str = ""
    size: tuple[float, float] = (0.0, 0.0)

    @property
    def module(self) -> str:
        return self.source.partition(".")[0]


def read(text: str) -> tuple[dict[str, Entry], dict[str, Entry]]:
    """The tables and the figures of a catalogue, by name. Raises StageError naming the entry and what is wrong with it."""
    data = yaml.safe_load(text)
    return (
        {name: _entry(name, item, with_size=False) for name, item in data["tables"].items()},
        {name: _entry(name, item, with_size=True) for name, item in data["figures"].items()},
    )


def _entry(name: str, item: dict[str, Any], *, with_size: bool) -> Entry:
    keys = {"source", "title", "needs"} | ({"size"} if with_size else set())
    missing, extra = sorted(keys - set(item)), sorted(set(item) - keys - {"paper", "agents"})
    if missing or extra:
        raise StageError(f"catalogue.yaml: {name}: " + (f"{missing[0]} is missing" if missing else f"unknown key {extra[0]!r}"))
    if unknown := sorted(set(item["needs"]) - KINDS):
        raise StageError(f"catalogue.yaml: {name}: {unnamed(unknown[0], 'kind of result', KINDS)}")
    return Entry(name, **(item | {"size": tuple(item["size"])} if with_size else item))


def unnamed(name: str, kind: str, names: Iterable[str]) -> str:
    """What an error says of a name that is none of these: the nearest, or all."""
    listed = sorted(names)
    near = difflib.get_close_matches(name, listed, n=3)
    return f"unknown {kind} {name!r}; " + (f"did you mean {' or '.join(near)}?" if near else f"allowed: {', '.join(listed)}")


TABLES, FIGURES = read(CATALOGUE.read_text(encoding="utf-8"))


def named(name: str) -> list[Entry]:
    """The table and the figure of a name; most names are one of both. Raises StageError for an unknown one."""
    entries = [entries[name] for entries in (TABLES, FIGURES) if name in entries]
    if not entries:
        raise StageError(unnamed(name, "table or figure", TABLES | FIGURES))
    return entries
