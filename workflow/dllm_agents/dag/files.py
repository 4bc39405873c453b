"""The files that each rule reads, and those that a run is asked for."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from dllm_agents import catalogue, dependencies
from dllm_agents.config import EMBODIED, MIXTURE, PREFERENCE, SCRIPTED, Config
from dllm_agents.config.roles import WORKFLOWS
from dllm_agents.errors import StageError
from dllm_agents.layout import CLAIMS, MANUSCRIPT, PUBLISHED, Results
from dllm_agents.provenance import file_sha256
from dllm_agents.reporting.captions import caption

REPORTING = Path(__file__).parents[1] / "reporting"


class Files:
    """The files of a configuration's run, as its rules name them."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.results = Results(Path(config.results))

    def plays(self) -> list[tuple[str, str]]:
        """(agent, benchmark) of everything that is played."""
        return [(agent, benchmark) for agent in self.config.run.agents for benchmark in self.config.agent_benchmarks(agent)]

    def trained(self) -> list[tuple[str, str]]:
        """(backbone, benchmark) of every checkpoint the run trains."""
        used = [
            (backbone, benchmark)
            for agent in self.config.run.agents
            for backbone, played in self.config.played_backbones(agent).items()
            for benchmark in played
        ]
        used += [(backbone, benchmark) for benchmark in self.verified_benchmarks() for backbone in self.config.run.verification.backbones]
        return list(
            dict.fromkeys((name, self._trained_for(name, benchmark)) for name, benchmark in used if self.config.backbones[name].training)
        )

    def _trained_for(self, backbone: str, benchmark: str) -> str:
        """The folder of the checkpoint that a backbone plays a benchmark with: the benchmark's, or that of its mixture."""
        training = self.config.backbones[backbone].training
        return MIXTURE if training is not None and training.mixture else benchmark

    def taught_on(self, backbone: str, benchmark: str) -> list[str]:
        """The benchmarks whose trajectories a checkpoint is trained on."""
        training = self.config.backbones[backbone].training
        return training.mixture if training is not None and benchmark == MIXTURE else [benchmark]

    def verified_benchmarks(self) -> list[str]:
        """Embodied benchmarks on whose stored episodes the run's verifiers are replayed."""
        settings = self.config.run.verification
        return [name for name in self.config.run.benchmarks if name in EMBODIED and settings.backbones and self.verified_agents(name)]

    def verified_agents(self, benchmark: str) -> list[str]:
        """The agents whose stored episodes of a benchmark the verifiers look at."""
        return [agent for agent in self.config.run.verification.agents if benchmark in self.config.agent_benchmarks(agent)]

    def paired(self) -> list[str]:
        """The backbones that learn from pairs."""
        learning = {name: self.config.backbones[name].training for name, _ in self.trained()}
        return [name for name, training in learning.items() if training is not None and training.objective in PREFERENCE]

    def paired_benchmarks(self, backbone: str) -> list[str]:
        """The benchmarks that a backbone has pairs of."""
        return [benchmark for name, benchmark in self.trained() if name == backbone]

    def taught_benchmarks(self) -> list[str]:
        """Benchmarks whose teacher trajectories are needed: to train on, or to learn a tool graph from."""
        graphs = [benchmark for agent, benchmark in self.plays() if self.graph_trajectories(agent, benchmark)]
        return list(dict.fromkeys([*(name for pair in self.trained() for name in self.taught_on(*pair)), *graphs]))

    def checkpoints(self, backbones: Sequence[str], benchmark: str) -> list[Path]:
        """The checkpoints of those backbones that are trained here."""
        trained = [name for name in dict.fromkeys(backbones) if self.config.backbones[name].training]
        return [self.results.model(name, self._trained_for(name, benchmark)) for name in trained]

    def agent_models(self, agent: str, benchmark: str) -> list[Path]:
        """The checkpoints an agent plays a benchmark with."""
        return self.checkpoints(list(self.config.agent_backbones(agent, benchmark).values()), benchmark)

    def graph_trajectories(self, agent: str, benchmark: str) -> list[Path]:
        """The accepted trajectories that an agent's workflow, or its tool graph, is learnt from; none for an agent without one."""
        selector = self.config.agents[agent].selector if "selector" in self.config.agent_backbones(agent, benchmark) else None
        graph = selector is not None and selector.confidence is not None
        learns = WORKFLOWS[self.config.workflow(agent, benchmark)].learns and bool(self.config.agent_backbones(agent, benchmark))
        return [self.results.trajectories(benchmark, "accepted")] if graph or learns else []

    def verifier_models(self, benchmark: str) -> list[Path]:
        """The checkpoints of verifiers that are trained for a benchmark."""
        return self.checkpoints(self.config.run.verification.backbones, benchmark)

    def probed_model(self, backbone: str) -> list[Path]:
        """The checkpoint a backbone is probed with: that of its first benchmark."""
        return [self.results.model(name, benchmark) for name, benchmark in self.trained() if name == backbone][:1]

    def training_inputs(self, backbone: str, benchmark: str) -> dict[str, list[Path]]:
        """Argument of the train stage -> the files or checkpoint it reads: trajectories or pairs, and a base trained here."""
        training = self.config.backbones[backbone].training
        if training is not None and training.objective in PREFERENCE:
            inputs = {"pairs": [self.results.pairs(backbone)]}
        else:
            inputs = {"trajectories": [self.results.trajectories(name, "accepted") for name in self.taught_on(backbone, benchmark)]}
        base = self.config.trained_base(backbone)
        return inputs | ({"base": self.checkpoints([base], benchmark)} if base else {})

    def pair_inputs(self, backbone: str) -> dict[str, list[Path]]:
        """Training tasks and the base's checkpoints of every benchmark that a backbone has pairs of."""
        benchmarks, base = self.paired_benchmarks(backbone), self.config.trained_base(backbone)
        assert base is not None, "preferences are learnt from a base that is trained here"
        return {
            "tasks": [self.results.tasks(benchmark, self.config.benchmark_options(benchmark).pair_split) for benchmark in benchmarks],
            "models": [path for benchmark in benchmarks for path in self.checkpoints([base], benchmark)],
        }

    def parts(self, agent: str) -> list[str]:
        """The parts that an agent's tasks are played in when `run.shards` is above one; scripted agents take no time."""
        count = 1 if self.config.agents[agent].policy in SCRIPTED else self.config.run.shards
        return [f"{index}-of-{count}" for index in range(1, count + 1)]

    def result_inputs(self, result: str) -> list[Path]:
        """The files a table or figure is made from."""
        needs = [need for entry in _entries(result) for need in entry.needs.items()]
        return list(dict.fromkeys(path for kind, group in needs for path in self._of_kind(kind, group)))

    def _of_kind(self, kind: str, group: str) -> Iterator[Path]:
        chosen = dependencies.benchmarks_of(self.config, group)
        if kind == "serving":
            yield from map(self.results.serving, self.config.used_backbones())
        elif kind == "attention":
            yield from (self.results.attention(name, agent) for name in chosen for agent in self.config.trained_teams(name))
        elif kind == "exits":
            yield from (self.results.exits(name) for name in chosen if name in self.verified_benchmarks())
        elif kind == "trajectories":
            taught = [name for name in chosen if name in self.taught_benchmarks()]
            yield from (self.results.trajectories(name, part) for name in taught for part in ("accepted", "rejected"))
        elif kind == "models":
            yield from (
                self.results.model(backbone, name) for backbone, name in self.trained() if set(self.taught_on(backbone, name)) & set(chosen)
            )
        elif kind == "tasks":
            yield from map(self.results.tasks, chosen)
        else:
            path_of = {"episodes": self.results.episodes, "scores": self.results.scores, "failures": self.results.failures}[kind]
            yield from (path_of(name, agent) for agent, name in self.plays() if name in chosen)

    def played(self) -> list[Path]:
        """Episodes, scores and failures of everything that is played."""
        kinds = (self.results.episodes, self.results.scores, self.results.failures)
        return [path_of(benchmark, agent) for path_of in kinds for agent, benchmark in self.plays()]

    def between(self) -> list[Path]:
        """What the results are made from, so that a file of it that is deleted is made again when the report is asked for."""
        results, taught = self.results, self.taught_benchmarks()
        paths = [
            *map(results.tasks, self.config.run.benchmarks),
            *(results.tasks(benchmark, "train") for benchmark in taught),
            *(results.trajectories(benchmark, part) for benchmark in taught for part in ("teacher", "accepted", "rejected")),
            *(results.model(backbone, benchmark) for backbone, benchmark in self.trained()),
            *(path for backbone in self.paired() for path in (*self.pair_inputs(backbone)["tasks"], results.pairs(backbone))),
            *self.played(),
            *(path for name in (*self.config.report.tables, *self.config.report.figures) for path in self.result_inputs(name)),
        ]
        return list(dict.fromkeys(paths))

    def tables(self) -> list[Path]:
        return [self.results.table(name, ending) for name in self.config.report.tables for ending in ("csv", "md", "tex", "html")]

    def figures(self) -> list[Path]:
        return [self.results.figure(name, ending) for name in self.config.report.figures for ending in ("png", "pdf")]

    def own_files(self, result: str) -> dict[str, str]:
        """Name -> hash of the package's files that a table, figure or the paper is made from: published values, claims, the text. They
        are no inputs, since a pod has its own package, and since an installation gives them new dates."""
        own = [CLAIMS] * (result == "claims") + [MANUSCRIPT] * (result == "paper")
        paths = [path for path in _published() if path.stem in (result, "models")] + own
        return {path.name: _hash(path) for path in paths}

    def code(self, result: str) -> str:
        """Hash of the modules that make a result, so that editing one reruns the results of that module alone."""
        return " ".join(dict.fromkeys(_hash(REPORTING / f"{entry.module}.py") for entry in _entries(result)))

    def caption(self, result: str) -> str:
        """What a table or figure shows, on which tasks, and how these differ from the paper's."""
        return caption(_entries(result)[0], self.config)


def model_arguments(models: Sequence[str]) -> str:
    """The `--model` argument of a job that reads these checkpoints, models/<backbone>/<benchmark> below wherever a storage plugin puts
    them; empty without any."""
    return shlex.join(["--model", *(f"{Path(path).parent.name}={path}" for path in models)] if models else [])


def _entries(result: str) -> list[catalogue.Entry]:
    """A result's table and figure; ends Snakemake with one line where it is neither."""
    try:
        return catalogue.named(result)
    except StageError as error:
        raise SystemExit(f"dllm-agents: {error}") from None


@cache
def _published() -> list[Path]:
    return sorted(PUBLISHED.glob("*.csv"))


@cache
def _hash(path: Path) -> str:
    return file_sha256(path)[:16]
