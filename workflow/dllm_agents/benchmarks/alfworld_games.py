"""Household games for ALFWorld, made where the published ones are not at hand.

A game is a floor plan of ALFRED (its receptacles at their places, the object types that belong in that scene), objects put where
ALFRED allows them, and one of ALFWorld's six task types with its goal. Everything follows from (scene, task type, seed). Training and
evaluation use ALFRED's own disjoint floor plans. The problems have the shape of the published `game.tw-pddl` files, but other
contents: scores on them are not comparable with published ones.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from dllm_agents.benchmarks.base import Split

TASK_TYPES = (
    "pick_and_place_simple",
    "look_at_obj_in_light",
    "pick_clean_then_place_in_recep",
    "pick_heat_then_place_in_recep",
    "pick_cool_then_place_in_recep",
    "pick_two_obj_and_place",
)
TRANSFORMS = {  # task type -> (what ALFRED calls the objects, the receptacle that does it, the verb)
    "pick_clean_then_place_in_recep": ("Cleanable", "SinkBasin", "clean"),
    "pick_heat_then_place_in_recep": ("Heatable", "Microwave", "heat"),
    "pick_cool_then_place_in_recep": ("Coolable", "Fridge", "cool"),
}
LAMP = "DeskLamp"
LAMP_STANDS = ("Desk", "SideTable", "Dresser", "Shelf", "CoffeeTable", "DiningTable")
COPIES = {"StoveBurner": 4, "HandTowelHolder": 2}  # of receptacles that ALFRED's layouts name without a place
INSTANCES = (0, 1, 1, 2, 3)  # of an object type that belongs in the scene
_MANGLED = str.maketrans({"-": "_minus_", "|": "_bar_", "+": "_plus_", ".": "_dot_", ",": "_comma_"})


class Place(NamedTuple):
    """A receptacle: its identifier in ALFRED's form, its type, and the location from which it is reached."""

    id: str
    type: str
    location: str


class Item(NamedTuple):
    """An object, its type, and the receptacle it starts in."""

    id: str
    type: str
    place: Place


class Game(NamedTuple):
    """A generated game: goal in words, PDDL problem, and what the goal asks for (object, receptacle, lamp)."""

    goal: str
    problem: str
    request: dict[str, str]


def scenes(task_type: str, split: Split) -> list[int]:
    """The floor plans of a split in which a task type can be set."""
    from alfworld.gen import constants

    numbers = constants.TRAIN_SCENE_NUMBERS if split == "train" else constants.TEST_SCENE_NUMBERS
    rooms = [constants.SCENE_TYPE[room] for room in sorted(constants.GOALS_VALID[task_type])]
    return [number for number in numbers if any(number in room for room in rooms) and _targets(number, task_type)]


def make(scene: int, task_type: str, seed: int) -> Game:
    """The game of a floor plan, task type and seed."""
    from alfworld.gen import goal_library

    rng = random.Random(f"{scene}/{task_type}/{seed}")
    places = _places(scene)
    targets = _targets(scene, task_type)
    target = rng.choice(sorted(targets))
    receptacle = rng.choice(targets[target])
    items = _items(scene, task_type, target, receptacle, rng)
    words = {"obj": target, "recep": receptacle, "toggle": LAMP}
    goal = rng.choice(goal_library.gdict[task_type]["templates"]).format(**{key: word.lower() for key, word in words.items()})
    formula = goal_library.gdict[task_type]["pddl"].format(**words)
    return Game(goal, _problem(places, items, formula), {"object": target, "receptacle": receptacle, "lamp": LAMP})


def subgoals(task_type: str, request: dict[str, str]) -> list[tuple[str, int]]:
    """Sub-goals of a goal, as patterns over observations: find, take, transform or light, place. A pattern counts once for every
    different object it has matched, at most as often as given: twice for what has to be done with two objects."""
    times = 2 if task_type == "pick_two_obj_and_place" else 1
    thing, there = rf"{request['object'].lower()} \d+", rf"{request['receptacle'].lower()} \d+"
    steps = [(rf"[Yy]ou see .*\b{thing}\b", 1), (rf"You pick up the {thing}\b", times)]
    if task_type in TRANSFORMS:
        steps.append((rf"You {TRANSFORMS[task_type][2]} the {thing}\b", 1))
    if task_type == "look_at_obj_in_light":
        return [*steps, (rf"You turn on the {request['lamp'].lower()} \d+", 1)]
    return [*steps, (rf"You (?:move|put) the {thing} (?:to|in/on) the {there}\b", times)]


@cache
def _layout(scene: int, what: str) -> Any:
    return json.loads((files("alfworld.gen") / "layouts" / f"FloorPlan{scene}-{what}.json").read_text(encoding="utf-8"))


@cache
def _places(scene: int) -> list[Place]:
    """The receptacles of a floor plan, at the poses from which ALFRED reaches them; those without a pose get one each."""
    from alfworld.gen import constants

    fixed = constants.RECEPTACLES - constants.MOVABLE_RECEPTACLES_SET
    places = []
    for identifier, pose in sorted(_layout(scene, "openable").items()):
        parts = identifier.split("|")
        kind = parts[4] if len(parts) > 4 else parts[0]
        if kind in fixed:
            quarters = [round(4 * value) for value in pose[:2]]  # ALFRED's unit of place: its agent steps 0.25 m
            places.append(Place(_mangle(identifier), kind, _mangle("loc|{}|{}|{}|{}".format(*quarters, *pose[2:]))))
    types = {place.type for place in places} | {"BathtubBasin", "SinkBasin"}
    for kind in sorted(set(_layout(scene, "objects")) & fixed - types):
        for copy in range(COPIES.get(kind, 1)):
            places.append(Place(_mangle(f"{kind}|+00.00|+00.00|+{copy:05.2f}"), kind, _mangle(f"loc|{kind}|{copy}|0|0")))
    return places


