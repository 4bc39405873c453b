"""From an expression to a minimal deterministic automaton over classes of bytes. Imports no torch."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dllm_agents.decoding.constraints.expressions import ConstraintError, Expression

MAX_STATES = 1 << 14
MAX_PARTS = 60_000
# Steps of a compilation, each about a microsecond, so that a refusal comes within a second. They are the same on any machine, however busy:
# a bound of 0.7 seconds refused plain schemas now and then.
MAX_WORK = 1_000_000
SECONDS = 5.0


@dataclass
class Bounds:
    """What one compilation may take. `where` is the place an error names; seconds are processor seconds of this thread."""

    where: str = "#"
    states: int = MAX_STATES
    parts: int = MAX_PARTS
    work: int = MAX_WORK
    seconds: float = SECONDS

    def __post_init__(self) -> None:
        self._end, self._spent = time.thread_time() + self.seconds, 0

    def check(self, states: int = 0, parts: int = 0, work: int = 1) -> None:
        """Count `work` done. Raises ConstraintError (`schema_too_large`) past a bound."""
        self._spent += work
        for count, most, what in ((states, self.states, "states"), (parts, self.parts, "parts"), (self._spent, self.work, "steps")):
            if count > most:
                raise ConstraintError("schema_too_large", self.where, f"needs more than {most} {what}; bound its lengths or split it")
        if time.thread_time() > self._end:
            raise ConstraintError("schema_too_large", self.where, f"takes more than {self.seconds:g} s to compile; make it smaller")


@dataclass
class DFA:
    """`table` [states, classes] holds the next state, -1 where none is; `class_of` [256] the class of each byte.

    Every state but a lone start state of the empty language reaches an accepting one.
    """

    table: NDArray[np.int32]
    class_of: NDArray[np.int32]
    accepting: NDArray[np.bool_]
    start: int = 0

    def accepts(self, data: bytes) -> bool:
        state = self.start
        for byte in data:
            state = int(self.table[state, self.class_of[byte]])
            if state < 0:
                return False
        return bool(self.accepting[state])

    @property
    def empty(self) -> bool:
        return not bool(self.accepting.any())


def compile_expression(e: Expression, bounds: Bounds | None = None) -> DFA:
    """The minimal automaton of an expression. Raises ConstraintError past a bound."""
    bounds = bounds or Bounds()
    return minimise(_determinise(e, bounds), bounds)


class _NFA:
    """Thompson's construction; `edges` of a state are (set of bytes, target), `epsilon` its silent moves."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.epsilon: list[list[int]] = []
        self.edges: list[list[tuple[int, int]]] = []
        self.conjunctions: dict[Expression, DFA] = {}

    def state(self) -> int:
        if len(self.edges) % 1024 == 0:
            self.bounds.check(parts=len(self.edges))
        self.epsilon.append([])
        self.edges.append([])
        return len(self.edges) - 1

    def add(self, e: Expression, start: int) -> int:
        """Wire `e` from `start`; the state it ends in."""
        match e[0]:
            case "lit":
                for byte in e[1]:
                    end = self.state()
                    self.edges[start].append((1 << byte, end))
                    start = end
                return start
            case "set":
                end = self.state()
                self.edges[start].append((e[1], end))
                return end
            case "cat":
                for part in e[1:]:
                    start = self.add(part, start)
                return start
            case "alt":
                end = self.state()
                for part in e[1:]:
                    self.epsilon[self.add(part, self._after(start))].append(end)
                return end
            case "rep":
                return self._repeat(e[1], e[2], e[3], start)
            case "list":
                first = self._after(start)
                end = self.add(e[1], first)
                self.epsilon[self.add(e[2], self._after(end))].append(first)
                return self._after(end)
            case "items":
                return (self._any_order if e[3] else self._in_order)(e[1], e[2], start)
            case "and":
                if e not in self.conjunctions:
                    a, b = (compile_expression(part, self.bounds) for part in e[1:])
                    self.conjunctions[e] = minimise(_intersect(a, b, self.bounds), self.bounds)
                return self._embed(self.conjunctions[e], start)
        return self._embed(_without(e[1]), start)

    def _after(self, start: int) -> int:
        state = self.state()
        self.epsilon[start].append(state)
        return state

    def _repeat(self, part: Expression, low: int, high: int | None, start: int) -> int:
        for _ in range(low):
            start = self.add(part, start)
        if high is None:
            loop = self._after(start)
            self.epsilon[self.add(part, self._after(loop))].append(loop)
            return loop
        end = self._after(start)
        for _ in range(high - low):
            start = self.add(part, self._after(start))
            self.epsilon[start].append(end)
        return end

    def _in_order(self, items: tuple[tuple[Expression, bool], ...], comma: Expression, start: int) -> int:
        nothing: int | None = self._after(start)
        some: int | None = None
        for item, required in items:
            ends = [] if nothing is None else [self.add(item, self._after(nothing))]
            ends += [] if some is None else [self.add(item, self.add(comma, self._after(some)))]
            ends += [] if required or some is None else [some]
            nothing = None if required else nothing
            some = self.state()
            for end in ends:
                self.epsilon[end].append(some)
        last = self.state()
        for state in (nothing, some):
            if state is not None:
                self.epsilon[state].append(last)
        return last

    def _any_order(self, items: tuple[tuple[Expression, bool], ...], comma: Expression, start: int) -> int:
        """One state for every set of items that have been written."""
        written = [self.state() for _ in range(1 << len(items))]
        self.epsilon[start].append(written[0])
        end = self.state()
        for done, state in enumerate(written):
            if all(done >> i & 1 for i, (_, required) in enumerate(items) if required):
                self.epsilon[state].append(end)
            after = self.add(comma, self._after(state)) if done else state
            for i, (item, _) in enumerate(items):
                if not done >> i & 1:
                    self.epsilon[self.add(item, self._after(after))].append(written[done | 1 << i])
        return end

    def _embed(self, d: DFA, start: int) -> int:
        bits = [0] * d.table.shape[1]
        for byte, kind in enumerate(d.class_of.tolist()):
            bits[kind] |= 1 << byte
        states = [self.state() for _ in range(len(d.table))]
        end = self.state()
        self.epsilon[start].append(states[d.start])
        for state, row, accepting in zip(states, d.table.tolist(), d.accepting.tolist(), strict=True):
            by_target: dict[int, int] = {}
            for kind, target in enumerate(row):
                if target >= 0:
                    by_target[target] = by_target.get(target, 0) | bits[kind]
            self.edges[state] += [(letters, states[target]) for target, letters in by_target.items()]
            if accepting:
                self.epsilon[state].append(end)
        return end


