"""What the tests of constraints share: random languages, random texts of an automaton, schemas of every kind."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Any

import numpy as np

from dllm_agents.decoding.constraints.automata import DFA
from dllm_agents.decoding.constraints.expressions import Expression, alt, byte_set, cat, listed, lit, rep, separated


def random_language(rng: random.Random, depth: int = 3) -> tuple[Expression, str]:
    """An expression over a, b and c, and the same as a pattern of `re`."""
    kind = rng.random()
    if depth == 0 or kind < 0.3:
        if rng.random() < 0.7:
            text = "".join(rng.choice("abc") for _ in range(rng.randrange(1, 3)))
            return lit(text), text
        last = rng.choice("bc")
        return byte_set((ord("a"), ord(last))), f"[a-{last}]"
    parts = [random_language(rng, depth - 1) for _ in range(rng.randrange(1, 4))]
    expressions, patterns = [e for e, _ in parts], [f"(?:{pattern})" for _, pattern in parts]
    if kind < 0.5:
        return cat(*expressions), "".join(patterns)
    if kind < 0.7:
        return alt(*expressions), "|".join(patterns)
    if kind < 0.75:
        comma, written = random_language(rng, 0)
        return listed(expressions[0], comma), f"{patterns[0]}(?:{written}{patterns[0]})*"
    if kind < 0.85:
        return random_items(rng, parts)
    low = rng.randrange(0, 2)
    high = rng.choice([None, low + 1, low + 2])
    return rep(expressions[0], low, high), f"{patterns[0]}{{{low},{'' if high is None else high}}}"


def random_items(rng: random.Random, parts: list[tuple[Expression, str]]) -> tuple[Expression, str]:
    """Items each at most once, some of them required, in order or in any order."""
    from itertools import permutations

    needed = [rng.random() < 0.5 for _ in parts]
    free = rng.random() < 0.5
    orders = permutations(range(len(parts))) if free else [tuple(range(len(parts)))]
    written = set()
    for order in orders:
        for bits in range(1 << len(parts)):
            chosen = [i for i in order if bits >> i & 1]
            if all(i in chosen for i, required in enumerate(needed) if required):
                written.add("c".join(f"(?:{parts[i][1]})" for i in chosen))
    items = [(expression, required) for (expression, _), required in zip(parts, needed, strict=True)]
    return separated(items, lit("c"), free), "|".join(sorted(written))


class Texts:
    """Random texts of an automaton."""

    def __init__(self, d: DFA, rng: random.Random) -> None:
        self.d, self.rng = d, rng
        self.distance = np.where(d.accepting, 0, 10**6)
        while True:
            nearer = np.where(d.table >= 0, self.distance[d.table], 10**6).min(axis=1) + 1
            if (nearer >= self.distance).all():
                break
            self.distance = np.minimum(self.distance, nearer)
        self.members = defaultdict(list)
        for byte, kind in enumerate(d.class_of.tolist()):
            self.members[kind].append(byte)

    def text(self, limit: int = 60) -> bytes:
        """A text that goes straight to its end once it is `limit` bytes long."""
        d, rng = self.d, self.rng
        text, state = bytearray(), d.start
        while True:
            kinds = np.nonzero(d.table[state] >= 0)[0]
            if d.accepting[state] and (not len(kinds) or len(text) > limit or rng.random() < 0.3):
                return bytes(text)
            if len(text) > limit:
                far = self.distance[d.table[state, kinds]]
                kinds = kinds[far == far.min()]
            kind = int(rng.choice(kinds.tolist()))
            text.append(rng.choice(self.members[kind]))
            state = int(d.table[state, kind])


def closed(**properties: Any) -> dict[str, Any]:
    """An object with exactly these keys."""
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


POINT = closed(x={"type": "integer"}, y={"type": "integer"})
TREE = {
    "type": "object",
    "properties": {"value": {"type": "integer"}, "children": {"type": "array", "items": {"$ref": "#"}}},
    "required": ["value", "children"],
    "additionalProperties": False,
}
SCHEMAS: dict[str, Any] = {
    "enum": closed(unit={"enum": ["celsius", "fahrenheit", "kelvin"]}),
    "call": closed(
        name={"const": "search"},
        arguments=closed(query={"type": "string", "maxLength": 12}, top={"type": "integer", "minimum": 1, "maximum": 20}),
    ),
    "array": {"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 4},
    "tuple": {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "boolean"}], "items": {"type": "null"}, "minItems": 1},
    "objects": closed(xs={"type": "array", "items": closed(k={"type": "boolean"})}),
    "number": closed(
        x={"type": "number"},
        y={"type": "number", "minimum": -2.5, "maximum": 10},
        z={"type": "number", "exclusiveMinimum": 0, "maximum": 0.125},
    ),
    "lengths": {"type": "string", "minLength": 3, "maxLength": 8},
    "free": closed(thought={"type": "string"}),
    "pattern": closed(code={"type": "string", "pattern": "^[A-Z]{2}-\\d+$"}, word={"type": "string", "pattern": "a\\s?b", "maxLength": 6}),
    "optional": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "string"}, "c": {"type": "boolean"}, "d": {"type": "null"}},
        "required": ["c"],
        "additionalProperties": False,
    },
    "many": {
        "type": "object",
        "properties": {key: {"type": "boolean"} for key in "abcdefgh"},
        "required": ["b", "g"],
        "additionalProperties": False,
    },
    "additional": {
        "type": "object",
        "properties": {"name": {"type": "string"}, "nam": {"type": "null"}},
        "required": ["name"],
        "additionalProperties": {"type": "integer"},
    },
    "dictionary": {"type": "object", "additionalProperties": {"type": "number"}, "minProperties": 1, "maxProperties": 3},
    "union": {
        "anyOf": [{"type": "null"}, {"type": "integer", "minimum": 0}, closed(kind={"const": "b"}, v={"type": ["string", "number"]})]
    },
    "tagged": {"oneOf": [closed(kind={"const": "a"}, x={"type": "integer"}), closed(kind={"const": "b"}, y={"type": "string"})]},
    "both": {
        "allOf": [{"type": "object", "properties": {"a": {"type": "number"}}, "required": ["a"]}, {"properties": {"a": {"maximum": 3}}}]
    },
    "date": closed(
        when={"type": "string", "format": "date"}, at={"type": "string", "format": "date-time"}, id={"type": "string", "format": "uuid"}
    ),
    "reference": {"$defs": {"p": POINT}, **closed(**{"from": {"$ref": "#/$defs/p"}, "to": {"$ref": "#/$defs/p"}})},
    "tree": TREE,
    "anything": {"type": "object"},
    "escapes": closed(**{'a"b\\c/d\n': {"enum": ["é\n", "\u2028", {"k": [1, None]}, -0.5]}}),
}
