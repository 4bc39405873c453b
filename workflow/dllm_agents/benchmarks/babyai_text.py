"""AgentBoard's text interface to a BabyAI grid: what the agent is told, and which walk every high-level action stands for.

Pure functions of a minigrid simulator's grid and a pose. The semantics are those of AgentBoard's released environment (arXiv 2401.13178),
its oddities included; each is marked where it happens. BabyAI levels hold no goal squares, so AgentBoard's "go to goal" has no case here.
"""

from __future__ import annotations

from collections import deque
from functools import cache
from typing import Any, NamedTuple

Position = tuple[int, int]
Pose = tuple[int, int, int]  # column, row, direction (0 right, 1 down, 2 left, 3 up)

LEFT, RIGHT, FORWARD, PICKUP, DROP, TOGGLE = range(6)
VECTORS: tuple[Position, ...] = ((1, 0), (0, 1), (-1, 0), (0, -1))
VIEW = 7  # cells along each side of the square the agent sees
CHECK = "check available actions"
COMPLETED = "\n The task is completed."
UNCHANGED = "No change in state."
UNKNOWN = "The action is not recognized. Please check valid actions."
_HALF = VIEW // 2
_SOLID = ("wall", "box", "lava", "ball", "key")


class Thing(NamedTuple):
    """Something the agent sees: `ahead` and `right` are its offset from the agent in steps."""

    name: str
    position: Position
    distance: int
    ahead: int
    right: int


class View(NamedTuple):
    """What is seen from a pose. `image` holds every visible cell relative to the agent: two views look alike when it is equal."""

    pose: Pose
    things: tuple[Thing, ...]  # everything but floor, nearest first, walls included
    barriers: tuple[tuple[int, str], ...]  # (steps ahead, "wall" or "box") straight ahead, nearest first
    carrying: str  # "red key", or "" for empty hands
    image: tuple[str, ...]


class Options(NamedTuple):
    """The actions open to the agent, each with its low-level moves, the refusal of those that are not, and what each acts on."""

    moves: dict[str, tuple[int, ...]]
    refusals: dict[str, str]
    targets: dict[str, Position]


def thing_name(cell: Any) -> str:
    """How the text names an object: color, state for doors, type."""
    if cell.type != "door":
        return f"{cell.color} {cell.type}"
    return f"{cell.color} {'open' if cell.is_open else 'locked' if cell.is_locked else 'closed'} door"


def pose_of(simulator: Any) -> Pose:
    """The agent's pose as plain integers."""
    x, y = simulator.agent_pos
    return int(x), int(y), int(simulator.agent_dir)


@cache
def _offsets(direction: int) -> tuple[tuple[tuple[int, int, int, int], ...], ...]:
    """Per row of the view, the agent's own first: (dx, dy, ahead, right) of its seven cells from left to right."""
    fx, fy = VECTORS[direction]
    return tuple(
        tuple((fx * ahead - fy * right, fy * ahead + fx * right, ahead, right) for right in range(-_HALF, _HALF + 1))
        for ahead in range(VIEW)
    )


@cache
def _spread(seen: int, opaque: int) -> tuple[int, int]:
    """minigrid's field of view, one row: (cells seen in this row, cells seen in the row beyond) as bit masks."""
    beyond = 0
    for order, step in ((range(VIEW - 1), 1), (range(VIEW - 1, 0, -1), -1)):
        for column in order:
            if seen >> column & 1 and not opaque >> column & 1:
                seen |= 1 << column + step
                beyond |= 1 << column | 1 << column + step
    return seen, beyond


