"""P-ReAct (DLLM-Searcher section 4.4.2): tool-call tags set before a block's first step, and a confidence bias between them.

Equation 6 puts the tags, equation 7 adds the bias to the confidence of the positions between them. The bias only reorders: it never
reaches a decided position, and a token's reported confidence is the model's own.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dllm_agents.decoding.canvas import Canvas
from dllm_agents.decoding.settings import DecodingError, ToolPrefill


@dataclass
class Tags:
    """The two tags of a turn. `span` [first, last) are the biased absolute positions; None until a block has taken the tags.

    They go into the first block in which both places are still undecided: where blocks are aligned to absolute position 0, a prompt may
    reach beyond the opening tag's place, and the next block takes them. The turn ends with that block. A stop id before the closing
    tag is padding (a tool call shorter than its room): it is dropped from the output and ends nothing.
    """

    settings: ToolPrefill
    open_id: int
    close_id: int
    span: tuple[int, int] | None = None
    declined: bool = False

    def fits(self, canvas: Canvas, start: int, stop: int) -> bool:
        """Whether the block [start, stop) takes the tags."""
        places = (start + self.settings.open, start + self.settings.close)
        return self.span is None and not self.declined and places[1] < stop and all(bool(canvas.undecided[place]) for place in places)

    def wants(self, canvas: Canvas, token_ids: Tensor) -> bool:
        """Whether this is a tool-call turn, by `settings.rule`; `token_ids` are the predictions of a first look at the bare block."""
        self.declined = self.settings.rule == "predicted" and self.open_id not in token_ids.tolist()
        return not self.declined

    def place(self, canvas: Canvas, start: int, stop: int) -> None:
        """Set both tags in the block [start, stop)."""
        first, last = start + self.settings.open, start + self.settings.close
        canvas.prefill(first, self.open_id)
        canvas.prefill(last, self.close_id)
        canvas.padding = (max(start, canvas.prompt_length), last)
        canvas.turn_over = True
        self.span = (first + 1, last if self.settings.span == "between" else stop)

    def biased(self, confidence: Tensor, positions: Tensor) -> Tensor:
        """Confidence [k] of undecided `positions` [k] with the bias added inside the span."""
        if self.span is None:
            return confidence
        inside = (positions >= self.span[0]) & (positions < self.span[1])
        return confidence + self.settings.bias * inside.to(confidence.device, confidence.dtype)


def check(settings: ToolPrefill, block_length: int) -> None:
    """Raises DecodingError unless both tags fit into a block, in order."""
    if not settings.open < settings.close < block_length:
        raise DecodingError(
            f"tool_prefill: open {settings.open} and close {settings.close} must be ordered places in a block of {block_length}; "
            "set block_length or the places"
        )
