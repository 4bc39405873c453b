"""BFCL's answers to offered functions as one regular expression: [name(key=value, ...), ...], as wide as the official decoder reads them.

The decoder takes blanks and backticks off both ends, puts missing brackets on, and parses the rest as Python. Here a call names one of the
functions and gives its parameters by keyword, those that are required always, values of the types that are declared: strings in either
quotes, numbers as written, lists and dictionaries two deep. Up to three keywords stand in any order, more in the order declared.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence
from itertools import permutations
from typing import Any

from dllm_agents import thoughts

FREE_KEYS = 3
DEPTH = 2
BLANK = r"[ \n]*"
COMMA = f"{BLANK},{BLANK}"
EDGE = r"[` \n]*"
STRING = "(?:" + "|".join(rf"{quote}(?:[^{quote}\\\x00-\x1f]|\\[\\'\"nrt])*{quote}" for quote in "'\"") + ")"
INTEGER = "-?(?:0|[1-9][0-9]{0,14})"
NUMBER = rf"{INTEGER}(?:\.[0-9]{{1,15}})?(?:[eE][+-]?[0-9]{{1,2}})?"
BOOLEAN = "(?:True|False)"
KINDS = {
    **dict.fromkeys(("integer", "long", "int"), INTEGER),
    **dict.fromkeys(("float", "double", "number"), NUMBER),
    **dict.fromkeys(("boolean", "bool"), BOOLEAN),
    **dict.fromkeys(("string", "char"), STRING),
}

# A string, which is passed over whole, or the name of a call. An apostrophe within a word opens no string.
_STRING_OR_CALL = re.compile(
    r"(?<!\w)(?:'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\")|\\.|(?<![\w.$])([A-Za-z_$][\w.$]{0,200}) {0,3}\(", re.DOTALL
)


def called_names(reply: str, names: Container[str]) -> list[str]:
    """The functions among `names` that a reply calls, in order: behind its thought, and not in a string."""
    return [name for name in _STRING_OR_CALL.findall(thoughts.behind(reply)) if name in names]


def renamed(reply: str, names: Mapping[str, str]) -> str:
    """A reply with these functions called by other names; its strings stay as they are."""
    return _STRING_OR_CALL.sub(lambda match: f"{names[match[1]]}(" if match[1] in names else match[0], reply)


def call_pattern(functions: Sequence[Mapping[str, Any]]) -> str:
    """The pattern of one call or more of the functions {name, parameters}."""
    call = f"(?:{'|'.join(_call(function) for function in functions)})"
    # Brackets go before Python reads the rest: outside a call a line that begins with a blank, or ends before a comma, is none.
    return rf"{EDGE}(?:\[\n*)?{call}(?: *, *{call})*(?: *\n*\])?{EDGE}"


def _call(function: Mapping[str, Any]) -> str:
    parameters = function.get("parameters") or {}
    pairs = [
        (f"{re.escape(key)}{BLANK}={BLANK}{_value(schema, DEPTH)}", key in parameters.get("required", ()))
        for key, schema in parameters.get("properties", {}).items()
    ]
    return rf"{re.escape(str(function['name']))}\({BLANK}{_items(pairs)}{BLANK}\)"


def _items(pairs: Sequence[tuple[str, bool]]) -> str:
    """(pattern, required) each once, those that are not required left out at will."""
    orders = permutations(pairs) if len(pairs) <= FREE_KEYS else [tuple(pairs)]
    ways = dict.fromkeys(way for order in orders for way in _in_order(order))
    return f"(?:{'|'.join(ways)})"


def _in_order(pairs: Sequence[tuple[str, bool]]) -> list[str]:
    ways = []
    for i, (pair, required) in enumerate(pairs):
        rest = "".join(f"{COMMA}{other}" if needed else f"(?:{COMMA}{other})?" for other, needed in pairs[i + 1 :])
        ways.append(pair + rest)
        if required:
            return ways
    return [*ways, ""]


def _value(schema: Mapping[str, Any], depth: int) -> str:
    if isinstance(values := schema.get("enum"), list) and values:
        return f"(?:{'|'.join(_literal(value) for value in values)})"
    kind = str(schema.get("type", "any")).lower()
    if kind in KINDS:
        return KINDS[kind]
    inside = _value(schema.get("items") or {}, depth - 1) if depth else ""
    if kind in ("array", "list", "tuple"):
        left, right = (r"\(", r"\)") if kind == "tuple" else (r"\[", r"\]")
        return rf"{left}{BLANK}{_listed(inside)}{BLANK}{right}"
    if kind in ("dict", "object"):
        properties = schema.get("properties") or {}
        pairs = [(f"{_literal(key)}{BLANK}:{BLANK}{_value(inner, depth - 1)}", False) for key, inner in properties.items()] if depth else []
        return rf"\{{{BLANK}{_items(pairs) if pairs else _listed(f'{STRING}{BLANK}:{BLANK}{_value({}, 0)}')}{BLANK}\}}"
    scalar = f"{STRING}|{NUMBER}|{BOOLEAN}|None"
    return f"(?:{scalar}|\\[{BLANK}{_listed(f'(?:{scalar})')}{BLANK}\\])" if depth else f"(?:{scalar})"


def _listed(item: str) -> str:
    return f"(?:{item}(?:{COMMA}{item})*)?" if item else ""


def _literal(value: Any) -> str:
    """A constant, strings in either quotes."""
    if not isinstance(value, str):
        return re.escape(repr(value))
    if set(value) & set("'\"\\\n"):
        return re.escape(repr(value))
    return f"(?:'{re.escape(value)}'|\"{re.escape(value)}\")"