def look(simulator: Any, pose: Pose) -> View:
    """What the agent would see from `pose`: minigrid's 7 x 7 field of view, blocked by walls and shut doors."""
    x, y, direction = pose
    cells, width, height = simulator.grid.grid, simulator.grid.width, simulator.grid.height
    carrying = thing_name(simulator.carrying) if simulator.carrying else ""
    image: list[str] = [carrying]
    visible: list[tuple[int, int, int, Thing]] = []
    barriers: list[tuple[int, str]] = []
    seen = 1 << _HALF
    for row in _offsets(direction):
        opaque = 0
        contents: list[Any] = []
        for column, (dx, dy, _, _) in enumerate(row):
            inside = 0 <= x + dx < width and 0 <= y + dy < height
            cell = cells[(y + dy) * width + x + dx] if inside else None
            if not inside or (cell is not None and not cell.see_behind()):
                opaque |= 1 << column
            contents.append(cell)
        seen, beyond = _spread(seen, opaque)
        for column, (dx, dy, ahead, right) in enumerate(row):
            if not seen >> column & 1:
                image.append("")
            elif contents[column] is None or not (dx or dy):
                image.append(".")
            else:
                name = thing_name(contents[column])
                image.append(name)
                distance = ahead + abs(right)
                # AgentBoard lists equally distant things from the far row to the near one, left to right.
                visible.append((distance, -ahead, right, Thing(name, (x + dx, y + dy), distance, ahead, right)))
                if right == 0 and contents[column].type in ("wall", "box"):
                    barriers.append((ahead, contents[column].type))
        seen = beyond
        if not seen:
            break
    visible.sort(key=lambda item: item[:3])
    return View(pose, tuple(item[3] for item in visible), tuple(barriers), carrying, tuple(image))


def _place(thing: Thing) -> str:
    if thing.right == 0:
        return f"right in front of you {thing.ahead} steps away. "
    side = "right" if thing.right > 0 else "left"
    return f"{thing.ahead} steps in front of you and {abs(thing.right)} steps to your {side}. "


def describe(view: View) -> str:
    """The observation text. Equal things are numbered from the nearest on."""
    text = "In front of you in this room, you can see several objects: " if view.things else "You cannot see any objects within sight."
    count: dict[str, int] = {}
    for thing in view.things:
        if "wall" in thing.name:
            continue
        count[thing.name] = count.get(thing.name, 0) + 1
        text += f"There is a {thing.name} {count[thing.name]} {_place(thing)} "
    text += "The room has walls around you. "
    if view.barriers:
        steps, kind = view.barriers[0]
        text += f"You are facing a {kind} {steps} steps away. "
    return text + (f"You are carrying a {view.carrying}." if view.carrying else "You are not carrying anything.")


def _window(pose: Pose) -> tuple[range, range]:
    """Columns and rows a walk may use: the view and, as in AgentBoard, one more line behind or beside the agent on the low side."""
    x, y, direction = pose
    fx, fy = VECTORS[direction]
    spans = []
    for here, forward, right in ((x, fx, -fy), (y, fy, fx)):
        corner = here + forward * (VIEW - 1) - right * _HALF
        edge = corner + VIEW * (right - forward)
        spans.append(range(edge, corner + 1) if edge < corner else range(corner, edge))
    return spans[0], spans[1]


def _walks(view: View) -> tuple[dict[Position, tuple[int, ...]], dict[Position, tuple[int, ...]]]:
    """For every visible thing, the moves that end facing it, and for open doors those that end in them, where there is a way.

    Breadth first over visible cells; cells out of sight and shut doors count as free, so that a walk may stop short. As in AgentBoard a
    state keeps the parent that reached it last before it was expanded, which decides between (and may lengthen) equal ways.
    """
    columns, rows = _window(view.pose)
    blocked = {thing.position for thing in view.things if any(kind in thing.name for kind in _SOLID)}
    targets = {thing.position for thing in view.things if "wall" not in thing.name}
    doors = {thing.position for thing in view.things if "open door" in thing.name}
    facing: dict[Position, Pose] = {}
    inside: dict[Position, Pose] = {}
    parents: dict[Pose, tuple[Pose, int]] = {}
    done: set[Pose] = set()
    queue: deque[Pose] = deque([view.pose])
    while queue and (len(facing) < len(targets) or len(inside) < len(doors)):
        pose = queue.popleft()
        done.add(pose)
        x, y, direction = pose
        dx, dy = VECTORS[direction]
        front = (x + dx, y + dy)
        if front in targets and front not in facing:
            facing[front] = pose
        if (x, y) in doors and (x, y) not in inside:
            inside[x, y] = pose
        for state, move in (((*front, direction), FORWARD), ((x, y, (direction - 1) % 4), LEFT), ((x, y, (direction + 1) % 4), RIGHT)):
            if state[0] in columns and state[1] in rows and state not in done and state[:2] not in blocked:
                queue.append(state)
                parents[state] = (pose, move)

    def trace(pose: Pose) -> tuple[int, ...]:
        path: list[int] = []
        while pose != view.pose:
            pose, move = parents[pose]
            path.append(move)
        return tuple(reversed(path))

    return {at: trace(pose) for at, pose in facing.items()}, {at: trace(pose) for at, pose in inside.items()}


