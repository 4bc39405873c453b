"""Fast-dLLM v2 (Wu et al. 2025b): block diffusion on a shifted, block-causal model, each block decoded in sub-blocks (section 4).

Blocks are aligned to absolute position 0. A full block is run once more to store its clean keys; the last row of that call decides the
next block's first token, untested by the threshold, and so does the prompt's when it ends on a block boundary. Such a call cannot be
merged with the next block's first, which sees that token; a prompt that ends inside a block can (`merge_stores`). With `cache: dual` the
sub-block cache of section 4.3 is on: the whole block is refreshed while the sub-block's first token is masked, else only the sub-block
runs.
"""

from __future__ import annotations

from dllm_agents.decoding.canvas import Call, Positions, Steps, blocks
from dllm_agents.decoding.selection import Rule, leftmost, strictly_above
from dllm_agents.decoding.state import State
from dllm_agents.decoding.strategies import Strategy


def decode(state: State) -> Steps:
    """Ends at a stop id as soon as everything before it is decided; the block is not stored then."""
    canvas, decoding, length = state.canvas, state.decoding, state.block_length
    rule = leftmost() if state.one_at_a_time else strictly_above(state.threshold)
    prefix = canvas.prompt_length // length * length
    stored = 0
    if prefix:
        stored = yield from _store(state, stored, prefix)
    for start in range(prefix, canvas.length, length):
        stop = start + length

        def block(positions: Positions, start: int = start, stop: int = stop) -> Call:
            nonlocal stored
            first, stored = stored, start
            return state.call(first, stop, stop, positions, clean=start)

        yield from state.place_tool_tags(start, stop, block)
        fresh = False
        for first, last in blocks(start, stop, decoding.sub_block_length or length):
            while len(positions := canvas.masked(first, last)):
                if canvas.first_stop(state.stop_ids) is not None:
                    return
                if decoding.cache == "dual" and fresh and not canvas.is_masked[first]:
                    call = state.call(first, last, stop, positions, clean=start)
                else:
                    call, fresh = block(positions), True
                yield from state.unmask(call, rule)
        if canvas.first_stop(state.stop_ids) is not None:
            return
        stored = yield from _store(state, stored, stop)
        if canvas.stop_after_block or canvas.first_stop(state.stop_ids) is not None:
            return


def _store(state: State, start: int, stop: int) -> Steps:
    """Keep the clean keys of [start, stop); where the next position is masked, the last row decides it greedily."""
    next_one = state.canvas.masked(stop, min(stop + 1, state.canvas.length))
    if not len(next_one):
        return (yield from state.store(start, stop))
    yield from state.unmask(state.call(start, stop, stop, next_one, clean=stop), Rule(), greedy=True)
    return stop


STRATEGY = Strategy(
    decode,
    attention=("block_causal",),
    shift=True,
    block_length=32,
    sub_block_length=8,
    threshold=0.9,
    grows=True,
    aligned=True,
    remasking=("low_confidence", "sequential"),
    caches=("none", "dual"),
)
