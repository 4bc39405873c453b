"""The engine: requests in, settled tokens out, many at a time.

One thread owns the model. Before every forward it admits what fits, then runs the next calls of several requests together, whatever
their length, strategy and progress: continuous batching at the granularity of a forward. A request's tokens are those of
`dllm_agents.decoding.generate`: its session, its slot and its random numbers are its own.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dllm_agents.decoding.predicting import predictions
from dllm_agents.decoding.session import Generation, Session
from dllm_agents.decoding.settings import Decoding, DecodingError
from dllm_agents.errors import StageError
from dllm_agents.models.attention import Segment, Slot, forward
from dllm_agents.serving.prefixes import Prefixes

if TYPE_CHECKING:
    from dllm_agents.models import Model

log = logging.getLogger(__name__)

MAX_RUNNING = 64
# Rows of one forward, over all requests. Long prompts are run in parts of at most this many; a call that cannot be cut goes alone.
BATCH_TOKENS = 1024
SLOT_BYTES = 4 << 30
PREFIX_BYTES = 1 << 30


@dataclass(frozen=True)
class Settled:
    """Tokens one forward decided. `positions` count from 0 at the first new token; `step` is the forward's 0-based index."""

    positions: list[int]
    token_ids: list[int]
    step: int


@dataclass(frozen=True)
class Finished:
    """The whole answer: what `dllm_agents.decoding.generate` gives for the same request."""

    generation: Generation


@dataclass(frozen=True)
class Failed:
    """The request ended without an answer. `settings` says the request's own decoding settings are to blame."""

    message: str
    settings: bool = False


Event = Settled | Finished | Failed
Listener = Callable[[Event], None]


class Busy(Exception):
    """The queue is full; ask again later."""


@dataclass(eq=False)
class Handle:
    """A request in the engine. After `cancel()` it hears nothing more and its slot is freed before the next forward."""

    prompt_ids: list[int]
    decoding: Decoding
    listener: Listener
    cancelled: threading.Event = field(default_factory=threading.Event)

    def cancel(self) -> None:
        self.cancelled.set()

    def tell(self, event: Event) -> None:
        """Pass an event on; a listener that fails has gone, which cancels its request."""
        if self.cancelled.is_set():
            return
        try:
            self.listener(event)
        except Exception:
            log.debug("listener gone", exc_info=True)
            self.cancel()


@dataclass
class Stats:
    """Counters since the engine started; `waiting` and `running` are of this moment.

    `busy_seconds` is the engine's wall time with something to do, of which `forward_seconds` went into forwards and
    `selection_seconds` into choosing tokens; the rest is scheduling and passing on. `reused_tokens` were not run again.
    """

    waiting: int = 0
    running: int = 0
    finished: int = 0
    failed: int = 0
    cancelled: int = 0
    prompt_tokens: int = 0
    reused_tokens: int = 0
    completion_tokens: int = 0
    forwards: int = 0
    batches: int = 0
    busy_seconds: float = 0.0
    forward_seconds: float = 0.0
    selection_seconds: float = 0.0


@dataclass(eq=False)
class _Running:
    """An admitted request: its session, its slot, and how far the present call has come."""

    handle: Handle
    session: Session
    slot: Slot
    done: int = 0
    stop: int = 0

    @property
    def bytes(self) -> int:
        return self.slot.bytes