def options(view: View) -> Options:
    """The actions available in a view, in AgentBoard's order, with its refusals for the others."""
    facing, inside = _walks(view)
    choices = Options({"turn left": (LEFT,), "turn right": (RIGHT,)}, {}, {})
    if not view.barriers or view.barriers[0][0] > 1:
        choices.moves["move forward"] = (FORWARD,)
    else:
        choices.refusals["move forward"] = "There is a barrier in front of you, you can't move forward."
    things = [thing for thing in view.things if "wall" not in thing.name]
    if not view.carrying:
        portable = [thing for thing in things if "door" not in thing.name]
        _add_numbered(choices, "pickup", "pickup", portable, facing, (PICKUP,))
    _add_drop(choices, view)
    _add_doors(choices, view, things, facing, inside)
    _add_numbered(choices, "go to", "go to", things, facing, ())
    choices.moves[CHECK] = ()
    return choices


def _add_numbered(
    choices: Options, verb: str, word: str, things: list[Thing], facing: dict[Position, tuple[int, ...]], then: tuple[int, ...]
) -> None:
    """`<verb> <thing> <n>`: AgentBoard counts only the reachable ones here, so n may differ from the observation's number."""
    count: dict[str, int] = {}
    for thing in things:
        number = count.get(thing.name, 0) + 1
        action = f"{verb} {thing.name} {number}"
        if thing.position in facing:
            count[thing.name] = number
            choices.moves[action] = facing[thing.position] + then
            choices.targets[action] = thing.position
        else:
            choices.refusals[action] = f"You cannot {word} {thing.name} {number}, as there is no path leading to it."


def _add_drop(choices: Options, view: View) -> None:
    if not view.carrying:
        choices.refusals["drop"] = "You cannot drop the object, as you are not carrying anything."
    elif any(thing.distance == 1 and thing.right == 0 and any(kind in thing.name for kind in _SOLID) for thing in view.things):
        choices.refusals["drop"] = "You cannot drop the object, as there is already an object in front of you."
    else:
        choices.moves["drop"] = (DROP,)


def _add_doors(
    choices: Options, view: View, things: list[Thing], facing: dict[Position, tuple[int, ...]], inside: dict[Position, tuple[int, ...]]
) -> None:
    count: dict[str, int] = {}
    for thing in things:
        if "door" not in thing.name:
            continue
        count[thing.name] = count.get(thing.name, 0) + 1
        numbered = f"{thing.name} {count[thing.name]}"
        through, toggle = f"go through {numbered}", f"toggle and go through {numbered}"
        if "open door" in thing.name:
            if thing.position in inside:
                choices.moves[through] = inside[thing.position]
                choices.targets[through] = thing.position
            else:
                choices.refusals[through] = f"You cannot {through}, as there is no path leading to it."
            continue
        if "closed door" in thing.name:
            choices.refusals[through] = f"You cannot {through}, as it is closed. You should toggle it first."
        elif not view.carrying.endswith(" key"):
            choices.refusals[toggle] = f"You cannot {toggle}, as you are not carrying a key."
            continue
        elif view.carrying.split(" ")[0] != thing.name.split(" ")[0]:
            choices.refusals[toggle] = f"You cannot {toggle}, as the color of the key you are carrying does not match the color of door."
            continue
        moves = facing.get(thing.position)
        if moves is None:
            # AgentBoard prints its whole table of counts here instead of the number.
            choices.refusals[toggle] = f"You cannot toggle and go through {thing.name} {count}, as there is no path leading to it."
            continue
        choices.moves[toggle] = (*moves, TOGGLE, FORWARD)
        choices.targets[toggle] = thing.position
        if not moves:
            choices.moves["toggle"] = (TOGGLE,)
            choices.targets["toggle"] = thing.position


def matches(observation: str, pattern: str) -> bool:
    """Whether one sentence of the observation holds every piece of a sub-goal pattern; `**` (or `*`) parts the pieces."""
    pattern = pattern.strip()
    pieces = [piece.strip(".") for piece in pattern.split("**" if "**" in pattern else "*")]
    return any(all(piece in sentence for piece in pieces) for sentence in observation.split("."))
