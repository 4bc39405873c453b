"""Teacher trajectories: collected through the same environments as agents use, then filtered with a named reason for each rejection."""

from __future__ import annotations

import argparse
import os
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from dllm_agents import benchmarks, prompts
from dllm_agents.benchmarks.base import Benchmark, check_tasks
from dllm_agents.benchmarks.search_reply import Reply, parse_reply
from dllm_agents.benchmarks.simulator_process import SimulatorError
from dllm_agents.client.judge import judges
from dllm_agents.commands import add_paths, say
from dllm_agents.config import Config, load
from dllm_agents.files import iter_jsonl, read_jsonl, write_jsonl
from dllm_agents.lifeline import end_with_parent
from dllm_agents.progress import track
from dllm_agents.provenance import versions
from dllm_agents.records import EpisodeStep, Task, Trajectory

SLIPS = 0.25  # share of explored actions that were open in an earlier state and no longer are, so that refusals are trained on too
TEACHERS = {
    "babyai": "expert",
    "bfcl": "ground truth",
    "alfworld": "planner",
    "scienceworld": "gold path",
    "multihop_qa": "oracle searcher",
    "browsecomp_zh": "oracle searcher",
}
REJECTIONS = {
    "simulator": "the simulator failed or ran into its time limit",
    "goal not reached": "the episode did not end in the goal state",
    "wrong answer": "the official checker refuses the answer",
    "no reasoning": "a step has no thought",
    "invalid action": "the environment refused the teacher's own action",
    "judge": "the LLM judge does not find the answer correct",
    "format": "the step, written as a completion, does not parse back to itself",
}


def collect(config: Config, benchmark_name: str, tasks: list[Task], workers: int = 1) -> Iterator[Trajectory]:
    """One teacher trajectory per task, in task order. Raises StageError naming a task of another benchmark or version."""
    benchmark = benchmarks.load(benchmark_name, config)
    check_tasks(benchmark, tasks)
    if benchmark.options.teacher is not None:
        yield from _collect_from_backbone(config, benchmark, tasks)
        return
    if workers <= 1 or not all(map(benchmark.interactive, tasks)):
        yield from map(partial(_collect_one, benchmark, config.seed), tasks)
        return
    chunks = [tasks[start : start + 64] for start in range(0, len(tasks), 64)]
    with ProcessPoolExecutor(workers, initializer=end_with_parent) as pool:
        for part in pool.map(partial(_collect_chunk, config, benchmark_name), chunks):
            yield from part


def _collect_from_backbone(config: Config, benchmark: Benchmark, tasks: list[Task]) -> Iterator[Trajectory]:
    """A model as the teacher: it plays as an agent would, through the same environments and prompts (DLLM-Searcher section 5.1.1)."""
    from dllm_agents.agents.rollout import play_with_backbone

    teacher = benchmark.options.teacher
    for task, outcome in zip(tasks, play_with_backbone(config, teacher, benchmark, tasks), strict=True):
        success = outcome.success
        if not benchmark.interactive(task):
            success = outcome.answer is not None and benchmark.judge(task, outcome.answer).valid
        steps = [step.model_copy(update={"call": None}) for step in outcome.steps]
        trajectory = _trajectory(task, teacher, config.seed, steps, success, float(success))
        rejected = None if outcome.ended != "error" else "simulator"
        yield trajectory.model_copy(update={"initial_observation": outcome.initial_observation, "rejected": rejected})


def _trajectory(task: Task, teacher: str, seed: int, steps: list[EpisodeStep], success: bool, progress: float = 0.0) -> Trajectory:
    """What a teacher did on a task; `progress` is that without a step."""
    reached = steps[-1].progress if steps else progress
    return Trajectory(task=task, teacher=teacher, seed=seed, steps=steps, success=success, progress=reached, versions=versions())


def _collect_chunk(config: Config, benchmark_name: str, tasks: list[Task]) -> list[Trajectory]:
    benchmark = benchmarks.load(benchmark_name, config)
    return [_collect_one(benchmark, config.seed, task) for task in tasks]


def _collect_one(benchmark: Benchmark, seed: int, task: Task) -> Trajectory:
    if benchmark.interactive(task):
        try:
            return play_teacher(benchmark, task, seed)
        except SimulatorError as error:
            failed = _trajectory(task, TEACHERS[benchmark.name], seed, [], False)
            return failed.model_copy(update={"rejected": f"simulator: {error}"})
    answer = benchmark.reference_answer(task)
    valid = benchmark.judge(task, answer).valid
    step = EpisodeStep(index=0, action=answer, progress=float(valid), valid=valid, done=True)
    return _trajectory(task, TEACHERS[benchmark.name], seed, [step], valid)


