"""The coverage command: for every table and figure of the three papers whether a configuration produces it, by which agents and on what, or
why not. It is derived by calling the functions that make them on a run without results."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from dllm_agents import dependencies
from dllm_agents.catalogue import FIGURES, TABLES, Entry
from dllm_agents.config import SCRIPTED, Config, load
from dllm_agents.dag.files import Files
from dllm_agents.layout import PUBLISHED, Results
from dllm_agents.reporting import published
from dllm_agents.reporting.captions import display_name
from dllm_agents.reporting.inputs import E, Inputs
from dllm_agents.reporting.tables import function

UNREPEATED = "no agent of the run repeats it"


@dataclass(frozen=True)
class Coverage:
    """A table or figure of a paper under a configuration: the agents that produce it, and the benchmarks they play for it, or why none does
    (`why`); the published rows that no agent repeats, by reason; what is played in place of published data."""

    result: str
    agents: tuple[str, ...] = ()
    benchmarks: tuple[str, ...] = ()
    why: str = ""
    absent: dict[str, list[str]] = field(default_factory=dict)
    stand_ins: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.why:
            return f"{self.result}: not, because {self.why}"
        parts = [f"{self.result}: produced by {', '.join(self.agents)} on {', '.join(map(display_name, self.benchmarks))}"]
        parts += [f"without {', '.join(rows)}, because {why}" for why, rows in self.absent.items()]
        return "; ".join([*parts, *self.stand_ins])


@dataclass(frozen=True)
class _NoResults(Inputs):
    """A run without results that records which results a table or figure reads."""

    needs: set[tuple[str, str]] = field(default_factory=set)

    def rows(self, agent: str, benchmark: str) -> pd.DataFrame:
        self.needs.add((agent, benchmark))
        return super().rows(agent, benchmark)

    def _episodes(self, agent: str, benchmark: str, record: type[E]) -> Iterator[E]:
        self.needs.add((agent, benchmark))
        return super()._episodes(agent, benchmark, record)

    def exits(self, benchmark: str) -> pd.DataFrame:
        files = Files(self.config)
        if benchmark in files.verified_benchmarks():
            self.needs.update((agent, benchmark) for agent in files.verified_agents(benchmark))
        return super().exits(benchmark)

    def attention(self, agent: str, benchmark: str) -> pd.DataFrame:
        if agent in self.config.trained_teams(benchmark):
            self.needs.add((agent, benchmark))
        return super().attention(agent, benchmark)


def coverage(config: Config) -> list[Coverage]:
    """Every table and figure of the three papers, in the catalogue's order, then those that hold no result."""
    entries = [entry for entry in (*TABLES.values(), *FIGURES.values()) if entry.paper]
    drawings = {row["result"]: row["why"] for row in published.table("absent") if not row["row"]}
    return [*(covered(entry, config) for entry in entries), *(Coverage(name, why=why) for name, why in drawings.items())]


def covered(entry: Entry, config: Config) -> Coverage:
    """Whether a configuration produces a table or figure."""
    kind = "figures" if entry.size[0] else "tables"
    if entry.name not in getattr(config.report, kind):
        return Coverage(entry.name, why=f"report.{kind} of this configuration does not name it")
    read = [name for group in set(entry.needs.values()) for name in dependencies.benchmarks_of(config, group)]
    played = _players(entry, config, read)
    agents = tuple(agent for agent in config.run.agents if any(agent == player for player, _ in played))
    if not agents:
        return Coverage(entry.name, why=f"the run has no {entry.agents or _player_of(entry)}")
    benchmarks = tuple(name for name in config.run.benchmarks if any(name == benchmark for _, benchmark in played))
    stand_ins = (config.benchmark_options(name).stand_in for name in benchmarks)
    return Coverage(entry.name, agents, benchmarks, "", _unrepeated(entry, config, agents), tuple(filter(None, stand_ins)))


def _player_of(entry: Entry) -> str:
    """Whom a table or figure of named benchmarks needs, in words."""
    return f"agent that plays {' or '.join(map(display_name, dict.fromkeys(entry.needs.values())))}"


def _players(entry: Entry, config: Config, read: list[str]) -> set[tuple[str, str]]:
    """(agent, benchmark) of the models' results that a table or figure is made from."""
    inputs = _NoResults(config, Results(Path(config.results)).root / "no-results")
    if entry.size[0]:
        from matplotlib.figure import Figure

        function(entry)(inputs, Figure(figsize=entry.size))
    else:
        rows = function(entry)(inputs).rows
        inputs.needs.update((row.agent, row.benchmark) for row in rows)
    return {
        (agent, benchmark)
        for agent, benchmark in inputs.needs
        if agent in config.run.agents
        and config.agents[agent].policy not in SCRIPTED
        and benchmark in read
        and benchmark in config.agent_benchmarks(agent)
    }


def _unrepeated(entry: Entry, config: Config, agents: tuple[str, ...]) -> dict[str, list[str]]:
    """Why no agent repeats a published row -> the rows."""
    if "tasks" in entry.needs or not (PUBLISHED / f"{entry.name}.csv").is_file():
        return {}  # the contents of a benchmark are not results of agents
    repeated = {label for agent in agents for label in _labels(config, agent)}
    reasons = published.absent(entry.name)
    rows: dict[str, list[str]] = {}
    for label in dict.fromkeys(_label(value.agent, value.modules) for value in published.values(entry.name)):
        if label not in repeated:
            rows.setdefault(reasons.get(label, UNREPEATED), []).append(label)
    return rows


def _labels(config: Config, agent: str) -> Iterator[str]:
    """What the papers call an agent, with its modules."""
    entry = config.agents[agent]
    name = published.published_name(config, agent)
    modules = {
        role: published.backbone_name(config, backbone) or backbone for role, backbone in entry.backbones.items() if role != "policy"
    }
    if name is not None:
        yield _label(name, modules | ({"memory": "w/o"} if entry.history == "recent" else {}))
    if (searcher := published.searcher_name(config, agent)) is not None:
        yield from (searcher, "VRPO") if searcher == "DLLM-Searcher" else (searcher,)
    yield from filter(None, (published.system_name(config, agent), published.team_name(config, agent)))


def _label(agent: str, modules: dict[str, str]) -> str:
    return f"{agent} ({', '.join(f'{role} {backbone}' for role, backbone in sorted(modules.items()))})" if modules else agent


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Nothing but --config."""


def run(args: argparse.Namespace) -> None:
    for line in coverage(load(args.config)):
        print(line)
