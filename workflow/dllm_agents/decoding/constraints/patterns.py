"""Regular expressions in Python's spelling with ECMA 262's meaning (which JSON Schema's `pattern` has), as expressions over bytes.

What is not regular (look-around, back-references, word boundaries) or means different things in the two dialects is refused.
"""

from __future__ import annotations

import re
import re._constants as k  # type: ignore[import-untyped]
import re._parser as parser  # type: ignore[import-untyped]
import warnings
from collections.abc import Callable
from typing import Any

from dllm_agents.decoding.constraints.expressions import (
    EMPTY,
    LAST_CODE_POINT,
    ConstraintError,
    Expression,
    Ranges,
    alt,
    cat,
    chars,
    complement,
    rep,
)

LONGEST = 1 << 17
DIGIT: Ranges = [(0x30, 0x39)]
WORD: Ranges = [*DIGIT, (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)]
LINE_ENDS: Ranges = [(0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029)]
WIDE_SPACES: Ranges = [(0x2000, 0x200A), *((c, c) for c in (0xA0, 0x1680, 0x202F, 0x205F, 0x3000, 0xFEFF))]
SPACE: Ranges = [(0x09, 0x0D), (0x20, 0x20), (0x2028, 0x2029), *WIDE_SPACES]
CATEGORIES: dict[Any, Ranges] = {
    k.CATEGORY_DIGIT: DIGIT,
    k.CATEGORY_WORD: WORD,
    k.CATEGORY_SPACE: SPACE,
    k.CATEGORY_NOT_DIGIT: complement(DIGIT),
    k.CATEGORY_NOT_WORD: complement(WORD),
    k.CATEGORY_NOT_SPACE: complement(SPACE),
}
Spell = Callable[[Ranges], Expression]


def compile_pattern(pattern: str, where: str = "regex", spell: Spell = chars, search: bool = False) -> Expression:
    """The texts that match as a whole, or with `search` those that contain a match; `spell` writes one character out of ranges.

    Raises ConstraintError (`unsupported_pattern`) for what is no regular expression in both dialects.
    """
    if len(pattern) > LONGEST:
        raise ConstraintError("schema_too_large", where, f"a pattern of {len(pattern)} characters; at most {LONGEST}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = parser.parse(pattern, re.ASCII)
    except (re.error, OverflowError, RecursionError) as error:
        raise ConstraintError("unsupported_pattern", where, f"no regular expression ({error})") from None
    if tree.state.flags & (re.IGNORECASE | re.MULTILINE | re.VERBOSE | re.DOTALL):
        raise ConstraintError("unsupported_pattern", where, "flags inside a pattern are not supported")
    try:
        return _Pattern(where, spell, search).whole(list(tree))
    except RecursionError:
        raise ConstraintError("schema_too_large", where, "a pattern nested too deeply") from None


class _Pattern:
    def __init__(self, where: str, spell: Spell, search: bool) -> None:
        self.where, self.spell = where, spell
        self.outside = rep(spell([(0, LAST_CODE_POINT)])) if search else EMPTY

    def whole(self, items: list[Any]) -> Expression:
        """A branch of the top level, with what may stand outside its anchors."""
        if len(items) == 1 and items[0][0] is k.BRANCH:
            return alt(*(self.whole(list(branch)) for branch in items[0][1][1]))
        if len(items) == 1 and items[0][0] is k.SUBPATTERN and not any(items[0][1][1:3]):
            return self.whole(list(items[0][1][3]))
        begins = bool(items) and items[0][0] is k.AT and items[0][1] in (k.AT_BEGINNING, k.AT_BEGINNING_STRING)
        ends = len(items) > begins and items[-1][0] is k.AT and items[-1][1] in (k.AT_END, k.AT_END_STRING)
        body = self.sequence(items[int(begins) : len(items) - ends])
        return cat(EMPTY if begins else self.outside, body, EMPTY if ends else self.outside)

    def sequence(self, items: Any) -> Expression:
        return cat(*(self.item(op, value) for op, value in items))

    def item(self, op: Any, value: Any) -> Expression:
        if op is k.LITERAL:
            return self.spell([(value, value)])
        if op is k.NOT_LITERAL:
            return self.spell(complement([(value, value)]))
        if op is k.ANY:
            return self.spell(complement(LINE_ENDS))
        if op is k.IN:
            return self.spell(self.ranges(value))
        if op is k.BRANCH:
            return alt(*(self.sequence(branch) for branch in value[1]))
        if op is k.SUBPATTERN and not (value[1] or value[2]):
            return self.sequence(value[3])
        if op in (k.MAX_REPEAT, k.MIN_REPEAT):
            low, high, part = value
            return rep(self.sequence(part), low, None if high is k.MAXREPEAT else high)
        raise ConstraintError("unsupported_pattern", self.where, f"{str(op).lower()} inside a pattern is not supported")

    def ranges(self, items: Any) -> Ranges:
        ranges: Ranges = []
        for op, value in items:
            if op is k.LITERAL:
                ranges.append((value, value))
            elif op is k.RANGE:
                ranges.append(value)
            elif op is k.CATEGORY:
                ranges += CATEGORIES[value]
        return complement(ranges) if items[0][0] is k.NEGATE else ranges
