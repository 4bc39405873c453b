"""Rollouts: an agent plays its tasks, several at a time, against servers it starts itself or is given."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

from dllm_agents import benchmarks, dependencies, foreign, prompts
from dllm_agents.agents import workflows
from dllm_agents.agents.journal import Journal
from dllm_agents.agents.merge import played_in_other_parts, sign
from dllm_agents.agents.modules.tool_graph import ToolGraph
from dllm_agents.agents.play import Player
from dllm_agents.agents.recording import Replay, timeless
from dllm_agents.agents.served import Served
from dllm_agents.benchmarks.base import Benchmark, check_tasks
from dllm_agents.client.client import ServerFault
from dllm_agents.commands import add_paths, say
from dllm_agents.config import Agent, Config, load
from dllm_agents.config.roles import WORKFLOWS
from dllm_agents.errors import StageError
from dllm_agents.files import iter_jsonl, write_jsonl
from dllm_agents.models.checkpoints import not_run
from dllm_agents.progress import track
from dllm_agents.provenance import git_revision, hardware, versions
from dllm_agents.records import Header, Outcome, Task, TracedEpisode, Trajectory
from dllm_agents.serving.launch import Servers

T = TypeVar("T")
Play = Callable[[Task], Outcome]
RESTARTS = 2
"""Times that the servers a rollout has started itself are started again after a fault, with the episodes in flight played anew."""


@dataclass(frozen=True)
class Shard:
    """The tasks of one benchmark, where their episodes go, and the checkpoints trained for them (backbone -> directory)."""

    tasks: Path
    output: Path
    models: Mapping[str, Path] = field(default_factory=dict)
    trajectories: Path | None = None
    """Accepted trajectories that a selector's tool graph is learnt from."""
    replay: Path | None = None
    """Stored episodes whose answers are fed back in place of every backbone."""
    part: tuple[int, int] = (1, 1)
    """(k, n): every n-th task, from the k-th on."""


def rollout(config: Config, agent: str, shard: Shard) -> None:
    """Play an agent over a benchmark and write its episodes in task order. A role whose checkpoint was not trained leaves a file without
    episodes: "not run".

    Finished episodes are journalled beside the output; a second run redoes only what the journal lacks. The journal goes when the output
    stands, because Snakemake deletes the outputs of a job that it runs again.
    Raises StageError when a server cannot be started or dies for good; what was played until then is kept.
    """
    reason = next(filter(None, map(not_run, shard.models.values())), None)
    if reason is not None:
        say(f"{shard.output}: not run: {reason}")
        write_jsonl(shard.output, [])
        return
    with ExitStack() as stack, Servers(config) as servers:
        tasks, journal = play_shard(config, agent, shard, stack, servers)
        episodes = [journal.episodes[task.id] for task in tasks]
        write_jsonl(shard.output, episodes)
        sign(shard.output, journal.fingerprint)
        journal.remove()
    if errors := [episode for episode in episodes if episode.ended == "error"]:
        message = f"{len(errors)} of {len(tasks)} episodes ended in an error and are left out of n; the first: {errors[0].error}"
        say(f"{shard.output}: {message}")
    if long := sum(episode.ended == "prompt_too_long" for episode in episodes):
        way = "raise the backbone's `context` or its server's own limit, or take `prompt: compact`"
        say(f"{shard.output}: {long} of {len(tasks)} episodes ended with a prompt that does not fit the context; {way}")
    if shard.replay is not None:
        stored = stored_episodes(shard.replay, agent)
        equal = sum(timeless(episode) == timeless(stored[episode.task_id]) for episode in episodes)
        say(f"{shard.output}: {equal} of {len(tasks)} replayed episodes equal the stored ones but for times")


def play_shard(config: Config, agent_name: str, shard: Shard, stack: ExitStack, servers: Servers) -> tuple[list[Task], Journal]:
    """Play what the shard's journal lacks of its tasks; returns the tasks played and the journal, open for as long as `stack`."""
    tasks, benchmark = load_tasks(config, shard.tasks)
    agent = config.agents[agent_name]
    backbone = config.backbones.get(agent.policy)
    if backbone is not None:
        context = backbone.context_on(benchmark.name)
        prompts.check(backbone.prompt, config.workflow(agent_name, benchmark.name), benchmark.name, context)
    tasks = spread(tasks, agent.tasks.get(benchmark.name) or (backbone.tasks.get(benchmark.name) if backbone else None))
    index, parts = shard.part
    tasks = tasks[index - 1 :: parts]  # dealt out, so that every part meets every category
    fingerprint = _fingerprint(config, agent_name, benchmark, shard)
    journal = Journal(shard.output.with_name(f".{shard.output.name}.journal"), fingerprint)
    stack.callback(journal.close)
    missing = {task.id for task in tasks} - set(journal.episodes)
    for episode in played_in_other_parts(shard.output, agent_name, parts, fingerprint) if missing else ():
        if episode.agent == agent_name and episode.task_id in missing - set(journal.episodes):
            journal.append(episode)
    served = [name for name in config.agent_backbones(agent_name, benchmark.name).values() if not config.backbones[name].url]
    restarts = RESTARTS if served else 0
    player = _player(config, agent_name, benchmark, shard.trajectories)
    while left := [task for task in tasks if task.id not in journal.episodes]:
        try:
            with playing(player, shard, servers) as play:
                describe = partial(episode_of, player)
                for episode in track(play_all(left, play, describe, agent.concurrency), len(left), f"{agent_name} on {benchmark.name}"):
                    journal.append(episode)
        except ServerFault as fault:
            if restarts == 0:
                raise StageError(f"{fault}; finished episodes are kept, run the same command again to go on") from None
            restarts -= 1
            say(f"{agent_name} on {benchmark.name}: {fault}; its servers are started again")
    return tasks, journal


