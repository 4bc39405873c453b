"""LLaDA's semi-autoregressive decoding (Nie et al. 2025, section 2.4 and appendix B.1): blocks left to right, a fixed number of tokens per
step, those of highest confidence first (Algorithm 5) or at random (Algorithm 4). Every forward runs over the whole sequence."""

from __future__ import annotations

from collections.abc import Callable

from dllm_agents.decoding.canvas import Steps, blocks, transfer_counts
from dllm_agents.decoding.selection import Rule, leftmost, top
from dllm_agents.decoding.state import State
from dllm_agents.decoding.strategies import Strategy


def decode(state: State) -> Steps:
    return decode_blocks(state, leftmost if state.one_at_a_time else top)


def decode_blocks(state: State, rule: Callable[[int], Rule], precise: bool = False) -> Steps:
    """Blocks left to right; `rule` says what a step commits, from the number a schedule of fixed counts would."""
    canvas, decoding = state.canvas, state.decoding
    windows = blocks(canvas.prompt_length, canvas.length, state.block_length)
    for number, (start, stop) in enumerate(windows):
        yield from state.place_tool_tags(start, stop, state.whole)
        masks = len(canvas.masked(start, stop))
        schedule = transfer_counts(masks, min(state.steps_per_block, masks)) if masks else []
        step = 0
        while len(positions := canvas.masked(start, stop)):
            call = state.inside(start, stop, positions) if step else state.refresh(positions, number)
            count = schedule[step] if step < len(schedule) else 1
            yield from state.unmask(call, rule(count), untempered=True, shuffled=int(decoding.remasking == "random"), precise=precise)
            step += 1
            if state.ended_early:
                later = 0 if canvas.stop_after_block else sum(min(state.steps_per_block, b - a) for a, b in windows[number + 1 :])
                counted = rule(count).by_count or not (later or len(canvas.masked(start, stop)))
                return canvas.skip(len(schedule) - step + later if counted else None)
        if canvas.stop_after_block:
            return


STRATEGY = Strategy(
    decode, attention=("full", "block_causal"), block_length=128, remasking=("low_confidence", "random", "sequential"), caches=("none",)
)
