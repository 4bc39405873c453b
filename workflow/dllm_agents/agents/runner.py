"""Rollouts: an agent plays its tasks, several at a time, against servers it starts itself or is given."""

from __future__ import annotations

import random
import sys
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

from dllm_agents import benchmarks, dependencies, prompts
from dllm_agents.agents import MODULE_STYLE, planner, react, search, tool_calling
from dllm_agents.agents.journal import Journal
from dllm_agents.agents.modules import editor, selector
from dllm_agents.agents.modules.early_exit import Verifier
from dllm_agents.agents.modules.memory import Memory
from dllm_agents.agents.modules.tool_graph import GraphSelector, ToolGraph
from dllm_agents.agents.policy import Complete, CompletionLike, EpisodeLimit, Message, ending_of
from dllm_agents.agents.react import Played
from dllm_agents.agents.tape import Backbones, Recording, Replay
from dllm_agents.benchmarks.base import Benchmark, Environment, check_tasks
from dllm_agents.benchmarks.bfcl_conversation import Conversation
from dllm_agents.client.client import Client, Completion, PromptTooLong, ServerFault, SettingsRefused
from dllm_agents.client.streaming import Partial
from dllm_agents.config import SCRIPTED, Agent, Config
from dllm_agents.decoding.settings import Decoding
from dllm_agents.errors import StageError
from dllm_agents.models.checkpoints import not_run
from dllm_agents.progress import track
from dllm_agents.provenance import git_revision, hardware, versions
from dllm_agents.records import Episode, Task, Trajectory, iter_jsonl, timeless, write_jsonl
from dllm_agents.serving.launch import Servers

T = TypeVar("T")
Play = Callable[[Task], Played]
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


def rollout(config: Config, plays: Mapping[str, Sequence[Shard]]) -> None:
    """Play agents over their benchmarks and write one episode file each, in task order.

    Agents take turns on each benchmark, so that those with the same backbones use the same servers. Finished episodes are journalled
    beside the output; a second run redoes only what the journal lacks. The journals go when every output of the job stands, because
    Snakemake deletes the outputs of a job that it runs again.
    Raises StageError when a server cannot be started or dies for good; what was played until then is kept.
    """
    order = list(dict.fromkeys(shard.tasks for shards in plays.values() for shard in shards))
    turns = sorted(((agent, shard) for agent, shards in plays.items() for shard in shards), key=lambda turn: order.index(turn[1].tasks))
    with ExitStack() as stack, Servers(config) as servers:
        journals = [_roll_shard(config, agent, shard, stack, servers) for agent, shard in turns]
        for journal in journals:
            if journal is not None:
                journal.remove()


def _roll_shard(config: Config, agent_name: str, shard: Shard, stack: ExitStack, servers: Servers) -> Journal | None:
    """Play a shard and write its episodes. A role whose checkpoint was not trained leaves a file without episodes: "not run"."""
    reason = next((found for directory in shard.models.values() if (found := not_run(directory)) is not None), None)
    if reason is not None:
        print(f"{shard.output}: not run: {reason}", file=sys.stderr, flush=True)
        write_jsonl(shard.output, [])
        return None
    tasks, journal = play_shard(config, agent_name, shard, stack, servers)
    episodes = [journal.episodes[task.id] for task in tasks]
    write_jsonl(shard.output, episodes)
    if errors := [episode for episode in episodes if episode.ended == "error"]:
        said = f"{len(errors)} of {len(tasks)} episodes ended in an error and count for nothing; the first: {errors[0].error}"
        print(f"{shard.output}: {said}", file=sys.stderr, flush=True)
    if shard.replay is not None:
        stored = stored_episodes(shard.replay, agent_name)
        equal = sum(timeless(journal.episodes[task.id]) == timeless(stored[task.id]) for task in tasks)
        print(f"{shard.output}: {equal} of {len(tasks)} replayed episodes equal the stored ones but for times", file=sys.stderr)
    return journal


