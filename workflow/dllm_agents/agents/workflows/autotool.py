"""AutoTool (Jia and Li, 2025; not the AutoTool that trains models): tool use has inertia. Where the graph of past tool sequences
predicts the next tool with confidence, and the context fills its parameters, the action is taken without asking the backbone.

The paper compares contexts by sentence embeddings; here they are bags of words. Edges come from four fifths of the accepted trajectories;
the threshold is the lowest at which the graph's actions in the others are their teacher's in a share `agreement` of steps. Within an
episode an edge whose action had no effect is not taken again.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from dllm_agents import prompts
from dllm_agents.agents import react
from dllm_agents.agents.game import Game
from dllm_agents.benchmarks.base import Benchmark
from dllm_agents.commands import say
from dllm_agents.errors import StageError
from dllm_agents.records import Trajectory

Path = tuple[str, ...]
"""The last tools before a step, at most two of them."""
_NAMED = re.compile(r"\b(?:an?|the) ((?:[a-z]+ ){1,3}\d+)")
_NUMBERED = re.compile(r"[a-z]+ \d+")
_WORD = re.compile(r"[a-z]+")
INERTIA = 2
HELD_OUT = 5
"""Of so many tasks with trajectories one is held out to choose the threshold,"""
MOST_HELD_OUT = 100
"""but not more than these, which are replayed."""
THRESHOLDS = tuple(percent / 100 for percent in range(30, 100, 5))
NEVER = 2.0
"""A threshold above every score."""


class Tool(NamedTuple):
    """An action with placeholders, and its parameters: "go to {}", ("red ball 1",)."""

    name: str
    values: tuple[str, ...] = ()


def play(game: Game) -> None:
    """At every step take the tool with the highest comprehensive inertia potential score, if that is at least the graph's threshold and
    its parameters can be filled; otherwise ask the policy as in ReAct."""
    assert game.environment is not None
    game.counts["threshold"] = game.learnt.threshold
    tools: list[Tool] = []
    refuted: set[tuple[Path, str]] = set()
    for index in range(game.benchmark.max_steps):
        steps = game.outcome.steps
        observation = steps[-1].observation if steps else game.outcome.initial_observation
        before = tuple(tool.name for tool in tools[-INERTIA:])
        context = Context(game.question, observation, tools[-1] if tools else None, game.environment.valid_actions())
        action, score = game.learnt.best(before, context, game.options["frequency"], refuted)
        if score >= game.learnt.threshold:
            step = game.act(action)
            game.counts["calls_saved"] += 1
        else:
            step = ask_policy(game, index)
        tools.append(tool_of(step.action or "", observation))
        if step.done:
            break
        if not step.valid or step.observation == observation:
            refuted.add((before, tools[-1].name))


def ask_policy(game: Game, index: int) -> Any:
    """One step of ReAct."""
    assert game.environment is not None
    actions = game.environment.valid_actions() if game.benchmark.lists_actions else ()
    for attempt in range(1, game.agent.attempts + 1):
        policy = partial(game.complete(), seed=react.call_seed(game.seed, game.task, index, attempt))
        call, _ = react.ask(policy, game.outcome, game.task, game.style, game.agent.history, actions, None, 0)
        if (parsed := prompts.parse_react(call.text)) is not None:
            break
    thought, action = parsed or (None, None)
    return game.act(action, call=call.key, thought=thought, attempts=attempt)


class Context(NamedTuple):
    """Sources of parameters: the goal, the latest observation, the previous tool, and the valid actions."""

    goal: str
    observation: str
    previous: Tool | None
    actions: Sequence[str]

    @property
    def words(self) -> Counter[str]:
        """The goal's words, which stand for the context."""
        return Counter(_WORD.findall(self.goal.lower()))