def play_teacher(benchmark: Benchmark, task: Task, seed: int) -> Trajectory:
    """The teacher labels every state; a share `exploration` of the executed actions are random valid ones, or now and then one that was
    open earlier, so that the trajectories also hold states and refusals that only mistakes lead to."""
    generator = random.Random(f"{seed}:{task.id}")
    exploration = benchmark.options.exploration
    steps: list[EpisodeStep] = []
    offered: set[str] = set()
    with benchmark.environment(task) as environment:
        initial = environment.reset()
        for index in range(benchmark.max_steps):
            label = environment.expert_action()
            if label is None:
                break
            thought, action = label
            choices: list[str] = []
            if generator.random() < exploration:
                choices = environment.valid_actions()
                stale = sorted(offered - set(choices))
                offered.update(choices)
                if stale and generator.random() < SLIPS:
                    choices = stale
            executed = generator.choice(choices) if choices else action
            observation, progress, done, valid = environment.step(executed)
            steps.append(
                EpisodeStep(
                    index=index,
                    thought=thought,
                    action=action,
                    executed=executed if executed != action else None,
                    observation=observation,
                    progress=progress,
                    valid=valid,
                    done=done,
                )
            )
            if done:
                break
        trajectory = _trajectory(task, TEACHERS[benchmark.name], seed, steps, environment.success)
        return trajectory.model_copy(update={"exploration": exploration, "initial_observation": initial})


def rejection(benchmark: Benchmark, trajectory: Trajectory) -> str | None:
    """Why a trajectory is not trained on, as a key of REJECTIONS or the benchmark's own reason; None accepts it
    (DLLM-Searcher section 4.2.1: correct final answer, complete reasoning, strictly valid format)."""
    if trajectory.rejected is not None:
        return "simulator"
    if not trajectory.success:
        return "goal not reached" if benchmark.interactive(trajectory.task) else "wrong answer"
    if benchmark.workflow == "react":
        for step in trajectory.steps:
            if not step.thought:
                return "no reasoning"
            if step.action is None or not _parses_back(step.thought, step.action):
                return "format"
            if not step.valid and step.executed is None:
                return "invalid action"
    return benchmark.check_trajectory(trajectory.steps) or _judged(benchmark, trajectory)


def _judged(benchmark: Benchmark, trajectory: Trajectory) -> str | None:
    """The LLM judge's objection, where the benchmark has a judge (DLLM-Searcher section 5.1.1)."""
    panel = judges(benchmark.options)[:1] if benchmark.name == "multihop_qa" else []
    for judge in panel:
        reply = parse_reply(trajectory.steps[-1].action or "") if trajectory.steps else ""
        answer = reply.answer or "" if isinstance(reply, Reply) else ""
        if judge.verdict(trajectory.task.goal, trajectory.task.data["answers"], answer) != "correct":
            return "judge"
    return None


def _parses_back(thought: str, action: str) -> bool:
    return prompts.parse_react(prompts.react_completion(thought, action)) == (thought, action)


def split_accepted(benchmark: Benchmark, trajectories: Iterable[Trajectory]) -> tuple[list[Trajectory], list[Trajectory], Counter[str]]:
    """(accepted, rejected with their reason, count per reason)."""
    accepted, rejected, counts = [], [], Counter[str]()
    for trajectory in trajectories:
        reason = rejection(benchmark, trajectory)
        if reason is None:
            accepted.append(trajectory)
        else:
            counts[reason] += 1
            rejected.append(trajectory.model_copy(update={"rejected": reason}))
    return accepted, rejected, counts


def add_collect_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--benchmark", required=True)
    add_paths(parser, tasks="training tasks", output="")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")


def run_collect(args: argparse.Namespace) -> None:
    tasks = read_jsonl(args.tasks, Task)
    trajectories = collect(load(args.config), args.benchmark, tasks, args.workers)
    say(f"{args.output}: {write_jsonl(args.output, track(trajectories, len(tasks), f'teacher on {args.benchmark}'))} trajectories")


def add_filter_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--benchmark", required=True)
    add_paths(parser, trajectories="all that the teacher played", accepted="", rejected="")


def run_filter(args: argparse.Namespace) -> None:
    benchmark = benchmarks.load(args.benchmark, load(args.config))
    accepted, rejected, counts = split_accepted(benchmark, iter_jsonl(args.trajectories, Trajectory))
    write_jsonl(args.accepted, accepted)
    write_jsonl(args.rejected, rejected)
    reasons = ", ".join(f"{reason}: {count}" for reason, count in sorted(counts.items())) or "none"
    say(f"{args.accepted}: {len(accepted)} accepted; {len(rejected)} rejected ({reasons})")
