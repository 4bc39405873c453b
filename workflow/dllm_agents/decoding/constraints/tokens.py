"""From an automaton over bytes to one over a vocabulary's tokens, and steps over sets of its states. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dllm_agents.decoding.constraints.automata import DFA, Bounds
from dllm_agents.decoding.constraints.expressions import ConstraintError
from dllm_agents.decoding.constraints.vocabulary import Vocabulary

MAX_CELLS = 1 << 24
MEMO_BYTES = 1 << 23
FAR = 1 << 30


def lift(d: DFA, vocabulary: Vocabulary, bounds: Bounds) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Where every token leads from every state: `columns` [classes, states], -1 for nowhere, and `class_of` [vocabulary].

    A run of bytes is a function from states to states, its column; a column is extended by a class of bytes once, however many tokens
    begin so. Class 0 leads nowhere. Raises ConstraintError past MAX_CELLS.
    """
    states, kinds = d.table.shape
    table = np.vstack([d.table, np.full((1, kinds), -1, dtype=np.int32)])
    nowhere = np.full(states, -1, dtype=np.int32)
    columns = [nowhere, np.arange(states, dtype=np.int32)]
    number = {column.tobytes(): i for i, column in enumerate(columns)}
    following = np.full((2, kinds), -1, dtype=np.int32)
    following[0] = 0
    letters = d.class_of[vocabulary.data]
    lengths = np.diff(vocabulary.offset)
    reached = np.where(lengths > 0, 1, 0).astype(np.int32)
    token = np.nonzero(lengths)[0]
    depth = 0
    while len(token):
        at, kind = reached[token], letters[vocabulary.offset[token] + depth]
        flags = np.zeros(following.shape, dtype=bool)
        flags[at, kind] = True
        parents, steps = np.nonzero(flags & (following < 0))
        for parent in np.unique(parents).tolist():
            mine = steps[parents == parent]
            for step, column in zip(mine.tolist(), table[columns[parent]][:, mine].T.copy(), strict=True):
                key = column.tobytes()
                if key not in number:
                    number[key] = len(columns)
                    columns.append(column)
                following[parent, step] = number[key]
        if len(columns) * states > MAX_CELLS:
            raise ConstraintError(
                "schema_too_large", bounds.where, f"needs more than {MAX_CELLS} cells for this vocabulary; make it smaller"
            )
        bounds.check()
        fresh = np.full((len(columns) - len(following), kinds), -1, dtype=np.int32)
        following = np.vstack([following, fresh])
        reached[token] = following[at, kind]
        depth += 1
        token = token[(lengths[token] > depth) & (reached[token] > 0)]
    # A token whose prefix leads nowhere keeps class 0; the columns of mere prefixes are dropped.
    kept, class_of = np.unique(np.append(0, reached), return_inverse=True)
    return np.stack([columns[i] for i in kept]), class_of[1:].astype(np.int32)


