"""dLLM-Var (Yang et al. 2025): blocks of masks are appended until an end token appears (section 3.3); earlier keys are cached.

The prompt's keys are computed together with the first block of masks; every next block starts with a call over two blocks, after which
only the earlier one's keys are kept. So the cache is part of the method: an uncached run over the same tokens gives other logits.
"""

from __future__ import annotations

from functools import partial

from dllm_agents.decoding.canvas import Steps
from dllm_agents.decoding.selection import leftmost, strictly_above
from dllm_agents.decoding.state import State
from dllm_agents.decoding.strategies import Strategy


def decode(state: State) -> Steps:
    """Growth ends with the first full block that holds a stop id."""
    canvas, length = state.canvas, state.block_length
    rule = leftmost() if state.one_at_a_time else strictly_above(state.threshold)
    for start in range(canvas.prompt_length, canvas.length, length):
        stop = start + length
        seen = 0 if start == canvas.prompt_length else start - length
        yield from state.place_tool_tags(start, stop, partial(state.call, seen, stop, stop))
        while len(positions := canvas.masked(start, stop)):
            yield from state.unmask(state.call(seen, stop, stop, positions), rule, untempered=True)
            seen = start
        if canvas.stop_after_block or canvas.has_stop(start, stop, state.stop_ids):
            return


# Its calls read keys of a window that starts at a block: the row before the window, which a logit shift asks for, is not there.
STRATEGY = Strategy(
    decode, attention=("full",), shift=False, block_length=64, threshold=0.9, grows=True, remasking=("low_confidence", "sequential")
)
