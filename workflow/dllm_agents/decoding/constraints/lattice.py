"""What may stand where in an answer that is decided in any order. Imports no torch.

`before` holds, for each place, the states that the decided tokens left of it allow; `after` those from which the decided tokens from it
on, and the room left, still lead to the answer's end. A token may stand at a place when it leads from a state before it to one after it
(the program of DINGO, Suresh et al. 2025, with undecided places anywhere and a budget). Every commit of such a token keeps a way to an
end open, so that a complete answer is in the language: by induction, in any order, many tokens at a time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dllm_agents.decoding.constraints.tokens import TokenAutomaton


class Lattice:
    """One answer: the places `first` .. `stop` - 1 of a canvas must spell a text of the automaton's language, stop ids filling the rest."""

    def __init__(self, automaton: TokenAutomaton, first: int, stop: int) -> None:
        self.automaton, self.first, self.stop = automaton, first, stop
        # Everything before `start` is decided; its states are one.
        self.start, self._state = first, 1 << automaton.start
        self.before: list[int] = []
        self.after: list[int] = []
        self.kinds: list[int | None] = []
        self._padding = (0, 0)

    def look(self, tokens: NDArray[Any], is_masked: NDArray[np.bool_], last: int, padding: tuple[int, int] | None = None) -> None:
        """Take in the canvas `tokens`, `is_masked` [length] for questions about places up to `last`.

        In `padding` [low, high) stop ids write nothing.
        """
        automaton = self.automaton
        self._padding = padding or (0, 0)
        masked = is_masked[self.start : self.stop]
        decided = np.nonzero(~masked)[0]
        end = 1 + max(last, self.start + int(decided[-1]) if len(decided) else 0, min(self._padding[1], self.stop) - 1)
        classes = automaton.class_of[tokens[self.start : end]].tolist()
        kinds = [
            None if hole else self._kind(kind, place)
            for place, (hole, kind) in enumerate(zip(masked.tolist(), classes, strict=False), self.start)
        ]
        while kinds and kinds[0] is not None:
            self._state = automaton.forward(self._state, kinds.pop(0))
            self.start += 1
        self.kinds = kinds
        self.before = [self._state]
        for index, kind in enumerate(kinds):
            self.before.append(automaton.forward(self.before[-1], kind, self._padded(index)))
        self.after = [automaton.within(self.stop - self.start - len(kinds))]
        for index in range(len(kinds) - 1, -1, -1):
            self.after.append(automaton.backward(self.after[-1], kinds[index], self._padded(index)))
        self.after.reverse()

    @property
    def open(self) -> bool:
        """Whether a way to the answer's end is left."""
        return bool(self.before[0] & self.after[0])

    def allowed(self, place: int) -> NDArray[np.bool_]:
        """Which classes of tokens [classes] may stand at an undecided place."""
        index = place - self.start
        return self.automaton.allowed(self.before[index], self.after[index + 1], self._padded(index))

    def commit(self, place: int, token: int) -> None:
        """Decide one more place; only what changes by it is worked out again."""
        automaton, index = self.automaton, place - self.start
        kind = self.kinds[index] = self._kind(int(automaton.class_of[token]), place)
        at, states = index + 1, automaton.forward(self.before[index], kind)
        while self.before[at] != states:
            self.before[at] = states
            if at == len(self.kinds):
                break
            states = automaton.forward(states, self.kinds[at], self._padded(at))
            at += 1
        at, states = index, automaton.backward(self.after[index + 1], kind)
        while self.after[at] != states:
            self.after[at] = states
            if at == 0:
                break
            at -= 1
            states = automaton.backward(states, self.kinds[at], self._padded(at))

    def padded(self, place: int) -> bool:
        """Whether stop ids write nothing at a place."""
        return self._padding[0] <= place < self._padding[1]

    def _padded(self, index: int) -> bool:
        return self.padded(self.start + index)

    def _kind(self, kind: int, place: int) -> int:
        return self.automaton.pad if kind == self.automaton.stop and self.padded(place) else kind