@dataclass
class InertiaGraph:
    """How often each tool followed a path, in which contexts, the sources of its parameters, and the score from which on it is followed."""

    followed: dict[Path, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    contexts: dict[tuple[Path, str], Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    sources: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    threshold: float = NEVER

    def add(self, before: Path, tool: Tool, context: Context) -> None:
        """Learn one step."""
        for path in (before, before[-1:]):
            self.followed[path][tool.name] += 1
            self.contexts[path, tool.name].update(context.words)
        for value in tool.values:
            self.sources[tool.name][source_of(value, context)] += 1

    def best(self, before: Path, context: Context, weight: float, refuted: Iterable[tuple[Path, str]] = ()) -> tuple[str | None, float]:
        """The action of the tool with the highest score, and that score; (None, 0) if a possible tool has ambiguous parameters."""
        path = before if before in self.followed else before[-1:]
        fillings = {name: self.fill(name, context) for name in self.followed.get(path, {}) if (before, name) not in set(refuted)}
        open_now = {name: action for name, action in fillings.items() if action is not None}
        if not open_now or any(action is None for name, action in fillings.items() if self.possible(name, context)):
            return None, 0.0
        scores = self.scores(path, list(open_now), context, weight)
        best = max(scores, key=lambda name: scores[name])
        return open_now[best], scores[best]

    def scores(self, path: Path, names: Sequence[str], context: Context, weight: float) -> dict[str, float]:
        """The comprehensive inertia potential score of each tool: its share of the path's continuations and of the contexts' similarity."""
        counts = {name: float(self.followed[path][name]) for name in names}
        likeness = {
            name: cosine(self.contexts[path, name], context.words) ** 8 for name in names
        }  # the power sharpens similarities, since bags of words are similar far more often than meanings
        return {name: weight * share(counts, name) + (1 - weight) * share(likeness, name) for name in names}

    def possible(self, name: str, context: Context) -> bool:
        """Whether a valid action uses a tool."""
        return any(tool_of(action, context.observation).name == name for action in context.actions)

    def fill(self, name: str, context: Context) -> str | None:
        """The action of a tool with parameters from their usual source; None unless that leaves exactly one."""
        choices = [action for action in context.actions if tool_of(action, context.observation).name == name]
        if "{}" not in name or not choices:
            return choices[0] if choices else None
        source = self.sources[name].most_common(1)[0][0]
        fitting = [
            action
            for action in choices
            if all(source_of(value, context) == source for value in tool_of(action, context.observation).values)
        ]
        return fitting[0] if len({re.sub(r" \d+", "", action) for action in fitting}) == 1 else None


def learn(trajectories: Sequence[Trajectory], options: Mapping[str, Any], benchmark: Benchmark) -> InertiaGraph:
    """The graph of accepted trajectories, with its threshold; says so where none is reliable. Raises StageError without trajectories."""
    held_out = set(list(dict.fromkeys(trajectory.task.id for trajectory in trajectories))[HELD_OUT - 1 :: HELD_OUT][:MOST_HELD_OUT])
    graph = InertiaGraph()
    for trajectory in trajectories:
        if trajectory.task.id not in held_out:
            for before, context, action, _ in steps_of(trajectory):
                graph.add(before, tool_of(action, context.observation), context)
    if not graph.followed:
        raise StageError("workflow autotool: no accepted trajectory to learn from; raise train_tasks")
    replayed = [trajectory for trajectory in trajectories if trajectory.task.id in held_out]
    graph.threshold = lowest_reliable(judged(graph, replayed, benchmark, options["frequency"]), options["agreement"])
    if graph.threshold == NEVER:
        say(f"workflow autotool: no threshold agrees with the teacher in {options['agreement']:.0%} of steps, so the policy takes them all")
    return graph


def steps_of(trajectory: Trajectory) -> Iterator[tuple[Path, Context, str, str]]:
    """A trajectory's steps: the path before, the context without valid actions, the teacher's action, and the one executed."""
    tools: list[Tool] = []
    observation = trajectory.initial_observation
    for step in trajectory.steps:
        action = step.action or ""
        executed = step.executed or action
        before = tuple(earlier.name for earlier in tools[-INERTIA:])
        yield before, Context(trajectory.task.goal, observation, tools[-1] if tools else None, ()), action, executed
        tools.append(tool_of(executed, observation))
        observation = step.observation


def judged(graph: InertiaGraph, trajectories: Iterable[Trajectory], benchmark: Benchmark, weight: float) -> Iterator[tuple[float, bool]]:
    """The best score of every step of replayed trajectories, and whether its action is the teacher's."""
    for trajectory in trajectories:
        with benchmark.environment(trajectory.task) as environment:
            environment.reset()
            for before, context, action, executed in steps_of(trajectory):
                own, score = graph.best(before, context._replace(actions=environment.valid_actions()), weight)
                if own is not None:
                    yield score, own == action
                environment.step(executed)


def lowest_reliable(steps: Iterable[tuple[float, bool]], agreement: float) -> float:
    """The lowest threshold such that a share `agreement` of the steps with at least this score are right; NEVER if there is none."""
    taken = list(steps)
    for threshold in THRESHOLDS:
        right = [same for score, same in taken if score >= threshold]
        if right and sum(right) >= agreement * len(right):
            return threshold
    return NEVER


def tool_of(action: str, observation: str) -> Tool:
    """An action as tool and parameters: objects that the observation names, otherwise numbered names."""
    names = sorted({name for name in _NAMED.findall(observation) if name in action}, key=lambda name: (-len(name), name))
    values = []
    for name in names or _NUMBERED.findall(action):
        if name in action:
            values.append(name)
            action = action.replace(name, "{}", 1)
    return Tool(action, tuple(values))


def source_of(value: str, context: Context) -> str:
    """The source of a parameter: the goal, the previous call, or else the observation."""
    words = _WORD.findall(value)
    if set(words) <= set(context.words):
        return "goal"
    return "previous" if context.previous is not None and value in context.previous.values else "observation"


def cosine(one: Mapping[str, int], other: Mapping[str, int]) -> float:
    """The cosine of two bags of words."""
    dot = sum(count * other.get(word, 0) for word, count in one.items())
    length = math.sqrt(sum(count**2 for count in one.values()) * sum(count**2 for count in other.values()))
    return dot / length if length else 0.0


def share(values: Mapping[str, float], name: str) -> float:
    total = sum(values.values())
    return values[name] / total if total else 0.0
