"""Who holds which positions of the pool: running requests, and finished ones whose keys a prompt that extends theirs may take over.

Sharing is exact for AR and block-causal models, where a position's keys depend on the tokens before it (and in its block) alone.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from dllm_agents.decoding.canvas import Positions
from dllm_agents.models.attention import cell_bytes

if TYPE_CHECKING:
    from dllm_agents.models import Model

Kind = tuple[str, int | None]
# Token ids on an edge of the trie.
CHUNK = 16
MOST_CONTEXTS = 64


def pool_positions(model: Model, utilisation: float, reserve: int = 2 << 30) -> int:
    """How many positions fit into `utilisation` of the memory that is free now; a GPU keeps `reserve` bytes for activations.

    On a CPU, whose memory belongs to others too, it is a quarter of that, at most 4 GiB, and no more than MOST_CONTEXTS requests of full
    length take: what is set aside counts against what other processes are promised.
    """
    if model.device.type == "cuda":
        free = int(torch.cuda.mem_get_info(model.device)[0] * utilisation) - reserve
    else:
        free = min(int(_available_bytes() * utilisation / 4), 4 << 30, MOST_CONTEXTS * model.context_length * cell_bytes(model))
    return max(0, free // cell_bytes(model))


def _available_bytes() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 8 << 30
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable")), 8 << 30)


class Extents:
    """Free stretches of [0, positions), taken first-fit."""

    def __init__(self, positions: int) -> None:
        self.holes = [(0, positions)] if positions else []

    def take(self, length: int) -> int | None:
        """The start of `length` free positions in a row; None when there are none."""
        for number, (start, size) in enumerate(self.holes):
            if size >= length:
                self.holes[number : number + 1] = [(start + length, size - length)] if size > length else []
                return start
        return None

    def give_back(self, start: int, length: int) -> None:
        """Free [start, start + length), joined with its neighbours."""
        joined: list[tuple[int, int]] = []
        for first, size in sorted([*self.holes, (start, length)] if length else self.holes):
            if joined and joined[-1][0] + joined[-1][1] == first:
                joined[-1] = (joined[-1][0], joined[-1][1] + size)
            else:
                joined.append((first, size))
        self.holes = joined


@dataclass(eq=False)
class _Node:
    """A prefix of token ids: what may follow, and who holds its keys."""

    children: dict[tuple[int, ...], _Node] = field(default_factory=dict)
    holders: dict[Holder, None] = field(default_factory=dict)


@dataclass(eq=False)
class Holder:
    """Positions [start, start + length) of the pool. The first `clean` hold the keys of `tokens` and depend on nothing else."""

    start: int
    length: int
    kind: Kind
    tokens: Positions = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    path: list[_Node] = field(default_factory=list)


class Memory:
    """The pool's book: holders that run, holders that are kept (least recently used first out), and a trie of the prefixes of both."""

    def __init__(self, positions: int) -> None:
        self.positions = positions
        self._extents = Extents(positions)
        self._kept: OrderedDict[Holder, None] = OrderedDict()
        self._roots: dict[Kind, _Node] = {}

    def admit(self, length: int, kind: Kind) -> Holder | None:
        """Room for `length` positions, for which kept prefixes give way; None when running requests leave too little."""
        while (start := self._extents.take(length)) is None:
            if not self._kept:
                return None
            self._drop(next(iter(self._kept)))
        return Holder(start, length, kind)

    def longest_prefix(self, kind: Kind, tokens: Positions, most: int, unit: int) -> tuple[Holder | None, int]:
        """Who holds the keys of the longest prefix of `tokens`, and its length: at most `most`, in whole units."""
        node, depth = self._roots.get(kind), 0
        while node is not None and (child := node.children.get(_chunk(tokens, depth))) is not None:
            node, depth = child, depth + CHUNK
        best: tuple[Holder | None, int] = (None, 0)
        for holder in () if node is None else node.holders:
            length = min(depth + _shared(holder.tokens[depth:], tokens[depth:]), most) // unit * unit
            if length > best[1]:
                best = (holder, length)
        if best[0] is not None and best[0] in self._kept:
            self._kept.move_to_end(best[0])
        return best

    def offer(self, holder: Holder, tokens: Positions) -> None:
        """Let others find the keys of `tokens`, which lie at the holder's start; may be called again as they grow."""
        path = holder.path or [self._roots.setdefault(holder.kind, _Node())]
        for depth in range((len(path) - 1) * CHUNK, len(tokens) - CHUNK + 1, CHUNK):
            path.append(path[-1].children.setdefault(_chunk(tokens, depth), _Node()))
        holder.path, holder.tokens = path, tokens
        for node in path:
            node.holders[holder] = None

    def release(self, holder: Holder, keep: int) -> None:
        """The request has ended: keep the first `keep` positions for others to take over, free the rest."""
        self._extents.give_back(holder.start + keep, holder.length - keep)
        holder.length = keep
        if keep:
            self._kept[holder] = None
            for other in [other for other in self._kept if other is not holder and _extends(holder, other)]:
                self._drop(other)
        else:
            self._forget(holder)

    def _drop(self, holder: Holder) -> None:
        del self._kept[holder]
        self._extents.give_back(holder.start, holder.length)
        self._forget(holder)

    def _forget(self, holder: Holder) -> None:
        for depth in reversed(range(len(holder.path))):
            holder.path[depth].holders.pop(holder, None)
            if depth and not holder.path[depth].holders:
                holder.path[depth - 1].children.pop(_chunk(holder.tokens, (depth - 1) * CHUNK), None)
        holder.path = []


def _chunk(tokens: Positions, start: int) -> tuple[int, ...]:
    return tuple(tokens[start : start + CHUNK].tolist())


def _shared(first: Positions, second: Positions) -> int:
    """How many leading token ids two sequences share."""
    length = min(len(first), len(second))
    differ = np.flatnonzero(first[:length] != second[:length])
    return int(differ[0]) if len(differ) else length


def _extends(holder: Holder, other: Holder) -> bool:
    """Whether `holder` has all that `other` has."""
    return holder.kind == other.kind and _shared(holder.tokens, other.tokens) == len(other.tokens)
