"""Keys and values kept from finished requests, so that a prompt that extends an earlier one is not run again.

Exact for AR and block-causal models, where a position's keys depend on the tokens before it (and in its block) alone.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from dllm_agents.decoding.canvas import Call, Positions
from dllm_agents.models.attention import Slot

Kind = tuple[str, int | None]


@dataclass
class _Kept:
    kind: Kind
    tokens: Positions
    slot: Slot


class Prefixes:
    """The most recently used prefixes, within `capacity` bytes."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._kept: OrderedDict[int, _Kept] = OrderedDict()
        self._next = 0

    def take_over(self, call: Call, tokens: Positions, slot: Slot) -> int:
        """Copy into `slot` the keys of the longest kept prefix of `tokens` that `call`, a prefill, may skip; returns its length.

        Positions whose logits the call asks for are always run again, and blocks are taken whole.
        """
        unit = call.block_length or 1
        most = min(call.clean, int(call.rows.min()) // unit * unit) if len(call.rows) else call.clean
        best, length = None, 0
        for key, kept in self._kept.items():
            if kept.kind == (call.attention, call.block_length):
                shared = min(common_prefix(kept.tokens, tokens), most) // unit * unit
                if shared > length:
                    best, length = key, shared
        if best is not None:
            self._kept.move_to_end(best)
            slot.copy(self._kept[best].slot, length)
        return length

    def keep(self, kind: Kind, tokens: Positions, slot: Slot) -> None:
        """Keep `slot`, whose first positions hold the keys of `tokens`; what it extends or outgrows is dropped."""
        if not len(tokens) or slot.bytes > self.capacity:
            return
        for key, kept in list(self._kept.items()):
            if kept.kind == kind and common_prefix(kept.tokens, tokens) == len(kept.tokens):
                del self._kept[key]
        self._kept[self._next] = _Kept(kind, tokens.copy(), slot)
        self._next += 1
        while sum(kept.slot.bytes for kept in self._kept.values()) > self.capacity:
            self._kept.popitem(last=False)


def common_prefix(first: Positions, second: Positions) -> int:
    """How many leading token ids two sequences share."""
    length = min(len(first), len(second))
    differ = np.flatnonzero(first[:length] != second[:length])
    return int(differ[0]) if len(differ) else length
