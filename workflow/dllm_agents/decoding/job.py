"""What a strategy is given: the canvas, the settings, and what the model's family says of its logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dllm_agents.decoding.canvas import Call, Canvas, rows_for, spread
from dllm_agents.decoding.sampling import Sampler
from dllm_agents.decoding.settings import Decoding
from dllm_agents.decoding.tool_prefill import Tags
from dllm_agents.models.families import Attention


@dataclass
class Job:
    """One request in decoding."""

    canvas: Canvas
    decoding: Decoding
    sampler: Sampler
    stop_ids: tuple[int, ...]
    shift: bool
    attention: Attention
    block_length: int | None
    tags: Tags | None = None

    def whole(self, positions: Tensor, stop: int | None = None, cached: bool = False) -> Call:
        """A call over the sequence up to `stop` (default: all of it) for the logits that predict `positions`."""
        stop = stop or self.canvas.length
        return Call(0, stop, stop, rows_for(positions, self.shift, 0), self.attention, self.block_length, cached)

    def window(self, start: int, stop: int, limit: int, positions: Tensor) -> Call:
        """A call over [start, stop) that reads the keys of every other position below `limit` from the slot."""
        return Call(start, stop, limit, rows_for(positions, self.shift, start), self.attention, self.block_length)

    def ranking(self, confidence: Tensor, positions: Tensor, call: Call) -> Tensor:
        """Confidence laid out over the call's window, -inf where nothing is to be decided, with the tool-call bias where it applies."""
        if self.tags is not None:
            confidence = self.tags.biased(confidence, positions)
        return spread(confidence, positions, call.start, call.stop)

    def settle(self, chosen: Tensor, positions: Tensor, token_ids: Tensor, confidence: Tensor, call: Call) -> None:
        """Settle the window indices `chosen` among `positions` [k] with their predictions [k]."""
        place = torch.full((call.stop - call.start,), -1)
        place[positions - call.start] = torch.arange(len(positions))
        index = place[chosen.cpu()]
        index = index[index >= 0]
        self.canvas.settle(positions[index], token_ids.cpu()[index], confidence.cpu()[index])

    @property
    def one_at_a_time(self) -> bool:
        """Strict left-to-right decoding, so that decoder and paradigm can be told apart."""
        return self.decoding.remasking == "sequential"


def leftmost(ranking: Tensor, count: int = 1) -> Tensor:
    """The first `count` eligible indices of a ranking, left to right."""
    return (ranking > -torch.inf).nonzero().flatten()[:count]


def top(ranking: Tensor, count: int) -> Tensor:
    """The indices of the `count` highest eligible entries of a ranking."""
    count = min(count, int((ranking > -torch.inf).sum()))
    return torch.topk(ranking, count).indices
