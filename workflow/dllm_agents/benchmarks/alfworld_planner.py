"""ALFWorld's teacher: the next command towards a household goal, from the facts of the game's state.

The general PDDL planner that comes with the engine needs up to a minute for a full kitchen; the six goals need no search. Because
each command is chosen from the present state alone, the teacher also finds its way back after commands that were not its own.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

from dllm_agents.benchmarks.alfworld_games import TRANSFORMS

DONE_BY = {"clean": "isclean", "heat": "ishot", "cool": "iscool"}


class Household:
    """A game's state: `facts` as (predicate, argument, ...) of lower-case identifiers, `names` from identifier to the name in text."""

    def __init__(self, facts: Iterable[tuple[str, ...]], names: Mapping[str, str]) -> None:
        self._facts: dict[str, list[tuple[str, ...]]] = defaultdict(list)
        for predicate, *arguments in facts:
            self._facts[predicate].append(tuple(arguments))
        self._names = names
        self.held = next((thing for _, thing in self._facts["holds"]), None)
        self.inside = self._pairs("inreceptacle")
        self._kind = {**self._pairs("objecttype"), **self._pairs("receptacletype")}
        self._reached_from = self._pairs("receptacleatlocation")
        self._here = next((location for _, location in self._facts["atlocation"]), None)

    def next_command(self, task_type: str, request: Mapping[str, str]) -> str | None:
        """The next command towards the goal; None when the state offers no way."""
        objects = self._pairs("objecttype")
        things = self._of(request["object"], objects)
        if self.held is not None and self.held not in things:
            return self._put_away(self.held)
        if task_type == "look_at_obj_in_light":
            lamps = [lamp for lamp in self._of(request["lamp"], objects) if lamp in self.inside]
            return self._fetch(things) if self.held is None else _first(lamps, self._use)
        places = self._of(request["receptacle"], self._reached_from)
        if not places:
            return None
        if task_type == "pick_two_obj_and_place":
            # Both have to end in the same receptacle: the one that holds most of them already.
            place = max(places, key=lambda place: sum(self.inside.get(thing) == place for thing in things))
            loose = [thing for thing in things if self.inside.get(thing) != place]
            return self._fetch(loose) if self.held is None else self._put(self.held, place)
        if self.held is None:
            return self._fetch(things)
        if task_type in TRANSFORMS and (self.held,) not in self._facts[DONE_BY[TRANSFORMS[task_type][2]]]:
            _, appliance, verb = TRANSFORMS[task_type]
            return _first(self._of(appliance, self._reached_from), lambda place: self._transform(verb, place))
        return _first(places, lambda place: self._put(self.held, place))

    def _pairs(self, predicate: str) -> dict[str, str]:
        return {fact[0]: fact[1] for fact in self._facts[predicate]}

    def _of(self, kind: str, among: Iterable[str]) -> list[str]:
        """The identifiers of a type, those at hand first, then by number."""
        names = [name for name in among if self._kind.get(name) == f"{kind.lower()}type"]
        return sorted(names, key=lambda name: (not self._at(self.inside.get(name) or name), _natural(self._names[name])))

    def _at(self, place: str) -> bool:
        return self._reached_from.get(place, "") == self._here

    def _closed(self, place: str) -> bool:
        return (place,) in self._facts["openable"] and (place,) not in self._facts["opened"]

    def _reach(self, place: str, command: str, inside: bool = True) -> str:
        if not self._at(place):
            return f"go to {self._names[place]}"
        return f"open {self._names[place]}" if inside and self._closed(place) else command

    def _fetch(self, things: list[str]) -> str | None:
        stored = [thing for thing in things if thing in self.inside]
        return _first(
            stored, lambda thing: self._reach(self.inside[thing], f"take {self._names[thing]} from {self._names[self.inside[thing]]}")
        )

    def _put(self, thing: str | None, place: str) -> str:
        return self._reach(place, f"move {self._names[thing or '']} to {self._names[place]}")

    def _transform(self, verb: str, place: str) -> str:
        return self._reach(place, f"{verb} {self._names[self.held or '']} with {self._names[place]}", inside=False)

    def _use(self, lamp: str) -> str:
        return self._reach(self.inside[lamp], f"use {self._names[lamp]}")

    def _put_away(self, thing: str) -> str | None:
        fitting = {kind for kind, content in self._facts["cancontain"] if content == self._kind[thing]}
        places = [place for place in self._reached_from if self._kind[place] in fitting]
        nearest = sorted(places, key=lambda place: (not self._at(place), self._closed(place), _natural(self._names[place])))
        return _first(nearest, lambda place: self._put(thing, place))


def _first(options: list[str], command: Callable[[str], str | None]) -> str | None:
    return command(options[0]) if options else None


def _natural(name: str) -> tuple[str, int]:
    match = re.fullmatch(r"(.*?) ?(\d*)", name)
    assert match is not None
    return match[1], int(match[2] or 0)