def play_shard(config: Config, agent_name: str, shard: Shard, stack: ExitStack, servers: Servers) -> tuple[list[Task], Journal]:
    """Play what the shard's journal lacks of its tasks; returns the tasks played and the journal, open for as long as `stack`."""
    tasks, benchmark = load_tasks(config, shard.tasks)
    agent = config.agents[agent_name]
    backbone = config.backbones.get(agent.policy)
    tasks = spread(tasks, agent.tasks.get(benchmark.name) or (backbone.tasks.get(benchmark.name) if backbone else None))
    index, parts = shard.part
    tasks = tasks[index - 1 :: parts]  # dealt out, so that every part meets every category
    fingerprint = _fingerprint(config, agent_name, benchmark, shard)
    journal = Journal(shard.output.with_name(f".{shard.output.name}.journal"), fingerprint)
    stack.callback(journal.close)
    served = [name for name in config.agent_backbones(agent_name, benchmark.name).values() if not config.backbones[name].url]
    restarts = RESTARTS if served else 0
    while left := [task for task in tasks if task.id not in journal.episodes]:
        try:
            with _policy(config, agent_name, benchmark, shard, servers) as play:
                describe = partial(_episode, config, agent_name, benchmark)
                for episode in track(play_all(left, play, describe, agent.concurrency), len(left), f"{agent_name} on {benchmark.name}"):
                    journal.append(episode)
        except ServerFault as fault:
            if restarts == 0:
                raise StageError(f"{fault}; finished episodes are kept, run the same command again to go on") from None
            restarts -= 1
            print(f"{agent_name} on {benchmark.name}: {fault}; its servers are started again", file=sys.stderr, flush=True)
    return tasks, journal


def merge(tasks: Path, parts: Sequence[Path], output: Path) -> int:
    """Write the episodes of all parts as one file, in task order; returns how many.

    Raises StageError naming a task that is played twice or by no part of those given.
    """
    order = {task.id: position for position, task in enumerate(iter_jsonl(tasks, Task))}
    episodes: dict[str, Episode] = {}
    for part in parts:
        for episode in iter_jsonl(part, Episode):
            if episode.task_id in episodes:
                raise StageError(f"{part}: task {episode.task_id} is in another part too; delete the parts to play them again")
            if episode.task_id not in order:
                raise StageError(f"{part}: task {episode.task_id} is not in {tasks}; delete the part to play it again")
            episodes[episode.task_id] = episode
    return write_jsonl(output, (episodes[name] for name in sorted(episodes, key=order.__getitem__)))


def play_with_backbone(config: Config, backbone: str, benchmark: Benchmark, tasks: Sequence[Task]) -> Iterator[Played]:
    """A ready-made backbone plays tasks with the benchmark's own workflow; in task order, one failed task as `ended="error"`."""
    agents = config.agents | {backbone: Agent(policy=backbone)}
    config = config.model_copy(update={"agents": agents})

    def describe(task: Task, result: Played | Exception, seconds: float, started: str) -> tuple[str, Played]:
        return task.id, Played(ended="error") if isinstance(result, Exception) else result

    with Servers(config) as servers, _policy(config, backbone, benchmark, Shard(Path(), Path()), servers) as play:
        waiting: dict[str, Played] = {}
        finished = play_all(tasks, play, describe, config.agents[backbone].concurrency)
        for task in tasks:
            while task.id not in waiting:
                try:
                    name, played = next(finished)
                except ServerFault as fault:
                    raise StageError(f"{fault}; run the same command again") from None
                waiting[name] = played
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
            raise StageError(f"{path}: task {task.id} stands twice; run sample-tasks again")
        seen.add(task.id)
    benchmark = benchmarks.load(tasks[0].benchmark, config)
    check_tasks(benchmark, tasks)
    return tasks, benchmark


