"""What several schemas say together: allOf, keywords beside $ref and anyOf, and whether branches of oneOf exclude each other."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from dllm_agents.decoding.constraints.expressions import ConstraintError

IGNORED = {
    *("title", "description", "default", "examples", "$schema", "$comment", "deprecated", "readOnly", "writeOnly", "strict"),
    "discriminator",
    *("$defs", "definitions", "contentEncoding", "contentMediaType", "example", "nullable"),
}
TYPES = ("object", "array", "string", "integer", "number", "boolean", "null")
LARGER = {"minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"}
SMALLER = {"maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"}
Resolve = Callable[[Any, str], Any]


def unsupported(where: str, message: str) -> ConstraintError:
    return ConstraintError("unsupported_schema", where, message)


def count(stated: Mapping[str, Any], keyword: str, where: str) -> int | None:
    """A whole number that is not negative, None where the keyword is absent."""
    value = stated.get(keyword)
    if value is None and keyword not in stated:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise unsupported(f"{where}/{keyword}", "a whole number from 0 is wanted")
    return value


def types_of(stated: Mapping[str, Any], where: str) -> list[str] | None:
    """The types a schema names, None where it names none."""
    if "type" not in stated:
        return None
    types = stated["type"] if isinstance(stated["type"], list) else [stated["type"]]
    for name in types:
        if name not in TYPES:
            raise unsupported(f"{where}/type", f"{name!r} is no type of JSON Schema")
    return list(dict.fromkeys(types))


def kinds(value: Any) -> set[str]:
    """The types of JSON Schema that a value has."""
    if value is None:
        return {"null"}
    if isinstance(value, bool):
        return {"boolean"}
    if isinstance(value, int | float):
        return {"number", "integer"} if float(value).is_integer() else {"number"}
    return {"string" if isinstance(value, str) else "array" if isinstance(value, list) else "object"}


def canonical(value: Any) -> str:
    """A text that equal JSON values share."""

    def plain(item: Any) -> Any:
        if isinstance(item, float) and item.is_integer():
            return int(item)
        if isinstance(item, list):
            return [plain(part) for part in item]
        return {key: plain(part) for key, part in item.items()} if isinstance(item, Mapping) else item

    return json.dumps(plain(value), sort_keys=True)


def merge(a: Any, b: Any, where: str, resolve: Resolve, level: int = 0) -> Any:
    """One schema that says what both say. Raises ConstraintError where that is more than putting keywords together."""
    if level > 16:
        raise unsupported(where, "schemas that refer to each other")
    if a is False or b is False:
        return False
    for part in (a, b):
        if part is not True and not isinstance(part, Mapping):
            raise unsupported(where, "a schema is an object or a boolean")
    a, b = ({} if part is True else {key: value for key, value in part.items() if key not in IGNORED} for part in (a, b))
    if not a or not b:
        return a or b
    for one, other in ((a, b), (b, a)):
        if "$ref" in one:
            rest = {key: value for key, value in one.items() if key != "$ref"}
            target = merge(resolve(one["$ref"], where), rest, where, resolve, level + 1)
            return merge(target, other, where, resolve, level + 1)
    _check_closed(a, b, where)
    merged = dict(a)
    for key, value in b.items():
        merged[key] = value if key not in a or a[key] == value else _together(key, a[key], value, where, resolve, level)
    return merged


def _check_closed(a: Mapping[str, Any], b: Mapping[str, Any], where: str) -> None:
    """additionalProperties looks at the properties beside it alone, and prefixItems shifts what items means."""
    names = [set(part.get("properties", {})) for part in (a, b)]
    objects = all("properties" in part or "additionalProperties" in part for part in (a, b))
    closed = any(part.get("additionalProperties", True) is not True for part in (a, b))
    if closed and objects and names[0] != names[1]:
        raise unsupported(f"{where}/additionalProperties", "beside other parts' properties is not supported")
    if ("prefixItems" in a) != ("prefixItems" in b) and "items" in {*a, *b}:
        raise unsupported(f"{where}/prefixItems", "beside another part's items is not supported")


def _together(key: str, x: Any, y: Any, where: str, resolve: Resolve, level: int) -> Any:
    if key in LARGER | SMALLER and all(isinstance(value, int | float) for value in (x, y)):
        return max(x, y) if key in LARGER else min(x, y)
    if key == "required" and isinstance(x, list) and isinstance(y, list):
        return [*x, *(name for name in y if name not in x)]
    if key == "properties" and isinstance(x, Mapping) and isinstance(y, Mapping):
        shared = {name: merge(x[name], y[name], f"{where}/properties/{name}", resolve, level + 1) for name in x if name in y}
        return {**x, **y, **shared}
    if key in ("items", "additionalProperties"):
        return merge(x, y, f"{where}/{key}", resolve, level + 1)
    if key == "type":
        return sorted(_wide(types_of({"type": x}, where)) & _wide(types_of({"type": y}, where)))
    if key == "enum" and isinstance(x, list) and isinstance(y, list):
        return [value for value in x if canonical(value) in map(canonical, y)]
    if key == "allOf" and isinstance(x, list) and isinstance(y, list):
        return [*x, *y]
    raise unsupported(f"{where}/{key}", f"two parts say different things of {key}")


def disjoint(options: list[Any], where: str, resolve: Resolve) -> bool:
    """Whether no value can satisfy two of the schemas: different types, or different constants, whole or under a required key."""
    whole = [_open(option, where, resolve) for option in options]
    return all(_apart(a, b, where, resolve) for i, a in enumerate(whole) for b in whole[:i])


def _open(schema: Any, where: str, resolve: Resolve) -> Any:
    for _ in range(16):
        if not isinstance(schema, Mapping) or "$ref" not in schema:
            break
        schema = merge(resolve(schema["$ref"], where), {key: value for key, value in schema.items() if key != "$ref"}, where, resolve)
    return schema


def _apart(a: Any, b: Any, where: str, resolve: Resolve) -> bool:
    if a is False or b is False:
        return True
    if not isinstance(a, Mapping) or not isinstance(b, Mapping):
        return False
    values, types = zip(*(_values_and_types(part, where) for part in (a, b)), strict=True)
    if types[0] and types[1] and not types[0] & types[1]:
        return True
    if values[0] is not None and values[1] is not None:
        return not values[0] & values[1]
    if types != ({"object"}, {"object"}):
        return False
    required = set(a.get("required", ())) & set(b.get("required", ()))
    properties = [part.get("properties", {}) for part in (a, b)]
    shared = required & set(properties[0]) & set(properties[1])
    opened = [[_open(side[key], where, resolve) for side in properties] for key in shared]
    return any(_apart(x, y, where, resolve) for x, y in opened)


def _values_and_types(schema: Mapping[str, Any], where: str) -> tuple[set[str] | None, set[str]]:
    """The values a schema lists, and the types it can have at all (empty: any)."""
    listing = [schema["const"]] if "const" in schema else schema.get("enum")
    if isinstance(listing, list):
        return {canonical(value) for value in listing}, set().union(*map(kinds, listing))
    return None, _wide(types_of(schema, where))


def _wide(types: list[str] | None) -> set[str]:
    return {*(types or ()), *(("integer",) if types and "number" in types else ())}
