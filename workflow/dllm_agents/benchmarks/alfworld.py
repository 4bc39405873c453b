"""ALFWorld: household tasks in the TextWorld engine, scored as AgentBoard scores them.

With the published data (`alfworld-download`) the 134 games of its unseen-scene split are played; without it, generated games, which
say so in their version and are not comparable with published scores. Progress is matched sub-goals / (sub-goals + 1), and 1 when
the game is won; sub-goals come from AgentBoard's list where it is given, else from the goal (find, take, transform, place).
"""

from __future__ import annotations

import os
import random
import re
import tempfile
import weakref
from collections.abc import Iterator
from difflib import SequenceMatcher
from functools import cached_property
from importlib.metadata import version as package_version
from itertools import islice
from pathlib import Path
from typing import Any

from dllm_agents import foreign
from dllm_agents.benchmarks import agentboard, alfworld_games, alfworld_planner
from dllm_agents.benchmarks.alfworld_games import TASK_TYPES
from dllm_agents.benchmarks.base import Benchmark, Split, Step
from dllm_agents.benchmarks.patterns import Pattern
from dllm_agents.benchmarks.simulator_process import SimulatorPool, SimulatorProcess
from dllm_agents.benchmarks.simulators import CHECK_ACTIONS, STEP_SECONDS, SimulatedEnvironment, listing, thought
from dllm_agents.config import ALFWorldOptions
from dllm_agents.errors import StageError
from dllm_agents.records import Task

SIMULATOR = "dllm_agents.benchmarks.alfworld:ALFWorldSimulator"
LOAD_SECONDS = 300.0
MEMORY_MB = 2048
RECYCLE_AFTER = 50
PUBLISHED_TEST_GAMES = 134
SOLVE_STEPS = 30
MAX_ACTION_CHARACTERS = 300
NOTHING = "Nothing happens."
FOLDERS: dict[Split, str] = {"train": "train", "test": "valid_unseen"}
_PUT = re.compile(r"(?:put|move) (.+?) (?:in/on|into|onto|in|on|to) (.+)")
_TASK = re.compile(r"Your task is to: ([A-Za-z0-9 ,.'-]+?)\.?\s*(?:\"|\\n|\n|$)")


class ALFWorldSimulator:
    """The engine with one game, inside a worker process. `data` is the folder of the published games, or None."""

    def __init__(self, data: str | None) -> None:
        # ALFWorld makes this folder when it is imported; without published data nothing is ever put there.
        os.environ["ALFWORLD_DATA"] = data or os.path.join(tempfile.gettempdir(), f"alfworld-{os.getuid()}")
        import textworld
        from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
        from textworld.envs import PddlEnv

        _remember_parses()
        self._data = data
        self._env = AlfredDemangler(PddlEnv(textworld.EnvInfos(won=True, admissible_commands=True)))
        self._state: Any = None

    def scenes(self, task_type: str, split: Split) -> list[int]:
        """The floor plans of a split that a task type can be set in."""
        return alfworld_games.scenes(task_type, split)

    def describe(self, scene: int, task_type: str, seed: int) -> dict[str, Any]:
        """Goal of a generated game in words, and what it asks for."""
        game = alfworld_games.make(scene, task_type, seed)
        return {"goal": f"{game.goal}.", "asked": game.request}

    def load(self, scene: int, task_type: str, seed: int) -> str:
        """Start a generated game; returns what is seen from the middle of the room."""
        game = alfworld_games.make(scene, task_type, seed)
        return self._start(game.problem, game.goal)

    def load_published(self, game: str) -> str:
        """Start the game of a file below the data folder; returns what is seen from the middle of the room.

        Only the problem and the words of the goal are read from the file: the engine evaluates a game's grammar as Python, so
        domain and grammar are the installed package's."""
        document = _published(self._data, game)
        return self._start(document["pddl_problem"], document["goal"].rstrip("."))

    def step(self, command: str) -> dict[str, Any]:
        """Play a command: what is observed, whether the game is won, the commands admissible then (sorted)."""
        self._state, _, _ = self._env.step(command)
        return {"observation": self._state.feedback, "won": bool(self._state["won"]), "admissible": self.admissible()}

    def admissible(self) -> list[str]:
        """The commands admissible now, sorted."""
        return list(self._state["admissible_commands"])

    def plan(self, task_type: str, request: dict[str, str]) -> str | None:
        """The teacher's next command for the present state."""
        facts = [(fact.name, *(argument.name for argument in fact.arguments)) for fact in self._state["_facts"]]
        names = {identifier: info.name for identifier, info in self._state["_entity_infos"].items()}
        return alfworld_planner.Household(facts, names).next_command(task_type, request)

    def _start(self, problem: str, goal: str) -> str:
        from alfworld import info

        domain, grammar = (Path(path).read_text(encoding="utf-8") for path in (info.ALFRED_PDDL_PATH, info.ALFRED_TWL2_PATH))
        self._env.load({"pddl_domain": domain, "grammar": grammar.replace("UNKNOWN GOAL", goal), "pddl_problem": problem})
        self._state = self._env.reset()
        return str(self._state.feedback).split("\n\n")[1].strip()


