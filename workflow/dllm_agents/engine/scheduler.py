"""What runs next, as pure functions of how long calls are and how long they have waited. No model, no clock, no thread.

A step runs the short calls (one token, a block) of all requests together, and beside them long ones (prompts, refreshes of a whole
sequence) within a budget of rows. Long calls are bound by arithmetic and gain nothing from company; short ones are bound by the weights
they read, so they wait until most requests can take part, but never long.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

# Rows of a call that is short: a block, or two of them where one is stored in the next one's call.
SHORT = 64
# Short calls run when this share of all running requests can take part in them ...
QUORUM = 0.75
# ... or when one of them has waited for so many steps, or for as many as there are requests.
PATIENCE = 24
# A waiting request is passed over by smaller ones this often, then they wait behind it.
PASSED_OVER = 16


@dataclass
class Pending:
    """A request's next call: rows [start, stop) are left of it. `unit` is what it may be cut into, None where it cannot be cut."""

    start: int
    stop: int
    unit: int | None
    waited: int = 0

    @property
    def rows(self) -> int:
        return self.stop - self.start


def plan(pending: Sequence[Pending], budget: int) -> list[tuple[int, int]]:
    """(index, stop) of what runs in this step, in order of `pending`, who has waited longest first: each up to its own stop or, of a long
    call, as far as `budget` rows reach. Something always runs."""
    short = [number for number, call in enumerate(pending) if call.rows <= SHORT]
    long = [number for number, call in enumerate(pending) if call.rows > SHORT]
    patience = min(PATIENCE, len(pending))
    together = not long or len(short) >= QUORUM * len(pending) or any(pending[number].waited >= patience for number in short)
    steps = [(number, pending[number].stop) for number in short] if together else []
    room = budget
    for number in long:
        call = pending[number]
        if call.rows <= room or (call.unit is None and room == budget):
            stop = call.stop
        elif call.unit is None:
            continue
        else:
            stop = call.start + room // call.unit * call.unit
            if stop == call.start and room == budget:
                stop = min(call.stop, call.start + call.unit)
        if stop > call.start:
            steps.append((number, stop))
            room -= stop - call.start
        if room <= 0:
            break
    return sorted(steps)


def admissible(passed_over: Sequence[int], fits: Callable[[int], bool], most: int) -> list[int]:
    """Which of the waiting requests, oldest first, start now: those that fit, at most `most`, unless one before them that does not has
    been passed over too often. `fits(index)` takes the room when it says yes."""
    started: list[int] = []
    for number, times in enumerate(passed_over):
        if len(started) >= most:
            break
        if fits(number):
            started.append(number)
        elif times >= PASSED_OVER:
            break
    return started
