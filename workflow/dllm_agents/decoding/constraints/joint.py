"""Two rules that look at all places of a step together: the most probable answer, and constrained marginals. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dllm_agents.decoding.constraints.lattice import Lattice
from dllm_agents.decoding.constraints.tokens import TokenAutomaton

Weights = NDArray[np.float64]


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
        else:
            ways = (zero, row[automaton.stop]) if lattice.padded(place) else (row[automaton.stop], zero)
            row[automaton.stop], row[automaton.pad] = ways
        rows.append(row)
    return rows


def best_answer(lattice: Lattice, rows: Sequence[Weights]) -> list[int]:
    """The classes of the most probable answer (Viterbi; DINGO, Suresh et al. 2025) from log-weights `rows` [places][classes]."""
    automaton = lattice.automaton
    source, kind, target = _moves(automaton)
    scores = [np.where(automaton.flags(lattice.before[0]), 0.0, -np.inf)]
    for row in rows:
        scores.append(np.full(automaton.states, -np.inf))
        np.maximum.at(scores[-1], target, scores[-2][source] + row[kind])
    state = int(np.where(automaton.flags(lattice.after[-1]), scores.pop(), -np.inf).argmax())
    path = []
    for before, row in zip(reversed(scores), reversed(rows), strict=True):
        mine = np.nonzero(target == state)[0]
        best = mine[(before[source[mine]] + row[kind[mine]]).argmax()]
        path.append(int(kind[best]))
        state = int(source[best])
    return path[::-1]


def marginal_factors(lattice: Lattice, rows: Sequence[Weights]) -> list[Weights]:
    """For each place the factors [classes] that turn a token's probability into its marginal among answers in the language; where stop ids
    are padding, `stop` has their factor.

    Forward-backward over the step's product of marginals (Dang and Ermon 2026); `rows` [places][classes] hold the mass of each class.
    """
    automaton = lattice.automaton
    source, kind, target = _moves(automaton)
    forward = [automaton.flags(lattice.before[0]).astype(np.float64)]
    for row in rows:
        mass = _sums(target, forward[-1][source] * row[kind], automaton.states)
        forward.append(mass / (mass.sum() or 1.0))
    backward = automaton.flags(lattice.after[-1]).astype(np.float64)
    factors: list[Weights] = []
    for index in range(len(rows) - 1, -1, -1):
        factor = _sums(kind, forward[index][source] * backward[target], automaton.classes)
        factor /= float((factor * rows[index]).sum()) or 1.0
        if lattice.padded(lattice.start + index):
            factor[automaton.stop] = factor[automaton.pad]
        factors.append(factor)
        mass = _sums(source, rows[index][kind] * backward[target], automaton.states)
        backward = mass / (mass.max() or 1.0)
    return factors[::-1]


def _moves(automaton: TokenAutomaton) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """The automaton's moves: source, class and target of each."""
    source, kind = np.nonzero(automaton.table >= 0)
    return source, kind, automaton.table[source, kind]


def _sums(index: NDArray[Any], weights: Weights, size: int) -> Weights:
    """The sum of the weights of each index [size]."""
    return np.bincount(index, weights=weights, minlength=size).astype(np.float64, copy=False)
