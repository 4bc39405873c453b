"""Expressions over bytes: the small algebra every constraint is written in. Imports no torch.

An expression is a tuple that begins with its kind:

    ("lit", bytes)                       these bytes
    ("set", bits)                        one byte b with bit b set
    ("cat", e, ...), ("alt", e, ...)     concatenation (of nothing: the empty text), union (of nothing: no text)
    ("rep", e, low, high)                repetition, `high` None for any number
    ("list", e, comma)                   one e or more with `comma` between them
    ("and", e, f)                        the texts of both
    ("without", bytes)                   texts that these bytes occur in nowhere
    ("items", items, comma, free)        items (e, required), each at most once, `comma` between them, in any order if `free`

Text is UTF-8. The bytes 0xF8 .. 0xFF are in no UTF-8 text; tags that a tokenizer holds as special tokens are written with them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from dllm_agents.decoding.settings import DecodingError

Expression = tuple[Any, ...]
Ranges = list[tuple[int, int]]

EMPTY: Expression = ("cat",)
NEVER: Expression = ("alt",)
LAST_CODE_POINT = 0x10FFFF


class ConstraintError(DecodingError):
    """A constraint that cannot be carried out. `code` says how, `where` (a JSON pointer, or a part of the constraint) at what place;
    `field` is the setting to change."""

    def __init__(self, code: str, where: str, message: str, field: str = "constraint") -> None:
        where = where[:500]  # keys may be of any length
        super().__init__(f"{field}: {where}: {message}" if where else f"{field}: {message}")
        self.code, self.where, self.field = code, where, field


def lit(text: str | bytes) -> Expression:
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    return ("lit", data) if data else EMPTY


def byte_set(*ranges: tuple[int, int]) -> Expression:
    """One byte out of inclusive ranges."""
    bits = 0
    for low, high in ranges:
        bits |= ((1 << (high - low + 1)) - 1) << low
    return ("set", bits)


def one_of(characters: str) -> Expression:
    """One of these ASCII characters."""
    return byte_set(*((ord(c), ord(c)) for c in characters))


def cat(*parts: Expression) -> Expression:
    if NEVER in parts:
        return NEVER
    flat = [item for part in parts for item in (part[1:] if part[0] == "cat" else (part,))]
    return flat[0] if len(flat) == 1 else ("cat", *flat)


def alt(*parts: Expression) -> Expression:
    flat = dict.fromkeys(item for part in parts for item in (part[1:] if part[0] == "alt" else (part,)))
    return next(iter(flat)) if len(flat) == 1 else ("alt", *flat)


def rep(part: Expression, low: int = 0, high: int | None = None) -> Expression:
    if high is not None and high < low:
        return NEVER
    if high == 0 or part == EMPTY:
        return EMPTY
    if part == NEVER:
        return EMPTY if low == 0 else NEVER
    return part if low == high == 1 else ("rep", part, low, high)


def opt(part: Expression) -> Expression:
    return rep(part, 0, 1)


def listed(item: Expression, comma: Expression, low: int = 1, high: int | None = None) -> Expression:
    """`low` (at least one) to `high` items with `comma` between them."""
    if high is None and low == 1:
        return NEVER if item == NEVER else ("list", item, comma)
    return cat(item, rep(cat(comma, item), low - 1, None if high is None else high - 1))


def both(a: Expression, b: Expression) -> Expression:
    return NEVER if NEVER in (a, b) else ("and", a, b)


def without(text: bytes) -> Expression:
    return ("without", text)


def separated(items: list[tuple[Expression, bool]], comma: Expression, free: bool = False) -> Expression:
    """Items (expression, required), those that are not required left out at will, `comma` between any two; in any order if `free`."""
    return ("items", tuple(items), comma, free and len(items) > 1) if items else EMPTY


def size(e: Expression) -> int:
    """About how many states the expression needs."""
    match e[0]:
        case "lit" | "without":
            return len(e[1])
        case "set":
            return 1
        case "rep":
            return size(e[1]) * max(e[2], 1 if e[3] is None else e[3])
        case "items":
            return sum(size(item) for item, _ in e[1]) << (len(e[1]) - 1 if e[3] else 1)
    return sum(size(part) for part in e[1:])


# UTF-8


def chars(ranges: Iterable[tuple[int, int]]) -> Expression:
    """One code point out of inclusive ranges, as UTF-8; surrogates are left out."""
    pieces = [
        piece
        for low, high in ranges
        for a, b in ((low, min(high, 0xD7FF)), (max(low, 0xE000), high))
        if a <= b
        for piece in _of_one_length(a, b)
    ]
    bits = 0
    for piece in pieces:
        bits |= piece[1] if piece[0] == "set" else 0
    return alt(*([("set", bits)] if bits else []), *(piece for piece in pieces if piece[0] != "set"))


def _of_one_length(low: int, high: int) -> Iterator[Expression]:
    for edge in (0x7F, 0x7FF, 0xFFFF):
        if low <= edge < high:
            yield from _of_one_length(low, edge)
            low = edge + 1
    yield from _between(chr(low).encode(), chr(high).encode())


def _between(a: bytes, b: bytes) -> Iterator[Expression]:
    """The byte sequences from a to b, both of one length, as concatenations of byte ranges."""
    tail = len(a) - 1
    low, high = a[0], b[0]
    if not tail:
        yield byte_set((low, high))
    elif low == high:
        yield from (cat(byte_set((low, low)), rest) for rest in _between(a[1:], b[1:]))
    else:
        first, last = bytes([0x80] * tail), bytes([0xBF] * tail)
        if a[1:] != first:
            yield from (cat(byte_set((low, low)), rest) for rest in _between(a[1:], last))
            low += 1
        if b[1:] != last:
            yield from (cat(byte_set((high, high)), rest) for rest in _between(first, b[1:]))
            high -= 1
        if low <= high:
            yield cat(byte_set((low, high)), *[byte_set((0x80, 0xBF))] * tail)


def complement(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """The code points outside inclusive ranges."""
    outside, start = [], 0
    for low, high in sorted(ranges):
        if low > start:
            outside.append((start, low - 1))
        start = max(start, high + 1)
    return outside + ([(start, LAST_CODE_POINT)] if start <= LAST_CODE_POINT else [])
