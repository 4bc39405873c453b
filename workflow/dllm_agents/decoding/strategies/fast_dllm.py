"""Fast-dLLM v1 (Wu et al. 2025): parallel decoding by confidence (section 3.3) and block-wise approximate caches (section 3.2), for LLaDA
and Dream.

Caches: `prefix` keeps the keys before the block and recomputes the block and all later masks; `dual` recomputes the block only and keeps
stale later keys. A block's first call runs over the whole sequence, refreshes the cache, and decides tokens too. Both change the result;
without a cache every call runs over the whole sequence.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from dllm_agents.decoding.canvas import Steps
from dllm_agents.decoding.selection import Rule, above, by_factor, leftmost, top
from dllm_agents.decoding.settings import Decoding, DecodingError
from dllm_agents.decoding.state import State
from dllm_agents.decoding.strategies import Strategy, dream
from dllm_agents.decoding.strategies.llada import decode_blocks

if TYPE_CHECKING:
    from dllm_agents.models import Model

THRESHOLD = 0.9


def decode(state: State) -> Steps:
    """LLaDA's way, with confidences in double precision, or Dream's own."""
    if state.decoding.order is not None:
        return dream.decode_cached(state) if state.decoding.cache in ("prefix", "dual") else dream.decode(state)
    return decode_blocks(state, partial(rule, state), precise=True)


def rule(state: State, count: int) -> Rule:
    """What a step commits: by factor, by threshold, or a fixed number where only `steps` is given."""
    if state.one_at_a_time:
        return leftmost(count)
    if state.decoding.factor is not None:
        return by_factor(state.decoding.factor)
    return top(count) if state.decoding.threshold is None else above(state.decoding.threshold)


def complete(decoding: Decoding, model: Model) -> dict[str, object]:
    """Dream's way where the model is a shifted one and no factor is asked for (the published code has none there)."""
    if model.shift and model.attention == "full" and decoding.factor is None and decoding.remasking != "sequential":
        return dream.complete(decoding, model)
    if decoding.order is not None:
        raise DecodingError("order: is Dream's; it needs a full-attention model with a logit shift, no factor, no left-to-right order")
    if model.shift and decoding.factor is not None and decoding.cache in ("prefix", "dual"):
        raise DecodingError(f"factor: with cache {decoding.cache} needs a model without logit shift; use cache none, or a threshold")
    by_count = decoding.factor is not None or decoding.remasking == "sequential" or decoding.steps is not None
    return {"threshold": decoding.threshold if decoding.threshold is not None or by_count else THRESHOLD}


STRATEGY = Strategy(
    decode,
    attention=("full", "block_causal"),
    block_length=32,
    remasking=("low_confidence", "random", "sequential"),
    caches=("none", "prefix", "dual"),
    fields=("order", "factor"),
    complete=complete,
)
