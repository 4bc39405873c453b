"""SDAR (Cheng et al. 2025): block diffusion on a block-causal model, blocks aligned to absolute position 0.

The first decoded block mixes the prompt's tail and masks. Within a block each step commits a quota of tokens: left to right
(`sequential`), the most confident (`low_confidence_static`), or all above a threshold and at least the quota
(`low_confidence_dynamic`). The published loop runs the prompt, and each full block, once more to store clean keys. With `merge_stores`
the call that first denoises the next block does that too: it sees the same keys, so the tokens are the same for fewer forwards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dllm_agents.decoding.canvas import Call, Positions, Steps, transfer_counts
from dllm_agents.decoding.selection import Rule, leftmost, strictly_above, top
from dllm_agents.decoding.settings import Decoding
from dllm_agents.decoding.state import State
from dllm_agents.decoding.strategies import Strategy

if TYPE_CHECKING:
    from dllm_agents.models import Model


def decode(state: State) -> Steps:
    """Ends with the first full block that holds a stop id."""
    canvas, length = state.canvas, state.block_length
    schedule = transfer_counts(length, state.steps_per_block)
    prefix = canvas.prompt_length // length * length
    stored = 0  # the first position whose clean keys are not in the cache yet
    if prefix:
        stored = yield from state.store(stored, prefix)
    for start in range(prefix, canvas.length, length):

        def block(positions: Positions, start: int = start) -> Call:
            nonlocal stored
            first, stored = stored, start
            return state.call(first, start + length, start + length, positions, clean=start)

        yield from state.place_tool_tags(start, start + length, block)
        for count in schedule:
            if not len(positions := canvas.masked(start, start + length)):
                break
            yield from state.unmask(block(positions), rule(state, count))
        stored = yield from state.store(stored, start + length)
        if canvas.stop_after_block or canvas.has_stop(max(start, canvas.prompt_length), start + length, state.stop_ids):
            return


def rule(state: State, count: int) -> Rule:
    """Which tokens one step commits."""
    if state.one_at_a_time:
        return leftmost(count)
    threshold = state.decoding.threshold
    return top(count) if threshold is None else strictly_above(threshold, count)


def complete(decoding: Decoding, model: Model) -> dict[str, object]:
    """A threshold is the dynamic rule's alone."""
    return {} if decoding.remasking == "low_confidence_dynamic" else {"threshold": None}


STRATEGY = Strategy(
    decode,
    attention=("block_causal",),
    shift=False,
    block_length=4,
    threshold=0.85,
    grows=True,
    aligned=True,
    remasking=("low_confidence_dynamic", "low_confidence_static", "sequential"),
    complete=complete,
)