def play_all(
    tasks: Sequence[Task], play: Play, describe: Callable[[Task, Played | Exception, float, str], T], concurrency: int
) -> Iterator[T]:
    """Play tasks, `concurrency` at a time, and yield episodes as they finish.

    One bad episode is recorded as an error and never sinks the run; a server that is gone does (ServerFault), since every further
    episode would fail the same way.
    """

    def timed(task: Task) -> tuple[Played | Exception, float, str]:
        started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
        try:
            result: Played | Exception = play(task)
        except (ServerFault, StageError):
            raise
        except Exception as error:
            result = error
        return result, time.perf_counter() - clock, started

    queue = iter(tasks)
    running: dict[Future[tuple[Played | Exception, float, str]], Task] = {}
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
        # Not waited for: whoever stops a run should not have to sit through the episodes in flight, which are lost anyway.
        pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def _policy(config: Config, agent_name: str, benchmark: Benchmark, shard: Shard, servers: Servers) -> Iterator[Play]:
    """The function that plays one task, with the servers it needs running: one for every backbone, whatever its roles."""
    agent = config.agents[agent_name]
    seed = config.seed if agent.seed is None else agent.seed
    if agent.policy in SCRIPTED:
        yield partial(_play_scripted, agent.policy, benchmark, seed)
        return
    graph = None
    if agent.selector is not None and agent.selector.confidence is not None and benchmark.workflow == "tool_calling":
        if shard.trajectories is None:
            raise StageError(f"agents.{agent_name}.selector.confidence: give the accepted trajectories to learn from by --trajectories")
        graph = ToolGraph.learn(iter_jsonl(shard.trajectories, Trajectory))
    playing = partial(_play_policy, config, agent_name, benchmark, graph, seed)
    backbones = config.agent_backbones(agent_name, benchmark.name)
    if shard.replay is not None:
        yield partial(_play_again, playing, tuple(backbones), stored_episodes(shard.replay, agent_name))
        return
    with servers.clients({name: shard.models.get(name) for name in backbones.values()}, benchmark.name) as clients:
        yield partial(playing, Roles(config, agent_name, benchmark.name, clients))


def stored_episodes(path: Path, agent: str) -> dict[str, Episode]:
    """Task id -> stored episode of an agent. Raises StageError for an episode of another agent."""
    episodes = {}
    for episode in iter_jsonl(path, Episode):
        if episode.agent != agent:
            raise StageError(f"{path}: task {episode.task_id} was played by {episode.agent}, not {agent}; pass the episodes of {agent}")
        episodes[episode.task_id] = episode
    return episodes


def _play_again(playing: Callable[[Backbones, Task], Played], roles: Sequence[str], stored: Mapping[str, Episode], task: Task) -> Played:
    """Play a task with the stored answers of its episode. Raises StageError where there is none."""
    episode = stored.get(task.id)
    if episode is None or episode.ended == "error":
        raise StageError(f"task {task.id}: no whole episode is stored to replay; pass the episodes of a run without errors on these tasks")
    return playing(Replay(episode, roles), task)


