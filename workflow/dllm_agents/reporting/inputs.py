"""What tables and figures are made from: the run's configuration and the files its stages left. Scores and failures are read once and kept;
episodes are read one at a time, by the few results that show or take apart what an agent did."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import NamedTuple, TypeVar

import pandas as pd

from dllm_agents.analysis.failures import BESIDE_CHECKER
from dllm_agents.analysis.metrics import Errors
from dllm_agents.config import SCRIPTED, Config, Training
from dllm_agents.config.roles import TEAM_WORKFLOWS
from dllm_agents.errors import StageError
from dllm_agents.files import iter_jsonl
from dllm_agents.frames import read_frame
from dllm_agents.layout import Results
from dllm_agents.records import Attention, Episode, Exit, Failure, Record, Score, Task, TracedEpisode
from dllm_agents.reporting.cells import NOT_RUN
from dllm_agents.stage_records import Probe, TrainingReport

E = TypeVar("E", bound=Episode)


class FilterCounts(NamedTuple):
    """What the filter kept of a teacher's trajectories: accepted, and rejected by reason."""

    accepted: int
    rejected: Counter[str]


@dataclass(frozen=True)
class Inputs:
    """A run's configuration and results folder. Absent files make absent parts, which are shown as "not run"."""

    config: Config
    results: Path
    _scores: dict[str, pd.DataFrame] = field(default_factory=dict, repr=False)
    _failures: dict[str, tuple[pd.DataFrame, pd.DataFrame]] = field(default_factory=dict, repr=False)
    _rows: dict[tuple[str, str], pd.DataFrame] = field(default_factory=dict, repr=False)
    _errors: dict[tuple[str, str], dict[str, Errors]] = field(default_factory=dict, repr=False)
    _tasks: dict[str, dict[str, Task]] = field(default_factory=dict, repr=False)

    @property
    def files(self) -> Results:
        """Where each file of the run lies."""
        return Results(self.results)

    def scores(self, benchmark: str) -> pd.DataFrame:
        """The scores of the run's agents on a benchmark. Raises StageError for duplicates and for rows of mixed versions."""
        if benchmark not in self._scores:
            frame = self._read(self.files.scores, benchmark, Score)
            check_scores(frame, allow_mixed=self.config.report.allow_mixed_versions)
            self._scores[benchmark] = frame
        return self._scores[benchmark]

    def failures(self, benchmark: str) -> pd.DataFrame:
        """The failures of the run's agents on a benchmark, one row per failure."""
        return self._classified(benchmark)[0]

    def readings(self, benchmark: str) -> pd.DataFrame:
        """What the rules alone found in single answers, which the official checker judges."""
        return self._classified(benchmark)[1]

    def _classified(self, benchmark: str) -> tuple[pd.DataFrame, pd.DataFrame]:
        if benchmark not in self._failures:
            frame = self._read(self.files.failures, benchmark, Failure)
            beside = frame["source"] == BESIDE_CHECKER
            self._failures[benchmark] = frame[~beside], frame[beside]
        return self._failures[benchmark]

    def classified(self, agent: str, benchmark: str) -> bool:
        """Whether the failures stage has run for an agent, with or without a failure found."""
        return self.has(self.files.failures, agent, benchmark)

    def has(self, path_of: Callable[[str, str], Path], agent: str, benchmark: str) -> bool:
        """Whether an agent plays a benchmark and its file of a kind is there."""
        return benchmark in self.config.agent_benchmarks(agent) and path_of(benchmark, agent).is_file()

    def exits(self, benchmark: str) -> pd.DataFrame:
        """What early-exit verifiers, replayed on stored episodes, would have done; no rows where none was."""
        path = self.files.exits(benchmark)
        there = benchmark in self.config.run.benchmarks and path.is_file()
        return read_frame(path, Exit) if there else pd.DataFrame(columns=list(Exit.model_fields))

    def attention(self, agent: str, benchmark: str) -> pd.DataFrame:
        """Where an agent's replies looked, one row per reply; no rows where it was not read."""
        path = self.files.attention(benchmark, agent)
        return read_frame(path, Attention) if path.is_file() else pd.DataFrame(columns=list(Attention.model_fields))

    def episodes(self, agent: str, benchmark: str) -> Iterator[Episode]:
        """An agent's episodes on a benchmark, in task order and without traces; none before its rollout. Raises StageError naming the line
        of a bad one."""
        yield from self._episodes(agent, benchmark, Episode)

    def traced_episodes(self, agent: str, benchmark: str) -> Iterator[TracedEpisode]:
        """The same with their traces."""
        yield from self._episodes(agent, benchmark, TracedEpisode)

    def _episodes(self, agent: str, benchmark: str, record: type[E]) -> Iterator[E]:
        if self.has(self.files.episodes, agent, benchmark):
            yield from iter_jsonl(self.files.episodes(benchmark, agent), record)

    def tasks(self, benchmark: str) -> dict[str, Task]:
        """The frozen tasks of a benchmark of the run by id, in their order; none before they were sampled."""
        if benchmark not in self._tasks:
            path = self.files.tasks(benchmark)
            there = benchmark in self.config.run.benchmarks and path.is_file()
            self._tasks[benchmark] = {task.id: task for task in iter_jsonl(path, Task)} if there else {}
        return self._tasks[benchmark]

    @cached_property
    def probes(self) -> dict[str, Probe]:
        """Backbone -> what the serving probe saw."""
        probes = {}
        for backbone in self.config.used_backbones():
            path = self.files.serving(backbone)
            if path.is_file():
                try:
                    probes[backbone] = Probe.model_validate_json(path.read_bytes())
                except ValueError:
                    raise StageError(f"{path}: not a Probe record; delete it to run the probe again") from None
        return probes

    @cached_property
    def trainings(self) -> dict[tuple[str, str], TrainingReport]:
        """(backbone, benchmark) -> what its training did, of the backbones that the run trains."""
        reports = {}
        for backbone in self.config.used_backbones():
            for benchmark in self.config.run.benchmarks:
                path = self.files.model(backbone, benchmark) / "training.json"
                if self.config.backbones[backbone].training is not None and path.is_file():
                    try:
                        reports[backbone, benchmark] = TrainingReport.model_validate_json(path.read_bytes())
                    except ValueError:
                        raise StageError(f"{path}: not a TrainingReport; delete its folder to train again") from None
        return reports

    def filtered(self, benchmark: str) -> FilterCounts | None:
        """How many of a benchmark's teacher trajectories were accepted and rejected; None before the filter has run."""
        accepted, rejected = (self.files.trajectories(benchmark, part) for part in ("accepted", "rejected"))
        if not (accepted.is_file() and rejected.is_file()):
            return None
        with open(accepted, "rb") as handle:
            count = sum(1 for line in handle if line.strip())
        reasons: Counter[str] = Counter()
        with open(rejected, "rb") as handle:
            for number, line in enumerate(handle, 1):
                try:
                    reasons[str(json.loads(line)["rejected"])] += 1
                except (ValueError, KeyError, TypeError, RecursionError):
                    raise StageError(f"{rejected}:{number}: not a rejected trajectory; delete the file to filter again") from None
        return FilterCounts(count, reasons)

    @property
    def baselines(self) -> list[str]:
        """The scripted agents of the run."""
        return [agent for agent in self.config.run.agents if self.config.agents[agent].policy in SCRIPTED]

    @property
    def agents(self) -> list[str]:
        """The agents of the run that play tasks with a backbone; one that is asked what it does with attacks solves none."""
        others = {*self.baselines, *self.attacked}
        return [agent for agent in self.config.run.agents if agent not in others]

    @property
    def attacked(self) -> list[str]:
        """The agents of the run that read attacks, whose success is that they obey none."""
        return [agent for agent in self.config.run.agents if self.config.agents[agent].workflow == "threats"]

    def players(self, *benchmarks: str, alone: bool = False) -> list[str]:
        """The run's agents, scripted ones first, that play at least one of the benchmarks (or would, were it in the run); with `alone` no
        agents with modules or in other workflows."""
        return [
            agent
            for agent in (*self.baselines, *self.agents)
            if any(self._plays(agent, name) for name in benchmarks) and (not alone or agent in self.baselines or self.alone(agent))
        ]

    def _plays(self, agent: str, benchmark: str) -> bool:
        entry = self.config.agents[agent]
        backbone = self.config.backbones.get(entry.policy)
        return all(benchmark in (chosen or [benchmark]) for chosen in (entry.benchmarks, backbone.benchmarks if backbone else None))

    def alone(self, agent: str) -> bool:
        """Whether a backbone acts without modules in the benchmark's own workflow, thinking first, seeing more than the recent steps and
        free in what it writes: what the papers' main tables hold."""
        entry = self.config.agents[agent]
        return (
            set(entry.backbones) == {"policy"}
            and (entry.acting, entry.workflow, entry.dialect) == ("react", None, None)
            and entry.history != "recent"
            and not entry.constrain
        )

    def kind(self, agent: str) -> str | None:
        """`team` of planner and seekers, or `other` workflow than the benchmark's own; None where an agent has that."""
        workflow = self.config.agents[agent].workflow
        return None if workflow is None else "team" if workflow in TEAM_WORKFLOWS else "other"

    def random_agent(self) -> str | None:
        """The run's random baseline, if it has one."""
        return next((agent for agent in self.baselines if self.config.agents[agent].policy == "random"), None)

    def paradigm(self, agent: str) -> str:
        """`ar`, `diffusion`, `unknown` (a URL hides it) or `scripted`: the paradigm of an agent's policy."""
        backbone = self.config.backbones.get(self.config.agents[agent].policy)
        return "scripted" if backbone is None else backbone.paradigm or "unknown"

    def training(self, agent: str) -> Training | None:
        """How an agent's policy is trained in this run; None where it is not."""
        backbone = self.config.backbones.get(self.config.agents[agent].policy)
        return None if backbone is None else backbone.training

    def training_seed(self, agent: str) -> int | None:
        """The seed an agent's policy is trained with in this run; None where it is not trained here."""
        training = self.training(agent)
        return None if training is None else self.config.seed if training.seed is None else training.seed

    def rows(self, agent: str, benchmark: str) -> pd.DataFrame:
        """An agent's scores on a benchmark, without the episodes that ended in an error and those whose outcome is not judged; empty when
        it has none, and when too many ended so."""
        if (agent, benchmark) not in self._rows:
            frame = self.scores(benchmark)
            played = frame[(frame["agent"] == agent) & (frame["ended"] != "error") & ~unjudged(frame)]
            self._rows[agent, benchmark] = played.iloc[:0] if self.errors(agent, benchmark).too_many else played
        return self._rows[agent, benchmark]

    def window(self, agent: str, benchmark: str) -> tuple[float, float] | None:
        """When an agent's first episode on a benchmark began and its last ended (UTC seconds since 1970); None where it is not timed."""
        scores = self.rows(agent, benchmark)
        timed = scores[scores["started_seconds"] > 0]
        if not len(scores) or len(timed) < len(scores):
            return None
        return float(timed["started_seconds"].min()), float((timed["started_seconds"] + timed["seconds"]).max())

    def beside(self, agent: str, benchmark: str) -> str:
        """An agent, and its benchmark, that was played while this one was for a twentieth of its time or more; empty where it ran alone."""
        own = self.window(agent, benchmark)
        for other, name in product(self.config.run.agents, self.config.run.benchmarks):
            window = self.window(other, name)
            if own is None or window is None or (other, name) == (agent, benchmark):
                continue
            if min(own[1], window[1]) - max(own[0], window[0]) > 0.05 * (own[1] - own[0]):
                return f"{other} on {name}"
        return ""

    def errors(self, agent: str, benchmark: str, categories: Collection[str] | None = None) -> Errors:
        """How many of an agent's episodes on a benchmark, or on some of its categories, ended in an error of server, client or
        environment, or have an outcome that is not judged; and whether one of its models has not learnt the benchmark."""
        if (agent, benchmark) not in self._errors:
            frame = self.scores(benchmark)
            self._errors[agent, benchmark] = {
                str(name): Errors(int((part["ended"] == "error").sum()), len(part), unjudged=int(unjudged(part).sum()))
                for name, part in frame[frame["agent"] == agent].groupby("category")
            }
        counts = [errors for name, errors in self._errors[agent, benchmark].items() if categories is None or name in categories]
        backbones = self.config.agent_backbones(agent, benchmark).values() if counts else ()
        reports = [report for backbone in backbones if (report := self.trainings.get((backbone, benchmark))) is not None]
        unlearnt = any(report.learnt is False for report in reports)
        number, episodes, left_out = (sum(getattr(errors, name) for errors in counts) for name in ("number", "episodes", "unjudged"))
        return Errors(number, episodes, unlearnt, left_out)

    def missing(self, agents: Iterable[str], benchmarks: Iterable[str], categories: Collection[str] | None = None) -> str:
        """Why there is no number for agents together: the first whose episodes ended in too many errors, or that they were not run."""
        for agent, benchmark in product(agents, benchmarks):
            if (errors := self.errors(agent, benchmark, categories)).too_many:
                return f"{agent} on {benchmark}: {errors}"
        return NOT_RUN

    def _read(self, path_of: Callable[[str, str], Path], benchmark: str, record: type[Record]) -> pd.DataFrame:
        frames = []
        for agent in self.config.run.agents:
            if self.has(path_of, agent, benchmark):
                path = path_of(benchmark, agent)
                frame = read_frame(path, record)
                foreign = frame[(frame["agent"] != agent) | (frame["benchmark"] != benchmark)]
                if len(foreign):
                    other = foreign.iloc[0]
                    raise StageError(f"{path}: holds rows of {other['agent']} on {other['benchmark']}; delete it to make it again")
                frames.append(frame)
        filled = [frame for frame in frames if len(frame)]
        return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame(columns=list(record.model_fields))