@cache
def _allowed(scene: int) -> dict[str, list[str]]:
    """Portable object type of a scene -> the receptacle types there that may hold it."""
    from alfworld.gen import constants

    kinds = sorted({place.type for place in _places(scene)})
    holders = {
        thing: [kind for kind in kinds if thing in constants.VAL_RECEPTACLE_OBJECTS.get(kind, ())]
        for thing in sorted(set(_layout(scene, "objects")))
    }
    return {thing: things for thing, things in holders.items() if things}


@cache
def _targets(scene: int, task_type: str) -> dict[str, list[str]]:
    """Object type -> the receptacle types that a game of this type may ask for; the object must have somewhere else to be."""
    from alfworld.gen import constants

    allowed = _allowed(scene)
    if task_type == "look_at_obj_in_light":
        stands = {place.type for place in _places(scene)} & set(LAMP_STANDS)
        return {thing: [""] for thing in allowed} if LAMP in _layout(scene, "objects") and stands else {}
    does = ""
    if task_type in TRANSFORMS:
        ability, does, _ = TRANSFORMS[task_type]
        able = constants.VAL_ACTION_OBJECTS[ability] if does in {place.type for place in _places(scene)} else set()
        allowed = {thing: things for thing, things in allowed.items() if thing in able}
    targets = {thing: [kind for kind in things if kind != does] for thing, things in allowed.items() if len(things) > 1}
    return {thing: things for thing, things in targets.items() if things}


def _items(scene: int, task_type: str, target: str, receptacle: str, rng: random.Random) -> list[Item]:
    places, allowed = _places(scene), _allowed(scene)
    items = []
    for thing in sorted(allowed):
        count = rng.choice(INSTANCES)
        fitting = [place for place in places if place.type in allowed[thing]]
        if thing == target:
            count = max(count, 2 if task_type == "pick_two_obj_and_place" else 1)
            fitting = [place for place in fitting if place.type != receptacle]
        items += [_item(thing, rng.choice(fitting), rng) for _ in range(count)]
    if task_type == "look_at_obj_in_light":
        items.append(_item(LAMP, rng.choice([place for place in places if place.type in LAMP_STANDS]), rng))
    return items


def _item(thing: str, place: Place, rng: random.Random) -> Item:
    return Item(_mangle("|".join([thing, *(f"{rng.uniform(-9, 9):+06.2f}" for _ in range(3))])), thing, place)


def _problem(places: list[Place], items: list[Item], goal: str) -> str:
    from alfworld.gen import constants

    receptacle_types = constants.RECEPTACLES - constants.MOVABLE_RECEPTACLES_SET
    object_types = constants.OBJECTS_SET - receptacle_types
    here = {place.type for place in places}
    around = {item.type for item in items}
    start = _mangle("loc|start|0|0|0")
    objects = [
        "agent1 - agent",
        *(f"{kind}Type - rtype" for kind in sorted(receptacle_types)),
        *(f"{kind}Type - otype" for kind in sorted(object_types)),
        *(f"{location} - location" for location in sorted({place.location for place in places} | {start})),
        *(f"{place.id} - receptacle" for place in places),
        *(f"{item.id} - object" for item in items),
    ]
    abilities = {ability.lower(): kinds for ability, kinds in constants.VAL_ACTION_OBJECTS.items()}
    facts = [
        f"atLocation agent1 {start}",
        *(f"receptacleType {place.id} {place.type}Type" for place in places),
        *(f"receptacleAtLocation {place.id} {place.location}" for place in places),
        *(f"openable {place.id}" for place in places if place.type in constants.OPENABLE_CLASS_SET),
        *(f"canContain {kind}Type {thing}Type" for kind in sorted(here) for thing in sorted(around & _holds(kind))),
        *(f"objectType {item.id} {item.type}Type" for item in items),
        *(f"inReceptacle {item.id} {item.place.id}" for item in items),
        *(f"objectAtLocation {item.id} {item.place.location}" for item in items),
        *(f"pickupable {item.id}" for item in items if item.type != LAMP),
        *(f"isReceptacleObject {item.id}" for item in items if item.type in constants.MOVABLE_RECEPTACLES_SET),
        *(f"{ability} {item.id}" for ability, kinds in sorted(abilities.items()) for item in items if item.type in kinds),
    ]
    init = _lines(["(= (total-cost) 0)", *(f"({fact})" for fact in facts)])
    # The goal library writes `#` for the `-` before a type, and closes the problem's own parenthesis.
    return f"(define (problem generated) (:domain alfred)\n(:objects {_lines(objects)})\n(:init {init})\n{goal.replace('#', '-')}"


def _holds(kind: str) -> set[str]:
    from alfworld.gen import constants

    return set(constants.VAL_RECEPTACLE_OBJECTS.get(kind, ()))


def _lines(parts: Iterable[str]) -> str:
    return "\n  ".join(parts)


def _mangle(identifier: str) -> str:
    """ALFRED's identifier as a PDDL name, the way the published games spell it and ALFWorld's demangler reads it."""
    return identifier.translate(_MANGLED)