@dataclass(frozen=True)
class Roles:
    """The served backbones of an agent, by role. A backbone whose server refuses its settings ends the run (StageError, naming the key):
    every further episode would fare the same."""

    config: Config
    agent: str
    benchmark: str
    clients: Mapping[str, Client]
    _accepted: set[str] = field(default_factory=set)
    """Roles whose settings the server has taken."""

    def complete(self, role: str) -> Complete | None:
        """What answers for a role; None when nothing plays it."""
        name = self.config.agent_backbones(self.agent, self.benchmark).get(role)
        if name is None:
            return None
        decoding = self.config.decoding(self.agent, role, self.benchmark)

        def ask(messages: Sequence[Message], *, seed: int) -> Completion:
            with self._settings(role):
                return self.clients[name].complete(messages, decoding=decoding, seed=seed)

        return ask

    def stream(self, role: str) -> search.Stream:
        """What answers for a role, as a stream."""
        name = self.config.agent_backbones(self.agent, self.benchmark)[role]
        live = search.streamed(self.clients[name], self.config.decoding(self.agent, role, self.benchmark))

        def ask(messages: Sequence[Message], *, seed: int, final: bool) -> Iterator[Partial | CompletionLike]:
            with self._settings(role):
                yield from live(messages, seed=seed, final=final)

        return ask

    @contextmanager
    def _settings(self, role: str) -> Iterator[None]:
        """Tell a refusal of the settings from one of a prompt: settings that have been answered before are not what is refused now."""
        try:
            yield
        except SettingsRefused as refusal:
            if role in self._accepted and refusal.field != "model":
                raise
            name = self.config.agent_backbones(self.agent, self.benchmark)[role]
            own = role != "policy" and getattr(self.config.agents[self.agent], role) is not None
            key = setting_key(self.config, name, self.benchmark, refusal.field, "" if own else self.agent)
            raise StageError(f"{refusal}; change {key}; finished episodes are kept") from None
        self._accepted.add(role)


def setting_key(config: Config, backbone: str, benchmark: str, field: str, agent: str = "") -> str:
    """The key of the configuration that sets a field of the requests to a backbone, as a server names it; an agent's own settings come
    before the backbone's."""
    if field == "model":
        return f"backbones.{backbone}.served_name"
    field = "max_new_tokens" if field in ("max_tokens", "max_completion_tokens") else field
    if agent and field in config.agents[agent].decoding:
        return f"agents.{agent}.decoding.{field}"
    section = f"benchmark_decoding.{benchmark}" if benchmark in config.backbones[backbone].benchmark_decoding else "decoding"
    return f"backbones.{backbone}.{section}" + (f".{field}" if field in Decoding.model_fields else "")


def _play_policy(
    config: Config, agent_name: str, benchmark: Benchmark, graph: ToolGraph | None, seed: int, backbones: Backbones, task: Task
) -> Played:
    agent = config.agents[agent_name]
    recording = Recording(backbones, agent.max_tokens, agent.max_seconds)
    try:
        played = _play_workflow(config, agent, benchmark, graph, recording, seed, task)
    except (EpisodeLimit, PromptTooLong) as stop:
        played = Played(ended=ending_of(stop))
    played.calls = recording.in_order()
    return played


def _play_workflow(
    config: Config, agent: Agent, benchmark: Benchmark, graph: ToolGraph | None, roles: Recording, seed: int, task: Task
) -> Played:
    style = config.backbones[agent.policy].prompt
    if not benchmark.interactive(task):
        selecting, editing = _tool_modules(agent, graph, roles)
        return tool_calling.answer(benchmark, task, _required(roles, "policy"), style=style, seed=seed, selector=selecting, editor=editing)
    with benchmark.environment(task) as environment:
        if isinstance(environment, Conversation):
            selecting, editing = _tool_modules(agent, graph, roles)
            return tool_calling.converse(environment, task, _required(roles, "policy"), seed=seed, selector=selecting, editor=editing)
        if benchmark.workflow == "search" and agent.workflow == "planner":
            team = planner.Roles(*(_required(roles, role) for role in ("planner", "seeker", "writer")))
            return planner.play(environment, task, team, style=style, seed=seed)
        if benchmark.workflow == "search":
            stream, turns = roles.stream("policy"), benchmark.max_steps
            return search.play(environment, task, stream, style=style, acting=agent.acting, max_steps=turns, seed=seed)
        return _act(agent, benchmark, environment, roles, style, seed, task)


def _tool_modules(agent: Agent, graph: ToolGraph | None, roles: Recording) -> tuple[selector.Selecting | None, editor.Editor | None]:
    """The modules of tool calling, new for every episode."""
    selecting, editing = roles.complete("selector"), roles.complete("editor")
    choosing: selector.Selecting | None = selector.Selector(selecting, MODULE_STYLE) if selecting else None
    if choosing is not None and graph is not None and agent.selector is not None and agent.selector.confidence is not None:
        choosing = GraphSelector(graph, agent.selector.confidence, choosing)
    return choosing, editor.Editor(editing, MODULE_STYLE) if editing else None