def _remember_parses() -> None:
    """Make the engine an order of magnitude faster without changing a word of what it says.

    It parses the same grammar rules and queries again for every admissible command, copies the whole state each time, and translates
    every problem four times; here each parse and translation is done once, and copies are as deep as what is changed in them."""
    from copy import copy
    from functools import lru_cache

    import fast_downward
    from textworld.envs.pddl import textgen

    translate = lru_cache(maxsize=1)(fast_downward.pddl2sas)
    # The second translation, optimised for the engine's own planner, is never used: alfworld_planner plans.
    fast_downward.pddl2sas = lambda domain, problem, verbose=False, optimize=False: translate(domain, problem)
    parse = lru_cache(maxsize=4096)(textgen._parse_and_convert)

    def copies(value: Any) -> Any:
        return [copy(symbol) for symbol in value] if isinstance(value, list) else copy(value)

    textgen._parse_and_convert = lambda text, rule_name=None, trace=False: copies(parse(text, rule_name=rule_name))
    textgen.deepcopy = copies
    textgen.copy_context = lambda context: {**context, "variables": {**context["variables"]}, "mapping": {**context["mapping"]}}
    textgen.Rule.parse_conjunctive_query = staticmethod(lru_cache(maxsize=4096)(textgen.Rule.parse_conjunctive_query))


def _published(data: str | None, game: str) -> dict[str, str]:
    """Problem and goal of a published game file, which is only trusted to hold those."""
    root = Path(data or "").resolve()
    path = (root / game).resolve()
    if data is None or not path.is_relative_to(root):
        raise StageError(f"alfworld: game {game!r} is not below benchmarks.alfworld.data; set that to the folder made by alfworld-download")
    try:
        document = foreign.loads(path.read_text(encoding="utf-8"))
        goal = _TASK.search(document["grammar"])
        return {"goal": f"{goal[1]}.", "pddl_problem": str(document["pddl_problem"])}  # type: ignore[index]
    except OSError as error:
        raise StageError(f"{path}: {error.strerror}; run alfworld-download again") from None
    except (ValueError, KeyError, TypeError):
        raise StageError(f"{path}: not a game with pddl_problem and a goal in plain words; run alfworld-download again") from None


