"""The engine: requests in, unmasked tokens out, many at a time.

One thread owns the model. Before every step it admits what fits, then runs the next calls of many requests together, whatever their
length, strategy and progress: continuous batching at the granularity of a forward. A request's tokens are those of
`dllm_agents.decoding.generate`: its session, its share of the pool and its random numbers are its own. In float32 that is exact; in
bfloat16 the libraries pick kernels by shape, so a near tie may fall otherwise in company.
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

from dllm_agents.decoding.canvas import Call, Prediction
from dllm_agents.decoding.likelihood import Score, token_scores
from dllm_agents.decoding.predicting import predictions
from dllm_agents.decoding.session import Generation, Session
from dllm_agents.decoding.settings import Decoding, DecodingError
from dllm_agents.engine.pool import Holder, Memory, pool_positions
from dllm_agents.engine.runner import Runner
from dllm_agents.engine.scheduler import Pending, admissible, plan
from dllm_agents.errors import StageError
from dllm_agents.models.attention import Segment, Slot, forward

if TYPE_CHECKING:
    from dllm_agents.models import Model

log = logging.getLogger(__name__)

MAX_RUNNING = 64
# Rows of long calls in one step, on a CPU and on a GPU.
BATCH_TOKENS = (1024, 4096)


@dataclass(frozen=True)
class Unmasked:
    """Tokens one forward decided. `positions` count from 0 at the first new token; `step` is the forward's 0-based index."""

    positions: list[int]
    token_ids: list[int]
    step: int


@dataclass(frozen=True)
class Finished:
    """The whole answer: what `dllm_agents.decoding.generate` gives for the same request. `scores` are the tokens' log-probabilities, as
    `dllm_agents.decoding.likelihood` gives them, where they were asked for."""

    generation: Generation
    scores: list[Score] | None = None


@dataclass(frozen=True)
class Failed:
    """The request ended without an answer. `settings` says the request's own decoding settings are to blame."""

    message: str
    settings: bool = False


Event = Unmasked | Finished | Failed
Listener = Callable[[Event], None]


class Busy(Exception):
    """The queue is full; ask again later."""


@dataclass(eq=False)
class Handle:
    """A request in the engine. After `cancel()` it hears nothing more and its slot is freed before the next forward."""

    prompt_ids: list[int]
    decoding: Decoding
    listener: Listener
    top: int | None = None
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
    repaired_tokens: int = 0
    deferred_tokens: int = 0


@dataclass(eq=False)
class _Running:
    """An admitted request: its session, its share of the pool, how far the present call has come, and how long it has waited."""

    handle: Handle
    session: Session
    holder: Holder
    slot: Slot
    done: int = 0
    waited: int = 0
    scores: dict[int, Score] = field(default_factory=dict)

    @property
    def pending(self) -> Pending:
        call = self.session.call
        assert call is not None
        unit = None if call.attention == "full" else call.block_length or 1
        return Pending(max(self.done, call.start), call.stop, unit, self.waited)


