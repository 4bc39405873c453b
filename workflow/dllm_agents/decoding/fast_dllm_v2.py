"""Fast-dLLM v2 (Wu et al. 2025b): block diffusion on a shifted, block-causal model, each block decoded in sub-blocks (section 4).

Blocks are aligned to absolute position 0. A full block is run once more to store its clean keys; the last row of that call decides the
next block's first token, untested by the threshold, and so does the prompt's when it ends on a block boundary. With `cache: dual` the
sub-block cache of section 4.3 is on: the whole block is refreshed while the sub-block's first token is masked, else only the sub-block
runs.
"""

from __future__ import annotations

from functools import partial

import torch

from dllm_agents.decoding.canvas import Call, Steps, rows_for
from dllm_agents.decoding.job import Job, leftmost
from dllm_agents.decoding.look import first_look

BLOCK_LENGTH = 32
SUB_BLOCK_LENGTH = 8
THRESHOLD = 0.9


def decode(job: Job) -> Steps:
    """Ends at a stop id as soon as everything before it is decided; the block is not stored then."""
    canvas, length = job.canvas, job.decoding.block_length or job.block_length or BLOCK_LENGTH
    prefix = canvas.prompt_length // length * length
    if prefix:
        yield from _store(job, 0, prefix, length, prefill=True)
    for start in range(prefix, canvas.length, length):
        yield from first_look(job, start, start + length, partial(_block, job, start, length))
        yield from _denoise(job, start, length)
        if canvas.first_stop(job.stop_ids) is not None:
            return
        yield from _store(job, start, start + length, length)
        if canvas.turn_over or canvas.first_stop(job.stop_ids) is not None:
            return


def _store(job: Job, start: int, stop: int, length: int, prefill: bool = False) -> Steps:
    """Keep the clean keys of [start, stop); where the next position is undecided, the last row decides it greedily."""
    canvas = job.canvas
    next_one = canvas.masked(stop, min(stop + 1, canvas.length))
    logits = yield Call(start, stop, stop, next_one - 1, "block_causal", length, clean=True, prefill=prefill)
    if len(next_one):
        token_ids = job.sampler.greedy(logits)
        canvas.settle(next_one, token_ids, logits.softmax(-1).gather(-1, token_ids[:, None])[:, 0])


def _block(job: Job, start: int, length: int, positions: torch.Tensor) -> Call:
    return Call(start, start + length, start + length, rows_for(positions, job.shift, start), "block_causal", length)


def _denoise(job: Job, start: int, length: int) -> Steps:
    canvas, decoding = job.canvas, job.decoding
    threshold = THRESHOLD if decoding.threshold is None else decoding.threshold
    part = min(decoding.sub_block_length or SUB_BLOCK_LENGTH, length)
    fresh = False
    for first in range(start, start + length, part):
        last = min(first + part, start + length)
        while len(positions := canvas.masked(first, last)):
            if canvas.first_stop(job.stop_ids) is not None:
                return
            if decoding.cache == "dual" and fresh and not bool(canvas.undecided[first]):
                call = Call(first, last, start + length, rows_for(positions, job.shift, first), "block_causal", length)
            else:
                call, fresh = _block(job, start, length, positions), True
            predicted = job.sampler.predict((yield call))
            ranking = job.ranking(predicted.confidence, positions, call)
            chosen = leftmost(ranking) if job.one_at_a_time else strictly_above(ranking, threshold)
            job.settle(chosen, positions, predicted.token_ids, predicted.confidence, call)


def strictly_above(ranking: torch.Tensor, threshold: float) -> torch.Tensor:
    """Everything with confidence > threshold, and the best one always."""
    chosen = ranking > threshold
    chosen[ranking.argmax()] = True
    return chosen.nonzero().flatten()