def _act(agent: Agent, benchmark: Benchmark, environment: Environment, roles: Recording, style: str, seed: int, task: Task) -> Played:
    memory, verifier = agent.memory, agent.verifier
    remembering, verifying = roles.complete("memory"), roles.complete("verifier")
    return react.play(
        environment,
        task,
        _required(roles, "policy"),
        style=style,
        history=agent.history,
        attempts=agent.attempts,
        max_steps=benchmark.max_steps,
        seed=seed,
        list_actions=benchmark.lists_actions,
        memory=Memory(remembering, MODULE_STYLE, memory.every, memory.keep) if memory and remembering else None,
        verifier=Verifier(verifying, MODULE_STYLE, verifier.prompt, verifier.every) if verifier and verifying else None,
    )


def _required(roles: Recording, role: str) -> Complete:
    complete = roles.complete(role)
    assert complete is not None, f"the workflow has a {role}"
    return complete


def _play_scripted(policy: str, benchmark: Benchmark, seed: int, task: Task) -> Played:
    generator = random.Random(f"{seed}:{task.id}:{policy}")
    if not benchmark.interactive(task):
        answers = {
            "random": lambda: benchmark.random_answer(task, generator),
            "empty": lambda: "",
            "teacher": lambda: benchmark.reference_answer(task),
        }
        return tool_calling.answered(answers[policy]())
    choosers: dict[str, react.Scripted] = {
        "random": lambda environment: (None, generator.choice(environment.valid_actions() or [""])),
        "empty": lambda environment: None,
        "teacher": lambda environment: environment.expert_action(),
    }
    with benchmark.environment(task) as environment:
        return react.play_scripted(environment, choosers[policy], max_steps=benchmark.max_steps)


def _episode(
    config: Config, agent_name: str, benchmark: Benchmark, task: Task, result: Played | Exception, seconds: float, started: str
) -> Episode:
    agent = config.agents[agent_name]
    backbone = config.backbones.get(agent.policy)
    backbones = config.agent_backbones(agent_name, task.benchmark)
    seed = config.seed if agent.seed is None else agent.seed
    if isinstance(result, Exception):
        played = Played(ended="error")
        error = f"{type(result).__name__}: {result}"[:500] or type(result).__name__
    else:
        played, error = result, None
    return Episode(
        task_id=task.id,
        benchmark=task.benchmark,
        category=task.category,
        goal=task.goal,
        agent=agent_name,
        backbones=backbones,
        decoding={role: config.decoding(agent_name, role, task.benchmark).model_dump(exclude_none=True) for role in backbones},
        seed=seed,
        max_steps=benchmark.max_steps,
        initial_observation=played.initial_observation,
        steps=played.steps,
        success=played.success,
        progress=played.steps[-1].progress if played.steps else 0.0,
        native_score=played.native_score,
        answer=played.answer,
        ended=played.ended,
        error=error,
        usage=played.usage,
        calls=played.calls,
        prompt_sha256=prompts.style_sha256(backbone.prompt) if backbone else "",
        versions=versions() | {benchmark.name: benchmark.version},
        git_revision=git_revision(),
        hardware=hardware(),
        started=started,
        seconds=seconds,
        extra=played.extra,
    )


def _fingerprint(config: Config, agent_name: str, benchmark: Benchmark, shard: Shard) -> str:
    """Everything the episodes of a shard depend on, hashed."""
    files = {"tasks": shard.tasks, "trajectories": shard.trajectories, "replay": shard.replay}
    models = {f"models.{name}": path for name, path in shard.models.items()}
    settings = dependencies.of_episodes(config, agent_name, benchmark.name) | {"part": shard.part}
    return dependencies.fingerprint(settings, files | models)