class Engine:
    """Decodes requests of one model together. `max_waiting` bounds the queue; `submit` raises Busy beyond it.

    Up to `prefix_bytes` of finished requests' keys are kept for prompts that extend theirs; 0 keeps none.
    """

    def __init__(
        self,
        model: Model,
        max_waiting: int = 256,
        max_running: int = MAX_RUNNING,
        batch_tokens: int = BATCH_TOKENS,
        prefix_bytes: int = PREFIX_BYTES,
    ) -> None:
        self.model = model
        self._max_waiting, self._max_running, self._batch_tokens = max_waiting, max_running, batch_tokens
        self._waiting: deque[Handle] = deque()
        self._running: deque[_Running] = deque()
        self._errands: deque[tuple[Sequence[Segment], Future[list[Tensor]]]] = deque()
        self._prefixes = Prefixes(prefix_bytes)
        self._stats = Stats()
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    def submit(self, prompt_ids: Sequence[int], decoding: Decoding, listener: Listener) -> Handle:
        """Queue a request. `listener` is called from the engine's thread with Settled events, then one Finished or Failed."""
        handle = Handle(list(prompt_ids), decoding, listener)
        with self._changed:
            if self._closed:
                raise RuntimeError("the engine is closed")
            if len(self._waiting) >= self._max_waiting:
                raise Busy(f"{self._max_waiting} requests are waiting")
            self._waiting.append(handle)
            self._changed.notify()
        return handle

    def run(self, segments: Sequence[Segment]) -> list[Tensor]:
        """One forward that belongs to no request, between two of theirs; waits for it. Raises RuntimeError once the engine is closed,
        and what the forward raises."""
        future: Future[list[Tensor]] = Future()
        with self._changed:
            if self._closed:
                raise RuntimeError("the engine is closed")
            self._errands.append((segments, future))
            self._changed.notify()
        return future.result()

    def stats(self) -> Stats:
        """A copy of the counters."""
        return replace(self._stats, waiting=len(self._waiting), running=len(self._running))

    def close(self) -> None:
        """Fail what runs or waits and end the thread. Safe to call twice."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout=60)

    def _work(self) -> None:
        while True:
            with self._changed:
                while not (self._waiting or self._running or self._errands or self._closed):
                    self._changed.wait()
                if self._closed:
                    break
            started = time.perf_counter()
            self._step()
            self._stats.busy_seconds += time.perf_counter() - started
        for handle in [*(running.handle for running in self._running), *self._waiting]:
            self._end(handle, Failed("the server is shutting down"))
        self._running.clear()
        self._waiting.clear()
        for _, future in self._errands:
            future.set_exception(RuntimeError("the server is shutting down"))

    def _step(self) -> None:
        """Admit, run one forward, hand out what it settled."""
        if self._errands:
            self._run_errand(*self._errands.popleft())
        self._drop_cancelled()
        self._admit()
        batch = self._next_batch()
        if not batch:
            return
        try:
            logits = self._forward([segment for _, segment in batch])
        except Exception as error:
            if len(batch) == 1:
                self._fail(batch[0][0], error)
            else:
                self._one_by_one(batch)
            return
        for (running, _), rows in zip(batch, logits, strict=True):
            self._advance(running, rows)

    def _run_errand(self, segments: Sequence[Segment], future: Future[list[Tensor]]) -> None:
        try:
            future.set_result(forward(self.model, segments))
        except Exception as error:
            future.set_exception(error)

    def _one_by_one(self, batch: list[tuple[_Running, Segment]]) -> None:
        """After a forward that failed: whoever fails alone is to blame, the others go on."""
        for running, segment in batch:
            try:
                (rows,) = self._forward([segment])
            except Exception as error:
                self._fail(running, error)
            else:
                self._advance(running, rows)

    def _forward(self, segments: list[Segment]) -> list[Tensor]:
        started = time.perf_counter()
        logits = forward(self.model, segments)
        self._stats.forward_seconds += time.perf_counter() - started
        self._stats.batches += 1
        return logits

    def _drop_cancelled(self) -> None:
        for running in [running for running in self._running if running.handle.cancelled.is_set()]:
            self._running.remove(running)
            self._stats.cancelled += 1

    def _admit(self) -> None:
        """Give waiting requests slots, in order, while they fit; one always runs."""
        taken = sum(running.bytes for running in self._running)
        while self._waiting and len(self._running) < self._max_running:
            handle = self._waiting[0]
            if handle.cancelled.is_set():
                self._waiting.popleft()
                self._stats.cancelled += 1
                continue
            try:
                session = Session(self.model, handle.prompt_ids, handle.decoding)
                size = Slot.size(self.model, session.canvas.length)
                if self._running and taken + size > SLOT_BYTES:
                    return
                self._waiting.popleft()
                running = _Running(handle, session, Slot(self.model, session.canvas.length))
            except Exception as error:
                if self._waiting and self._waiting[0] is handle:
                    self._waiting.popleft()
                self._end(handle, _failure(error))
                continue
            taken += size
            self._running.append(running)
            self._start(running)

    def _start(self, running: _Running) -> None:
        """Take over what an earlier request has already computed of the prompt."""
        call = running.session.call
        if call is not None and call.clean:
            running.done = self._prefixes.take_over(call, running.session.canvas.tokens[: call.clean], running.slot)
            self._stats.reused_tokens += running.done
            if running.done == call.stop:
                running.stop = call.stop
                self._advance(running, torch.empty(0, self.model.vocab_size))

    def _next_batch(self) -> list[tuple[_Running, Segment]]:
        """The next calls, or parts of prefills, of as many requests as the row budget holds; whoever was left out comes first next time."""
        batch: list[tuple[_Running, Segment]] = []
        room = self._batch_tokens
        for _ in range(len(self._running)):
            running = self._running[0]
            start, stop = self._part(running, room)
            if stop is None:
                break
            running.stop = stop
            batch.append((running, running.session.segment(running.slot, start, stop)))
            room -= stop - start
            self._running.rotate(-1)
        return batch

    def _part(self, running: _Running, room: int) -> tuple[int, int | None]:
        """Which positions of a request's call to run within `room` rows; no stop when it does not fit and others are in the batch."""
        call = running.session.call
        assert call is not None
        fresh = room == self._batch_tokens
        if call.attention == "full":
            return call.start, call.stop if fresh or call.stop - call.start <= room else None
        unit = call.block_length or 1
        start = max(running.done, call.start)
        rows = room // unit * unit or (unit if fresh else 0)
        return start, min(call.stop, start + rows) if rows or start == call.stop else None

    def _advance(self, running: _Running, logits: Tensor) -> None:
        """Hand logits to the session once its whole call has run, and pass on what it settled."""
        session = running.session
        assert session.call is not None
        if running.stop < session.call.stop:
            running.done = running.stop
            return
        running.done = 0
        started = time.perf_counter()
        try:
            (prediction,) = predictions([(session.state, session.call)], logits)
            if isinstance(prediction, StageError):
                raise prediction
            positions, token_ids = session.advance(prediction)
        except Exception as error:
            self._fail(running, error)
            return
        finally:
            self._stats.selection_seconds += time.perf_counter() - started
        if positions:
            running.handle.tell(Settled(positions, token_ids, session.canvas.nfe - 1))
        if session.call is None:
            self._running.remove(running)
            self._keep(running)
            self._end(running.handle, Finished(session.generation()))

    def _keep(self, running: _Running) -> None:
        session = running.session
        if session.clean:
            self._prefixes.keep(session.kind, session.canvas.tokens[: session.clean], running.slot)

    def _fail(self, running: _Running, error: Exception) -> None:
        self._running.remove(running)
        self._end(running.handle, _failure(error))

    def _end(self, handle: Handle, event: Finished | Failed) -> None:
        stats = self._stats
        if handle.cancelled.is_set():
            stats.cancelled += 1
        elif isinstance(event, Finished):
            stats.finished += 1
            stats.prompt_tokens += len(handle.prompt_ids)
            stats.completion_tokens += len(event.generation.token_ids)
            stats.forwards += event.generation.nfe
        else:
            stats.failed += 1
        handle.tell(event)


def _failure(error: Exception) -> Failed:
    if isinstance(error, DecodingError):
        return Failed(str(error), settings=True)
    if isinstance(error, StageError):
        return Failed(str(error))
    log.warning("request failed", exc_info=error)
    return Failed(f"{type(error).__name__}: {error}")
