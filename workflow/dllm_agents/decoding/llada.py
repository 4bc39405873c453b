"""LLaDA's semi-autoregressive decoding (Nie et al. 2025, section 2.4 and appendix B.1): blocks left to right, a fixed number of tokens per
step, those of highest confidence first (Algorithm 5) or at random (Algorithm 4). Every forward runs over the whole sequence."""

from __future__ import annotations

from dllm_agents.decoding.canvas import Steps, blocks, quotas, steps_per_block
from dllm_agents.decoding.job import Job, leftmost, top
from dllm_agents.decoding.look import first_look

BLOCK_LENGTH = 128


def decode(job: Job) -> Steps:
    canvas, decoding = job.canvas, job.decoding
    length = min(decoding.block_length or BLOCK_LENGTH, decoding.max_new_tokens)
    steps = steps_per_block(decoding.steps, decoding.max_new_tokens, length)
    for start, stop in blocks(canvas.prompt_length, canvas.length, length):
        yield from first_look(job, start, stop, job.whole)
        masks = int(canvas.undecided[start:stop].sum())
        for quota in quotas(masks, min(steps, masks)) if masks else []:
            positions = canvas.masked(start, stop)
            call = job.whole(positions)
            predicted = job.sampler.predict((yield call), untempered=True)
            confidence = predicted.confidence
            if decoding.remasking == "random":
                confidence = job.sampler.uniform(len(positions))
            ranking = job.ranking(confidence, positions, call)
            chosen = leftmost(ranking, quota) if job.one_at_a_time else top(ranking, quota)
            job.settle(chosen, positions, predicted.token_ids, predicted.confidence, call)
        if canvas.turn_over:
            return
