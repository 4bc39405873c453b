"""Where things lie: the results of a run, the files that come with the package, the caches."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

DATA = Path(__file__).parent / "data"
PROMPTS = DATA / "prompts"
ADAPTERS = DATA / "adapters"
CATALOGUE = DATA / "catalogue.yaml"
DIALECTS = DATA / "dialects.yaml"
CLAIMS = DATA / "claims.yaml"
MANUSCRIPT = DATA / "paper" / "paper.typ"
PUBLISHED = DATA / "paper" / "published"
REFERENCE = DATA / "paper" / "reference"
# The workflow: that of this checkout, or the copy that an installed package brings.
CHECKOUT = Path(__file__).resolve().parents[2]
WORKFLOW = CHECKOUT if (CHECKOUT / "Snakefile").is_file() else DATA / "workflow"
SNAKEFILE = WORKFLOW / "Snakefile"
PARTS = "parts"


def default_config() -> Path:
    """The configuration of a command that is given none: config/demo.yaml here, or the workflow's own."""
    here = Path("config") / "demo.yaml"
    return here if here.is_file() else WORKFLOW / here


def cache_folder() -> Path:
    """Where converted checkpoints are kept: $DLLM_AGENTS_CACHE, or ~/.cache/dllm-agents."""
    return Path(os.environ.get("DLLM_AGENTS_CACHE") or Path.home() / ".cache" / "dllm-agents")


@dataclass(frozen=True)
class Results:
    """The paths below `results/<scale>`. Names may hold wildcards (`{agent}`), which is how rules name what they make."""

    root: Path

    def tasks(self, benchmark: str, split: str = "test") -> Path:
        """The frozen tasks of a split: `test` is evaluated, `train` is what the teacher plays, `pairs` what
        preferences are learnt on where that is a draw of its own."""
        return self.root / "tasks" / ("" if split == "test" else split) / f"{benchmark}.jsonl"

    def trajectories(self, benchmark: str, part: str) -> Path:
        """The teacher's trajectories: all of them (`teacher`), or those that the filter `accepted` or `rejected`."""
        return self.root / "trajectories" / benchmark / f"{part}.jsonl"

    def model(self, backbone: str, benchmark: str) -> Path:
        """The checkpoint directory of a backbone that is trained for a benchmark."""
        return self.root / "models" / backbone / benchmark

    def pairs(self, backbone: str) -> Path:
        """What a backbone learns preferences from."""
        return self.root / "pairs" / f"{backbone}.jsonl"

    def serving(self, backbone: str) -> Path:
        """What the probe measured."""
        return self.root / "serving" / f"{backbone}.json"

    def episodes(self, benchmark: str, agent: str) -> Path:
        return self.root / "episodes" / benchmark / f"{agent}.jsonl"

    def episodes_part(self, benchmark: str, agent: str, part: str) -> Path:
        """The episodes of one job of several (`run.shards`); `part` is such as 2-of-8."""
        return self.root / "episodes" / benchmark / PARTS / f"{agent}.{part}.jsonl"

    def scores(self, benchmark: str, agent: str) -> Path:
        return self.root / "scores" / benchmark / f"{agent}.parquet"

    def failures(self, benchmark: str, agent: str) -> Path:
        return self.root / "failures" / benchmark / f"{agent}.parquet"

    def attention(self, benchmark: str, agent: str) -> Path:
        """Where an agent's replies looked while they were decoded."""
        return self.root / "attention" / benchmark / f"{agent}.parquet"

    def exits(self, benchmark: str) -> Path:
        """What early-exit verifiers, replayed on stored episodes, would have done."""
        return self.root / "exits" / f"{benchmark}.parquet"

    def table(self, name: str, ending: str = "csv") -> Path:
        return self.root / "tables" / f"{name}.{ending}"

    def figure(self, name: str, ending: str = "png") -> Path:
        return self.root / "figures" / f"{name}.{ending}"

    @property
    def browser(self) -> Path:
        """The page that shows every episode."""
        return self.root / "episodes.html"

    @property
    def report(self) -> Path:
        """The page that `make report` makes."""
        return self.root / "report.html"

    @property
    def paper(self) -> Path:
        return self.root / "paper" / "paper.pdf"

    @property
    def config(self) -> Path:
        """The configuration that the results were made with."""
        return self.root / "config.yaml"

    def frozen_config(self, digest: str) -> Path:
        """The configuration of one call, under a name made of its content."""
        return self.root / ".config" / f"{digest}.yaml"

    @property
    def downloads(self) -> Path:
        """Revisions and checksums of what was fetched."""
        return self.root / "downloads.json"

    def log(self, stage: str, job: str) -> Path:
        return self.root / "logs" / stage / f"{job}.log"

    def timing(self, stage: str, job: str) -> Path:
        """Wall time and memory of a job, as Snakemake measures them."""
        return self.root / "benchmarks" / stage / f"{job}.tsv"

    def tensorboard(self, backbone: str, benchmark: str) -> Path:
        return self.root / "logs" / "tensorboard" / f"{backbone}.{benchmark}"


def adapter_folder(name: str) -> Path:
    """The folder of adapters given by the name that they have in this package, or by path."""
    packaged = ADAPTERS / name
    return packaged if packaged.is_dir() else Path(name).expanduser()
