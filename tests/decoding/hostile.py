"""Constraints that are out to cost time or memory, every one to be refused: name -> (constraint, code)."""

from __future__ import annotations

from functools import reduce
from typing import Any

from languages import closed

LARGE, WRONG, NONE = "schema_too_large", "unsupported_schema", "unsatisfiable_schema"


def nested(depth: int, key: str, inside: Any) -> Any:
    return reduce(lambda schema, _: {key: schema}, range(depth), inside)


def lists(depth: int, low: int, high: int, inside: Any) -> Any:
    return reduce(lambda item, _: {"type": "array", "items": item, "minItems": low, "maxItems": high}, range(depth), inside)


def doubling(depth: int, keyword: str) -> dict[str, Any]:
    """Every definition refers to the next one twice."""
    twice = {f"d{i}": {keyword: [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(depth)}
    return {"$defs": {**twice, f"d{depth}": {"type": "null"}}, "$ref": "#/$defs/d0"}


def tangled(keys: int, inside: str) -> dict[str, Any]:
    """Two objects whose keys all lead back to them, to be satisfied both at once."""
    sides = {name: {"properties": {f"k{i}": {"$ref": f"#/$defs/{name}"} for i in range(keys)}, "type": "object"} for name in "ab"}
    return {"$defs": sides, inside: [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}]}


def tiers(keys: int, depth: int) -> dict[str, Any]:
    """Two objects of objects of objects, to be satisfied both at once."""
    sides = {
        f"{name}{level}": {"type": "object", "properties": {f"k{i}": {"$ref": f"#/$defs/{name}{level + 1}"} for i in range(keys)}}
        for name in "ab"
        for level in range(depth)
    }
    return {"$defs": {**sides, f"a{depth}": True, f"b{depth}": True}, "allOf": [{"$ref": "#/$defs/a0"}, {"$ref": "#/$defs/b0"}]}


def tools(count: int, parameters: Any, **more: Any) -> dict[str, Any]:
    return {"tools": [{"name": f"f{i}", "parameters": parameters} for i in range(count)], **more}


def text(pattern: str, **more: Any) -> dict[str, Any]:
    return {"type": "string", "pattern": pattern, **more}


WORDS = [f"w{i:x}" for i in range(25_000)]
NAMES = "abcdefgh"
POINTER = "/".join(["#", *["x"] * 300])
RING = {"$defs": {"a": {"type": "object", "properties": {"k": {"$ref": "#/$defs/a"}}, "required": ["k"]}}}
HOSTILE: dict[str, tuple[Any, str]] = {
    "a megabyte": ({"description": "x" * (1 << 20)}, LARGE),
    "25,000 words": ({"enum": WORDS}, LARGE),
    "25,000 choices": ({"choice": WORDS}, LARGE),
    "25,000 choices as a pattern": ({"regex": "|".join(WORDS[:18_000])}, LARGE),
    "a quarter of a megabyte of numbers": ({"enum": list(range(40_000))}, LARGE),
    "a long text": ({"choice": ["ab" * 60_000]}, LARGE),
    "a deep constant": ({"const": nested(900, "a", 1)}, LARGE),
    "10,000 arrays": (nested(10_000, "items", {}), LARGE),
    "900 arrays": (nested(900, "items", {}), LARGE),
    "a list of letters": ({"regex": "([ab]|cd){15000}"}, LARGE),
    "a long text beside 300 words": (tools(1, closed(x={"type": "string", "maxLength": 480}, u={"enum": WORDS[:300]})), LARGE),
    "4,000 words": ({"enum": [f"{i * 7919 % 10007:x}{i * 104729 % 99991:x}" for i in range(4000)]}, LARGE),
    "arrays of arrays": (lists(5, 12, 12, {"type": "integer"}), LARGE),
    "arrays of optional arrays": (lists(5, 0, 12, {"type": "string"}), LARGE),
    "a billion items": ({"type": "array", "minItems": 10**9}, LARGE),
    "at most a billion items": ({"type": "array", "items": {"const": 1}, "maxItems": 1e9}, LARGE),
    "a tuple of thousands": ({"prefixItems": [True] * 19_000, "items": False}, LARGE),
    "long strings in long arrays": (lists(1, 0, 500, {"type": "string", "maxLength": 500}), LARGE),
    "counted letters": ({"regex": "[ab]*a[ab]{24}"}, LARGE),
    "counted letters, twice": (text("^[ab]*a[ab]{12}$", minLength=200, maxLength=500), LARGE),
    "a counted address": (lists(1, 2, 2, {"type": "string", "format": "uri", "minLength": 400, "maxLength": 512}), LARGE),
    "optional letters": ({"regex": "(a?){9000}a{9000}"}, LARGE),
    "repetitions of repetitions": ({"regex": "(((a{1,900}){1,900}){1,900})"}, LARGE),
    "words of every kind": (text("(\\w+\\s?){60}(\\W|\\d){60}"), LARGE),
    "wide letters": ({"regex": "([\\u4e00-\\u9fff]|[^\\x00-\\x7f]x){9000}"}, LARGE),
    "suffixes": (text("(" + "|".join(f".{{{i}}}a" for i in range(1, 24)) + ")$"), LARGE),
    "3,000 parentheses": ({"regex": "(" * 3000 + "a" + ")*" * 3000}, "unsupported_pattern"),
    "doubling references": (doubling(40, "anyOf"), LARGE),
    "doubling tuples": (doubling(40, "prefixItems"), LARGE),
    "a tangle of both": (tangled(9, "allOf"), WRONG),
    "a tangle of one": (tangled(9, "oneOf"), WRONG),
    "tiers of both": (tiers(9, 5), LARGE),
    "a ring of branches": ({**RING, "oneOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}]}, LARGE),
    "2,200 branches": ({"oneOf": [closed(k={"const": i}) for i in range(2200)]}, LARGE),
    "5,000 parts": ({"type": "object", "allOf": [{"properties": {f"k{i}": {"type": "null"}}} for i in range(5000)]}, LARGE),
    "enum and enum": ({"allOf": [{"enum": list(range(20_000))}, {"enum": list(range(20_000))}]}, LARGE),
    "names to keep apart": ({"properties": {w: {"type": "null"} for w in WORDS[:8000]}, "additionalProperties": {}}, LARGE),
    "four large keys in any order": (closed(**{k: {"type": "string", "maxLength": 500} for k in NAMES[:4]}), LARGE),
    "references that go far": ({**nested(300, "x", {}), "anyOf": [{"$ref": POINTER}] * 400}, WRONG),
    "everything refers to everything": (
        {
            "$defs": {n: closed(**{m: {"anyOf": [{"type": "null"}, {"$ref": f"#/$defs/{m}"}]} for m in NAMES}) for n in NAMES},
            "$ref": "#/$defs/a",
        },
        LARGE,
    ),
    "a number of 400 digits": ({"type": "integer", "minimum": 10**400}, NONE),
    "a number that is none": ({"type": "number", "minimum": float("nan")}, WRONG),
    "keys that are no names": ({"type": "object", "required": [["a"], {}]}, WRONG),
    "properties that are none": ({"allOf": [{"properties": 5}, {"additionalProperties": False}]}, WRONG),
    "a place far behind the list's end": ({"$ref": "#/anyOf/" + "9" * 5000, "anyOf": [True]}, WRONG),
    "bounds on a thousand numbers": (
        closed(**{f"k{i}": {"type": "number", "minimum": i / 7, "maximum": i + 1 / 3} for i in range(1000)}),
        LARGE,
    ),
    "hundreds of tools": (tools(120, closed(**{n: {"type": "string", "maxLength": 400} for n in NAMES})), LARGE),
    "a tool without end": (tools(1, tangled(9, "allOf"), required=True), WRONG),
    "a tool or an answer": (tools(1, closed(), answer={"regex": "[ab]*a[ab]{24}"}), LARGE),
    "a long name": ({"type": "object", "properties": {"x" * 200_000: {"x" * 1000: 1}}}, WRONG),
    "no number between": ({"type": "number", "minimum": 1e300, "exclusiveMaximum": 1e-300}, NONE),
    "itself": ({"$ref": "#"}, NONE),
}
