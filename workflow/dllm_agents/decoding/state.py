"""What a strategy is given: the canvas, the resolved settings, and the two ways to predict and to commit."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch

from dllm_agents.decoding.canvas import Call, Canvas, Floats, Positions, Prediction, Steps
from dllm_agents.decoding.constrained import Constraint
from dllm_agents.decoding.selection import Rule
from dllm_agents.decoding.settings import Decoding
from dllm_agents.decoding.tool_prefill import Tags
from dllm_agents.models.families import Attention

NOTHING = np.empty(0, dtype=np.int64)


@dataclass
class State:
    """One request being decoded. Its randomness comes from its seed alone, so its tokens do not depend on its batch mates."""

    canvas: Canvas
    decoding: Decoding
    stop_ids: tuple[int, ...]
    shift: bool
    attention: Attention
    attention_block: int | None = None
    tags: Tags | None = None
    constraint: Constraint | None = None

    def __post_init__(self) -> None:
        self._generator = torch.Generator().manual_seed(self.decoding.seed)

    def call(self, start: int, stop: int, limit: int, positions: Positions = NOTHING, clean: int = 0) -> Call:
        """A call over [start, stop) that reads the keys of every other position below `limit` from the cache.

        With a logit shift the row before a position predicts it, but never one before the window.
        """
        rows = np.maximum(positions - 1, start) if self.shift else positions
        return Call(start, stop, limit, positions, rows, self.attention, self.attention_block, clean)

    def whole(self, positions: Positions = NOTHING) -> Call:
        """A call over the whole sequence."""
        return self.call(0, self.canvas.length, self.canvas.length, positions)

    def refresh(self, positions: Positions, block: int) -> Call:
        """The first call in block number `block`: over the whole sequence, or, with `refresh_prompt`, mostly without the prompt."""
        every = self.decoding.refresh_prompt or 1
        start = 0 if block % every == 0 else self.canvas.prompt_length
        return self.call(start, self.canvas.length, self.canvas.length, positions)

    def inside(self, start: int, stop: int, positions: Positions) -> Call:
        """The cheap call inside a block: from there to the sequence's end with a prefix cache, the block alone with a dual one."""
        if self.decoding.cache not in ("prefix", "dual"):
            return self.whole(positions)
        end = self.canvas.length
        return self.call(start, end if self.decoding.cache == "prefix" else stop, end, positions)

    def unmask(
        self, call: Call, rule: Rule, *, greedy: bool = False, untempered: bool = False, precise: bool = False, shuffled: int = 0
    ) -> Generator[Call, Prediction, int]:
        """Run `call`, commit what `rule` chooses of its predictions; returns how many. `shuffled` ranks by
        numbers from U(0, 1): the highest first with 1, the lowest with -1."""
        count = len(call.positions)
        call.rule, call.untempered, call.precise = rule, untempered, precise
        if self.decoding.temperature > 0 and not greedy:
            call.draws = self._uniform(count)
        if shuffled:
            call.order = shuffled * self._uniform(count)
        if self.tags is not None:
            call.bias = self.tags.bias_of(call.positions)
        return self.commit(call, (yield call))

    def commit(self, call: Call, prediction: Prediction) -> int:
        """Decide what was chosen; returns how many positions that were."""
        chosen = prediction.chosen
        self.canvas.unmask(call.positions[chosen], prediction.token_ids[chosen], prediction.confidence[chosen])
        return int(chosen.sum())

    def store(self, start: int, stop: int) -> Generator[Call, Prediction, int]:
        """Keep the clean keys of [start, stop): in a call of its own, or, with `merge_stores`, in the next one, if there is one. Returns
        up to where they are kept now."""
        if self.decoding.merge_stores:
            self.canvas.skip(1)
            return start
        yield self.call(start, stop, stop, clean=stop)
        return stop

    def place_tool_tags(self, start: int, stop: int, call: Callable[[Positions], Call]) -> Steps:
        """Place the tool-call tags in the block [start, stop) where they belong: at once, or, with the rule `predicted`, after a first
        look at what the model would write there, which takes one forward and decides nothing; `call` makes it from the positions."""
        if self.tags is None or not self.tags.fits(self.canvas, start, stop):
            return
        if self.tags.settings.rule == "predicted":
            look = yield call(self.canvas.masked(start, stop))
            if not self.tags.wants(look.token_ids):
                return
        self.tags.place(self.canvas, start, stop)
        if self.constraint is not None:
            self.constraint.end_at(stop)

    @property
    def block_length(self) -> int:
        return cast(int, self.decoding.block_length)

    @property
    def steps(self) -> int:
        return cast(int, self.decoding.steps)

    @property
    def steps_per_block(self) -> int:
        return cast(int, self.decoding.steps_per_block)

    @property
    def threshold(self) -> float:
        return cast(float, self.decoding.threshold)

    @property
    def one_at_a_time(self) -> bool:
        """Strict left-to-right decoding, so that decoder and paradigm can be told apart."""
        return self.decoding.remasking == "sequential"

    @property
    def ended_early(self) -> bool:
        """Whether nothing that is still masked can change the answer: everything before a stop id is decided."""
        return self.decoding.stop_early and self.canvas.first_stop(self.stop_ids) is not None

    def _uniform(self, count: int) -> Floats:
        return torch.rand(count, generator=self._generator, dtype=torch.float64).numpy()
