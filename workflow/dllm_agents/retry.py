"""Requests that are made again, after growing pauses, when a server is at fault."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")
RETRIED_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529})
LONGEST_PAUSE = 60.0  # seconds, whatever a server asks for


class PassingFault(Exception):
    """A request failed and may fare better later; `after` is the answer's header Retry-After, in seconds."""

    def __init__(self, message: str, after: str = "") -> None:
        super().__init__(message)
        self.pause = min(float(after), LONGEST_PAUSE) if after.isdecimal() else 0.0


def retried(ask: Callable[[], Iterator[T]], attempts: int, backoff: float) -> Iterator[T]:
    """What `ask` yields. On a PassingFault it is called again, `attempts` times in all: after `backoff` seconds, give or take a quarter,
    then twice that, and no sooner than the server asks for. Raises the last PassingFault."""
    for attempt in range(attempts):
        try:
            yield from ask()
            return
        except PassingFault as fault:
            if attempt + 1 == attempts:
                raise
            pause = fault.pause
        time.sleep(max(pause, backoff * 2**attempt * random.uniform(0.75, 1.25)))
