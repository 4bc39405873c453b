"""BabyAI's teacher: an expert that knows the grid and speaks the text interface.

It chooses what to do next from the whole grid (the next door on the way, the key that fits, the thing that is in the way), but how it
gets there depends on what is seen: act on the thing when it is in view, else turn left until it is. Thoughts come from a small
closed vocabulary and name only what was seen or asked for.
"""

from __future__ import annotations

import heapq
import re
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from dllm_agents.benchmarks.babyai_text import (
    FORWARD,
    LEFT,
    RIGHT,
    TOGGLE,
    VECTORS,
    VIEW,
    Options,
    Pose,
    Position,
    View,
    look,
    options,
    pose_of,
    thing_name,
)

_CLOSED, _UNLOCK, _NO_KEY, _BLOCKED = 2, 3, 60, 30  # extra steps that a cell on the way is worth
_MAX_DEPTH = 6  # keys behind doors behind keys ...
_PORTABLE = ("key", "ball", "box")
_LOOKED = ["turn left"] * 3  # all four sides were seen
_SPACE = 4  # steps ahead worth walking to see more of a small room


class Intention(NamedTuple):
    """What to do next and to what; `way` is the cells from the agent to it, both included."""

    verb: str  # go to, pick up, open, go through, drop, put
    way: list[Position]

    @property
    def target(self) -> Position:
        return self.way[-1]


def required_keys(simulator: Any, leaf: Any) -> list[str]:
    """Colors of the keys without which no target of an instruction can be reached (or, for doors, opened), in order of use."""
    targets = {id(thing) for thing in (leaf.desc_move if hasattr(leaf, "desc_move") else leaf.desc).obj_set}
    keys: list[str] = []
    while True:
        reached, locked = _flood(simulator, pose_of(simulator)[:2], keys)
        doors = [door for door in locked if door.color not in keys]
        held = any(id(thing) in targets for thing in reached) or (simulator.carrying and id(simulator.carrying) in targets)
        openable = type(leaf).__name__ == "OpenInstr" and any(id(door) in targets for door in doors)
        if held and not (openable and all(id(thing) not in targets or thing in doors for thing in reached)):
            return keys
        colors = {thing.color for thing in reached if thing.type == "key"}
        usable = [door for door in doors if door.color in colors]
        if not usable:
            return keys
        keys.append(next((door.color for door in usable if id(door) in targets), usable[0].color))


def _flood(simulator: Any, start: Position, keys: Sequence[str]) -> tuple[list[Any], list[Any]]:
    """(things that can be reached, locked doors among them), with locked doors passable only for `keys`; things can be moved away."""
    seen, queue = {start}, deque([start])
    reached: list[Any] = []
    while queue:
        x, y = queue.popleft()
        cell = simulator.grid.get(x, y)
        if cell is not None:
            if cell.type == "wall":
                continue
            reached.append(cell)
            if cell.type == "door" and cell.is_locked and cell.color not in keys:
                continue
        for dx, dy in VECTORS:
            if (x + dx, y + dy) not in seen:
                seen.add((x + dx, y + dy))
                queue.append((x + dx, y + dy))
    return reached, [cell for cell in reached if cell.type == "door" and cell.is_locked]


def _front(pose: Pose) -> Position:
    dx, dy = VECTORS[pose[2]]
    return pose[0] + dx, pose[1] + dy


def _in_view(target: Position, view: View) -> bool:
    return any(thing.position == target for thing in view.things)


