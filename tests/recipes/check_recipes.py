"""Every recipe end to end with random weights: `make test-recipes`, or one with `RECIPE=dllm_agent`. The joined recipe config/paper.yaml
plays what these three play (tests/test_published_settings.py)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
from pipeline import snakemake_command
from tiny_weights import RECIPES, write

from dllm_agents.benchmarks.search_reply import answer_text
from dllm_agents.catalogue import TABLES
from dllm_agents.config import load
from dllm_agents.dag.files import Files
from dllm_agents.files import read_jsonl, write_jsonl
from dllm_agents.records import Pair, Trajectory
from dllm_agents.reporting.coverage import coverage

CORES = os.environ.get("CORES", "2")
READ = {"searcher_case_study", "dllm_agent_planning", "dllm_agent_attention"}
"""Tables that count what can be read in replies, where those of random weights hold hardly anything: their rows are there, with n = 0."""


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_runs_end_to_end(recipe: str, tmp_path: Path) -> None:
    path = write(recipe, tmp_path)
    config, published = load([path]), load([Path(__file__).parents[2] / "config" / f"{recipe}.yaml"])
    assert config.run.agents == published.run.agents
    for backbone in Files(config).paired():
        _run(path, f"results/tiny-{recipe}/pairs/{backbone}.jsonl")
        _pairs_of_the_teacher(tmp_path / "results" / f"tiny-{recipe}", backbone)
    _run(path, "report")
    results = tmp_path / "results" / f"tiny-{recipe}"
    for agent in config.run.agents:
        assert config.agents[agent] == published.agents[agent], agent
        for benchmark in config.agent_benchmarks(agent):
            lines = (results / "episodes" / benchmark / f"{agent}.jsonl").read_text().splitlines()
            assert lines, f"{agent} has not played {benchmark}"
            assert not [line for line in map(json.loads, lines) if line["ended"] == "error"], f"{agent} on {benchmark}"
    for name in config.report.tables:
        assert len(pd.read_csv(results / "tables" / f"{name}.csv")), name
    for name in config.report.figures:
        assert (results / "figures" / f"{name}.png").stat().st_size > 5000, name
    for line in coverage(config):
        if not line.why and line.result in config.report.tables and "tasks" not in TABLES[line.result].needs:  # those count no agents
            _holds(results / "tables" / f"{line.result}.csv", line.agents, least=0 if line.result in READ else 1)


def _run(config: Path, target: str) -> None:
    command = snakemake_command(config.parent, "--cores", CORES, target, config=[config])
    done = subprocess.run(command, capture_output=True, text=True, cwd=config.parent)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]


def _pairs_of_the_teacher(results: Path, backbone: str) -> None:
    """Random weights answer nothing right, so that no pair of their rollouts is kept: in place of those the teacher's trajectories win,
    and lose with another answer."""
    path = results / "pairs" / f"{backbone}.jsonl"
    sampled = list(read_jsonl(path, Pair))
    assert sampled and all(pair.rejected for pair in sampled)
    won = list(read_jsonl(results / "trajectories" / sampled[0].benchmark / "accepted.jsonl", Trajectory))
    pairs = []
    for pair, winner in zip(sampled, won, strict=False):
        wrong = winner.steps[-1].model_copy(update={"action": answer_text("nobody")})
        loser = winner.model_copy(update={"steps": [*winner.steps[:-1], wrong], "success": False})
        pairs.append(pair.model_copy(update={"task_id": winner.task.id, "winner": winner, "loser": loser, "rejected": None}))
    write_jsonl(path, pairs)


def _holds(table: Path, agents: tuple[str, ...], least: int) -> None:
    """The table has a row of at least so many episodes for each of the agents that coverage names."""
    rows = pd.read_csv(table)
    missing = set(agents) - set(rows[rows["n"].fillna(0) >= least]["agent"])
    assert not missing, (table.stem, missing)
