"""Winner and loser trajectories for preference optimisation: two rollouts a query from the model that is to be taught.

A pair is kept when both rollouts are complete and well-formed and exactly one is right (DLLM-Searcher section 4.3); every query leaves a
line, kept or rejected with a named reason.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from dllm_agents import benchmarks
from dllm_agents.agents.rollout import Shard, play_shard
from dllm_agents.benchmarks.base import Benchmark
from dllm_agents.commands import add_paths, say
from dllm_agents.config import PREFERENCE, Agent, Config, Training, load
from dllm_agents.errors import StageError
from dllm_agents.files import write_jsonl
from dllm_agents.records import Episode, Pair, Task, Trajectory
from dllm_agents.serving.launch import Servers

REJECTIONS = {
    "error": "a rollout failed",
    "malformed": "a step of a rollout holds no thought and action that can be read",
    "no answer": "a rollout ended without an answer",
    "both right": "neither rollout is worse",
    "both wrong": "neither rollout is better",
}


def sample_pairs(config: Config, backbone: str, tasks: Sequence[Path], models: Sequence[Path], output: Path) -> Counter[str]:
    """Roll the base of a preference-trained backbone out on training tasks and write `output`; returns the count of each outcome,
    `kept` among them.

    `tasks` are training task files and `models` the base's checkpoints trained for them, in the same order. Finished episodes are
    journalled beside the output, so an interrupted run goes on. Raises StageError for a backbone without preference training.
    """
    training = config.backbones[backbone].training if backbone in config.backbones else None
    if training is None or training.objective not in PREFERENCE or training.preference is None:
        raise StageError(f"backbone {backbone!r}: learns from no pairs; give one whose training.objective is {' or '.join(PREFERENCE)}")
    base, preference = str(training.base), training.preference
    counts: Counter[str] = Counter()
    with ExitStack() as stack, Servers(config) as servers:
        pairs: list[Pair] = []
        journals = []
        for path, model in zip(tasks, models, strict=True):
            rollouts: list[list[Episode]] = []
            for seed in preference.seeds:
                journal_of = output.with_name(f"{output.name}.{path.stem}.{seed}")
                settings = rolled_out(config, base, training, seed)
                queries, journal = play_shard(settings, base, Shard(path, journal_of, {base: model}), stack, servers)
                rollouts.append([journal.episodes[task.id] for task in queries])
                journals.append(journal)
            pairs += make_pairs(benchmarks.load(queries[0].benchmark, config), queries, rollouts, base, preference.seeds)
        write_jsonl(output, pairs)
        for journal in journals:
            journal.remove()
    counts.update(pair.rejected or "kept" for pair in pairs)
    return counts


def rolled_out(config: Config, base: str, training: Training, seed: int) -> Config:
    """The configuration with an agent named like the base that plays it at the rollouts' temperature and seed; for JustGRPO token by
    token from left to right, the order whose likelihood it takes."""
    preference = training.preference
    assert preference is not None
    decoding: dict[str, Any] = {"temperature": preference.temperature}
    if preference.acting == "p_react":
        decoding["tool_prefill"] = {"rule": "predicted"}
    if training.objective == "just_grpo":
        decoding |= {"remasking": "sequential", "threshold": None, "steps": None, "tool_prefill": None}
    agent = Agent(policy=base, acting=preference.acting, seed=seed, decoding=decoding)
    entry = config.backbones[base].model_copy(update={"tasks": dict.fromkeys(config.run.benchmarks, preference.queries)})
    return config.model_copy(update={"backbones": config.backbones | {base: entry}, "agents": config.agents | {base: agent}})


def make_pairs(
    benchmark: Benchmark, tasks: Sequence[Task], rollouts: Sequence[Sequence[Episode]], backbone: str, seeds: tuple[int, int]
) -> Iterator[Pair]:
    """One record per task from its two episodes. `rollouts` are the episodes of each seed, in the order of `tasks`."""
    right = [_right(benchmark, tasks, episodes) for episodes in rollouts]
    for task, *episodes, first, second in zip(tasks, *rollouts, *right, strict=True):
        pair = Pair(task_id=task.id, benchmark=task.benchmark, backbone=backbone, seeds=seeds)
        flaw = next((reason for episode in episodes if (reason := flaw_of(benchmark, episode)) is not None), None)
        if flaw is None and first == second:
            flaw = "both right" if first else "both wrong"
        if flaw is not None:
            yield pair.model_copy(update={"rejected": flaw})
            continue
        winner, loser = (_trajectory(task, episode) for episode in (episodes if first else reversed(episodes)))
        yield pair.model_copy(update={"winner": winner, "loser": loser})


def flaw_of(benchmark: Benchmark, episode: Episode) -> str | None:
    """Why a rollout can stand in no pair, as a key of REJECTIONS: it is not complete, or a step of it is not well-formed."""
    if episode.ended == "error" or not episode.steps:
        return "error"
    if any(step.action is None or (step.thought is None and benchmark.workflow == "react") for step in episode.steps):
        return "malformed"
    if benchmark.workflow == "search":
        return "no answer" if episode.answer is None else "malformed" if benchmark.check_trajectory(episode.steps) else None
    return None


def _right(benchmark: Benchmark, tasks: Sequence[Task], episodes: Sequence[Episode]) -> list[bool]:
    """Whether each episode solved its task; single answers are judged by the official checker."""
    single = [(task, episode.answer or "") for task, episode in zip(tasks, episodes, strict=True) if not benchmark.interactive(task)]
    verdicts = iter(benchmark.judge_many(single) if single else [])
    return [episode.success if benchmark.interactive(task) else next(verdicts).valid for task, episode in zip(tasks, episodes, strict=True)]


def _trajectory(task: Task, episode: Episode) -> Trajectory:
    """An episode as a trajectory to learn from, without its calls and what a clock said."""
    alone = {"call": None, "environment_seconds": 0.0}
    return Trajectory(
        task=task,
        teacher=episode.agent,
        seed=episode.seed,
        initial_observation=episode.initial_observation,
        steps=[step.model_copy(update=alone) for step in episode.steps],
        success=episode.success,
        progress=episode.progress,
        versions=episode.versions,
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--backbone", required=True, help="the backbone that will learn from the pairs")
    parser.add_argument("--tasks", type=Path, nargs="+", required=True, metavar="FILE", help="training tasks")
    parser.add_argument("--model", type=Path, nargs="+", required=True, metavar="DIR", help="the base's checkpoint for each task file")
    add_paths(parser, output="")


def run(args: argparse.Namespace) -> None:
    if len(args.tasks) != len(args.model):
        raise StageError("sample-pairs: give as many --model as --tasks, in the same order")
    counts = sample_pairs(load(args.config), args.backbone, args.tasks, args.model, args.output)
    reasons = ", ".join(f"{reason}: {count}" for reason, count in sorted(counts.items()) if reason != "kept") or "none"
    say(f"{args.output}: {counts['kept']} pairs of {counts.total()} queries; rejected: {reasons}")
