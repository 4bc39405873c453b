"""P-ReAct (DLLM-Searcher section 4.4.2): tool-call tags set before a block's first step, and a confidence bias between them.

Equation 6 puts the tags, equation 7 adds the bias to the confidence of the positions between them. The bias only reorders: it never
reaches a decided position, and a token's reported confidence is the model's own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dllm_agents.decoding.canvas import Canvas, Floats, Positions
from dllm_agents.decoding.settings import DecodingError, ToolPrefill


@dataclass
class Tags:
    """The two tags of a turn. `span` [first, last) are the biased absolute positions; None until a block has taken the tags.

    They go into the first block in which both places are still masked: where blocks are aligned to absolute position 0, a prompt may
    reach beyond the opening tag's place, and the next block takes them. The turn ends with that block. A stop id before the closing
    tag is padding (a tool call shorter than its room): it is dropped from the output and ends nothing.
    """

    settings: ToolPrefill
    span: tuple[int, int] | None = None
    declined: bool = False

    def fits(self, canvas: Canvas, start: int, stop: int) -> bool:
        """Whether the block [start, stop) takes the tags."""
        places = (start + self.settings.open, start + self.settings.close)
        return self.span is None and not self.declined and places[1] < stop and all(canvas.is_masked[place] for place in places)

    def wants(self, token_ids: Positions) -> bool:
        """Whether this is a tool-call turn, by `settings.rule`; `token_ids` are the predictions of a first look at the bare block."""
        self.declined = self.settings.rule == "predicted" and self.settings.open_id not in token_ids.tolist()
        return not self.declined

    def place(self, canvas: Canvas, start: int, stop: int) -> None:
        """Set both tags in the block [start, stop)."""
        first, last = start + self.settings.open, start + self.settings.close
        assert self.settings.open_id is not None and self.settings.close_id is not None
        canvas.prefill(first, self.settings.open_id)
        canvas.prefill(last, self.settings.close_id)
        canvas.padding = (max(start, canvas.prompt_length), last)
        canvas.stop_after_block = True
        self.span = (first + 1, last if self.settings.span == "between" else stop)

    def bias_of(self, positions: Positions) -> Floats | None:
        """What is added to the confidence of masked `positions` [k] in ranking; None before the tags are placed."""
        if self.span is None:
            return None
        return self.settings.bias * ((positions >= self.span[0]) & (positions < self.span[1])).astype(np.float64)


def check(settings: ToolPrefill, block_length: int) -> None:
    """Raises DecodingError unless both tags fit into a block, in order, and the rule is one of a single request."""
    if settings.rule == "tool_then_answer":
        raise DecodingError("tool_prefill.rule: tool_then_answer is for the turns of a search agent; a request takes always or predicted")
    if not settings.open < settings.close < block_length:
        raise DecodingError(
            f"tool_prefill: open {settings.open} and close {settings.close} must be ordered places in a block of {block_length}; "
            "set block_length or the places"
        )