class ALFWorldEnvironment(SimulatedEnvironment):
    """One household task. An action may become the nearest admissible command, which is then `executed`."""

    def __init__(self, task: Task, pool: SimulatorPool, nearest_action: bool) -> None:
        super().__init__(task, pool)
        self._nearest_action = nearest_action
        self._subgoals = [(Pattern(pattern, f"task {task.id}"), times) for pattern, times in task.data["subgoals"]]

    def reset(self) -> str:
        self._take()
        self.success, self.executed = False, None
        self._progress, self._matched = 0.0, [set[str]() for _ in self._subgoals]
        data = self._task.data
        if "game" in data:
            self._seen: str = self._call("load_published", LOAD_SECONDS, game=data["game"])
        else:
            self._seen = self._call("load", LOAD_SECONDS, scene=data["scene"], task_type=self._task.category, seed=self._task.seed)
        self._admissible: list[str] = self._call("admissible")
        return self._seen

    def step(self, action: str) -> Step:
        if self.success:
            return Step("The task is over.", 1.0, True, False)
        self.executed, written, action = None, action, command(action)
        if self._nearest_action and action not in (choices := [*self._admissible, CHECK_ACTIONS]):
            action = self._nearest(action, choices)
        if action == CHECK_ACTIONS:
            return Step(listing(self._admissible), self._progress, False, True)
        if action not in self._admissible:  # what the engine would answer, without asking it to read hostile text
            return Step(NOTHING, self._progress, False, False)
        self.executed = action if action != written else None
        answer = self._call("step", command=action)
        self._admissible = answer["admissible"]
        observation = self._observe(action, answer["observation"])
        self._score(observation, answer["won"])
        return Step(observation, self._progress, self.success, True)

    def valid_actions(self) -> list[str]:
        return [] if self.success else list(self._admissible)

    def expert_action(self) -> tuple[str, str] | None:
        request = self._task.data.get("asked")
        action = None if request is None or self.success else self._call("plan", task_type=self._task.category, request=request)
        return None if action is None else (thought(THOUGHTS, action), action)

    def _nearest(self, action: str, choices: list[str]) -> str:
        """DiffuAgent's rule: the most similar choice when its difflib ratio is above 0.5."""
        ratio, best = max(((SequenceMatcher(None, action, choice).ratio(), choice) for choice in choices), key=lambda pair: pair[0])
        if ratio <= 0.5:
            return action
        return best

    def _observe(self, action: str, observation: str) -> str:
        """AgentBoard's `look` shows again what the last place visited or opened showed."""
        observation = observation.strip()
        if action == "look":
            return self._seen
        if action.startswith(("go to ", "open ")):
            self._seen = observation
        return observation

    def _score(self, observation: str, won: bool) -> None:
        # AgentBoard's patterns were written when the engine said "You put the mug 1 in/on the desk 1."
        formerly = re.sub(r"^You move the (.+) to the (.+)\.$", r"You put the \1 in/on the \2.", observation)
        for (pattern, _), matches in zip(self._subgoals, self._matched, strict=True):
            match = pattern.search(observation) or pattern.search(formerly)
            if match:
                matches.add(match)
        reached = sum(min(len(matches), times) for (_, times), matches in zip(self._subgoals, self._matched, strict=True))
        self.success = won
        self._progress = 1.0 if won else reached / (sum(times for _, times in self._subgoals) + 1)


def command(action: str) -> str:
    """An action as the engine's command: AgentBoard's `put X in/on Y` is its `move X to Y`."""
    action = action.strip()[:MAX_ACTION_CHARACTERS].rstrip(".").strip()
    return _PUT.sub(r"move \1 to \2", action) if _PUT.fullmatch(action) else action


THOUGHTS = (
    (r"go to (?P<x>.+)", "I should go to the {x} next."),
    (r"open (?P<x>.+)", "The {x} is closed, so I open it."),
    (r"take (?P<x>.+) from (?P<y>.+)", "The {x} is what I need, so I take it from the {y}."),
    (r"move (?P<x>.+) to (?P<y>.+)", "The {x} belongs in or on the {y}."),
    (r"clean (?P<x>.+) with (?P<y>.+)", "The {x} has to be clean, and the {y} is here."),
    (r"heat (?P<x>.+) with (?P<y>.+)", "The {x} has to be hot, and the {y} is here."),
    (r"cool (?P<x>.+) with (?P<y>.+)", "The {x} has to be cool, and the {y} is here."),
    (r"use (?P<x>.+)", "With the {x} on I can look at what I hold."),
)


