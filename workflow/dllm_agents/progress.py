"""One progress display for long stages: a bar on a terminal, a line now and then anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

T = TypeVar("T")
LINE_EVERY = 15.0


def track(items: Iterable[T], total: int, label: str) -> Iterator[T]:
    """The items, with how many of `total` have passed shown on standard error."""
    if sys.stderr.isatty():
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as bar:
            yield from bar.track(items, total=total, description=label)
        return
    start = last = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - last >= LINE_EVERY or done == total:
            spent = now - start
            left = spent * (total - done) / done
            line = f"{label}: {done}/{total} ({100 * done / max(total, 1):.0f} %), {spent:.0f} s, {left:.0f} s left"
            print(line, file=sys.stderr, flush=True)
            last = now
