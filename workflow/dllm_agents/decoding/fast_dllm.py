"""Fast-dLLM v1 (Wu et al. 2025): parallel decoding by confidence (section 3.3) and block-wise approximate caches (section 3.2), for LLaDA
and Dream.

Caches: `prefix` keeps the keys before the block and recomputes the block and all later masks; `dual` recomputes the block only and keeps
stale later keys. A block's first call runs over the whole sequence, refreshes the cache, and decides tokens too. Both change the result;
without a cache every call runs over the whole sequence.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dllm_agents.decoding import dream
from dllm_agents.decoding.canvas import Call, Steps, blocks, quotas, steps_per_block
from dllm_agents.decoding.job import Job, leftmost, top
from dllm_agents.decoding.look import first_look

BLOCK_LENGTH = 32
THRESHOLD = 0.9


def decode(job: Job) -> Steps:
    """LLaDA's way, or Dream's own where the model is a shifted one and no factor is asked for (the published code has none there)."""
    if job.shift and job.attention == "full" and job.decoding.factor is None and not job.one_at_a_time:
        return dream.decode_cached(job) if job.decoding.cache in ("prefix", "dual") else dream.decode(job)
    return _decode_blocks(job)


def _decode_blocks(job: Job) -> Steps:
    canvas, decoding = job.canvas, job.decoding
    length = min(decoding.block_length or BLOCK_LENGTH, decoding.max_new_tokens)
    steps = steps_per_block(decoding.steps, decoding.max_new_tokens, length)
    cached = decoding.cache in ("prefix", "dual")
    for start, stop in blocks(canvas.prompt_length, canvas.length, length):
        yield from first_look(job, start, stop, job.whole)
        masks = int(canvas.undecided[start:stop].sum())
        schedule = iter(quotas(masks, min(steps, masks)) if masks else [])
        first = True
        while len(positions := canvas.masked(start, stop)):
            call = job.whole(positions, cached=cached) if first or not cached else block_call(job, start, stop, positions)
            first = False
            predicted = job.sampler.predict((yield call), torch.float64, untempered=True)
            confidence = predicted.confidence
            if decoding.remasking == "random":
                confidence = job.sampler.uniform(len(positions))
            chosen = select(job, job.ranking(confidence, positions, call), next(schedule, 1))
            job.settle(chosen, positions, predicted.token_ids, predicted.confidence, call)
        if canvas.turn_over:
            return


def block_call(job: Job, start: int, stop: int, positions: Tensor) -> Call:
    """The cheap call inside the block [start, stop): to the end of the sequence with a prefix cache, the block alone with a dual one."""
    end = job.canvas.length
    return job.window(start, end if job.decoding.cache == "prefix" else stop, end, positions)


def select(job: Job, ranking: Tensor, quota: int) -> Tensor:
    """The window indices this step settles: by factor, by threshold (default 0.9), or a fixed number where only `steps` is given."""
    decoding = job.decoding
    if job.one_at_a_time:
        return leftmost(ranking, quota if decoding.steps else 1)
    if decoding.factor is not None:
        return by_factor(ranking, decoding.factor)
    if decoding.threshold is None and decoding.steps is not None:
        return top(ranking, quota)
    return above(ranking, THRESHOLD if decoding.threshold is None else decoding.threshold)


def above(ranking: Tensor, threshold: float) -> Tensor:
    """Everything with confidence >= threshold, and the best one always (Algorithm 1)."""
    chosen = ranking >= threshold
    chosen[ranking.argmax()] = True
    return chosen.nonzero().flatten()


def by_factor(ranking: Tensor, factor: float) -> Tensor:
    """The longest run of the most confident candidates whose n-th has confidence >= 1 - factor / (n + 1), the first one always.

    Theorem 1's bound turned into a rule; as in the published code a run broken only by its last candidate takes that one too.
    """
    candidates = int((ranking > -torch.inf).sum())
    ordered = torch.topk(ranking, candidates)
    n = torch.arange(1, candidates + 1, dtype=ordered.values.dtype, device=ranking.device)
    passes = ordered.values >= 1 - factor / (n + 1)
    passes[0] = True
    failed = (~passes).nonzero().flatten()
    taken = int(failed[0]) if len(failed) else candidates
    return ordered.indices[: candidates if taken == candidates - 1 else taken]
