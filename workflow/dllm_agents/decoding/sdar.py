"""SDAR (Cheng et al. 2025): block diffusion on a block-causal model, blocks aligned to absolute position 0.

The first decoded block mixes the prompt's tail and masks. Within a block each step settles a quota of tokens: left to right
(`sequential`), the most confident (`low_confidence_static`), or all above a threshold and at least the quota
(`low_confidence_dynamic`). A full block is run once more to store its clean keys.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from dllm_agents.decoding.canvas import Call, Steps, quotas, rows_for, steps_per_block
from dllm_agents.decoding.job import Job, leftmost, top
from dllm_agents.decoding.look import first_look

BLOCK_LENGTH = 4
THRESHOLD = 0.85


def decode(job: Job) -> Steps:
    """Ends with the first full block that holds a stop id."""
    canvas, decoding = job.canvas, job.decoding
    length = decoding.block_length or job.block_length or BLOCK_LENGTH
    schedule = quotas(length, steps_per_block(decoding.steps, decoding.max_new_tokens, length))
    nothing = torch.empty(0, dtype=torch.int64)
    prefix = canvas.prompt_length // length * length
    if prefix:
        yield Call(0, prefix, prefix, nothing, "block_causal", length, clean=True, prefill=True)
    for start in range(prefix, canvas.length, length):
        stop = start + length
        block = partial(_block, job, start, length)
        yield from first_look(job, start, stop, block)
        for quota in schedule:
            if not len(positions := canvas.masked(start, stop)):
                break
            call = block(positions)
            predicted = job.sampler.predict((yield call))
            ranking = job.ranking(predicted.confidence, positions, call)
            chosen = select(ranking, quota, job)
            job.settle(chosen, positions, predicted.token_ids, predicted.confidence, call)
        yield replace(block(nothing), clean=True)
        if canvas.turn_over or canvas.has_stop(max(start, canvas.prompt_length), stop, job.stop_ids):
            return


def _block(job: Job, start: int, length: int, positions: Tensor) -> Call:
    return Call(start, start + length, start + length, rows_for(positions, job.shift, start), "block_causal", length)


def select(ranking: Tensor, quota: int, job: Job) -> Tensor:
    """The window indices one step settles."""
    if job.one_at_a_time:
        return leftmost(ranking, quota)
    if job.decoding.remasking == "low_confidence_static":
        return top(ranking, quota)
    return dynamic(ranking, quota, THRESHOLD if job.decoding.threshold is None else job.decoding.threshold)


def dynamic(ranking: Tensor, quota: int, threshold: float) -> Tensor:
    """All with confidence > threshold when they fill the quota, else the quota's most confident."""
    sure = ranking > threshold
    return sure.nonzero().flatten() if int(sure.sum()) >= quota else top(ranking, quota)
