"""JSON numbers between bounds, as expressions: decimal, without leading zeros, up to 15 digits on either side of the point."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction

from dllm_agents.decoding.constraints.expressions import EMPTY, NEVER, Expression, alt, both, byte_set, cat, lit, one_of, opt, rep

DIGITS = 15
UNIT = 10**DIGITS
DIGIT = byte_set((0x30, 0x39))
NATURAL = alt(lit("0"), cat(one_of("123456789"), rep(DIGIT, 0, DIGITS - 1)))
INTEGER = cat(opt(lit("-")), NATURAL)
FRACTION = cat(lit("."), rep(DIGIT, 1, DIGITS))
NUMBER = cat(INTEGER, opt(FRACTION), opt(cat(one_of("eE"), opt(one_of("+-")), rep(DIGIT, 1, 2))))


def integers(low: Fraction | None, high: Fraction | None) -> Expression:
    """Whole numbers in [low, high]; None for no bound."""
    if low is None and high is None:
        return INTEGER
    first = 1 - UNIT if low is None else max(math.ceil(low), 1 - UNIT)
    last = UNIT - 1 if high is None else min(math.floor(high), UNIT - 1)
    return alt(cat(lit("-"), _naturals(max(0, -last), -first)), _naturals(max(0, first), last))


def numbers(low: Fraction | None, high: Fraction | None) -> Expression:
    """Decimal numbers in [low, high] without exponent; None for no bound.

    Reading a text as a float is monotone, so what is within the bounds as a text is so as a float.
    """
    if low is None and high is None:
        return NUMBER
    first = 1 - UNIT * UNIT if low is None else max(math.ceil(low * UNIT), 1 - UNIT * UNIT)
    last = UNIT * UNIT - 1 if high is None else min(math.floor(high * UNIT), UNIT * UNIT - 1)
    return alt(cat(lit("-"), _decimals(max(0, -last), -first)), _decimals(max(0, first), last))


def bound(value: float, below: bool | None = None) -> Fraction:
    """A bound as written in decimal; exclusive ones are moved to the float next `below` (or, False, above) them."""
    if below is not None and abs(value) < UNIT**3:
        value = math.nextafter(value, -math.inf if below else math.inf)
    return Fraction(value) if isinstance(value, int) else Fraction(Decimal(repr(value)))


def _naturals(low: int, high: int) -> Expression:
    parts = []
    for digits in range(len(str(low)), len(str(high)) + 1) if low <= high else ():
        a, b = max(low, 10 ** (digits - 1) if digits > 1 else 0), min(high, 10**digits - 1)
        parts.append(_of_one_length(str(a), str(b)))
    return alt(*parts)


def _of_one_length(a: str, b: str) -> Expression:
    rest = len(a) - 1
    if not a:
        return EMPTY
    if set(a) == {"0"} and set(b) == {"9"}:
        return rep(DIGIT, len(a), len(a))
    if a[0] == b[0]:
        return cat(lit(a[0]), _of_one_length(a[1:], b[1:]))
    between = cat(_digit(a[0], b[0], inside=True), rep(DIGIT, rest, rest))
    return alt(cat(lit(a[0]), _of_one_length(a[1:], "9" * rest)), between, cat(lit(b[0]), _of_one_length("0" * rest, b[1:])))


def _digit(low: str, high: str, inside: bool) -> Expression:
    """A digit from low to high, `inside` both excluded."""
    first, last = ord(low) + inside, ord(high) - inside
    return byte_set((first, last)) if first <= last else NEVER


def _decimals(low: int, high: int) -> Expression:
    """Decimals in [low, high], both in units of the 15th digit after the point."""
    if low > high:
        return NEVER
    (a, a_rest), (b, b_rest) = divmod(low, UNIT), divmod(high, UNIT)
    at_least, at_most = _at_least(_digits(a_rest), DIGITS), _at_most(_digits(b_rest), DIGITS)
    whole = lit("") if a_rest == 0 else NEVER
    if a == b:
        return cat(lit(str(a)), alt(whole, cat(lit("."), both(at_least, at_most))))
    return alt(
        cat(lit(str(a)), alt(whole, cat(lit("."), at_least))),
        cat(_naturals(a + 1, b - 1), opt(FRACTION)),
        cat(lit(str(b)), opt(cat(lit("."), at_most))),
    )


def _digits(rest: int) -> str:
    return f"{rest:0{DIGITS}d}".rstrip("0")


def _at_least(digits: str, room: int) -> Expression:
    """One to `room` digits after the point that are at least these."""
    if not digits:
        return rep(DIGIT, 1, room)
    rest = digits[1:]
    same = cat(lit(digits[0]), _at_least(rest, room - 1) if rest else rep(DIGIT, 0, room - 1))
    return alt(same, cat(_digit(digits[0], ":", inside=True), rep(DIGIT, 0, room - 1)))


def _at_most(digits: str, room: int) -> Expression:
    """One to `room` digits after the point that are at most these."""
    if not digits:
        return rep(lit("0"), 1, room)
    rest = digits[1:]
    same = cat(lit(digits[0]), opt(_at_most(rest, room - 1)) if room > 1 else EMPTY)
    return alt(same, cat(_digit("/", digits[0], inside=True), rep(DIGIT, 0, room - 1)))