class Engine:
    """Decodes requests of one model together. `max_waiting` bounds the queue; `submit` raises Busy beyond it.

    The pool of keys takes `utilisation` of the memory that is free after the weights, or `positions`; what running requests leave of it
    holds the keys of finished ones, for prompts that extend theirs (`share_prefixes`). `compiled` fuses small operations, by default where
    there is a GPU. Raises StageError when no request would fit.
    """

    def __init__(
        self,
        model: Model,
        max_waiting: int = 256,
        max_running: int = MAX_RUNNING,
        batch_tokens: int | None = None,
        *,
        utilisation: float = 0.9,
        positions: int | None = None,
        share_prefixes: bool = True,
        compiled: bool | None = None,
    ) -> None:
        self.model = model
        self._max_waiting, self._max_running = max_waiting, max_running
        self._batch_tokens = batch_tokens or BATCH_TOKENS[model.device.type == "cuda"]
        positions = pool_positions(model, utilisation) if positions is None else positions
        if positions < 1:
            raise StageError(f"utilisation {utilisation}: no memory is left for keys and values; free some, or take a smaller model")
        self._memory, self._share = Memory(positions), share_prefixes and model.attention != "full"
        self._runner = Runner(model, positions, compiled=model.layers.fused if compiled is None else compiled)
        self._waiting: deque[_Waiting] = deque()
        self._running: deque[_Running] = deque()
        self._errands: deque[tuple[Sequence[Segment], Future[list[Tensor]]]] = deque()
        self._stats = Stats()
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    def submit(self, prompt_ids: Sequence[int], decoding: Decoding, listener: Listener, top: int | None = None) -> Handle:
        """Queue a request. `listener` is called from the engine's thread with Unmasked events, then one Finished or Failed, with the
        log-probability of every token at the forward that unmasked it and of the `top` likeliest ones in its place, if `top` is given."""
        handle = Handle(list(prompt_ids), decoding, listener, top)
        with self._changed:
            if self._closed:
                raise RuntimeError("the engine is closed")
            if len(self._waiting) >= self._max_waiting:
                raise Busy(f"{self._max_waiting} requests are waiting")
            self._waiting.append(_Waiting(handle))
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
        if not self._thread.is_alive():
            self._runner.free()

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
        for handle in [*(running.handle for running in self._running), *(waiting.handle for waiting in self._waiting)]:
            self._end(handle, Failed("the server is shutting down"))
        self._running.clear()
        self._waiting.clear()
        for _, future in self._errands:
            future.set_exception(RuntimeError("the server is shutting down"))

    def _step(self) -> None:
        """Admit, run the next calls, hand out what they unmasked."""
        if self._errands:
            self._run_errand(*self._errands.popleft())
        self._drop_cancelled()
        self._admit()
        if not self._running:
            return
        queue = list(self._running)
        pending = [running.pending for running in queue]
        batch = [(queue[number], pending[number].start, stop) for number, stop in plan(pending, self._batch_tokens)]
        ran = {running for running, _, _ in batch}
        for running in queue:
            running.waited = 0 if running in ran else running.waited + 1
        # Who has run stands behind those who have not.
        self._running = deque(sorted(queue, key=lambda running: running in ran))
        self._run_batch(batch)

    def _run_errand(self, segments: Sequence[Segment], future: Future[list[Tensor]]) -> None:
        try:
            future.set_result(forward(self.model, segments))
        except Exception as error:
            future.set_exception(error)

    def _run_batch(self, batch: list[tuple[_Running, int, int]]) -> None:
        """One step's forward; after one that failed, each request alone: whoever fails alone is to blame, the others go on."""
        started = time.perf_counter()
        through = [(r, r.session.call) for r, _, stop in batch if r.session.call is not None and stop == r.session.call.stop]
        try:
            logits = self._runner.logits([running.session.segment(running.slot, start, stop) for running, start, stop in batch])
            computed = time.perf_counter()
            predicted = predictions([(running.session.state, call) for running, call in through], logits)
        except Exception as error:
            if len(batch) == 1:
                self._fail(batch[0][0], error)
            for alone in batch if len(batch) > 1 else ():
                self._run_batch([alone])
            return
        self._stats.batches += 1
        self._stats.forward_seconds += computed - started
        for running, _, stop in batch:
            running.done = stop
        shares = logits.split([len(call.positions) for _, call in through])
        for (running, call), prediction, share in zip(through, predicted, shares, strict=True):
            self._advance(running, prediction, (call, share))
        self._stats.selection_seconds += time.perf_counter() - computed

    def _advance(self, running: _Running, prediction: Prediction | StageError, seen: tuple[Call, Tensor] | None = None) -> None:
        """Hand a request what its call predicts, and pass on what it unmasked. `seen` are the call and its logits."""
        running.done = 0
        try:
            if isinstance(prediction, StageError):
                raise prediction
            positions, token_ids = running.session.advance(prediction)
        except Exception as error:
            self._fail(running, error)
            return
        if seen is not None and running.handle.top is not None:
            first = running.session.canvas.prompt_length
            chosen = {first + position: token for position, token in zip(positions, token_ids, strict=True)}
            running.scores |= token_scores(seen[1], seen[0].positions.tolist(), chosen, running.handle.top)
        if positions:
            running.handle.tell(Unmasked(positions, token_ids, running.session.canvas.nfe - 1))
        self._after(running)

    def _after(self, running: _Running) -> None:
        """Offer what is clean by now to others; end the request when it asks for no more."""
        session = running.session
        ended = session.call is None
        if self._share and (ended or len(running.holder.tokens) == 0) and session.clean:
            self._memory.offer(running.holder, session.canvas.tokens[: session.clean].copy())
        if ended:
            self._leave(running, session.clean if self._share else 0)
            generation = session.generation()
            scores = None if running.handle.top is None else _in_order(running, generation)
            self._end(running.handle, Finished(generation, scores))

    def _leave(self, running: _Running, keep: int = 0) -> None:
        self._running.remove(running)
        self._memory.release(running.holder, keep)

    def _drop_cancelled(self) -> None:
        for running in [running for running in self._running if running.handle.cancelled.is_set()]:
            self._leave(running)
            self._stats.cancelled += 1

    def _admit(self) -> None:
        """Start waiting requests that fit, oldest first."""
        while self._waiting and self._waiting[0].handle.cancelled.is_set():
            self._waiting.popleft()
            self._stats.cancelled += 1
        waiting = list(self._waiting)
        most = self._max_running - len(self._running)
        started = admissible([request.passed_over for request in waiting], lambda number: self._start(waiting[number]), most)
        if started:
            for request in waiting[: started[-1]]:
                request.passed_over += 1
            for number in reversed(started):
                del self._waiting[number]

    def _start(self, waiting: _Waiting) -> bool:
        """Give a request its room and what others have computed of its prompt; False when there is no room now."""
        handle = waiting.handle
        try:
            session = waiting.session = waiting.session or Session(self.model, handle.prompt_ids, handle.decoding)
            length = session.canvas.length
            if length > self._memory.positions:
                raise DecodingError(f"max_new_tokens: prompt and answer take {length} positions, the server holds {self._memory.positions}")
            source, reused = self._shared_prefix(session)
            holder = self._memory.admit(length, session.kind)
        except Exception as error:
            self._end(handle, _failure(error))
            return True
        if holder is None:
            return False
        slot = Slot(self.model, length, self._runner.pool, holder.start)
        running = _Running(handle, session, holder, slot)
        if source is not None and source.path:  # it may have had to give way
            slot.copy(Slot(self.model, source.length, self._runner.pool, source.start), reused)
            running.done = reused
            self._stats.reused_tokens += reused
        self._running.append(running)
        if session.call is not None and running.done == session.call.stop:
            (prediction,) = predictions([(session.state, session.call)], torch.empty(0, 0))
            self._advance(running, prediction)
        return True

    def _shared_prefix(self, session: Session) -> tuple[Holder | None, int]:
        """Who has keys that the session's first call may skip, and how many positions of them: whole blocks before the rows it reads."""
        call = session.call
        if not self._share or call is None or not call.clean:
            return None, 0
        unit = call.block_length or 1
        most = min(call.clean, int(call.rows.min()) // unit * unit) if len(call.rows) else call.clean
        return self._memory.longest_prefix(session.kind, session.canvas.tokens[: call.clean], most, unit)

    def _fail(self, running: _Running, error: Exception) -> None:
        self._leave(running)
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
            stats.repaired_tokens += len(event.generation.repaired)
            stats.deferred_tokens += event.generation.deferred
        else:
            stats.failed += 1
        handle.tell(event)


@dataclass(eq=False)
class _Waiting:
    """A request in the queue, and how many that came later have started before it."""

    handle: Handle
    passed_over: int = 0
    session: Session | None = None


def _failure(error: Exception) -> Failed:
    if isinstance(error, DecodingError):
        return Failed(str(error), settings=True)
    if isinstance(error, StageError):
        return Failed(str(error))
    log.warning("request failed", exc_info=error)
    return Failed(f"{type(error).__name__}: {error}")


def _in_order(running: _Running, generation: Generation) -> list[Score]:
    """The scores of an answer's tokens; a token that no forward predicted (a pre-filled tag) is certain."""
    session = running.session
    canvas = session.canvas
    positions = (place for place in range(canvas.prompt_length, canvas.length) if not canvas.is_padding(place, session.stop_ids))
    return [running.scores.get(place, (0.0, {token: 0.0})) for place, token in zip(positions, generation.token_ids, strict=False)]
