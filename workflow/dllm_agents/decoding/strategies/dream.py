"""Dream's decoding (Ye et al. 2025; the model's `diffusion_generate`): all masks compete at once, the number per step follows the noise
schedule, the order is random (`origin`) or by confidence (`maskgit_plus`), margin (`topk_margin`) or negative entropy (`entropy`).

`confidence_threshold` and the cached block form are Fast-dLLM v1's additions for Dream.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dllm_agents.decoding.canvas import Steps, blocks, transfer_counts
from dllm_agents.decoding.selection import Rule, Score, above, leftmost, strictly_above, top
from dllm_agents.decoding.settings import Decoding
from dllm_agents.decoding.state import State
from dllm_agents.decoding.strategies import Strategy

if TYPE_CHECKING:
    from dllm_agents.models import Model

EPS = 1e-3
# Fast-dLLM's steps where none are given: one for every so many new tokens.
TOKENS_PER_STEP = 32
SCORES: dict[str | None, Score] = {"maskgit_plus": "confidence", "topk_margin": "margin", "entropy": "entropy"}


def decode(state: State) -> Steps:
    """Exactly `steps` forwards over the whole sequence; a step that decides nothing still costs one."""
    canvas, decoding = state.canvas, state.decoding
    start, stop = canvas.prompt_length, canvas.length
    yield from state.place_tool_tags(start, stop, state.whole)
    if decoding.order == "confidence_threshold":
        yield from _by_threshold(state)
        return
    steps = state.steps
    times = noise_schedule(steps)
    even = transfer_counts(len(canvas.masked(start, stop)), steps)
    for step in range(steps):
        positions = canvas.masked(start, stop)
        if not len(positions):
            return
        origin = decoding.order == "origin"
        if origin:
            # A position goes when its number from U(0, 1) is below the share of noise this step takes away.
            chance = 1.0 if step == steps - 1 else float(1 - times[step + 1] / times[step])
            rule = strictly_above(-chance, 0)
        elif state.one_at_a_time:
            rule = leftmost(even[step])
        else:
            rule = top(transfer_count(len(positions), times, step), SCORES[decoding.order])
        yield from state.unmask(state.whole(positions), rule, shuffled=-int(origin))
        if state.ended_early:
            left = sum(count > 0 for count in even[step + 1 :]) if state.one_at_a_time else steps - step - 1
            canvas.skip(None if origin else left)
            return


def noise_schedule(steps: int) -> Any:
    """Times [steps + 1] from 1 down to eps, in float32 as the published code has them."""
    return torch.linspace(1, EPS, steps + 1).numpy()


def transfer_count(masks: int, times: Any, step: int) -> int:
    """Masks committed in `step`: int(masks * (1 - s / t)) in float32, all in the last one. `times` [steps + 1] falls from 1 to eps."""
    if step >= len(times) - 2:
        return masks
    return int(np.float32(masks) * (np.float32(1) - times[step + 1] / times[step]))


def _by_threshold(state: State) -> Steps:
    """Fast-dLLM's uncached Dream: each step offers masks / steps candidates and what earlier ones left over, and commits those with
    confidence >= threshold, the best always; after the last step the left-overs go on alone."""
    canvas = state.canvas
    share, left = divmod(len(canvas.masked(canvas.prompt_length, canvas.length)), state.steps)
    step = 0
    while len(positions := canvas.masked(canvas.prompt_length, canvas.length)):
        offered = min(max(1, left + (share if step < state.steps else 0)), len(positions))
        rule = Rule(1, state.threshold, offered)
        left = offered - (yield from state.unmask(state.whole(positions), rule))
        step += 1
        if state.ended_early:
            return canvas.skip(None)


def decode_cached(state: State) -> Steps:
    """Fast-dLLM's block form of Dream with a prefix or dual cache: a block's full call commits its first position only; the calls inside
    the block follow the threshold, or the noise schedule in entropy order."""
    canvas, decoding = state.canvas, state.decoding
    times = noise_schedule(state.steps_per_block)
    for number, (start, stop) in enumerate(blocks(canvas.prompt_length, canvas.length, state.block_length)):
        yield from state.place_tool_tags(start, stop, state.whole)
        yield from state.unmask(state.refresh(canvas.masked(start, start + 1), number), Rule())
        step = 1
        while len(positions := canvas.masked(start, stop)):
            if state.ended_early:
                return canvas.skip(None)
            by_threshold = decoding.order == "confidence_threshold"
            rule = above(state.threshold) if by_threshold else top(transfer_count(len(positions), times, step), "entropy")
            yield from state.unmask(state.inside(start, stop, positions), rule)
            step += 1
        if canvas.stop_after_block:
            return
        if stop < canvas.length and state.ended_early:
            return canvas.skip(None)


def complete(decoding: Decoding, model: Model) -> dict[str, object]:
    """The order asked for; by default entropy, or the threshold where one is set or, for `fast_dllm`, where no steps are."""
    by_threshold = decoding.threshold is not None or (decoding.strategy == "fast_dllm" and decoding.steps is None)
    order = decoding.order or ("maskgit_plus" if decoding.remasking == "sequential" else None)
    order = order or ("confidence_threshold" if by_threshold else "entropy")
    threshold = (0.9 if decoding.threshold is None else decoding.threshold) if order == "confidence_threshold" else None
    tokens_per_step = TOKENS_PER_STEP if order == "confidence_threshold" else 1
    steps = decoding.steps or max(1, decoding.max_new_tokens // tokens_per_step)
    filled: dict[str, object] = {"order": order, "threshold": threshold}
    return filled if decoding.cache in ("prefix", "dual") else filled | {"steps": steps}


STRATEGY = Strategy(
    decode, attention=("full", "block_causal"), remasking=(None, "sequential"), caches=("none",), fields=("order",), complete=complete
)
