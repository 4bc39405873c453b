"""The stages from rollout to table of a small run, in files."""

import csv
from pathlib import Path
from typing import Any

from dllm_agents import benchmarks
from dllm_agents.agents.rollout import Shard, rollout
from dllm_agents.analysis.stage import classify_file, score_file
from dllm_agents.config import Config
from dllm_agents.files import read_jsonl, write_jsonl
from dllm_agents.records import Episode
from dllm_agents.reporting.tables import tabulate


def configuration(url: str, **agent: Any) -> Config:
    """Twenty tasks of BabyAI, and eight of BFCL."""
    return Config.model_validate(
        {
            "benchmarks": {
                "babyai": {"levels": ["GoToObj"], "seeds": list(range(20)), "max_steps": 3},
                "bfcl": {"categories": ["simple", "irrelevance"], "per_category": 4},
            },
            "backbones": {"mine": {"url": url}},
            "agents": {"mine": {"policy": "mine", "concurrency": 1, **agent}, "random": {"policy": "random"}},
            "run": {"agents": ["random", "mine"], "benchmarks": ["babyai", "bfcl"]},
        }
    )


class Run:
    """The stages from rollout to table of a small run, in files."""

    def __init__(self, config: Config, results: Path) -> None:
        self.config, self.results = config, results
        for benchmark in config.run.benchmarks:
            write_jsonl(self.path("tasks", benchmark), benchmarks.load(benchmark, config).tasks("test"))

    def path(self, kind: str, benchmark: str, agent: str = "", suffix: str = "jsonl") -> Path:
        return self.results / kind / (f"{benchmark}/{agent}.{suffix}" if agent else f"{benchmark}.{suffix}")

    def play(self, agent: str, benchmark: str) -> list[Episode]:
        episodes = self.path("episodes", benchmark, agent)
        rollout(self.config, agent, Shard(self.path("tasks", benchmark), episodes))
        scores, failures = (self.path(kind, benchmark, agent, "parquet") for kind in ("scores", "failures"))
        score_file(self.config, episodes, self.path("tasks", benchmark), scores)
        classify_file(self.config, episodes, scores, self.path("tasks", benchmark), failures)
        return read_jsonl(episodes, Episode)

    def table(self, name: str) -> tuple[list[dict[str, str]], str]:
        """A table's tidy rows, and what its reader sees."""
        tabulate(name, self.config, self.results, self.results / "tables" / name)
        with open(self.results / "tables" / f"{name}.csv", newline="") as handle:
            return list(csv.DictReader(handle)), (self.results / "tables" / f"{name}.md").read_text()

    def cells(self, name: str, **wanted: str) -> list[tuple[str, str]]:
        """(n, value) of the rows of a table that have these columns."""
        return [(row["n"], row["value"]) for row in self.table(name)[0] if all(row[key] == value for key, value in wanted.items())]
