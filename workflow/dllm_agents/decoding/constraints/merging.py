"""What several schemas say together: allOf, keywords beside $ref and anyOf, and whether branches of oneOf exclude each other."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from dllm_agents.decoding.constraints.automata import Bounds
from dllm_agents.decoding.constraints.expressions import ConstraintError

IGNORED = {
    *("title", "description", "default", "examples", "$schema", "$comment", "deprecated", "readOnly", "writeOnly", "strict"),
    "discriminator",
    *("$defs", "definitions", "contentEncoding", "contentMediaType", "example", "nullable"),
}
TYPES = ("object", "array", "string", "integer", "number", "boolean", "null")
LARGER = {"minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"}
SMALLER = {"maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"}


def unsupported(where: str, message: str) -> ConstraintError:
    return ConstraintError("unsupported_schema", where, message)


@dataclass
class Document:
    """A whole schema, which references lead into, and what may be spent on it."""

    root: Any
    bounds: Bounds

    def resolve(self, reference: Any, where: str) -> Any:
        """The schema a `$ref` within the document points to."""
        if not isinstance(reference, str) or (reference != "#" and not reference.startswith("#/")):
            raise unsupported(f"{where}/$ref", f"{reference!r:.200} leads outside the schema")
        target = self.root
        for part in unquote(reference[1:]).split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            if isinstance(target, list) and name.isdecimal() and len(name) < 9 and int(name) < len(target):
                target = target[int(name)]
            elif isinstance(target, Mapping) and name in target:
                target = target[name]
            else:
                raise unsupported(f"{where}/$ref", f"{reference!r:.200} leads nowhere")
            if isinstance(target, Mapping) and "$id" in target and target is not self.root:
                raise unsupported(f"{where}/$ref", "$id inside a schema is not supported")
        return target


def keywords(schema: Any, where: str) -> dict[str, Any]:
    """What a schema states. Raises ConstraintError where it is none, or its keys are no names."""
    if not isinstance(schema, Mapping) and schema is not True:
        raise unsupported(where, "a schema is an object or a boolean")
    stated = {} if schema is True else {key: value for key, value in schema.items() if key not in IGNORED}
    if not isinstance(stated.get("properties", {}), Mapping):
        raise unsupported(f"{where}/properties", "an object is wanted")
    required = stated.get("required", [])
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        raise unsupported(f"{where}/required", "a list of names is wanted")
    return stated


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
            raise unsupported(f"{where}/type", f"{name!r:.100} is no type of JSON Schema")
    return list(dict.fromkeys(types))


def kinds(value: Any) -> set[str]:
    """The types of JSON Schema that a value has."""
    if value is None:
        return {"null"}
    if isinstance(value, bool):
        return {"boolean"}
    if isinstance(value, int | float):
        return {"number", "integer"} if isinstance(value, int) or value.is_integer() else {"number"}
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


def merge(a: Any, b: Any, where: str, document: Document, level: int = 0) -> Any:
    """One schema that says what both say. Raises ConstraintError where that is more than putting keywords together."""
    if level > 16:
        raise unsupported(where, "schemas that refer to each other")
    if a is False or b is False:
        return False
    document.bounds.check(work=10)
    a, b = keywords(a, where), keywords(b, where)
    if not a or not b:
        return a or b
    for one, other in ((a, b), (b, a)):
        if "$ref" in one:
            rest = {key: value for key, value in one.items() if key != "$ref"}
            target = merge(document.resolve(one["$ref"], where), rest, where, document, level + 1)
            return merge(target, other, where, document, level + 1)
    _check_closed(a, b, where)
    merged = dict(a)
    for key, value in b.items():
        merged[key] = value if key not in a or a[key] == value else _together(key, a[key], value, where, document, level)
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


def _together(key: str, x: Any, y: Any, where: str, document: Document, level: int) -> Any:
    if key in LARGER | SMALLER and all(isinstance(value, int | float) for value in (x, y)):
        return max(x, y) if key in LARGER else min(x, y)
    if key == "required" and isinstance(x, list) and isinstance(y, list):
        return [*x, *(name for name in y if name not in x)]
    if key == "properties" and isinstance(x, Mapping) and isinstance(y, Mapping):
        shared = {name: merge(x[name], y[name], f"{where}/properties/{name}", document, level + 1) for name in x if name in y}
        return {**x, **y, **shared}
    if key in ("items", "additionalProperties"):
        return merge(x, y, f"{where}/{key}", document, level + 1)
    if key == "type":
        return sorted(_wide(types_of({"type": x}, where)) & _wide(types_of({"type": y}, where)))
    if key == "enum" and isinstance(x, list) and isinstance(y, list):
        both = set(map(canonical, y))
        return [value for value in x if canonical(value) in both]
    if key == "allOf" and isinstance(x, list) and isinstance(y, list):
        return [*x, *y]
    raise unsupported(f"{where}/{key}", f"two parts say different things of {key}")


def disjoint(options: list[Any], where: str, document: Document) -> bool:
    """Whether no value can satisfy two of the schemas: different types, or different constants, whole or under a required key."""
    whole = [_open(option, where, document) for option in options]
    return all(_apart(a, b, where, document) for i, a in enumerate(whole) for b in whole[:i])


def _open(schema: Any, where: str, document: Document) -> Any:
    for _ in range(16):
        if not isinstance(schema, Mapping) or "$ref" not in schema:
            break
        schema = merge(
            document.resolve(schema["$ref"], where), {key: value for key, value in schema.items() if key != "$ref"}, where, document
        )
    return keywords(schema, where) if isinstance(schema, Mapping) else schema


def _apart(a: Any, b: Any, where: str, document: Document) -> bool:
    document.bounds.check(work=10)
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
    opened = [[_open(side[key], where, document) for side in properties] for key in shared]
    return any(_apart(x, y, where, document) for x, y in opened)


def _values_and_types(schema: Mapping[str, Any], where: str) -> tuple[set[str] | None, set[str]]:
    """The values a schema lists, and the types it can have at all (empty: any)."""
    listing = [schema["const"]] if "const" in schema else schema.get("enum")
    if isinstance(listing, list):
        return {canonical(value) for value in listing}, set().union(*map(kinds, listing))
    return None, _wide(types_of(schema, where))


def _wide(types: list[str] | None) -> set[str]:
    return {*(types or ()), *(("integer",) if types and "number" in types else ())}
