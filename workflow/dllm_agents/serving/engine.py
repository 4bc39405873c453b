"""The engine: requests in, settled tokens out. One worker thread owns the model and answers first come, first served."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from dllm_agents.decoding.settings import Decoding, DecodingError
from dllm_agents.errors import StageError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settled:
    """Tokens one forward decided. `positions` count from 0 at the first new token; `step` is the forward's 0-based index."""

    positions: list[int]
    token_ids: list[int]
    step: int


@dataclass(frozen=True)
class Finished:
    """The whole answer: what `dllm_agents.decoding.generate` gives for the same request."""

    generation: Any


@dataclass(frozen=True)
class Failed:
    """The request ended without an answer. `settings` says the request's own decoding settings are to blame."""

    message: str
    settings: bool = False


Event = Settled | Finished | Failed
Listener = Callable[[Event], None]


class Busy(Exception):
    """The queue is full; ask again later."""


class Cancelled(Exception):
    """Raised inside a generation whose client has gone."""


@dataclass
class Handle:
    """A request in the engine. After `cancel()` it hears nothing more and its slot is freed at the next forward."""

    prompt_ids: list[int]
    decoding: Decoding
    listener: Listener
    cancelled: threading.Event = field(default_factory=threading.Event)

    def cancel(self) -> None:
        self.cancelled.set()

    def tell(self, event: Event) -> None:
        if self.cancelled.is_set():
            raise Cancelled
        self.listener(event)


@dataclass
class Stats:
    """Counters since the engine started; `waiting` and `running` are of this moment."""

    waiting: int = 0
    running: int = 0
    finished: int = 0
    failed: int = 0
    cancelled: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    forwards: int = 0
    busy_seconds: float = 0.0


class Engine:
    """Runs `dllm_agents.decoding.generate` per request. `max_waiting` bounds the queue; `submit` raises Busy beyond it."""

    def __init__(self, model: Any, max_waiting: int = 256) -> None:
        self.model = model
        self._queue: queue.Queue[Handle | None] = queue.Queue()
        self._max_waiting = max_waiting
        self._stats = Stats()
        self._current: Handle | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    def submit(self, prompt_ids: Sequence[int], decoding: Decoding, listener: Listener) -> Handle:
        """Queue a request. `listener` is called from the engine's thread with Settled events, then one Finished or Failed."""
        if self._closed:
            raise RuntimeError("the engine is closed")
        if self._queue.qsize() >= self._max_waiting:
            raise Busy(f"{self._max_waiting} requests are waiting")
        handle = Handle(list(prompt_ids), decoding, listener)
        self._queue.put(handle)
        return handle

    def stats(self) -> Stats:
        """A copy of the counters."""
        return Stats(**{**vars(self._stats), "waiting": self._queue.qsize()})

    def close(self) -> None:
        """Cancel what runs or waits and end the thread. Safe to call twice."""
        self._closed = True
        while True:
            try:
                waiting = self._queue.get_nowait()
            except queue.Empty:
                break
            if waiting is not None:
                self._end(waiting, Failed("the server is shutting down"))
        if self._current is not None:
            self._current.cancel()
        self._queue.put(None)
        self._thread.join(timeout=60)

    def _work(self) -> None:
        while (handle := self._queue.get()) is not None:
            self._current = handle
            self._stats.running = 1
            started = time.perf_counter()
            self._end(handle, self._answer(handle))
            self._stats.busy_seconds += time.perf_counter() - started
            self._stats.running = 0
            self._current = None

    def _answer(self, handle: Handle) -> Finished | Failed:
        from dllm_agents.decoding import generate

        def settle(positions: Sequence[int], token_ids: Sequence[int], step: int) -> None:
            handle.tell(Settled(list(positions), list(token_ids), step))

        try:
            if handle.cancelled.is_set():
                raise Cancelled
            return Finished(generate(self.model, handle.prompt_ids, handle.decoding, on_settled=settle))
        except Cancelled:
            return Failed("cancelled")
        except DecodingError as error:
            return Failed(str(error), settings=True)
        except StageError as error:
            return Failed(str(error))
        except Exception as error:  # one bad request must never end the engine
            log.warning("request failed", exc_info=True)
            return Failed(f"{type(error).__name__}: {error}")

    def _end(self, handle: Handle, event: Finished | Failed) -> None:
        stats = self._stats
        if isinstance(event, Finished):
            stats.finished += 1
            stats.prompt_tokens += len(handle.prompt_ids)
            stats.completion_tokens += len(event.generation.token_ids)
            stats.forwards += event.generation.nfe
        elif handle.cancelled.is_set():
            stats.cancelled += 1
            return
        else:
            stats.failed += 1
        try:
            handle.tell(event)
        except Exception:  # the listener's loop may be gone already
            log.debug("listener gone", exc_info=True)
