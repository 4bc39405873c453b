"""Runs the forwards of a step. On a GPU, short calls of one shape go through a CUDA graph captured for the next larger number of lanes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dllm_agents.engine.scheduler import SHORT
from dllm_agents.models.attention import Batch, Pool, Segment, hidden_states

if TYPE_CHECKING:
    from dllm_agents.models import Model

log = logging.getLogger(__name__)

# Lanes a graph is captured for.
BUCKETS = (1, 2, 4, 8, 16, 24, 32, 48, 64)


class Runner:
    """The forwards of one model over one pool, whose last SHORT positions idle lanes write to.

    `compiled` fuses each layer's small operations with torch.compile; it takes a minute at the start. A graph that cannot be captured is
    done without, which is said once.
    """

    def __init__(self, model: Model, positions: int, *, graphs: bool = True, compiled: bool = False) -> None:
        self.model, self.positions = model, positions
        self.pool = Pool(model, positions + SHORT)
        self.graphs = graphs and model.layers.fused
        self._captured: dict[tuple[int, int, bool], _Graph] = {}
        self._broken: set[tuple[int, int, bool]] = set()
        if compiled:
            model.layers.compile()

    def free(self) -> None:
        """Give the pool's memory back; nothing can be run any more."""
        self._captured.clear()
        self.pool.keys = self.pool.values = torch.empty(0)

    @torch.inference_mode()
    def logits(self, segments: Sequence[Segment]) -> Tensor:
        """Logits [rows of all segments, vocabulary] of one step over segments of this pool. Nothing in it waits for the device."""
        groups: dict[tuple[int, bool], list[int]] = {}
        for number, segment in enumerate(segments):
            masked = self.model.layers.fused and segment.attention == "causal" and segment.token_ids.shape[0] > 1
            groups.setdefault((_width(segment) if self.graphs else 0, masked), []).append(number)
        if len(groups) == 1:
            return self.model.layers.logits(self._hidden(next(iter(groups))[0], segments))
        shares: dict[int, Tensor] = {}
        for (width, _), members in groups.items():
            hidden = self._hidden(width, [segments[number] for number in members])
            shares |= zip(members, hidden.split([len(segments[number].rows) for number in members]), strict=True)
        return self.model.layers.logits(torch.cat([shares[number] for number in range(len(segments))]))

    def _hidden(self, width: int, segments: Sequence[Segment]) -> Tensor:
        """Hidden states of the wanted rows; `width` queries in each lane, or 0 where lanes differ or are long."""
        lanes = sum(len(segment.lanes) for segment in segments) if width else 0
        bucket = next((bucket for bucket in BUCKETS if bucket >= lanes), None)
        graph = None
        if width and bucket is not None:
            graph = self._graph(width, bucket, Batch(self.model, segments, bucket - lanes, self.positions))
        if graph is not None:
            return graph
        batch = Batch(self.model, segments)
        self.model.layers.reach(batch.reach)
        return hidden_states(self.model.layers, batch.on(self.model.device), self.pool)

    def _graph(self, width: int, bucket: int, batch: Batch) -> Tensor | None:
        key = (width, bucket, batch.causal)
        if key in self._broken:
            return None
        if self.model.layers.reach(max(batch.reach, SHORT)):
            self._captured.clear()  # they read the old rotary tables
        try:
            if key not in self._captured:
                self._captured[key] = _Graph(self.model, self.pool, batch)
            return self._captured[key].replay(batch)
        except RuntimeError as error:
            self._broken.add(key)
            log.warning("no CUDA graph for %d lanes of %d: %s", bucket, width, str(error).splitlines()[0])
            return None


def _width(segment: Segment) -> int:
    """The queries in each lane, 0 where they differ or are many."""
    widths = {queries for queries, _ in segment.lanes}
    width = widths.pop()
    return 0 if widths or width > SHORT else width


class _Graph:
    """The layers captured over inputs that stay where they are; run over them anew on a CPU, which is how tests see static shapes."""

    def __init__(self, model: Model, pool: Pool, batch: Batch) -> None:
        device = model.device
        self.size = len(batch.numbers) - batch.rows
        self.numbers = batch.numbers[: self.size].to(device)
        padded = torch.cat([self.numbers, self.numbers.new_zeros(batch.rows)])
        self.numbers = padded[: self.size]
        inputs = batch.on(device, padded)

        def run() -> Tensor:
            return hidden_states(model.layers, inputs, pool, every_row=True)

        self.run, self.graph = run, None
        if device.type != "cuda":
            return
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                run()
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.hidden = run()

    def replay(self, batch: Batch) -> Tensor:
        """Hidden states of the batch's wanted rows."""
        numbers = batch.numbers.pin_memory() if self.graph else batch.numbers
        self.numbers.copy_(numbers[: self.size], non_blocking=True)
        if self.graph:
            self.graph.replay()
        else:
            self.hidden = self.run()
        return self.hidden.index_select(0, numbers[self.size :].to(self.hidden.device, non_blocking=True))