class TokenAutomaton:
    """The tokens' automaton: a language over bytes, then any number of stop ids, or other tokens not at all.

    `table` [states, classes] holds the next state or -1, `class_of` [vocabulary] every token's class, `distance` [states] the fewest tokens
    to an answer's end. Sets of states are whole numbers, one bit a state. Where stop ids are padding (in front of a closing tag) they
    are of the class `pad` and change nothing. Steps over sets are kept in a memo of bounded size.
    """

    def __init__(
        self, d: DFA, vocabulary: Vocabulary, stop_ids: Iterable[int], mask_id: int | None = None, bounds: Bounds | None = None
    ) -> None:
        bounds = bounds or Bounds()
        stop_ids = list(stop_ids)
        if not stop_ids:
            raise ConstraintError("no_stop_id", "", "no stop id is known, so an answer could not end before its budget", "stop_ids")
        d = _after_a_blank(d) if vocabulary.strips else d
        columns, class_of = lift(d, vocabulary, bounds)
        classes, states = columns.shape
        self.stop, self.pad, self.end = classes, classes + 1, states
        self.table = np.full((states + 1, classes + 2), -1, dtype=np.int32)
        self.table[:states, :classes] = columns.T
        self.table[:states, self.stop][d.accepting] = self.end
        self.table[self.end, self.stop] = self.end
        self.table[:, self.pad] = np.arange(states + 1)
        self.class_of = class_of
        if mask_id is not None:
            self.class_of[mask_id] = 0
        self.class_of[stop_ids] = self.stop
        self.start, self.accepting = d.start, np.append(d.accepting, True)
        self.states, self.classes = self.table.shape
        self._successors = [self._next(without=self.pad), self._next(without=self.stop)]
        self._predecessors = [_reversed(successors) for successors in self._successors]
        self.distance = self._distances()
        self._memo: dict[tuple[Any, ...], Any] = {}
        self._entry_bytes = 3 * (self.states // 8 + 40) + self.classes + 200

    @property
    def nbytes(self) -> int:
        """About the memory it holds now."""
        return self.table.nbytes + self.class_of.nbytes + 4 * self.states * (self.states // 8 + 40) + len(self._memo) * self._entry_bytes

    @property
    def shortest(self) -> int:
        """Tokens of the shortest answer, without a stop id."""
        return int(self.distance[self.start])

    @property
    def reachable(self) -> int:
        """The states that some tokens lead to."""
        return self._recall(("reachable",), lambda: _closure(1 << self.start, self._successors[0]))

    def spanned(self, states: int, length: int) -> int:
        """The states after `length` tokens from `states`, stop ids not among them."""
        for _ in range(length):
            states = self.forward(states, None) & ~(1 << self.end)
        return states

    def kind(self, token: int, padded: bool) -> int:
        """The class of a token at a place where stop ids are padding, or are not."""
        kind = int(self.class_of[token])
        return self.pad if padded and kind == self.stop else kind

    def within(self, room: int) -> int:
        """The states from which an answer can end within `room` tokens."""
        return self._recall(("within", min(room, self.states)), lambda: self._set_of(self.distance <= room))

    def forward(self, states: int, kind: int | None, padded: bool = False) -> int:
        """The states after a token of class `kind`, or after any one token at all (None)."""

        def step() -> int:
            if kind is None:
                return _union(self._successors[padded], states)
            targets = self.table[self.flags(states), kind]
            return self._set_of(targets[targets >= 0])

        return self._recall((states, kind, padded), step)

    def backward(self, states: int, kind: int | None, padded: bool = False) -> int:
        """The states from which a token of class `kind`, or any one (None), leads into `states`."""

        def step() -> int:
            if kind is None:
                return _union(self._predecessors[padded], states)
            return self._set_of(np.append(self.flags(states), False)[self.table[:, kind]])

        return self._recall((states, kind, padded, "back"), step)

    def allowed(self, before: int, after: int, padded: bool = False) -> NDArray[np.bool_]:
        """Which classes [classes] lead from a state of `before` to one of `after`. Stop ids that are padding are asked for as `stop`."""

        def step() -> NDArray[np.bool_]:
            leads = np.append(self.flags(after), False)[self.table[self.flags(before)]]
            flags: NDArray[np.bool_] = np.logical_or.reduce(leads, axis=0)
            flags[self.stop] = flags[self.pad if padded else self.stop]
            flags[self.pad] = False
            return flags

        return self._recall((before, after, padded, "allowed"), step)

    def accepts(self, token_ids: Sequence[int]) -> bool:
        state = self.start
        for token in token_ids:
            state = int(self.table[state, self.class_of[token]])
            if state < 0:
                return False
        return bool(self.accepting[state])

    def _recall(self, key: tuple[Any, ...], step: Any) -> Any:
        value = self._memo.get(key)
        if value is None:
            if len(self._memo) * self._entry_bytes > MEMO_BYTES:
                self._memo.clear()
            value = self._memo[key] = step()
        return value

    def _next(self, without: int) -> list[int]:
        rows = np.delete(self.table, without, axis=1)
        return [self._set_of(row[row >= 0]) for row in rows]

    def _distances(self) -> NDArray[np.int32]:
        distance = np.where(self.accepting, 0, FAR).astype(np.int32)
        layer, steps = self._set_of(self.accepting), 0
        reached = layer
        while layer:
            layer = _union(self._predecessors[0], layer) & ~reached
            reached |= layer
            steps += 1
            distance[self.flags(layer)] = steps
        return distance

    def _set_of(self, states: NDArray[Any]) -> int:
        """A set of states out of their numbers, or of a flag for each."""
        flags = np.zeros(self.states, dtype=bool)
        flags[states] = True
        return int.from_bytes(np.packbits(flags, bitorder="little").tobytes(), "little")

    def flags(self, states: int) -> NDArray[np.bool_]:
        data = np.frombuffer(states.to_bytes((self.states + 7) // 8, "little"), dtype=np.uint8)
        return np.unpackbits(data, bitorder="little", count=self.states).astype(bool)


def _after_a_blank(d: DFA) -> DFA:
    """The texts whose first blank is taken away: a blank and a text of the language, or one that begins with none."""
    first = d.table[d.start].copy()
    table = np.vstack([d.table, first])
    # The blank's class may have other bytes: it gets one of its own.
    table = np.hstack([table, table[:, [d.class_of[0x20]]]])
    table[-1, -1] = d.start
    class_of = d.class_of.copy()
    class_of[0x20] = table.shape[1] - 1
    return DFA(table, class_of, np.append(d.accepting, d.accepting[d.start]), len(d.table))


def _members(states: int) -> Iterator[int]:
    while states:
        low = states & -states
        yield low.bit_length() - 1
        states ^= low


def _union(sets: list[int], states: int) -> int:
    out = 0
    for state in _members(states):
        out |= sets[state]
    return out


def _closure(states: int, successors: list[int]) -> int:
    fresh = states
    while fresh:
        fresh = _union(successors, fresh) & ~states
        states |= fresh
    return states


def _reversed(successors: list[int]) -> list[int]:
    predecessors = [0] * len(successors)
    for state, targets in enumerate(successors):
        for target in _members(targets):
            predecessors[target] |= 1 << state
    return predecessors