def _determinise(e: Expression, bounds: Bounds) -> DFA:
    nfa = _NFA(bounds)
    start = nfa.state()
    final = nfa.add(e, start)
    bounds.check(parts=len(nfa.edges))
    sets = {bits for edges in nfa.edges for bits, _ in edges}
    class_of, members = _byte_classes(sets)
    bounds.check(work=len(sets) * len(members) // 16 + 2 * len(nfa.edges))
    classes = {bits: [c for c, byte in enumerate(members) if bits >> byte & 1] for bits in sets}
    moves = [[(classes[bits], target) for bits, target in edges] for edges in nfa.edges]
    closures: dict[int, frozenset[int]] = {}

    def closure(state: int) -> frozenset[int]:
        if state not in closures:
            reached, stack = {state}, [state]
            while stack:
                fresh = [other for other in nfa.epsilon[stack.pop()] if other not in reached]
                reached.update(fresh)
                stack += fresh
            bounds.check(work=len(reached) // 2)
            closures[state] = frozenset(s for s in reached if moves[s] or s == final)
        return closures[state]

    first = closure(start)
    index, order, rows = {first: 0}, [first], []
    for states in order:
        targets: dict[int, set[int]] = {}
        work = 0
        for s in states:
            for kinds, target in moves[s]:
                work += len(kinds)
                for c in kinds:
                    targets.setdefault(c, set()).add(target)
        bounds.check(states=len(order), work=(len(states) + work) // 2)
        row = [-1] * len(members)
        number: dict[frozenset[int], int] = {}
        for c, reached in targets.items():
            key = frozenset(reached)
            if key not in number:
                together: set[int] = set()
                for i, state in enumerate(key):
                    if i % 8 == 7:
                        bounds.check(work=4 + len(together) // 32)
                    together |= closure(state)
                union = frozenset(together)
                if union not in index:
                    index[union] = len(order)
                    order.append(union)
                number[key] = index[union]
            row[c] = number[key]
        rows.append(row)
    return DFA(np.array(rows, dtype=np.int32), class_of, np.array([final in states for states in order]))


def _byte_classes(sets: Iterable[int]) -> tuple[NDArray[np.int32], list[int]]:
    """Bytes that no set tells apart: the class of each byte [256], and one byte of each class."""
    ordered = sorted(sets)
    flags = np.array([np.unpackbits(np.frombuffer(bits.to_bytes(32, "little"), np.uint8), bitorder="little") for bits in ordered])
    flags = flags.reshape(len(ordered), 256)
    _, first, class_of = np.unique(flags, axis=1, return_index=True, return_inverse=True)
    return class_of.astype(np.int32).reshape(256), first.tolist()


def _without(pattern: bytes) -> DFA:
    """Texts without `pattern` (Knuth, Morris, Pratt 1977): state i has read the pattern's first i bytes. Private bytes are left out."""
    letters = sorted(set(pattern))
    class_of = np.zeros(256, dtype=np.int32)
    class_of[letters] = np.arange(1, len(letters) + 1)
    class_of[0xF8:] = len(letters) + 1
    table = np.zeros((len(pattern), len(letters) + 2), dtype=np.int32)
    table[:, -1] = -1
    for state in range(len(pattern)):
        for kind, byte in enumerate(letters, 1):
            text = pattern[:state] + bytes([byte])
            table[state, kind] = next(n for n in range(state + 1, -1, -1) if text.endswith(pattern[:n]))
    table[table == len(pattern)] = -1
    return DFA(table, class_of, np.ones(len(pattern), dtype=bool))


def _intersect(a: DFA, b: DFA, bounds: Bounds) -> DFA:
    """The pairs of states that texts lead to, p and q as p * len(b) + q, all that are as far from the start at once."""
    pairs, class_of = np.unique(np.stack([a.class_of, b.class_of]), axis=1, return_inverse=True)
    left, right = a.table[:, pairs[0]].astype(np.int64), b.table[:, pairs[1]]
    many = len(right)
    order, rows, fresh = [a.start * many + b.start], [], np.array([a.start * many + b.start])
    reached = set(order)
    while len(fresh):
        p, q = left[fresh // many], right[fresh % many]
        rows.append(np.where((p < 0) | (q < 0), -1, p * many + q))
        fresh = np.array([pair for pair in np.unique(rows[-1]).tolist() if pair >= 0 and pair not in reached], dtype=np.int64)
        reached.update(fresh.tolist())
        order += fresh.tolist()
        bounds.check(states=len(order), work=rows[-1].size // 16)
    table, codes = np.concatenate(rows), np.array(order)
    by_code = np.argsort(codes)
    numbers = by_code[np.searchsorted(codes[by_code], np.maximum(table, codes.min()))]
    accepting = a.accepting[codes // many] & b.accepting[codes % many]
    return DFA(np.where(table < 0, -1, numbers).astype(np.int32), class_of.astype(np.int32).reshape(256), accepting)


def minimise(d: DFA, bounds: Bounds) -> DFA:
    """Partition refinement (Moore), in a round only where a class that is led to has been split (after Hopcroft), so that a long count
    costs no more than its length; states of a class are told apart by a 64-bit hash of the classes they lead to.

    States that reach no accepting one are like the sink that a missing move leads to, and go with it."""
    rng = np.random.default_rng(0)
    sink, kinds = d.table.shape
    table = np.vstack([np.where(d.table < 0, sink, d.table), np.full((1, kinds), sink)])
    accepting = np.append(d.accepting, False)
    weights = np.asarray(rng.integers(1, 2**63, size=kinds, dtype=np.uint64) | np.uint64(1))
    of_target, of_own = (rng.integers(1, 2**63, size=sink + 3, dtype=np.uint64) for _ in range(2))
    moves = np.argsort(table, axis=None, kind="stable")  # by the state they lead to
    first = np.searchsorted(table.ravel()[moves], np.arange(sink + 2))
    labels = accepting.astype(np.int64)
    count, sizes = 2, np.bincount(labels, minlength=sink + 3)
    signature = np.asarray((of_target[labels[table]] * weights).sum(axis=1, dtype=np.uint64))
    affected = np.arange(sink + 1)
    bounds.check(work=table.size // 8)
    while len(affected):
        _, at, part, size = np.unique(
            signature[affected] + of_own[labels[affected]], return_index=True, return_inverse=True, return_counts=True
        )
        old = labels[affected[at]]
        # Who is not affected keeps the class's name, else its largest part does.
        ranked = np.lexsort((-size, old))
        stays = np.zeros(len(at), dtype=bool)
        stays[ranked[np.unique(old[ranked], return_index=True)[1]]] = True
        stays &= np.bincount(old, weights=size, minlength=count)[old] == sizes[old]
        names = np.where(stays, old, count - 1 + np.cumsum(~stays))
        np.subtract.at(sizes, old[~stays], size[~stays])
        sizes[names[~stays]] = size[~stays]
        count += int((~stays).sum())
        renamed = names[part]
        moved, renamed = affected[renamed != labels[affected]], renamed[renamed != labels[affected]]
        lengths = first[moved + 1] - first[moved]
        bounds.check(work=100 + (len(affected) + int(lengths.sum())) // 16)
        into = moves[np.repeat(first[moved] - np.cumsum(lengths) + lengths, lengths) + np.arange(lengths.sum())]
        change = np.repeat(of_target[renamed] - of_target[labels[moved]], lengths)
        labels[moved] = renamed
        np.add.at(signature, into // kinds, weights[into % kinds] * change)
        affected = np.unique(into // kinds)
    labels = np.unique(labels, return_inverse=True)[1]
    if labels[d.start] == labels[sink]:
        return DFA(np.full((1, kinds), -1, dtype=np.int32), d.class_of, np.zeros(1, dtype=bool))
    first = np.unique(labels, return_index=True)[1]
    kept = np.arange(len(first)) != labels[sink]
    number = np.where(kept, np.cumsum(kept) - 1, -1).astype(np.int32)
    return DFA(number[labels[table[first[kept]]]], d.class_of, accepting[first[kept]], int(number[labels[d.start]]))