class Teacher:
    """Labels any state of one simulator. It changes nothing and draws nothing, so equal states get equal labels."""

    def __init__(self, simulator: Any) -> None:
        self._simulator = simulator
        # In one small room looking around shows nearly everything, so the map is not needed to look.
        self._one_room = simulator.num_rows * simulator.num_cols == 1 and simulator.room_size <= 8

    def label(self, view: View, available: Options, recent: Sequence[str], remaining: Sequence[str] = ()) -> tuple[str, str]:
        """(thought, action) for the present state.

        recent: the last actions played; remaining: sub-goals still to be matched when the simulator's end signal already came and
        was dropped, empty before that.
        """
        self._view, self._available, self._recent = view, available, recent
        self._things = {(x, y): cell for (x, y), cell in self._cells()}
        leaf = self._current(self._simulator.instrs)
        description = leaf.desc_move if hasattr(leaf, "desc_move") else leaf.desc
        self._asked = " ".join(filter(None, [description.color, description.type or "object"]))
        self._goals = self._where(description.obj_set)
        intention = self._aim(leaf)
        if remaining:
            intention = self._aim_at_pattern(remaining) or intention
        return self._act(intention) if intention else self._look_around()

    # What to do ------------------------------------------------------------------------------------------------------------------

    def _cells(self) -> Iterable[tuple[Position, Any]]:
        grid = self._simulator.grid
        return (
            ((index % grid.width, index // grid.width), cell)
            for index, cell in enumerate(grid.grid)
            if cell is not None and cell.type != "wall"
        )

    def _current(self, instruction: Any) -> Any:
        """The single instruction that is to be done now."""
        kind = type(instruction).__name__
        if kind not in ("BeforeInstr", "AfterInstr", "AndInstr"):
            return instruction
        first, second = instruction.instr_a, instruction.instr_b
        done = instruction.a_done
        if kind == "AfterInstr":
            first, second, done = second, first, instruction.b_done
        return self._current(second if done == "success" else first)

    def _where(self, things: Iterable[Any]) -> list[Position]:
        ids = {id(thing) for thing in things}
        return [at for at, cell in self._things.items() if id(cell) in ids]

    def _aim(self, leaf: Any) -> Intention | None:
        kind, held = type(leaf).__name__, self._simulator.carrying
        if kind == "PutNextInstr":
            if any(held is thing for thing in leaf.desc_move.obj_set):
                return self._aim_to_put(self._where(leaf.desc_fixed.obj_set))
            return self._need("pick up", self._where(leaf.desc_move.obj_set))
        if any(held is thing for thing in leaf.desc.obj_set):
            return Intention("drop", [self._view.pose[:2]])
        targets = self._where(leaf.desc.obj_set)
        if kind == "PickupInstr":
            return self._need("pick up", targets)
        if kind == "OpenInstr":
            shut = [at for at in targets if not self._things[at].is_open]
            return self._need("open", shut) if shut else self._need("go to", targets)
        return self._need("go to", targets)

    def _aim_at_pattern(self, remaining: Sequence[str]) -> Intention | None:
        """Something a remaining sub-goal asks to see or to carry."""
        for pattern in remaining:
            match = re.search(r"(red|green|blue|purple|yellow|grey) (?:\*\* )?(?:open |closed |locked )?(door|key|ball|box)", pattern)
            if not match:
                continue
            things = [at for at, cell in self._things.items() if (cell.color, cell.type) == match.groups()]
            if "carrying" in pattern:
                intention = self._need("pick up", things)
            elif self._simulator.carrying and thing_name(self._simulator.carrying) == " ".join(match.groups()):
                intention = Intention("drop", [self._view.pose[:2]])
            else:
                shut = [at for at in things if "open door" in pattern and not self._things[at].is_open]
                intention = self._need("open", shut) if shut else self._need("go to", things)
            if intention:
                return intention
        return None

    def _need(self, verb: str, targets: Sequence[Position], depth: int = 0) -> Intention | None:
        """The first thing to do on the way to the nearest target: a door to pass, a key to fetch, a thing to move, or the target."""
        way = self._way(targets)
        if way is None or depth > _MAX_DEPTH:
            return None
        for index, at in enumerate(way[1:], 1):
            cell, last = self._things.get(at), index == len(way) - 1
            if cell is not None and cell.type == "door" and cell.is_locked and (not last or verb == "open") and not self._fits(cell):
                keys = [place for place, thing in self._things.items() if thing.type == "key" and thing.color == cell.color]
                return self._need("pick up", keys, depth + 1)
            if last:
                break
            if cell is not None and cell.type == "door" and not cell.is_open:
                return Intention("go through", way[: index + 1])
            if cell is not None and cell.type in _PORTABLE:
                return self._with_free_hands(way[: index + 1])
        return self._with_free_hands(way) if verb == "pick up" else Intention(verb, way)

    def _fits(self, door: Any) -> bool:
        held = self._simulator.carrying
        return held is not None and held.type == "key" and held.color == door.color

    def _with_free_hands(self, way: list[Position]) -> Intention:
        return Intention("drop" if self._simulator.carrying else "pick up", way)

    def _aim_to_put(self, fixed: Sequence[Position]) -> Intention | None:
        spots = [(x + dx, y + dy) for x, y in fixed for dx, dy in VECTORS]
        return self._need("put", [at for at in spots if at != self._view.pose[:2] and self._simulator.grid.get(*at) is None])

    def _way(self, targets: Sequence[Position], closed: Position | None = None) -> list[Position] | None:
        """Cheapest cells from the agent to one of `targets`, shut doors and things in the way counted as extra steps."""
        start = self._view.pose[:2]
        ends = set(targets)
        cost = {start: 0}
        parents: dict[Position, Position] = {}
        queue: list[tuple[int, Position]] = [(0, start)]
        while queue:
            so_far, at = heapq.heappop(queue)
            if at in ends:
                way = [at]
                while way[-1] != start:
                    way.append(parents[way[-1]])
                return way[::-1]
            if so_far > cost[at]:
                continue
            for dx, dy in VECTORS:
                beyond = (at[0] + dx, at[1] + dy)
                extra = 0 if beyond in ends else self._extra(beyond, closed)
                if extra is not None and so_far + 1 + extra < cost.get(beyond, 1 << 30):
                    cost[beyond] = so_far + 1 + extra
                    parents[beyond] = at
                    heapq.heappush(queue, (cost[beyond], beyond))
        return None

    def _extra(self, at: Position, closed: Position | None) -> int | None:
        if at == closed:
            return _BLOCKED
        cell = self._simulator.grid.get(*at)
        if cell is None:
            return 0
        if cell.type == "door":
            if cell.is_locked:
                return _UNLOCK if self._fits(cell) else _NO_KEY
            return 0 if cell.is_open else _CLOSED
        return _BLOCKED if cell.type in _PORTABLE else None

    # How to do it ----------------------------------------------------------------------------------------------------------------

    def _act(self, intention: Intention) -> tuple[str, str]:
        if intention.verb == "drop":
            return self._drop(intention)
        if intention.verb == "put":
            return self._put(intention)
        passed = [at for at in intention.way[1:-1] if at in self._things and self._things[at].type == "door"]
        aims = [(intention.verb, intention.target), *(("go through", at) for at in reversed(passed))]
        for verb, target in aims:
            action = self._action_on(verb, target, self._view.pose, self._available)
            if action is not None:
                return self._say(verb, target, action), action
        if intention.verb == "go to" and _front(self._view.pose) == intention.target:
            return f"I face the {thing_name(self._things[intention.target])} already, so I turn away first.", "turn left"
        return self._get_in_view(intention, aims)

    def _get_in_view(self, intention: Intention, aims: Sequence[tuple[str, Position]]) -> tuple[str, str]:
        """One move towards the nearest pose from which an aim can be acted on."""
        move = self._explore_one_room(intention.target, aims) if self._one_room else ""
        if not move:
            move = self._approach(lambda pose: self._can_act_from(aims, pose)) or "turn left"
            if _in_view(intention.target, self._view):
                return "The way is blocked, so I walk around.", move
        return self._look_around(move)

    def _explore_one_room(self, target: Position, aims: Sequence[tuple[str, Position]]) -> str:
        """In one small room the move follows from what is seen and the last three actions, not from the map: turn left; walk where
        there is space once all sides were seen. Returns "" where only the map helps."""
        last = list(self._recent)
        if last in (_LOOKED[1:] + ["move forward"], _LOOKED[2:] + ["move forward"] * 2):
            return ""
        x, y, direction = self._view.pose
        sides = [(x, y, (direction - turns) % 4) for turns in range(4)]
        if any(self._can_act_from(aims, side) for side in sides):
            return "turn left"
        views = [look(self._simulator, side) for side in sides]
        if any(_in_view(target, view) for view in views):
            return ""
        if last != _LOOKED:
            return "turn left"
        space = [min((thing.ahead for thing in view.things if thing.right == 0), default=VIEW) for view in views]
        if max(space) == 1:
            return ""
        return "move forward" if space[0] >= min(_SPACE, max(space)) else "turn left"

    def _action_on(self, verb: str, target: Position, pose: Pose, available: Options) -> str | None:
        """The action text that does `verb` to what lies at `target`, if its walk is free to its end."""
        prefixes = {
            "go to": ("go to ",),
            "pick up": ("pickup ",),
            "open": ("toggle", "go to "),
            "go through": ("go through ", "toggle and go through "),
        }[verb]
        for prefix in prefixes:
            for action, at in available.targets.items():
                fits = action == prefix if prefix == "toggle" else action.startswith(prefix)
                if fits and at == target and available.moves[action] and self._free(available.moves[action], pose):
                    return action
        return None

    def _free(self, moves: Sequence[int], pose: Pose) -> bool:
        x, y, direction = pose
        opened: Position | None = None
        for move in moves:
            dx, dy = VECTORS[direction]
            front = (x + dx, y + dy)
            if move in (LEFT, RIGHT):
                direction = (direction + (1 if move == RIGHT else -1)) % 4
            elif move == TOGGLE:
                opened = front
            elif move == FORWARD:
                cell = self._simulator.grid.get(*front)
                if cell is not None and front != opened and not cell.can_overlap():
                    return False
                x, y = front
        return True

    def _approach(self, reached: Callable[[Pose], bool]) -> str:
        """The first move of the shortest walk over free cells to another pose that is `reached`; "" if there is none."""
        start = self._view.pose
        first: dict[Pose, str] = {start: ""}
        queue = deque([start])
        while queue:
            pose = queue.popleft()
            if pose != start and reached(pose):
                return first[pose]
            x, y, direction = pose
            steps: list[tuple[Pose, str]] = [((x, y, (direction - 1) % 4), "turn left"), ((x, y, (direction + 1) % 4), "turn right")]
            cell = self._simulator.grid.get(*_front(pose))
            if cell is None or cell.can_overlap():
                steps.append(((*_front(pose), direction), "move forward"))
            for state, move in steps:
                if state not in first:
                    first[state] = first[pose] or move
                    queue.append(state)
        return ""

    def _can_act_from(self, aims: Sequence[tuple[str, Position]], pose: Pose) -> bool:
        view = look(self._simulator, pose)
        visible = {thing.position for thing in view.things}
        aims = [(verb, target) for verb, target in aims if target in visible]
        if not aims:
            return False
        available = options(view)
        return any(self._action_on(verb, target, pose, available) for verb, target in aims)

    def _put(self, intention: Intention) -> tuple[str, str]:
        held = thing_name(self._simulator.carrying)
        if _front(self._view.pose) == intention.target:
            return f"This is the place, so I drop the {held}.", "drop"
        move = self._approach(lambda pose: _front(pose) == intention.target)
        return f"I carry the {held} to its place.", move or "turn left"

    def _drop(self, intention: Intention) -> tuple[str, str]:
        """Drop what is carried where it is in nobody's way."""
        held = thing_name(self._simulator.carrying)
        verdicts: dict[Position, bool] = {}

        def harmless(pose: Pose) -> bool:
            at = _front(pose)
            if at not in verdicts:
                verdicts[at] = self._harmless(at, intention.target)
            return verdicts[at]

        thought = f"My hands must be free, so I drop the {held}."
        if harmless(self._view.pose):
            return thought, "drop"
        return thought, self._approach(harmless) or ("drop" if "drop" in self._available.moves else "turn left")

    def _harmless(self, at: Position, target: Position) -> bool:
        """Whether a thing dropped at `at` blocks neither a door nor the way to the target and to what the task asks for."""
        if self._simulator.grid.get(*at) is not None:
            return False
        beside = [self._things.get((at[0] + dx, at[1] + dy)) for dx, dy in VECTORS]
        if any(cell is not None and cell.type == "door" for cell in beside):
            return False
        ways = [self._way(targets, closed=at) for targets in ([target], self._goals)]
        return not any(way and at in way[:-1] for way in ways)

    # What is seen ----------------------------------------------------------------------------------------------------------------

    def _look_around(self, move: str = "turn left") -> tuple[str, str]:
        how = "walk on" if move == "move forward" else "look around"
        if any(self._asked in thing.name for thing in self._view.things):
            return f"I need another way, so I {how}.", move
        return f"The {self._asked} is not in view, so I {how}.", move

    def _say(self, verb: str, target: Position, action: str) -> str:
        name = thing_name(self._things[target])
        if action == "toggle":
            return f"I face the {name}, so I toggle it."
        deed = "go to" if action.startswith("go to") else {"pick up": "pick up", "go through": "go through"}[verb]
        return f"I see the {name}, so I {deed.replace('pick up', 'pick it up') if verb == 'pick up' else deed + ' it'}."
