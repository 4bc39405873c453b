"""The papers' own numbers, one tidy CSV per table or figure under data/paper/published/ (columns source, table, agent, benchmark, category,
metric, n, value, note; rates as percentages). `models.csv` says which checkpoint a published name stands for."""

from __future__ import annotations

import csv
from functools import cache
from typing import NamedTuple

from dllm_agents.config import Config
from dllm_agents.errors import StageError
from dllm_agents.layout import PUBLISHED


class Value(NamedTuple):
    """One published number; `value` is None where the paper prints none."""

    source: str
    table: str
    agent: str
    benchmark: str
    category: str
    metric: str
    n: int | None
    value: float | None
    note: str

    @property
    def modules(self) -> dict[str, str]:
        """Role -> backbone of an agent with modules, written as `role=backbone` parts of the category."""
        return dict(part.split("=", 1) for part in self.category.split(";") if "=" in part)

    @property
    def part(self) -> str:
        """The category without the modules."""
        return ";".join(part for part in self.category.split(";") if "=" not in part)


class Model(NamedTuple):
    """A published model: its name in the tables, the hub id of its checkpoint, `ar` or `diffusion`."""

    agent: str
    hub_id: str
    paradigm: str
    note: str


@cache
def values(name: str) -> tuple[Value, ...]:
    """The published numbers of a table or figure, in the paper's order. Raises StageError when there is no such file."""
    return tuple(
        Value(
            row["source"],
            row["table"],
            row["agent"],
            row["benchmark"],
            row["category"],
            row["metric"],
            int(row["n"]) if row["n"] else None,
            float(row["value"]) if row["value"] else None,
            row["note"],
        )
        for row in _rows(name)
    )


@cache
def models() -> tuple[Model, ...]:
    """The six backbones of DiffuAgent, in the paper's order."""
    return tuple(Model(**row) for row in _rows("models"))


@cache
def oddities() -> tuple[dict[str, str], ...]:
    """What in the papers does not agree with itself: source, where, statement, finding."""
    return tuple(_rows("oddities"))


def published_name(config: Config, agent: str) -> str | None:
    """The published model that an agent's policy is, by the hub id of its backbone; None for any other."""
    backbone = config.backbones.get(config.agents[agent].policy)
    return next((model.agent for model in models() if backbone is not None and backbone.model == model.hub_id), None)


def _rows(name: str) -> list[dict[str, str]]:
    path = PUBLISHED / f"{name}.csv"
    try:
        with open(path, encoding="utf-8", newline="") as handle:
            return list(csv.DictReader(handle))
    except OSError as error:
        raise StageError(f"{path}: {error.strerror}; published values come with the package: install it again") from None
