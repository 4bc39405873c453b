"""BabyAI through AgentBoard's text interface (arXiv 2401.13178), on minigrid.

A task is a level and a seed. Progress is the share of sub-goal patterns that an observation has matched, at most one per effective
action; the sub-goals are AgentBoard's where its task list is given, else derived from the instruction in the same pattern language.
The text interface itself is in `babyai_text`, the teacher in `babyai_teacher`.
"""

from __future__ import annotations

import difflib
import importlib.metadata
import os
import random
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar

from dllm_agents.benchmarks import agentboard
from dllm_agents.benchmarks import babyai_text as text
from dllm_agents.benchmarks.babyai_teacher import Teacher, required_keys
from dllm_agents.benchmarks.base import Benchmark, Environment, Split, Step
from dllm_agents.config import BabyAIOptions
from dllm_agents.errors import StageError
from dllm_agents.records import Task

# AgentBoard's evaluated levels, in its order.
AGENTBOARD_LEVELS = (
    "GoToRedBallGrey",
    "GoToRedBall",
    "GoToRedBallNoDists",
    "GoToObjS6",
    "GoToLocalS8N7",
    "GoToObjMazeS7",
    "GoToImpUnlock",
    "GoToSeqS5R2",
    "GoToRedBlueBall",
    "GoToDoor",
    "GoToObjDoor",
    "Open",
    "OpenRedDoor",
    "OpenDoorLoc",
    "OpenRedBlueDoorsDebug",
    "OpenDoorsOrderN4Debug",
    "Pickup",
    "UnblockPickup",
    "PickupLoc",
    "PickupDistDebug",
    "PickupAbove",
    "Unlock",
    "UnlockLocalDist",
    "UnlockPickupDist",
    "BlockedUnlockPickup",
    "UnlockToUnlock",
    "FindObjS7",
    "KeyCorridorS6R3",
)
# The published GoToObjS6 tasks were made when the level's rooms had 4 cells a side; minigrid 3 registers it with 6.
_ROOM_SIZES = {"GoToObjS6": 4}
_MAX_DRAWS = 1_000_000  # random draws a level may take to generate; a usual one takes under a thousand
TRAIN_SEED_START = 100_000  # training seeds count up from here; evaluated ones are skipped
_SEEDS = range(1234, 1238)  # of AgentBoard's task list


