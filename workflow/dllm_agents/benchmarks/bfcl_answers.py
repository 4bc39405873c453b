"""Answers to single-turn BFCL tasks that need no model: the ground truth and a random call, written in the task's language."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from typing import Any

REFUSAL = "None of the offered functions fits this request."
_REFERENCE = re.compile(r"[A-Za-z_$][\w$]*(\.[A-Za-z_$][\w$]*)*")
_JAVA_BOXED = {"integer": "Integer", "long": "Long", "char": "Character", "boolean": "Boolean", "float": "Float", "double": "Double"}
_JAVA_PLAIN = {"integer": "int", "long": "long", "char": "char", "boolean": "boolean", "float": "float", "double": "double"}
_RANDOM_WORDS = ("alpha", "beta", "gamma", "delta", "red", "blue", "north", "south", "small", "large")


def reference(truth: list[dict[str, dict[str, list[Any]]]], functions: list[dict[str, Any]], language: str) -> str:
    """The ground truth as one completion: all calls, arguments by name, the first acceptable value of each, optional ones left out."""
    return _completion([_reference_call(call, functions, language) for call in truth])


def _reference_call(call: Mapping[str, Mapping[str, list[Any]]], functions: list[dict[str, Any]], language: str) -> str:
    ((name, acceptable),) = call.items()
    unknown: dict[str, Any] = {"properties": {}}
    parameters: dict[str, Any] = next((function["parameters"] for function in functions if function["name"] == name), unknown)
    properties, required = parameters["properties"], parameters.get("required", [])
    arguments = {
        key: literal(_first_of_each(_chosen(values)), properties.get(key, {}), language)
        for key, values in acceptable.items()
        if key in required or not _optional(values, key in properties)
    }
    return _call(name, arguments)


def _optional(values: list[Any], declared: bool) -> bool:
    """An empty string among the acceptable values means the argument may be left out; listed first, that it rather is."""
    return not values or values[0] == "" or (not declared and "" in values)


def _chosen(values: list[Any]) -> Any:
    return next((value for value in values if value != ""), "")


def _first_of_each(value: Any) -> Any:
    """The ground truth lists acceptable values inside dictionaries too: one of each, optional keys left out."""
    if isinstance(value, dict):
        return {
            key: _first_of_each(next((item for item in items if item != ""), "")) if isinstance(items, list) else items
            for key, items in value.items()
            if not (isinstance(items, list) and items and all(item == "" for item in items))
        }
    if isinstance(value, list):
        return [_first_of_each(item) if isinstance(item, dict) else item for item in value]
    return value


def random_call(functions: list[dict[str, Any]], language: str, generator: random.Random) -> str:
    """One offered function, drawn evenly, with its required arguments drawn by type; no call where none is offered."""
    if not functions:
        return _completion([])
    function = generator.choice(functions)
    properties = function["parameters"]["properties"]
    arguments = {
        key: literal(_random_value(properties[key], generator), properties[key], language)
        for key in function["parameters"].get("required", [])
        if key in properties
    }
    return _completion([_call(function["name"], arguments)])


def _random_value(schema: Mapping[str, Any], generator: random.Random) -> Any:
    if schema.get("enum"):
        return generator.choice(schema["enum"])
    match schema.get("type"):
        case "integer" | "long" | "byte" | "short" | "Bigint":
            return generator.randrange(100)
        case "float" | "double":
            return generator.randrange(1000) / 10
        case "boolean" | "Boolean":
            return generator.random() < 0.5
        case "array" | "tuple" | "Array" | "ArrayList":
            return [_random_value(schema.get("items", {}), generator) for _ in range(generator.randrange(1, 4))]
        case "dict" | "HashMap":
            return {key: _random_value(value, generator) for key, value in schema.get("properties", {}).items()}
    return generator.choice(_RANDOM_WORDS)


def _completion(calls: list[str]) -> str:
    return f"[{', '.join(calls)}]"


def _call(name: str, arguments: Mapping[str, str]) -> str:
    return f"{name}({', '.join(f'{key}={value}' for key, value in arguments.items())})"


def literal(value: Any, schema: Mapping[str, Any], language: str) -> str:
    """A value as a literal of BFCL's language; its declared type decides the form in Java and JavaScript (`5L`, `5n`)."""
    if language == "Java":
        return _java(value, str(schema.get("type", "any")), schema.get("items", {}).get("type", "any"))
    if language == "JavaScript":
        return _javascript(value, str(schema.get("type", "any")))
    return repr(value)


def _java(value: Any, kind: str, item_kind: str = "any") -> str:
    if isinstance(value, list):
        if kind == "Array" and item_kind == "String":
            # BFCL's converter keeps the quotes of such items; the string representation that its prompt asks for passes without.
            return f'"new String[]{{{", ".join(value)}}}"'
        items = ", ".join(_java(item, item_kind) for item in value)
        if kind == "ArrayList":
            return f"new ArrayList<{_JAVA_BOXED.get(item_kind, 'String' if item_kind == 'String' else 'Object')}>(Arrays.asList({items}))"
        return f"new {_JAVA_PLAIN.get(item_kind, 'String' if item_kind == 'String' else 'Object')}[]{{{items}}}"
    if isinstance(value, dict):
        puts = " ".join(f'put("{key}", {_java(item, "String")});' for key, item in value.items())
        return f"new HashMap<String, Object>() {{{{ {puts} }}}}" if puts else "new HashMap<String, Object>()"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        if kind == "double":
            value = float(value)
        return f"{value}{ {'long': 'L', 'float': 'f'}.get(kind, '') }".replace(" ", "")
    return _text(value, kind, "'" if kind == "char" else '"')


def _javascript(value: Any, kind: str) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_javascript(item, 'String') for item in value)}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{key}": {_javascript(item, "String")}' for key, item in value.items()) + "}"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return f"{value}n" if kind == "Bigint" else str(value)
    return _text(value, kind, '"')


def _text(value: str, kind: str, quote: str) -> str:
    """Text of type String, or anything that is no reference to a variable, is quoted; the checkers' parsers know no escapes."""
    if kind not in ("String", "char") and _REFERENCE.fullmatch(value):
        return value
    if quote in value:
        return value if quote == "'" or "'" in value else f"'{value}'"
    return f"{quote}{value}{quote}"
