"""What the Snakemake rules ask of the configuration: which files a result reads, and which settings it depends on."""

from __future__ import annotations

import hashlib
import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from dllm_agents import catalogue, lifeline, preflight
from dllm_agents.agents import MODULE_STYLE
from dllm_agents.config import EMBODIED, PREFERENCE, STAGES, Config, Resources, load
from dllm_agents.errors import StageError
from dllm_agents.layout import CLAIMS, MANUSCRIPT, PUBLISHED, WORKFLOW, default_config
from dllm_agents.prompts import style_sha256
from dllm_agents.records import write_aside
from dllm_agents.reporting.captions import caption

CONFIG_VARIABLE = "DLLM_AGENTS_CONFIG"
CLOCK_SLACK = 60.0  # seconds by which the clock of a file server may be ahead
# Options that say how a benchmark runs here, not what it computes.
RUNTIME_OPTIONS = frozenset({"scratch", "cache", "jvm_memory_mb", "recycle_after", "judge_url", "second_judge_url"})
REPORTING = Path(__file__).parent / "reporting"


@dataclass
class Rollout:
    """The agents that one job plays, after each other, on the same servers; in so many parts, each a job of its own."""

    agents: list[str]
    parts: int

    @property
    def name(self) -> str:
        """What the job's rules and logs are called."""
        return self.agents[0]