@cache
def _registered() -> dict[str, Any]:
    """Level -> newest registered specification. Imports minigrid, and keeps it silent."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    import minigrid  # noqa: F401  (registers the levels)
    from gymnasium.envs.registration import registry
    from minigrid.envs.babyai.core import roomgrid_level

    roomgrid_level.print = lambda *_: None  # type: ignore[attr-defined]  # it reports every rejected draw on standard output
    specs = [spec for name, spec in registry.items() if name.startswith("BabyAI-")]
    return {spec.name.removeprefix("BabyAI-"): spec for spec in sorted(specs, key=lambda spec: spec.version or 0)}


def make_simulator(level: str, seed: int) -> Any:
    """A minigrid environment of a level, reset with a seed. Raises StageError for unknown levels and for endless generation."""
    from gymnasium.envs.registration import load_env_creator

    levels = _registered()
    if level not in levels:
        close = difflib.get_close_matches(level, levels, 3) or sorted(levels)
        raise StageError(f"benchmarks.babyai.levels: minigrid has no level {level!r}; did you mean {' or '.join(close)}?")
    spec = levels[level]
    size = {"room_size": _ROOM_SIZES[level]} if level in _ROOM_SIZES else {}
    simulator: Any = load_env_creator(spec.entry_point)(**{**spec.kwargs, **size})
    simulator.gen_obs = dict  # minigrid's image costs most of a step and nothing here reads it: see babyai_text.look
    draw, left = simulator._rand_int, _MAX_DRAWS

    def bounded_draw(low: int, high: int) -> int:
        nonlocal left
        left -= 1
        if left < 0:
            raise StageError(f"babyai/{level}/{seed}: cannot be generated in {_MAX_DRAWS} draws; leave this seed out")
        return draw(low, high)

    simulator._rand_int = bounded_draw
    simulator.reset(seed=seed)
    return simulator


def shown_goal(mission: str) -> str:
    """The mission as AgentBoard words it: the order of sequences is hidden."""
    return mission.replace("then", "and").replace("after you", "and")


def derive_subgoals(simulator: Any) -> list[str]:
    """Sub-goal patterns for a freshly reset simulator, after the manner of AgentBoard's: what to see first, keys, what to reach.

    A pattern cannot tell where a thing lay at first, the order of a sequence, or what lies next to what. Where the instruction depends
    on these the last sub-goal is the simulator's own end signal, which the observation spells out.
    """
    opening = text.describe(text.look(simulator, text.pose_of(simulator)))
    groups = list(_groups(simulator.instrs))
    single = len(groups) == 1 and len(groups[0]) == 1
    goals: list[str] = []
    for group in groups:
        for leaf in group:
            way, end = _leaf_patterns(simulator, leaf)
            goals += [f"You are carrying a {color} key." for color in required_keys(simulator, leaf)]
            goals += [pattern for pattern in way if not text.matches(opening, pattern)]
            if end and (single or group is not groups[-1]):
                goals.append(end)
    if not single or not end:
        goals.append("The task is completed")
    return list(dict.fromkeys(goals))


def _groups(instruction: Any) -> Iterator[list[Any]]:
    """The single instructions of a mission in order; those of one group may be done in any order."""
    kind = type(instruction).__name__
    if kind == "AndInstr":
        yield [instruction.instr_a, instruction.instr_b]
    elif kind in ("BeforeInstr", "AfterInstr"):
        parts = [instruction.instr_a, instruction.instr_b]
        for part in parts if kind == "BeforeInstr" else reversed(parts):
            yield from _groups(part)
    else:
        yield [instruction]


def _leaf_patterns(simulator: Any, leaf: Any) -> tuple[list[str], str | None]:
    """(patterns on the way, the pattern that holds exactly when the instruction is done, or None where none does)."""
    kind = type(leaf).__name__
    description = leaf.desc_move if kind == "PutNextInstr" else leaf.desc
    names = {(thing.color, thing.type) for thing in description.obj_set}
    color, sort = names.pop() if len(names) == 1 else (description.color or "**", description.type or "**")
    named = [cell for cell in simulator.grid.grid if cell and color in (cell.color, "**") and sort in (cell.type, "**")]
    exact = all(any(cell is thing for thing in description.obj_set) for cell in named)
    seen = f"There is a {color} ** door **" if sort == "door" else f"There is a {color} {sort} **"
    if kind == "GoToInstr":
        end: str | None = f"{seen} right in front of you 1 steps away."
    elif kind == "PickupInstr":
        end = f"You are carrying a {color} {sort}."
    elif kind == "OpenInstr":
        end = f"There is a {color} open door **"
        exact = exact and not any(cell.is_open for cell in named)
    else:
        return [seen, f"You are carrying a {color} {sort}."], None
    return [seen], end if exact else None


class BabyAIEnvironment(Environment):
    """One BabyAI task behind AgentBoard's text interface."""

    def __init__(self, task: Task) -> None:
        try:
            self._level, self._seed = str(task.data["level"]), int(task.data["seed"])
            self._subgoals = [str(pattern) for pattern in task.data["subgoals"]]
        except (KeyError, TypeError, ValueError):
            self._subgoals = []
        if not self._subgoals:
            raise StageError(f"task {task.id}: its data lacks level, seed or subgoals; sample the tasks again")
        self._simulator: Any = None

    def reset(self) -> str:
        """Start the task; returns the initial observation, which earns no progress."""
        self._simulator = make_simulator(self._level, self._seed)
        self._teacher = Teacher(self._simulator)
        self._remaining = list(self._subgoals)
        self._progress = 0.0
        self._done = self._signalled = self.success = False
        self._recent: list[str] = []
        self._observe()
        return self._observation

    def _observe(self) -> None:
        self._view = text.look(self._simulator, text.pose_of(self._simulator))
        self._observation = text.describe(self._view)
        self._options: text.Options | None = None

    def _available(self) -> text.Options:
        if self._options is None:
            self._options = text.options(self._view)
        return self._options

    def valid_actions(self) -> list[str]:
        """What "check available actions" would list, sorted."""
        return sorted(self._available().moves)

    def expert_action(self) -> tuple[str, str]:
        """The teacher's short thought and its action; it has one for every state."""
        remaining = self._remaining if self._signalled else []
        return self._teacher.label(self._view, self._available(), self._recent, remaining)

    def step(self, action: str) -> Step:
        """Play one action. What is unknown, impossible, empty or a question costs the step and changes nothing."""
        if self._done:
            return Step(self._observation, self._progress, True, False)
        action = action.lower().strip()
        self._recent = [*self._recent[-2:], action[:200]]
        moves = self._available().moves.get(action)
        if "check" in action:  # as AgentBoard reads it: anything that holds the word
            return self._unchanged("You can take the following actions: " + ", ".join(self._available().moves), valid=True)
        if moves is None:
            refusal = self._available().refusals.get(action, text.UNKNOWN)
            return self._unchanged(refusal if action else text.UNCHANGED, valid=False)
        if not moves:
            return self._unchanged(text.UNCHANGED, valid=True)
        return self._settle(self._walk(moves))

    def _unchanged(self, observation: str, valid: bool) -> Step:
        return Step(observation, self._progress, False, valid)

    def _walk(self, moves: tuple[int, ...]) -> bool:
        """Play low-level moves up to the first that leaves the view unchanged; returns the last one's end signal."""
        ended = False
        image = self._view.image
        for move in moves:
            _, _, ended, _, _ = self._simulator.step(move)
            self._view = text.look(self._simulator, text.pose_of(self._simulator))
            if self._view.image == image:
                break
            image = self._view.image
        return ended

    def _settle(self, ended: bool) -> Step:
        """Progress and end after an effective action: an end signal stands only above half of the progress; all of it is an end."""
        self._observe()
        self._signalled |= ended
        observation = self._observation + (text.COMPLETED if ended else "")
        for pattern in self._remaining:
            if text.matches(observation, pattern):
                self._remaining.remove(pattern)
                self._progress = (len(self._subgoals) - len(self._remaining)) / len(self._subgoals)
                break
        finished = not self._remaining
        if finished and not ended:
            observation += text.COMPLETED
        self._done = self.success = finished or (ended and self._progress > 0.5)
        return Step(observation, self._progress, self._done, True)

    def close(self) -> None:
        self._simulator = None


