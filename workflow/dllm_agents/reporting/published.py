"""The papers' own numbers, one tidy CSV per table or figure under data/paper/published/ (columns source, table, agent, benchmark, category,
metric, n, value, note; rates as percentages). `models.csv` says which checkpoint a published name stands for."""

from __future__ import annotations

import csv
from functools import cache
from typing import NamedTuple

from dllm_agents.config import PREFERENCE, Config
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
    def share(self) -> float | None:
        """A count in percent of its n; None where the paper gives none."""
        return None if self.value is None or not self.n else 100 * self.value / self.n

    @property
    def part(self) -> str:
        """The category without the modules."""
        return ";".join(part for part in self.category.split(";") if "=" not in part)


class Model(NamedTuple):
    """A published model: its name in the tables, the hub id of its checkpoint or of what its training starts from, `ar` or `diffusion`,
    its stage (`ready`, `sft`, `preference`), and the paper."""

    agent: str
    hub_id: str
    paradigm: str
    stage: str
    paper: str
    note: str


@cache
def values(name: str) -> tuple[Value, ...]:
    """The published numbers of a table or figure, in the paper's order. Raises StageError when there is no such file."""
    rows = table(name)
    pairs = [(row.pop("n"), row.pop("value")) for row in rows]
    return tuple(
        Value(n=int(n) if n else None, value=float(value) if value else None, **row) for row, (n, value) in zip(rows, pairs, strict=True)
    )


@cache
def models() -> tuple[Model, ...]:
    """The six backbones of DiffuAgent, in the paper's order."""
    return tuple(model for model in _models() if model.paper == "DiffuAgent")


@cache
def _models() -> tuple[Model, ...]:
    return tuple(Model(**row) for row in table("models"))


@cache
def oddities() -> tuple[dict[str, str], ...]:
    """Inconsistencies within the papers: source, where, statement, finding."""
    return tuple(table("oddities"))


def published_name(config: Config, agent: str) -> str | None:
    """The model of DiffuAgent that an agent's policy is, by the hub id of its backbone; None for any other."""
    return backbone_name(config, config.agents[agent].policy)


def backbone_name(config: Config, backbone: str | None) -> str | None:
    """The model of DiffuAgent that a backbone is."""
    entry = config.backbones.get(backbone or "")
    return next((model.agent for model in models() if entry is not None and entry.model == model.hub_id), None)


def searcher_name(config: Config, agent: str) -> str | None:
    """The row of DLLM-Searcher that an agent repeats: a ready backbone that acts by ReAct, or one trained from the same checkpoint that
    acts by P-ReAct, as the paper decodes it; None for any other."""
    entry = config.agents[agent]
    backbone = config.backbones.get(entry.policy)
    if backbone is None or set(entry.backbones) != {"policy"} or entry.workflow is not None:
        return None
    stage = "ready" if backbone.training is None else "preference" if backbone.training.objective in PREFERENCE else "sft"
    root = backbone.model
    while backbone is not None and backbone.training is not None:
        root = backbone.training.base
        backbone = config.backbones.get(root or "")
    if entry.acting != ("react" if stage == "ready" else "p_react"):
        return None
    own = (model for model in _models() if model.paper == "DLLM-Searcher")
    return next((model.agent for model in own if (model.hub_id, model.stage) == (root, stage)), None)


SYSTEMS = {
    "sure": "SuRe",
    "selective_context": "Selective-Context",
    "adaptive_rag": "Adaptive-RAG",
    "ircot": "IRCoT",
    "iter_retgen": "Iter-RetGen",
    "search_o1": "Search-o1",
    "search_r1": "Search-R1",
    "websailor": "WebSailor",
    "r1_searcher": "R1Searcher",
}
"""Workflow or dialect -> its row in Table 1 of DLLM-Searcher."""


@cache
def absent(result: str) -> dict[str, str]:
    """Row of a published table or figure that no configuration can produce -> the reason; the empty row is the whole result."""
    return {row["row"]: row["why"] for row in table("absent") if row["result"] == result}


def system_name(config: Config, agent: str) -> str | None:
    """The system of DLLM-Searcher's Table 1 that an agent plays, whatever its backbone."""
    entry = config.agents[agent]
    return SYSTEMS.get(entry.workflow or entry.dialect or "")


def team_name(config: Config, agent: str) -> str | None:
    """The row of DLLM Agent's Table 1 that an agent repeats: a team trained from the same checkpoint, by the switches of its training;
    None for any other, and for both switches off, which the paper leaves out."""
    entry = config.agents[agent]
    backbone = config.backbones.get(entry.policy)
    if backbone is None or backbone.training is None or entry.workflow != "deepdiver":
        return None
    name = next((model.agent for model in _models() if model.paper == "DLLM Agent" and model.hub_id == backbone.training.base), None)
    if name != "DLLM Agent":
        return name
    return _SWITCHED.get((backbone.training.context_noise, backbone.training.context_mask))


_SWITCHED = {
    ("clean", "aligned"): "DLLM Agent",
    ("clean", "edges"): "DLLM Agent",
    ("noisy", "aligned"): "DLLM Agent without context-clean corruption",
    ("clean", "naive"): "DLLM Agent without span-aware attention alignment",
}


def table(name: str) -> list[dict[str, str]]:
    """The rows of a file under data/paper/published/. Raises StageError when it is not there."""
    path = PUBLISHED / f"{name}.csv"
    try:
        with open(path, encoding="utf-8", newline="") as handle:
            return list(csv.DictReader(handle))
    except OSError as error:
        raise StageError(f"{path}: {error.strerror}; published values come with the package: install it again") from None
