"""JSON Schema (2020-12) as an expression of JSON texts. Every text of the expression parses and satisfies the schema.

The expression is a sub-language where JSON is free: keys stand in any order in objects of up to four keys (where that takes few states)
and in the schema's order in others; keys that are not declared, where `additionalProperties` is written or nothing is declared, stand
together. Numbers have at most 15 digits on either side of the point, recursive references nest three times, values of any kind two
deep. Whitespace is RFC 8259's. What cannot be guaranteed is refused by name and place.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from fractions import Fraction
from typing import Any

from dllm_agents.decoding.constraints import numbers, strings
from dllm_agents.decoding.constraints.automata import Bounds
from dllm_agents.decoding.constraints.expressions import (
    NEVER,
    ConstraintError,
    Expression,
    alt,
    both,
    cat,
    listed,
    lit,
    one_of,
    opt,
    rep,
    separated,
    size,
    without,
)
from dllm_agents.decoding.constraints.merging import Document, canonical, count, disjoint, keywords, kinds, merge, types_of, unsupported

RECURSION = 3
DEPTH = 64
ANY_DEPTH = 2
FREE_KEYS = 4
FREE_SIZE = 6000
MAX_NODES = 20_000
MAX_PLACES = 256
KEYWORDS = {
    "object": {"properties", "required", "additionalProperties", "minProperties", "maxProperties"},
    "array": {"items", "prefixItems", "minItems", "maxItems"},
    "string": {"minLength", "maxLength", "pattern", "format"},
    "number": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"},
}
SUPPORTED = set().union(*KEYWORDS.values(), {"type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref"})
BLANK = rep(one_of(" \t\n\r"))
COMMA = cat(BLANK, lit(","), BLANK)
COLON = cat(BLANK, lit(":"), BLANK)


def json_text(schema: Any, any_depth: int = ANY_DEPTH, barred: bytes = b"", bounds: Bounds | None = None) -> Expression:
    """The JSON documents that satisfy `schema`, with blanks around them and `barred` in none of their strings.

    Raises ConstraintError with a JSON pointer.
    """
    try:
        return cat(BLANK, _Compiler(schema, any_depth, barred, bounds or Bounds()).node(schema, "#", 0), BLANK)
    except RecursionError:
        raise ConstraintError("schema_too_large", "#", "nested too deeply") from None


def literal(value: Any) -> Expression:
    """A JSON value written out, blanks free."""
    if isinstance(value, dict):
        pairs = [(cat(literal(key), COLON, literal(item)), True) for key, item in value.items()]
        return cat(lit("{"), BLANK, separated(pairs, COMMA), BLANK, lit("}"))
    if isinstance(value, list):
        return cat(lit("["), BLANK, separated([(literal(item), True) for item in value], COMMA), BLANK, lit("]"))
    text = json.dumps(value, ensure_ascii=False)
    return lit(text if text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text) else json.dumps(value))


class _Compiler:
    def __init__(self, root: Any, any_depth: int, barred: bytes, bounds: Bounds) -> None:
        self.any_depth, self.barred, self.document = any_depth, barred, Document(root, bounds)
        self.nodes = 0
        self.open_references: Counter[str] = Counter()

    def node(self, schema: Any, where: str, depth: int) -> Expression:
        """The values of one schema at the JSON pointer `where`."""
        self.nodes += 1
        self.document.bounds.check(work=64)
        if depth > DEPTH:
            raise ConstraintError("schema_too_large", where, f"nested more than {DEPTH} deep")
        if self.nodes > MAX_NODES:
            raise ConstraintError("schema_too_large", where, f"more than {MAX_NODES} schemas, recursive ones counted each time")
        if schema is False:
            return NEVER
        stated = keywords(schema, where)
        if "$id" in stated and where != "#":
            raise unsupported(f"{where}/$id", "$id inside a schema is not supported")
        stated.pop("$id", None)
        for key in stated:
            if key not in SUPPORTED:
                raise unsupported(f"{where}/{key}", f"{key:.100} is not supported")
        if "$ref" in stated:
            return self._reference(stated, where, depth)
        if "allOf" in stated:
            rest = {key: value for key, value in stated.items() if key != "allOf"}
            for part in _list(stated["allOf"], f"{where}/allOf"):
                rest = merge(rest, part, where, self.document)
            return self.node(rest, where, depth + 1)
        for key in ("anyOf", "oneOf"):
            if key in stated:
                return self._choice(key, stated, where, depth)
        return self._plain(stated, where, depth)

    def _reference(self, stated: dict[str, Any], where: str, depth: int) -> Expression:
        reference = stated["$ref"]
        target = self.document.resolve(reference, where)
        if self.open_references[reference] >= RECURSION:
            return NEVER
        rest = {key: value for key, value in stated.items() if key != "$ref"}
        self.open_references[reference] += 1
        value = self.node(merge(target, rest, where, self.document) if rest else target, where if rest else reference, depth + 1)
        self.open_references[reference] -= 1
        return value

    def _choice(self, key: str, stated: dict[str, Any], where: str, depth: int) -> Expression:
        rest = {name: value for name, value in stated.items() if name != key}
        options = [merge(option, rest, where, self.document) for option in _list(stated[key], f"{where}/{key}")]
        if key == "oneOf" and not disjoint(options, where, self.document):
            raise unsupported(f"{where}/oneOf", "branches that may overlap; use anyOf, or a constant that tells them apart")
        return alt(*(self.node(option, f"{where}/{key}/{i}", depth + 1) for i, option in enumerate(options)))

    def _plain(self, stated: dict[str, Any], where: str, depth: int) -> Expression:
        types = types_of(stated, where)
        if "const" in stated or "enum" in stated:
            beside = sorted(set(stated) - {"const", "enum", "type"})
            if beside:
                raise unsupported(f"{where}/{beside[0]}", "beside an enum or const is not supported")
            values = _list(stated["enum"], f"{where}/enum") if "enum" in stated else [stated["const"]]
            if "const" in stated:
                values = [value for value in values if canonical(value) == canonical(stated["const"])]
            texts = [literal(value) for value in values if types is None or kinds(value) & set(types)]
            return alt(*map(self._spared, texts))
        if types is None:
            types = [name for name, keywords in KEYWORDS.items() if keywords & set(stated)] or None
        if types is None:
            return alt(*(self._typed(name, {}, where, depth) for name in KEYWORDS), lit("true"), lit("false"), lit("null"))
        if "number" in types:
            types = [name for name in types if name != "integer"]
        return alt(*(self._typed(name, stated, where, depth) for name in types))

    def _typed(self, name: str, stated: dict[str, Any], where: str, depth: int) -> Expression:
        match name:
            case "null":
                return lit("null")
            case "boolean":
                return alt(lit("true"), lit("false"))
            case "integer" | "number":
                low, high = _bounds(stated, where)
                return (numbers.integers if name == "integer" else numbers.numbers)(low, high)
            case "string":
                return self._spared(strings.string(stated, where))
            case "array":
                return self._array(stated, where, depth)
            case "object":
                return self._object(stated, where, depth)
        raise unsupported(f"{where}/type", f"{name!r} is no type")

    def _array(self, stated: dict[str, Any], where: str, depth: int) -> Expression:
        places = _list(stated.get("prefixItems", []), f"{where}/prefixItems", True)
        if len(places) > MAX_PLACES:
            raise ConstraintError("schema_too_large", f"{where}/prefixItems", f"{len(places)} places; at most {MAX_PLACES}")
        first = [self.node(item, f"{where}/prefixItems/{i}", depth + 1) for i, item in enumerate(places)]
        low, high = count(stated, "minItems", where) or 0, count(stated, "maxItems", where)
        item = NEVER if high is not None and high <= len(first) else self._any(stated.get("items", True), f"{where}/items", depth)
        empty = cat(lit("["), BLANK, lit("]")) if low == 0 else NEVER
        if not first:
            full = listed(item, COMMA, max(low, 1), high) if high != 0 else NEVER
            return alt(empty, cat(lit("["), BLANK, full, BLANK, lit("]")))
        lengths = []
        for length in range(max(low, 1), len(first) + 1):
            if high is None or length <= high:
                lengths.append(separated([(part, True) for part in first[:length]], COMMA))
        most = None if high is None else high - len(first)
        longer = rep(cat(COMMA, item), max(low - len(first), 1), most) if most is None or most > 0 else NEVER
        lengths.append(cat(separated([(part, True) for part in first], COMMA), longer))
        return alt(empty, cat(lit("["), BLANK, alt(*lengths), BLANK, lit("]")))

    def _object(self, stated: dict[str, Any], where: str, depth: int) -> Expression:
        properties = stated.get("properties", {})
        required = dict.fromkeys(stated.get("required", []))
        additional = stated.get("additionalProperties", not properties)
        undeclared = {key: stated.get("additionalProperties", True) for key in required if key not in properties}
        pairs = []
        for key, schema in {**properties, **undeclared}.items():
            value = self.node(schema, f"{where}/properties/{_escaped(key)}", depth + 1)
            if value != NEVER:
                pairs.append((cat(literal(key), COLON, value), key in required))
            elif key in required:
                return NEVER
        low, high = count(stated, "minProperties", where) or 0, count(stated, "maxProperties", where)
        extra = NEVER
        if additional is not False and not (high is not None and high <= len(pairs)):
            value = self._any(additional, f"{where}/additionalProperties", depth)
            extra = cat(self._spared(strings.other_than([str(key) for key in properties])), COLON, value)
        if low > max(len(required), int(not pairs)):
            raise unsupported(f"{where}/minProperties", "above the number of required keys is not supported")
        if high is not None and high < len(pairs):
            raise unsupported(f"{where}/maxProperties", "below the number of declared keys is not supported")
        body = _pairs(pairs, extra, low, None if high is None else high - len(pairs))
        return cat(lit("{"), BLANK, body, BLANK, lit("}")) if body != NEVER else NEVER

    def _spared(self, text: Expression) -> Expression:
        return both(text, without(self.barred)) if self.barred else text

    def _any(self, schema: Any, where: str, depth: int) -> Expression:
        """A schema; where it says nothing at all, values of any kind nest only so deep."""
        if schema is not True and schema != {}:
            return self.node(schema, where, depth + 1)
        if self.open_references["any"] >= self.any_depth:
            return alt(self._spared(strings.string({}, where)), numbers.NUMBER, lit("true"), lit("false"), lit("null"))
        self.open_references["any"] += 1
        value = self.node(schema, where, depth + 1)
        self.open_references["any"] -= 1
        return value


def _bounds(stated: dict[str, Any], where: str) -> tuple[Fraction | None, Fraction | None]:
    """The inclusive bounds of a number."""
    sides: dict[bool, list[Fraction]] = {False: [], True: []}
    for keyword in KEYWORDS["number"] & set(stated):
        value, upper = stated[keyword], "ax" in keyword
        if isinstance(value, bool) or not isinstance(value, int | float) or value in (math.inf, -math.inf):
            raise unsupported(f"{where}/{keyword}", "a finite number is wanted")
        sides[upper].append(numbers.bound(value, upper if keyword.startswith("exclusive") else None))
    return max(sides[False], default=None), min(sides[True], default=None)


def _pairs(pairs: list[tuple[Expression, bool]], extra: Expression, low: int, most: int | None) -> Expression:
    """An object's inside: the declared pairs, and up to `most` others as one group."""
    if not pairs:
        some = NEVER if extra == NEVER else listed(extra, COMMA, 1, most)
        return some if low else opt(some)
    items = pairs if extra == NEVER else [*pairs, (listed(extra, COMMA, 1, most), False)]
    anyhow = separated(items, COMMA, free=True)
    return anyhow if len(pairs) <= FREE_KEYS and size(anyhow) <= FREE_SIZE else separated(items, COMMA)


def _list(value: Any, where: str, empty: bool = False) -> list[Any]:
    if not isinstance(value, list) or not (value or empty):
        raise unsupported(where, "a list is wanted")
    return value


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")