class BabyAI(Benchmark):
    """Levels x seeds of BabyAI; without options, AgentBoard's 112 tasks."""

    name: ClassVar[str] = "babyai"
    options: BabyAIOptions

    @property
    def version(self) -> str:
        """The simulator that makes the levels."""
        return f"minigrid {importlib.metadata.version('minigrid')}"

    def tasks(self, split: Split) -> list[Task]:
        """`test`: every level with every evaluated seed, or a draw of them; `train`: the levels in turn with seeds never evaluated.

        Instances that the task list does not have get derived sub-goals. Raises StageError for an unknown level and for a task list
        that does not fit the simulator.
        """
        levels = self.options.levels or list(AGENTBOARD_LEVELS)
        if split == "train":
            return [self._task(level, seed, split) for level, seed in self._training_instances(levels)]
        instances = [(level, seed) for level in levels for seed in self.options.seeds]
        if self.options.tasks is not None and self.options.tasks < len(instances):
            chosen = sorted(random.Random(self.seed).sample(range(len(instances)), self.options.tasks))
            instances = [instances[index] for index in chosen]
        published = self._listed()
        return [self._task(level, seed, split, published.get((level, seed))) for level, seed in instances]

    def _training_instances(self, levels: list[str]) -> Iterator[tuple[str, int]]:
        evaluated = {*self.options.seeds, *_SEEDS}
        seed = TRAIN_SEED_START
        for index in range(self.options.train_tasks):
            if index and index % len(levels) == 0:
                seed += 1
            while seed in evaluated:
                seed += 1
            yield levels[index % len(levels)], seed

    def _task(self, level: str, seed: int, split: Split, published: dict[str, Any] | None = None) -> Task:
        simulator = make_simulator(level, seed)
        goal = shown_goal(simulator.mission)
        if published is None:
            subgoals = derive_subgoals(simulator)
        else:
            opening = text.describe(text.look(simulator, text.pose_of(simulator)))
            if (shown_goal(published["goal"]), published["opening"]) != (goal, opening):
                raise StageError(f"{published['where']}: not what {self.version} makes of {level} with seed {seed}; use AgentBoard's list")
            subgoals = published["subgoals"]
        return self.task(f"{level}/{seed}", split, level, goal, {"level": level, "seed": seed, "subgoals": subgoals}, seed)

    def _listed(self) -> dict[tuple[str, int], dict[str, Any]]:
        """AgentBoard's task list by level and seed, a level's lines being its seeds from 1234 on; empty when none is configured."""
        if self.options.task_list is None:
            return {}
        count: Counter[str] = Counter()

        def parse(item: Any, source: str) -> tuple[tuple[str, int], dict[str, Any]]:
            level = item["additional_info"]["subtask"].removeprefix("BabyAI-").rpartition("-v")[0]
            count[level] += 1
            subgoals = [str(pattern) for pattern in item["subgoals"]]
            if not subgoals:
                raise ValueError
            opening = item["additional_info"]["init_obs"]
            entry = {"goal": str(item["goal"]), "subgoals": subgoals, "opening": opening, "where": source}
            return (level, _SEEDS[0] + count[level] - 1), entry

        layout = '{"goal", "subgoals": [patterns], "additional_info": {"subtask", "init_obs"}}'
        return agentboard.read(self.name, self.options.task_list, parse, layout)

    def environment(self, task: Task) -> BabyAIEnvironment:
        """The task, ready to be reset."""
        return BabyAIEnvironment(task)


BENCHMARK = BabyAI
