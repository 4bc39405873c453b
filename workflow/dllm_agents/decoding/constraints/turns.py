"""A turn that may call tools: free text, and calls between tags (Hermes / Qwen). Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

from dllm_agents.decoding.constraints.expressions import Expression, alt, both, byte_set, cat, lit, rep, without
from dllm_agents.decoding.constraints.json_schema import BLANK
from dllm_agents.decoding.constraints.vocabulary import TAGS
from dllm_agents.tool_calls import CLOSE, MARKS, OPEN

ANY_ARGUMENTS = {"type": "object"}


def call_schema(tools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The JSON of a call of one of the tools {name, parameters}."""
    return {"anyOf": [tool_schema(tool, f"#/anyOf/{i}") for i, tool in enumerate(tools)]}


def tool_schema(tool: Mapping[str, Any], place: str = "#") -> dict[str, Any]:
    """The JSON of a call of one tool, at the pointer `place`; a tool without parameters takes any object. The definitions of its parameters
    stay where their references look for them."""
    return {
        "type": "object",
        "properties": {
            "name": {"const": tool["name"]},
            "arguments": _moved(tool.get("parameters") or ANY_ARGUMENTS, f"{place}/properties/arguments"),
        },
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _moved(schema: Any, place: str) -> Any:
    """The schema with its references to its own root led to `place`."""
    if isinstance(schema, list):
        return [_moved(part, place) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    return {
        key: place + value[1:] if key == "$ref" and isinstance(value, str) and value.startswith("#") else _moved(value, place)
        for key, value in schema.items()
    }


def tool_turn(call: Expression, required: bool, several: bool) -> Expression:
    """Free text without any mark of a call, and calls in tags: `required` at least one, `several` more than one. `call` must not hold the
    closing tag."""
    text = reduce(both, (without(mark.encode()) for mark in (*MARKS, CLOSE)))
    one = cat(_tag(OPEN), BLANK, call, BLANK, _tag(CLOSE), text)
    return cat(text, rep(one, int(required), None if several else 1))


def _tag(text: str) -> Expression:
    """A tag as text, or as the special token that a tokenizer has for it."""
    return alt(lit(text), byte_set((TAGS[text], TAGS[text])))
