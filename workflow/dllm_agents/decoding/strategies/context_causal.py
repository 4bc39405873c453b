"""Context-causal block diffusion (openPangu-R-7B-Diffusion's generation_utils; NBDiff, arXiv 2512.06776; DLLM Agent section 4).

Prompt and finished blocks are token-causal, the current block sees itself both ways and everything before it. Blocks are counted from the
end of the prompt. The causal pass before a block (over the prompt, or over the block before) stores keys, and its last row decides the
block's first token, untested by the threshold; so it cannot be merged with the block's first denoising forward. Candidates are the masks
of the current small block, left to right. The published loop ends after a small block that holds a stop id; with `stop_early` this one
ends as soon as everything before that is decided: the same tokens, fewer forwards.
"""

from __future__ import annotations

from dataclasses import replace

from dllm_agents.decoding.canvas import Call, Positions, Steps, blocks
from dllm_agents.decoding.selection import Rule, leftmost, strictly_above, top
from dllm_agents.decoding.state import State
from dllm_agents.decoding.strategies import Strategy


def decode(state: State) -> Steps:
    """Ends with the first small block that holds a stop id, or inside of it; the block is not stored then."""
    canvas, rule = state.canvas, _rule(state)
    stored = 0
    for start in range(canvas.prompt_length, canvas.length, state.block_length):
        stop = start + state.block_length
        first = replace(state.call(stored, start, start, canvas.masked(start, start + 1), clean=start), attention="causal")
        yield from state.unmask(first, Rule())
        stored = start

        def block(positions: Positions, start: int = start, stop: int = stop) -> Call:
            return replace(state.call(start, stop, stop, positions, clean=start), attention="full")

        yield from state.place_tool_tags(start, stop, block)
        for begin, end in blocks(start, stop, state.decoding.sub_block_length or state.block_length):
            while len(positions := canvas.masked(begin, end)):
                if state.ended_early:
                    return canvas.skip(len(positions) if rule.by_count else None)
                yield from state.unmask(block(positions), rule)
            if canvas.first_stop(state.stop_ids) is not None:
                return
        if canvas.stop_after_block:
            return


def _rule(state: State) -> Rule:
    """The best one always, and, by confidence, everything strictly above the threshold."""
    if state.one_at_a_time:
        return leftmost()
    if state.decoding.order in ("entropy", "topk_margin"):
        return top(1, by="entropy" if state.decoding.order == "entropy" else "margin")
    return strictly_above(state.threshold)


STRATEGY = Strategy(
    decode,
    attention=("context_causal",),
    shift=True,
    block_length=32,
    sub_block_length=32,
    threshold=0.9,
    grows=True,
    remasking=("low_confidence", "sequential"),
    fields=("order",),
)
