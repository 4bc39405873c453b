"""Every recipe end to end with random weights: `make test-recipes`, or one with `RECIPE=dllm_agent`."""

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

from dllm_agents.config import load

CORES = os.environ.get("CORES", "2")


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_runs_end_to_end(recipe: str, tmp_path: Path) -> None:
    path = write(recipe, tmp_path)
    done = subprocess.run(
        snakemake_command(tmp_path, "--cores", CORES, "report", config=[path]), capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    config, published = load([path]), load([Path(__file__).parents[2] / "config" / f"{recipe}.yaml"])
    assert config.run.agents == published.run.agents
    results = tmp_path / "results" / f"tiny-{recipe}"
    for agent in config.run.agents:
        assert config.agents[agent] == published.agents[agent], agent
        for benchmark in config.agent_benchmarks(agent):
            lines = (results / "episodes" / benchmark / f"{agent}.jsonl").read_text().splitlines()
            assert lines or config.agents[agent].policy.endswith("-vrpo"), f"{agent} has not played {benchmark}"
            assert not [line for line in map(json.loads, lines) if line["ended"] == "error"], f"{agent} on {benchmark}"
    for name in config.report.tables:
        assert len(pd.read_csv(results / "tables" / f"{name}.csv")), name
    for name in config.report.figures:
        assert (results / "figures" / f"{name}.png").stat().st_size > 5000, name
