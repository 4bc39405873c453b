"""Two rules that look at all places of a step together: the most probable answer, and constrained marginals. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from dllm_agents.decoding.constraints.lattice import Lattice
from dllm_agents.decoding.constraints.tokens import TokenAutomaton

Weights = NDArray[np.float64]


class Edges:
    """The automaton's moves (source, class, target), those of one target together; `back` puts those of one source together."""

    _of: WeakKeyDictionary[TokenAutomaton, Edges] = WeakKeyDictionary()

    def __init__(self, automaton: TokenAutomaton) -> None:
        source, kind = np.nonzero(automaton.table >= 0)
        target = automaton.table[source, kind]
        order = np.argsort(target, kind="stable")
        self.source, self.kind, self.target = source[order], kind[order], target[order]
        self.targets, self.target_starts = np.unique(self.target, return_index=True)
        self.back = np.argsort(self.source, kind="stable")
        self.sources, self.source_starts = np.unique(self.source[self.back], return_index=True)

    @classmethod
    def of(cls, automaton: TokenAutomaton) -> Edges:
        if automaton not in cls._of:
            cls._of[automaton] = cls(automaton)
        return cls._of[automaton]


def place_weights(lattice: Lattice, predicted: dict[int, Weights], log: bool) -> list[Weights]:
    """What every class weighs at every place of the lattice: as predicted, its own class alone where decided, all alike elsewhere."""
    one, zero = (0.0, -np.inf) if log else (1.0, 0.0)
    automaton, rows = lattice.automaton, []
    for place, kind in enumerate(lattice.kinds, lattice.start):
        row = np.full(automaton.classes, one if kind is None else zero)
        if place in predicted:
            row[: automaton.pad] = predicted[place]
        if kind is not None:
            row[kind] = one
        padded = lattice.padded(place)
        if kind is None:
            row[automaton.pad] = row[automaton.stop] if padded else zero
            row[automaton.stop] = zero if padded else row[automaton.stop]
        rows.append(row)
    return rows


def best_answer(lattice: Lattice, rows: Sequence[Weights]) -> list[int]:
    """The classes of the most probable answer (Viterbi; DINGO, Suresh et al. 2025) from log-weights `rows` [places][classes]."""
    automaton, edges = lattice.automaton, Edges.of(lattice.automaton)
    score = np.full(automaton.states, -np.inf)
    score[_flags(automaton, lattice.before[0])] = 0.0
    scores = []
    for row in rows:
        scores.append(score)
        score = np.full(automaton.states, -np.inf)
        score[edges.targets] = np.maximum.reduceat(scores[-1][edges.source] + row[edges.kind], edges.target_starts)
    state = int(np.where(_flags(automaton, lattice.after[-1]), score, -np.inf).argmax())
    path = []
    for before, row in zip(reversed(scores), reversed(rows), strict=True):
        mine = slice(*np.searchsorted(edges.target, [state, state + 1]))
        at = int((before[edges.source[mine]] + row[edges.kind[mine]]).argmax())
        path.append(int(edges.kind[mine][at]))
        state = int(edges.source[mine][at])
    return path[::-1]


def marginal_factors(lattice: Lattice, rows: Sequence[Weights]) -> list[Weights]:
    """For each place the factors [classes] that turn a token's probability into its marginal among answers in the language.

    Forward-backward over the step's product of marginals (Dang and Ermon 2026); `rows` [places][classes] hold the mass of each class.
    """
    automaton, edges = lattice.automaton, Edges.of(lattice.automaton)
    forward = [_flags(automaton, lattice.before[0]).astype(np.float64)]
    for row in rows:
        mass = np.zeros(automaton.states)
        mass[edges.targets] = np.add.reduceat(forward[-1][edges.source] * row[edges.kind], edges.target_starts)
        forward.append(mass / (mass.sum() or 1.0))
    backward = _flags(automaton, lattice.after[-1]).astype(np.float64)
    factors = []
    for index in range(len(rows) - 1, -1, -1):
        through = forward[index][edges.source] * backward[edges.target]
        factor = np.bincount(edges.kind, weights=through, minlength=automaton.classes)
        factors.append(factor / (float((factor * rows[index]).sum()) or 1.0))
        mass = np.zeros(automaton.states)
        mass[edges.sources] = np.add.reduceat((rows[index][edges.kind] * backward[edges.target])[edges.back], edges.source_starts)
        backward = mass / (mass.max() or 1.0)
    return factors[::-1]


def _flags(automaton: TokenAutomaton, states: int) -> NDArray[Any]:
    return automaton.flags(states)