class Plan:
    """Files and settings of a checked configuration. Settings are what a rule lists as `params`: when they change, it reruns."""

    def __init__(self, config: Config) -> None:
        self.config = config

    @staticmethod
    def configure(files: Sequence[str], overrides: Mapping[str, Any], inside_job: bool = False) -> Config:
        """The checked configuration. Stages are given a copy of it by the environment variable DLLM_AGENTS_CONFIG: not by a
        parameter of their rules, since each of those reruns what changes with it, and under a name made of its content, since
        another call on the same scale must not change the settings of a run. A Snakemake `inside_job` ends with what started it.
        Ends Snakemake with one line on a mistake."""
        try:
            config = load(files or [default_config()], overrides, () if inside_job else (preflight.check,))
        except StageError as error:
            raise SystemExit(f"dllm-agents: {error}") from None
        # Rules call the stages by name: those of the environment that runs Snakemake, wherever it was started from.
        os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        text = "# The configuration of a run, files merged and defaults filled in. Generated; edit config/ instead.\n" + yaml.dump(
            config.model_dump(mode="json"), Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper), sort_keys=False, width=120
        )
        folder = Path(config.results)
        frozen = folder / ".config" / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.yaml"
        for path in (frozen, folder / "config.yaml"):
            if not path.is_file() or path.read_text(encoding="utf-8") != text:
                with write_aside(path) as handle:
                    handle.write(text)
        os.environ[CONFIG_VARIABLE] = str(frozen)
        lifeline.announce()
        if inside_job:
            lifeline.follow_parent()
        else:
            _leave_the_future(folder)
            for note in preflight.notes(config):
                print(f"dllm-agents: note: {note}", file=sys.stderr)
        return config

    def trained(self) -> list[tuple[str, str]]:
        """(backbone, benchmark) of every checkpoint the run trains."""
        return list(
            dict.fromkeys(
                (backbone, benchmark)
                for agent in self.config.run.agents
                for backbone, benchmarks in self.config.played_backbones(agent).items()
                for benchmark in benchmarks
                if self.config.backbones[backbone].training
            )
            | dict.fromkeys(
                (backbone, benchmark)
                for benchmark in self.verified_benchmarks()
                for backbone in self.config.run.verification.backbones
                if self.config.backbones[backbone].training
            )
        )

    def verified_benchmarks(self) -> list[str]:
        """Embodied benchmarks on whose stored episodes the run's verifiers are replayed."""
        settings = self.config.run.verification
        played = (
            {benchmark for agent in settings.agents for benchmark in self.config.agent_benchmarks(agent)} if settings.backbones else set()
        )
        return [name for name in self.config.run.benchmarks if name in EMBODIED and name in played]

    def verified_agents(self, benchmark: str) -> list[str]:
        """The agents whose stored episodes of a benchmark the verifiers look at."""
        return [agent for agent in self.config.run.verification.agents if benchmark in self.config.agent_benchmarks(agent)]

    def verifier_models(self, benchmark: str) -> list[str]:
        """The checkpoints of verifiers that are trained for a benchmark."""
        return [path for name in self.config.run.verification.backbones if (path := self.model(name, benchmark))]

    def verification_settings(self, benchmark: str) -> dict[str, Any]:
        """What the replayed verifiers depend on beside episodes and checkpoints."""
        settings = self.config.run.verification
        backbones = {name: self._served(name) for name in settings.backbones}
        return {"verification": settings.model_dump(mode="json"), "backbones": backbones, "prompts": style_sha256(MODULE_STYLE)}

    def attended(self, benchmark: str) -> list[str]:
        """The agents whose attention is read: those that plan, with backbones trained in this run, whose weights are at hand."""
        config = self.config
        return [
            agent
            for agent in config.run.agents
            if config.agents[agent].workflow == "planner"
            and benchmark in config.agent_benchmarks(agent)
            and all(config.backbones[name].training for name in config.agent_backbones(agent, benchmark).values())
        ]

    def taught_benchmarks(self) -> list[str]:
        """Benchmarks whose teacher trajectories are needed."""
        graphs = ["bfcl" for agent in self.config.run.agents if self.agent_trajectories(agent)]
        return list(dict.fromkeys([*(benchmark for _, benchmark in self.trained()), *graphs]))

    def training_inputs(self, backbone: str, benchmark: str) -> dict[str, str]:
        """Argument of the train stage -> the file or checkpoint it reads: trajectories or pairs, and a base trained here."""
        config, results = self.config, self.config.results
        training = config.backbones[backbone].training
        if training is not None and training.objective in PREFERENCE:
            inputs = {"pairs": self.pairs(backbone)}
        else:
            inputs = {"trajectories": f"{results}/trajectories/{benchmark}/accepted.jsonl"}
        base = config.trained_base(backbone)
        return inputs | ({"base": f"{results}/models/{base}/{benchmark}"} if base else {})

    def launcher(self, backbone: str) -> str:
        """The program of a training job: this package's own, or accelerate starting it on every GPU of this machine, which is one of
        `nodes`. Under SLURM each machine learns its rank and the address of the first from the job's environment."""
        entry = self.config.backbones[backbone]
        assert entry.training is not None
        if entry.training.launch is None:
            return "dllm-agents"
        nodes, processes = entry.training.nodes, max(1, entry.training_gpus)
        file = shlex.quote(str(WORKFLOW / "config" / "accelerate" / f"{entry.training.launch}.yaml"))
        command = f"accelerate launch --config_file {file} --num_machines {nodes} --num_processes {nodes * processes}"
        if nodes > 1:
            first = "$(scontrol show hostnames $SLURM_JOB_NODELIST | head -n 1)"
            command += f" --machine_rank $SLURM_NODEID --main_process_ip {first} --main_process_port ${{MASTER_PORT:-29500}}"
        precision = "bf16" if entry.dtype == "bfloat16" else "no"
        command += f" --mixed_precision {precision}{'' if entry.training_gpus else ' --cpu'} --module dllm_agents"
        if nodes == 1:
            return command
        inner = shlex.quote(f'exec {command} "$@"')
        return f"srun --nodes {nodes} --ntasks-per-node 1 bash -c {inner} train"

    def pairs(self, backbone: str) -> str:
        """The pairs that a preference-trained backbone learns from."""
        return f"{self.config.results}/pairs/{backbone}.jsonl"

    def pair_inputs(self, backbone: str) -> dict[str, list[str]]:
        """Training tasks and the base's checkpoints of every benchmark that a backbone has pairs of."""
        results, base = self.config.results, self.config.trained_base(backbone)
        played = [benchmark for name, benchmark in self.trained() if name == backbone]
        return {
            "tasks": [f"{results}/tasks/train/{benchmark}.jsonl" for benchmark in played],
            "models": [f"{results}/models/{base}/{benchmark}" for benchmark in played],
        }

    def pair_settings(self, backbone: str) -> dict[str, Any]:
        """What pairs depend on beside tasks and checkpoints."""
        training, base = self.config.backbones[backbone].training, self.config.trained_base(backbone)
        assert training is not None and training.preference is not None and base is not None
        settings = training.preference.model_dump(mode="json", include={"queries", "seeds", "temperature", "acting"})
        order = {"order": "sequential"} if training.objective == "just_grpo" else {}
        return settings | order | {"base": self._served(base), "seed": self.config.seed}

    def pair_gpus(self, backbone: str) -> int:
        """GPUs of a pair-sampling job: those of the base's server."""
        return self.serving_gpus(self.config.trained_base(backbone) or backbone)

    def serving_gpus(self, backbone: str) -> int:
        """GPUs of the server that a job starts for a backbone: none where the backbone is given by URL."""
        entry = self.config.backbones[backbone]
        return 0 if entry.url else entry.gpus

    def rollouts(self) -> list[Rollout]:
        """The run's rollout jobs. Agents with the same backbones share one, up to `run.agents_per_job`; scripted agents share none,
        since they need no servers."""
        config = self.config
        found: list[Rollout] = []
        open_jobs: dict[frozenset[str], Rollout] = {}
        for agent in config.run.agents:
            if not config.agent_benchmarks(agent):
                continue
            backbones = frozenset(config.played_backbones(agent))
            job = open_jobs.get(backbones)
            if not backbones or job is None or len(job.agents) == config.run.agents_per_job:
                job = open_jobs[backbones] = Rollout([], config.run.shards if backbones else 1)
                found.append(job)
            job.agents.append(agent)
        return found

    def played(self, job: Rollout, pattern: str) -> list[str]:
        """A file for each agent and benchmark of a rollout job, agent by agent, from a pattern with {agent} and {benchmark}."""
        return [
            pattern.replace("{agent}", agent).replace("{benchmark}", benchmark)
            for agent in job.agents
            for benchmark in self.config.agent_benchmarks(agent)
        ]

    def rollout_arguments(
        self, job: Rollout, tasks: Sequence[str], models: Sequence[str], trajectories: Sequence[str], outputs: Sequence[str]
    ) -> str:
        """The arguments of a rollout job's stage: what each of its agents plays, with which checkpoints, into which files.

        Files come in the order of `played` and `rollout_models`, under the names that they have for the job: a storage plugin has its own.
        """
        found, task, model, output = [], iter(tasks), iter(models), iter(outputs)
        for agent in job.agents:
            played = self.config.agent_benchmarks(agent)
            found += [shlex.join(["--agent", agent, "--tasks", *islice(task, len(played)), "--output", *islice(output, len(played))])]
            found += [model_arguments(list(islice(model, len(self.agent_models(agent)))))]
        found += [f"--trajectories {shlex.quote(path)}" for path in trajectories]
        return " ".join(filter(None, found))

    def rollout_models(self, job: Rollout) -> list[str]:
        """The checkpoints of a rollout job's agents, agent by agent; one that agents share is named again."""
        return [path for agent in job.agents for path in self.agent_models(agent)]

    def rollout_trajectories(self, job: Rollout) -> list[str]:
        """The accepted trajectories that tool graphs of a rollout job's agents are learnt from."""
        return list(dict.fromkeys(path for agent in job.agents for path in self.agent_trajectories(agent)))

    def model(self, backbone: str, benchmark: str) -> str | None:
        """The checkpoint that is trained for a benchmark, None for backbones that come ready."""
        return f"{self.config.results}/models/{backbone}/{benchmark}" if self.config.backbones[backbone].training else None

    def agent_models(self, agent: str, benchmarks: Sequence[str] | None = None) -> list[str]:
        """The checkpoints an agent's job on these benchmarks, or on all it plays, reads, backbone by backbone."""
        played = [(backbone, name) for backbone, names in self.config.played_backbones(agent).items() for name in names]
        chosen = [(backbone, name) for backbone, name in played if benchmarks is None or name in benchmarks]
        return [path for backbone, name in chosen if (path := self.model(backbone, name))]

    def agent_trajectories(self, agent: str) -> list[str]:
        """The accepted trajectories that an agent's tool graph is learnt from; none for an agent without one."""
        selector = self.config.agents[agent].selector
        learns = selector is not None and selector.confidence is not None and "bfcl" in self.config.agent_benchmarks(agent)
        return [f"{self.config.results}/trajectories/bfcl/accepted.jsonl"] if learns else []

    def probed_models(self, backbone: str) -> list[str]:
        """The checkpoint a backbone is probed with: that of its first benchmark."""
        return [f"{self.config.results}/models/{name}/{benchmark}" for name, benchmark in self.trained() if name == backbone][:1]

    def task_settings(self, benchmark: str, split: str) -> dict[str, Any]:
        """What the tasks of a split depend on."""
        options = self.config.benchmark_options(benchmark).model_dump(mode="json")
        unused = RUNTIME_OPTIONS | {"train": {"tasks", "training", "tool_delay"}, "test": {"train_tasks", "exploration", "training"}}[split]
        return {"seed": self.config.seed} | {key: value for key, value in options.items() if key not in unused}

    def training_settings(self, backbone: str, benchmark: str) -> dict[str, Any]:
        """What a checkpoint depends on beside its trajectories."""
        entry = self.config.backbones[backbone]
        assert entry.training is not None
        return (
            entry.training.model_dump(mode="json")
            | {
                "budget": self.config.benchmark_options(benchmark).training.model_dump(mode="json"),
                "prompt": style_sha256(entry.prompt),
                "run_seed": self.config.seed,
                "dtype": entry.dtype,
            }
            | ({"team": True} if self.config.plays_in_teams(benchmark) else {})
        )

    def probe_settings(self, backbone: str) -> dict[str, Any]:
        """What a probe depends on."""
        run = self.config.run
        return {"backbone": self._served(backbone), "concurrency": run.probe_concurrency, "requests": run.probe_requests}

    def agent_settings(self, agent: str) -> dict[str, Any]:
        """What an agent's episodes depend on beside tasks and checkpoints."""
        roles: dict[str, str] = {}
        for benchmark in self.config.agent_benchmarks(agent):
            roles |= self.config.agent_backbones(agent, benchmark)
        backbones = {role: self._served(name) for role, name in roles.items()}
        entry = self.config.agents[agent].model_dump(mode="json", exclude={"concurrency"})
        prompts = {role: style_sha256(self.config.backbones[name].prompt) for role, name in roles.items()}
        if set(backbones) - {"policy"}:
            prompts["modules"] = style_sha256(MODULE_STYLE)
        # Named here too, since Snakemake takes a small input that was remade with the same bytes as unchanged.
        options = {name: self.task_settings(name, "test") for name in self.config.agent_benchmarks(agent)}
        return {"agent": entry, "backbones": backbones, "prompts": prompts, "seed": self.config.seed, "options": options}

    def _served(self, backbone: str) -> dict[str, Any]:
        entry = self.config.backbones[backbone]
        elsewhere = {"training", "gpus", "training_gpus"}
        if entry.model or entry.training:
            elsewhere |= {"url", "served_name", "api_key_env"}  # the same model, whoever serves it
        return entry.model_dump(mode="json", exclude=elsewhere, exclude_defaults=True)

    def reads(self, result: str) -> list[str]:
        """The files a table or figure is made from."""
        files: list[str] = []
        for entry in self._entries(result):
            for kind, group in entry.needs.items():
                files += self._files(kind, self._benchmarks(group))
        return list(dict.fromkeys(files))

    def own_files(self, result: str) -> dict[str, str]:
        """Name -> hash of the files of this checkout that a table, figure or the paper is made from: published values, claims, the text.
        They are no inputs, since a pod has its own checkout, and since git gives them new dates."""
        own = [CLAIMS] * (result == "claims") + [MANUSCRIPT] * (result == "paper")
        paths = [path for path in _published() if path.stem in (result, "models")] + own
        return {path.name: _hash(path) for path in paths}

    def _benchmarks(self, group: str) -> list[str]:
        chosen = {"embodied": EMBODIED, "all": self.config.run.benchmarks}.get(group, (group,))
        return [name for name in self.config.run.benchmarks if name in chosen]

    def _files(self, kind: str, chosen: Sequence[str]) -> list[str]:
        results = self.config.results
        if kind == "serving":
            return [f"{results}/serving/{backbone}.json" for backbone in self.config.used_backbones()]
        if kind == "attention":
            return [f"{results}/attention/{name}/{agent}.parquet" for name in chosen for agent in self.attended(name)]
        if kind == "exits":
            return [f"{results}/exits/{name}.parquet" for name in chosen if name in self.verified_benchmarks()]
        if kind == "trajectories":
            taught = [name for name in chosen if name in self.taught_benchmarks()]
            return [f"{results}/trajectories/{name}/{part}.jsonl" for name in taught for part in ("accepted", "rejected")]
        if kind == "models":
            return [f"{results}/models/{backbone}/{benchmark}" for backbone, benchmark in self.trained() if benchmark in chosen]
        if kind == "tasks":
            return [f"{results}/tasks/{benchmark}.jsonl" for benchmark in chosen]
        ending = "jsonl" if kind == "episodes" else "parquet"
        return [
            f"{results}/{kind}/{benchmark}/{agent}.{ending}"
            for agent in self.config.run.agents
            for benchmark in self.config.agent_benchmarks(agent)
            if benchmark in chosen
        ]

    def resources(self, stage: str) -> Resources:
        """What a job of a stage asks for at its first try."""
        return self.config.resources.get(stage, STAGES[stage])

    def memory(self, stage: str, attempt: int) -> int:
        """Megabytes a job of a stage asks for; more on every retry, since a job killed for memory would be killed again."""
        return attempt * self.resources(stage).mem_mb

    def minutes(self, stage: str, attempt: int) -> int:
        """Minutes a job of a stage asks for; more on every retry."""
        return attempt * self.resources(stage).minutes

    def rollout_gpus(self, agent: str) -> int:
        """GPUs of a rollout job: those of the servers it starts for the benchmark that takes most."""
        together = [set(self.config.agent_backbones(agent, benchmark).values()) for benchmark in self.config.agent_benchmarks(agent)]
        return max((sum(map(self.serving_gpus, backbones)) for backbones in together), default=0)

    def verification_gpus(self) -> int:
        """GPUs of a job that replays verifiers: it serves one after the other."""
        return max(map(self.serving_gpus, self.config.run.verification.backbones), default=0)

    def gpu_hours(self) -> dict[str, tuple[int, float]]:
        """Stage -> (jobs, GPU-hours), if every job takes the time it asks for at its first try: an upper estimate."""
        jobs = {
            "train": [self.config.backbones[backbone].training_gpus for backbone, _ in self.trained()],
            "pairs": [self.pair_gpus(backbone) for backbone in self._paired()],
            "probe": [self.serving_gpus(backbone) for backbone in self.config.used_backbones()],
            "rollout": [self.rollout_gpus(job.agents[0]) * len(job.agents) for job in self.rollouts() for _ in range(job.parts)]
            + [self.verification_gpus() for _ in self.verified_benchmarks()],
        }
        minutes = {stage: self.minutes("rollout" if stage == "pairs" else stage, 1) for stage in jobs}
        return {stage: (len(gpus), sum(gpus) * minutes[stage] / 60) for stage, gpus in jobs.items()}

    def _paired(self) -> list[str]:
        """The backbones that learn from pairs."""
        learning = {name: self.config.backbones[name].training for name, _ in self.trained()}
        return [name for name, training in learning.items() if training is not None and training.objective in PREFERENCE]

    def estimate(self) -> str:
        """What the whole run asks of GPUs, one line per stage; empty where nothing takes one."""
        hours = self.gpu_hours()
        total = sum(spent for _, spent in hours.values())
        lines = [f"  {stage:<10} {jobs:>5} jobs {spent:>10,.1f} GPU-hours" for stage, (jobs, spent) in hours.items() if spent]
        return (
            "\n".join(["At most, if every job takes its whole time:", *lines, f"  {'total':<16} {total:>15,.1f} GPU-hours"])
            if total
            else ""
        )

    def report_settings(self, result: str) -> dict[str, Any]:
        """The settings of one table or figure: its own style, the rows asked for, what its caption states."""
        config = self.config
        benchmarks = {name: config.benchmark_options(name).model_dump(mode="json") for name in config.run.benchmarks}
        return {
            "style": config.report.style.get(result, {}),
            "loop_length": config.report.loop_length,
            "margin": config.report.margin,
            "allow_mixed_versions": config.report.allow_mixed_versions,
            "agents": {name: config.agents[name].backbones for name in config.run.agents},
            "benchmarks": benchmarks,
        }

    def caption(self, result: str) -> str:
        """The caption of a table or figure: what it shows, on which tasks, and how these differ from the paper's."""
        return caption(self._entries(result)[0], self.config)

    def _entries(self, result: str) -> list[catalogue.Entry]:
        try:
            return catalogue.named(result)
        except StageError as error:
            raise SystemExit(f"dllm-agents: {error}") from None

    def code(self, result: str) -> str:
        """Hash of the module that makes a result, so that editing it reruns the results of that module alone."""
        return " ".join(dict.fromkeys(_hash(REPORTING / f"{entry.module}.py") for entry in self._entries(result)))


def _leave_the_future(folder: Path) -> None:
    """Date what lies in the future to now: after a clock has jumped back, Snakemake would refuse whatever is made from such files.
    All to one moment, since a file that is newer than what was made from it would have that made again."""
    now = time.time()
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent, name)
            with suppress(OSError):  # another run is at work here, or the folder cannot be written
                if path.lstat().st_mtime > now + CLOCK_SLACK:
                    os.utime(path, (now, now), follow_symlinks=False)


def model_arguments(models: Sequence[str]) -> str:
    """The `--model` argument of a job that reads these checkpoints, models/<backbone>/<benchmark> below wherever a storage plugin puts
    them; empty without any."""
    return shlex.join(["--model", *(f"{Path(path).parent.name}={path}" for path in models)] if models else [])


@cache
def _published() -> list[Path]:
    return sorted(PUBLISHED.glob("*.csv"))


@cache
def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
