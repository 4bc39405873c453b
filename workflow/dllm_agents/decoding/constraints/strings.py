"""JSON strings as expressions: lengths, patterns, formats."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from dllm_agents.decoding.constraints.expressions import (
    EMPTY,
    LAST_CODE_POINT,
    ConstraintError,
    Expression,
    Ranges,
    alt,
    both,
    cat,
    chars,
    complement,
    lit,
    one_of,
    rep,
)
from dllm_agents.decoding.constraints.formats import FORMATS
from dllm_agents.decoding.constraints.merging import count, unsupported
from dllm_agents.decoding.constraints.patterns import compile_pattern

LONGEST = 512
HEX = one_of("0123456789abcdefABCDEF")
PLAIN: Ranges = [(0x20, 0x21), (0x23, 0x5B), (0x5D, LAST_CODE_POINT)]
SHORT = {'"': '"', "\\": "\\", "/": "/", "\b": "b", "\f": "f", "\n": "n", "\r": "r", "\t": "t"}
_NO_SURROGATE = alt(cat(one_of("0123456789abcefABCEF"), HEX), cat(one_of("dD"), one_of("01234567")))
_PAIR = cat(one_of("dD"), one_of("89abAB"), HEX, HEX, lit("\\u"), one_of("dD"), one_of("cdefCDEF"))
CHARACTER = alt(chars(PLAIN), cat(lit("\\"), alt(one_of("".join(SHORT.values())), cat(lit("u"), alt(_NO_SURROGATE, _PAIR), HEX, HEX))))
FREE = rep(CHARACTER)


def string(stated: Mapping[str, Any], where: str) -> Expression:
    """A string of a schema's minLength, maxLength, pattern and format, in quotes."""
    low, high = count(stated, "minLength", where) or 0, count(stated, "maxLength", where)
    for keyword, length in (("minLength", low), ("maxLength", high or 0)):
        if length > LONGEST:
            raise ConstraintError("schema_too_large", f"{where}/{keyword}", f"lengths above {LONGEST} are not counted; leave it out")
    inside = FREE if not low and high is None else rep(CHARACTER, low, high)
    if "pattern" in stated:
        if not isinstance(stated["pattern"], str):
            raise unsupported(f"{where}/pattern", "a string is wanted")
        matching = compile_pattern(stated["pattern"], f"{where}/pattern", spell, search=True)
        inside = matching if inside == FREE else both(inside, matching)
    if "format" in stated:
        if stated["format"] not in list(FORMATS):
            raise unsupported(f"{where}/format", f"{stated['format']!r:.100} is not supported; supported: {', '.join(FORMATS)}")
        form = compile_pattern(FORMATS[stated["format"]], f"{where}/format")
        inside = form if inside == FREE else both(inside, form)
    return cat(lit('"'), inside, lit('"'))


def spell(ranges: Ranges) -> Expression:
    """One character out of ranges as it stands in a JSON string."""
    inside = [(max(low, a), min(high, b)) for low, high in ranges for a, b in PLAIN if max(low, a) <= min(high, b)]
    escapes = [cat(lit("\\"), lit(letter)) for c, letter in SHORT.items() if any(low <= ord(c) <= high for low, high in ranges)]
    controls = [c for c in range(0x20) if any(low <= c <= high for low, high in ranges)]
    return alt(chars(inside), *escapes, *(cat(lit(f"\\u00{c >> 4}"), one_of(f"{c & 15:x}{c & 15:X}")) for c in controls))


def other_than(names: list[str]) -> Expression:
    """A string without escapes that is none of `names`."""
    return cat(lit('"'), _other([name for name in names if not set(json.dumps(name, ensure_ascii=False)[1:-1]) & {"\\"}]), lit('"'))


def _other(names: list[str]) -> Expression:
    following: dict[str, list[str]] = {}
    for name in names:
        if name:
            following.setdefault(name[0], []).append(name[1:])
    begun = [(ord(c), ord(c)) for c in following]
    rest = chars([(a, b) for low, high in complement(begun) for a, b in _plain_part(low, high)])
    away = cat(rest, rep(chars(PLAIN)))
    return alt(*([] if "" in names else [EMPTY]), away, *(cat(lit(c), _other(tails)) for c, tails in following.items()))


def _plain_part(low: int, high: int) -> Ranges:
    return [(max(low, a), min(high, b)) for a, b in PLAIN if max(low, a) <= min(high, b)]