def play_with_backbone(config: Config, backbone: str, benchmark: Benchmark, tasks: Sequence[Task]) -> Iterator[Outcome]:
    """A ready-made backbone plays tasks with the benchmark's own workflow; in task order, one failed task as `ended="error"`."""
    agents = config.agents | {backbone: Agent(policy=backbone)}
    config = config.model_copy(update={"agents": agents})

    def describe(task: Task, result: Outcome | Exception, seconds: float, started: str) -> tuple[str, Outcome]:
        return task.id, Outcome(ended="error") if isinstance(result, Exception) else result

    with Servers(config) as servers, playing(Player(config, backbone, benchmark), Shard(Path(), Path()), servers) as play:
        waiting: dict[str, Outcome] = {}
        finished = play_all(tasks, play, describe, config.agents[backbone].concurrency)
        for task in tasks:
            while task.id not in waiting:
                try:
                    name, outcome = next(finished)
                except ServerFault as fault:
                    raise StageError(f"{fault}; run the same command again") from None
                waiting[name] = outcome
            yield waiting.pop(task.id)


def spread(items: Sequence[T], count: int | None) -> list[T]:
    """`count` items at even distances, so that a short run still meets every category; all of them for None."""
    if count is None or count >= len(items):
        return list(items)
    return [items[index * len(items) // count] for index in range(count)]


def load_tasks(config: Config, path: Path) -> tuple[list[Task], Benchmark]:
    """The evaluation tasks of a file and their benchmark. Raises StageError for an empty, mixed or repeated list."""
    tasks = list(iter_jsonl(path, Task))
    if not tasks:
        raise StageError(f"{path}: holds no task; run sample-tasks again")
    seen: set[str] = set()
    for task in tasks:
        if task.id in seen:
            raise StageError(f"{path}: task {task.id} is listed twice; run sample-tasks again")
        seen.add(task.id)
    benchmark = benchmarks.load(tasks[0].benchmark, config)
    check_tasks(benchmark, tasks)
    return tasks, benchmark


def play_all(
    tasks: Sequence[Task], play: Play, describe: Callable[[Task, Outcome | Exception, float, str], T], concurrency: int
) -> Iterator[T]:
    """Play tasks, `concurrency` at a time, and yield episodes as they finish.

    One bad episode is recorded as an error and never sinks the run; a server that is gone does (ServerFault), since every further
    episode would fail the same way.
    """

    def timed(task: Task) -> tuple[Outcome | Exception, float, str]:
        started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
        try:
            result: Outcome | Exception = play(task)
        except (ServerFault, StageError):
            raise
        except Exception as error:
            result = error
        return result, time.perf_counter() - clock, started

    queue = iter(tasks)
    running: dict[Future[tuple[Outcome | Exception, float, str]], Task] = {}
    pool = ThreadPoolExecutor(concurrency)
    try:
        for task in islice(queue, concurrency):
            running[pool.submit(timed, task)] = task
        while running:
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            # Those that ended well come first, so that one that did not takes none of them along.
            for future in sorted(finished, key=lambda future: future.exception() is not None):
                task = running.pop(future)
                result, seconds, started = future.result()
                following = next(queue, None)
                if following is not None:
                    running[pool.submit(timed, following)] = following
                yield describe(task, result, seconds, started)
    finally:
        # Do not wait: on an interrupt the episodes in flight are lost anyway.
        pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def playing(player: Player, shard: Shard, servers: Servers) -> Iterator[Play]:
    """The function that plays one task, with the servers it needs running: one for every backbone, whatever its roles."""
    if player.scripted:
        yield player.play
        return
    roles = player.config.agent_backbones(player.name, player.benchmark.name)
    if shard.replay is not None:
        yield partial(_play_again, player, tuple(roles), stored_episodes(shard.replay, player.name))
        return
    with servers.clients({name: shard.models.get(name) for name in roles.values()}, player.benchmark.name) as clients:
        yield partial(player.play, backbones=Served(player.config, player.name, player.benchmark.name, clients))


def _player(config: Config, name: str, benchmark: Benchmark, trajectories: Path | None) -> Player:
    """The agent on the benchmark, with what its workflow, or the tool graph of its selector, learns from accepted trajectories."""
    workflow, selector = config.workflow(name, benchmark.name), config.agents[name].selector
    graph = selector is not None and selector.confidence is not None and "selector" in WORKFLOWS[workflow].roles
    if not graph and not WORKFLOWS[workflow].learns:
        return Player(config, name, benchmark)
    if trajectories is None:
        key = "selector.confidence" if graph else "workflow"
        raise StageError(f"agents.{name}.{key}: give the accepted trajectories to learn from by --trajectories")
    accepted = iter_jsonl(trajectories, Trajectory)
    if graph:
        return Player(config, name, benchmark, ToolGraph.learn(accepted))
    options = config.workflow_options(name, benchmark.name)
    return Player(config, name, benchmark, learnt=workflows.load(workflow).learn(list(accepted), options, benchmark))


def stored_episodes(path: Path, agent: str) -> dict[str, TracedEpisode]:
    """Task id -> stored episode of an agent. Raises StageError for an episode of another agent."""
    episodes = {}
    for episode in iter_jsonl(path, TracedEpisode):
        if episode.agent != agent:
            raise StageError(f"{path}: task {episode.task_id} was played by {episode.agent}, not {agent}; pass the episodes of {agent}")
        episodes[episode.task_id] = episode
    return episodes


def _play_again(player: Player, roles: Sequence[str], stored: Mapping[str, TracedEpisode], task: Task) -> Outcome:
    """Play a task with the stored answers of its episode. Raises StageError where there is none."""
    episode = stored.get(task.id)
    if episode is None or episode.ended == "error":
        raise StageError(f"task {task.id}: no whole episode is stored to replay; pass the episodes of a run without errors on these tasks")
    return player.play(task, Replay(episode, roles))


def episode_of(player: Player, task: Task, result: Outcome | Exception, seconds: float, started: str) -> TracedEpisode:
    """The record of a task that was played, or of the error it ended in."""
    if isinstance(result, Exception):
        result = Outcome(ended="error", error=foreign.visible(f"{type(result).__name__}: {result}")[:500])
    config, benchmark = player.config, player.benchmark
    backbones = config.agent_backbones(player.name, task.benchmark)
    sent = {role: config.decoding(player.name, role, task.benchmark).model_dump(mode="json", exclude_none=True) for role in backbones}
    # A seed of its own is every call's.
    decoding = {role: result.decoding.get(role, settings) | {"seed": settings["seed"]} for role, settings in sent.items()}
    header = Header(
        task_id=task.id,
        benchmark=task.benchmark,
        category=task.category,
        goal=task.goal,
        agent=player.name,
        backbones=backbones,
        seed=player.seed,
        max_steps=player.max_steps,
        prompt_sha256=prompts.style_sha256(player.style) if player.style else "",
        versions=versions() | {benchmark.name: benchmark.version},
        git_revision=git_revision(),
        hardware=hardware(),
        started=started,
        seconds=seconds,
    )
    try:
        episode = TracedEpisode.model_validate(dict(header) | dict(result) | {"decoding": decoding})
        TracedEpisode.model_validate_json(episode.model_dump_json(exclude_none=True))
        return episode
    except ValueError as error:  # what a backbone or an environment gave cannot be stored
        reason = foreign.visible(f"the episode cannot be stored: {' '.join(str(error).split())}")[:500]
        return TracedEpisode.model_validate(dict(header) | {"decoding": sent, "ended": "error", "error": reason})


def _fingerprint(config: Config, agent_name: str, benchmark: Benchmark, shard: Shard) -> str:
    """A hash of everything the episodes of a shard depend on, which the number of parts is not."""
    files = {"tasks": shard.tasks, "trajectories": shard.trajectories, "replay": shard.replay}
    models = {f"models.{name}": path for name, path in shard.models.items()}
    return dependencies.fingerprint(dependencies.of_episodes(config, agent_name, benchmark.name), files | models)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--agent", required=True)
    add_paths(parser, tasks="the benchmark's tasks", output="")
    text = "checkpoints trained here: the policy's, or BACKBONE=DIR for that of any role"
    parser.add_argument("--model", nargs="+", default=[], metavar="DIR", help=text)
    parser.add_argument("--trajectories", type=Path, metavar="FILE", help="accepted trajectories, for a selector with a tool graph")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="stored episodes whose answers stand in for every backbone")
    parser.add_argument("--part", type=_part, default=(1, 1), metavar="K-of-N", help="play every N-th task from the K-th on")


def run(args: argparse.Namespace) -> None:
    config = load(args.config)
    if args.agent not in config.agents:
        raise StageError(f"rollout: unknown agent {args.agent!r}; allowed: {', '.join(sorted(config.agents))}")
    named = [item.rpartition("=") for item in args.model]
    models = {backbone or config.agents[args.agent].policy: Path(directory) for backbone, _, directory in named}
    rollout(config, args.agent, Shard(args.tasks, args.output, models, args.trajectories, args.replay, args.part))
    say(f"{args.output}: written")


def _part(text: str) -> tuple[int, int]:
    index, _, count = text.partition("-of-")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise argparse.ArgumentTypeError(f"{text!r} is no part such as 2-of-8")
    return int(index), int(count)