class ALFWorld(Benchmark):
    """ALFWorld's tasks: the published games of unseen scenes, or generated games; training never shares a scene with evaluation."""

    name = "alfworld"
    lists_actions = True
    options: ALFWorldOptions

    def __init__(self, options: ALFWorldOptions, seed: int = 42) -> None:
        super().__init__(options, seed)
        self._types = options.task_types or list(TASK_TYPES)
        for kind in self._types:
            if kind not in TASK_TYPES:
                raise StageError(f"benchmarks.alfworld.task_types: unknown task type {kind!r}; allowed: {', '.join(TASK_TYPES)}")
        if options.task_list is not None and options.data is None:
            raise StageError("benchmarks.alfworld.task_list: sub-goals of the published games; set benchmarks.alfworld.data too")
        arguments = {"data": options.data}
        self._pool = SimulatorPool(lambda: SimulatorProcess(SIMULATOR, arguments, MEMORY_MB), RECYCLE_AFTER)
        weakref.finalize(self, self._pool.close)

    @cached_property
    def version(self) -> str:
        source = f"alfworld {package_version('alfworld')}, textworld {package_version('textworld')}"
        if self.options.data is None:
            return f"generated games, {source}"
        published = f"published games (evaluated: {FOLDERS['test']}, training: {FOLDERS['train']}), {source}"
        return published + agentboard.version(self.name, self.options.task_list)

    def tasks(self, split: Split) -> list[Task]:
        count = self.options.tasks if split == "test" else self.options.train_tasks
        if self.options.data is not None:
            return list(islice(self._published(split), count))
        simulator = self._pool.take()
        try:
            return list(islice(self._generated(split, simulator), PUBLISHED_TEST_GAMES if count is None else count))
        finally:
            self._pool.give(simulator)

    def environment(self, task: Task) -> ALFWorldEnvironment:
        return ALFWorldEnvironment(task, self._pool, self.options.nearest_action)

    def _generated(self, split: Split, simulator: SimulatorProcess) -> Iterator[Task]:
        """Games without end, one of each type in turn. Evaluated games are played to the end by the teacher before they are taken;
        training games are checked when the teacher plays them for their trajectories."""
        rng = random.Random(f"{self.seed}/{split}")
        scenes = {kind: simulator.call("scenes", STEP_SECONDS, task_type=kind, split=split) for kind in self._types}
        drawn: set[tuple[int, int]] = set()
        while True:
            for kind in rng.sample(self._types, len(self._types)):
                scene, seed = rng.choice(scenes[kind]), rng.randrange(10**6)
                if (scene, seed) in drawn:
                    continue
                drawn.add((scene, seed))
                game = simulator.call("describe", STEP_SECONDS, scene=scene, task_type=kind, seed=seed)
                data = {"scene": scene, "asked": game["asked"], "subgoals": alfworld_games.subgoals(kind, game["asked"])}
                task = self.task(f"{kind}/{scene}-{seed}", split, kind, game["goal"], data, seed)
                if split == "train" or _solvable(task, simulator):
                    yield task

    def _published(self, split: Split) -> Iterator[Task]:
        """The published games of a split: all in the order of their paths, or drawn by seed when a number is asked for."""
        assert self.options.data is not None
        root = Path(self.options.data) / "json_2.1.1" / FOLDERS[split]
        games = sorted(path for kind in self._types for path in root.glob(f"{kind}-*/*/game.tw-pddl"))
        if not games:
            raise StageError(f"{root}: no games; set benchmarks.alfworld.data to the folder made by alfworld-download, or leave it out")
        if split == "train" or self.options.tasks is not None:
            random.Random(f"{self.seed}/{split}").shuffle(games)
        listed = self._listed()
        for path in games:
            if "Sliced" in str(path):
                continue
            name = "/".join(path.parts[-3:-1])
            relative = str(path.relative_to(self.options.data))
            request = _asked(path.with_name("traj_data.json"))
            kind = path.parts[-3].split("-")[0]
            subgoals = [(pattern, 1) for pattern in listed[name]] if name in listed else alfworld_games.subgoals(kind, request)
            goal = _published(self.options.data, relative)["goal"]
            yield self.task(name, split, kind, goal, {"game": relative, "asked": request, "subgoals": subgoals})

    def _listed(self) -> dict[str, list[str]]:
        """Game ("folder/trial") -> sub-goal patterns of AgentBoard's list; empty when none is configured."""
        if self.options.task_list is None:
            return {}

        def parse(item: Any, source: str) -> tuple[str, list[str]]:
            return str(item["additional_info"]["description"]), [Pattern(pattern, source).text for pattern in item["subgoals"]]

        return agentboard.read(self.name, self.options.task_list, parse, '{"subgoals": [patterns], "additional_info": {"description"}}')


def _asked(path: Path) -> dict[str, str]:
    try:
        parameters = foreign.loads(path.read_text(encoding="utf-8"))["pddl_params"]
        names = {"object": "object_target", "receptacle": "parent_target", "lamp": "toggle_target"}
        request = {key: str(parameters[name]) for key, name in names.items()}
    except (OSError, ValueError, KeyError, TypeError):
        raise StageError(f"{path}: no pddl_params to read the goal from; run alfworld-download again") from None
    if not all(re.fullmatch(r"\w*", value) for value in request.values()):
        raise StageError(f"{path}: pddl_params are not object types; run alfworld-download again")
    return request


def _solvable(task: Task, simulator: SimulatorProcess) -> bool:
    simulator.call("load", LOAD_SECONDS, scene=task.data["scene"], task_type=task.category, seed=task.seed)
    for _ in range(SOLVE_STEPS):
        action = simulator.call("plan", STEP_SECONDS, task_type=task.category, request=task.data["asked"])
        if action is None:
            return False
        if simulator.call("step", STEP_SECONDS, command=action)["won"]:
            return True
    return False


BENCHMARK = ALFWorld