def unjudged(scores: pd.DataFrame) -> pd.Series[bool]:
    """Which outcomes are not known: only a judge decides over answers of BrowseComp-ZH, and its verdict cannot be read."""
    return (scores["benchmark"] == "browsecomp_zh") & (scores["judge"] == "unparsable")


def check_scores(scores: pd.DataFrame, *, allow_mixed: bool = False) -> None:
    """Raise StageError for a task scored twice, for numbers that are not finite, and for rows of several package or benchmark
    versions (unless `allow_mixed`), naming them."""
    duplicated = scores[scores.duplicated(["task_id", "agent", "seed"])]
    if len(duplicated):
        row = duplicated.iloc[0]
        raise StageError(f"scores: task {row['task_id']} is there twice for agent {row['agent']}; delete its score file and score again")
    outside = scores[~scores["progress"].astype(float).between(0, 1)]
    if len(outside):
        row = outside.iloc[0]
        raise StageError(
            f"scores: progress {row['progress']} of agent {row['agent']} on task {row['task_id']} is not in [0, 1]; score again"
        )
    if allow_mixed:
        return
    hint = "score all of them again, or set report.allow_mixed_versions to mark the tables instead"
    for benchmark, group in scores.groupby("benchmark"):
        versions = sorted(group["version"].unique())
        if len(versions) > 1:
            raise StageError(f"scores: {benchmark} was run at versions {' and '.join(versions)}; {hint}")
    packages = sorted(scores["package"].unique())
    if len(packages) > 1:
        raise StageError(f"scores: written by dllm-agents {' and '.join(packages)}; {hint}")
