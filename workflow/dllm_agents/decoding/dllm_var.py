"""dLLM-Var (Yang et al. 2025): blocks of masks are appended until an end token appears (section 3.3); earlier keys are cached.

The prompt's keys are computed together with the first block of masks; every next block starts with a call over two blocks, after which
only the earlier one's keys are kept. So the cache is part of the method: an uncached run over the same tokens gives other logits.
"""

from __future__ import annotations

from functools import partial

from dllm_agents.decoding.canvas import Steps
from dllm_agents.decoding.fast_dllm_v2 import strictly_above
from dllm_agents.decoding.job import Job, leftmost
from dllm_agents.decoding.look import first_look

BLOCK_LENGTH = 64
THRESHOLD = 0.9


def decode(job: Job) -> Steps:
    """Growth ends with the first full block that holds a stop id."""
    canvas, decoding = job.canvas, job.decoding
    length = decoding.block_length or BLOCK_LENGTH
    threshold = THRESHOLD if decoding.threshold is None else decoding.threshold
    for start in range(canvas.prompt_length, canvas.length, length):
        stop = start + length
        seen = 0 if start == canvas.prompt_length else start - length
        yield from first_look(job, start, stop, partial(job.window, seen, stop, stop))
        while len(positions := canvas.masked(start, stop)):
            call = job.window(seen, stop, stop, positions)
            seen = start
            predicted = job.sampler.predict((yield call), untempered=True)
            ranking = job.ranking(predicted.confidence, positions, call)
            chosen = leftmost(ranking) if job.one_at_a_time else strictly_above(ranking, threshold)
            job.settle(chosen, positions, predicted.token_ids, predicted.confidence, call)
        if canvas.turn_over or canvas.has_stop(start, stop, job.stop_ids):
            return
