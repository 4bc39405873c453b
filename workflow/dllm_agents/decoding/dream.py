"""Dream's decoding (Ye et al. 2025; the model's `diffusion_generate`): all masks compete at once, the number per step follows the noise
schedule, the order is random (`origin`) or by confidence (`maskgit_plus`), margin (`topk_margin`) or negative entropy (`entropy`).

`confidence_threshold` and the cached block form are Fast-dLLM v1's additions for Dream.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dllm_agents.decoding.canvas import Steps, blocks, quotas, steps_per_block
from dllm_agents.decoding.job import Job, leftmost, top
from dllm_agents.decoding.look import first_look
from dllm_agents.decoding.sampling import Predictions

EPS = 1e-3
BLOCK_LENGTH = 32
THRESHOLD = 0.9


def decode(job: Job) -> Steps:
    """Exactly `steps` forwards over the whole sequence (default: one token a step); a step that decides nothing still costs one."""
    canvas, decoding = job.canvas, job.decoding
    order = order_of(job)
    start, stop = canvas.prompt_length, canvas.length
    yield from first_look(job, start, stop, job.whole)
    if order == "confidence_threshold":
        yield from _by_threshold(job)
        return
    steps = decoding.steps or decoding.max_new_tokens
    times = torch.linspace(1, EPS, steps + 1)
    even = quotas(int(canvas.undecided.sum()), steps)
    for step in range(steps):
        positions = canvas.masked(start, stop)
        if not len(positions):
            return
        call = job.whole(positions)
        predicted = job.sampler.predict((yield call))
        last = step == steps - 1
        if order == "origin":
            chance = 1.0 if last else float(1 - times[step + 1] / times[step])
            taken = (job.sampler.uniform(len(positions)) < chance).nonzero().flatten()
            chosen = positions[taken] - call.start
        else:
            ranking = job.ranking(rank(predicted, order), positions, call)
            count = transfer_count(len(positions), times, step)
            chosen = leftmost(ranking, even[step]) if job.one_at_a_time else top(ranking, count)
        job.settle(chosen, positions, predicted.token_ids, predicted.confidence, call)


def order_of(job: Job) -> str:
    """The order asked for; by default entropy, or the threshold where one is set or nothing says otherwise for `fast_dllm`."""
    decoding = job.decoding
    if decoding.order is not None:
        return decoding.order
    if job.one_at_a_time:
        return "maskgit_plus"
    by_threshold = decoding.threshold is not None or (decoding.strategy == "fast_dllm" and decoding.steps is None)
    return "confidence_threshold" if by_threshold else "entropy"


def rank(predicted: Predictions, order: str) -> Tensor:
    """What decides who goes first [k]: probability, margin between the best two, or negative entropy."""
    probabilities = predicted.probabilities
    if order == "topk_margin":
        best = probabilities.topk(2, dim=-1).values
        return best[:, 0] - best[:, 1]
    if order == "entropy":
        return (probabilities * torch.log(probabilities + 1e-10)).sum(dim=-1)
    return predicted.confidence


def transfer_count(masks: int, times: Tensor, step: int) -> int:
    """Masks settled in `step`: int(masks * (1 - s / t)) in float32, everything in the last one. `times` [steps + 1] falls from 1 to eps."""
    if step >= len(times) - 2:
        return masks
    return int(torch.tensor(float(masks)) * (1 - times[step + 1] / times[step]))


def _by_threshold(job: Job) -> Steps:
    """Fast-dLLM's uncached Dream: each step offers masks / steps candidates and what earlier ones left over, and settles those with
    confidence >= threshold, the best always; after the last step the left-overs go on alone."""
    canvas, decoding = job.canvas, job.decoding
    threshold = THRESHOLD if decoding.threshold is None else decoding.threshold
    masks = int(canvas.undecided.sum())
    steps = decoding.steps or max(1, decoding.max_new_tokens // BLOCK_LENGTH)
    share, left = divmod(masks, steps)
    step = 0
    while len(positions := canvas.masked(canvas.prompt_length, canvas.length)):
        call = job.whole(positions)
        predicted = job.sampler.predict((yield call))
        ranking = job.ranking(predicted.confidence, positions, call)
        offered = top(ranking, max(1, left + (share if step < steps else 0)))
        passed = ranking[offered] >= threshold
        passed[0] = True
        job.settle(offered[passed], positions, predicted.token_ids, predicted.confidence, call)
        left = int((~passed).sum())
        step += 1


def decode_cached(job: Job) -> Steps:
    """Fast-dLLM's block form of Dream with a prefix or dual cache: a block's full call settles its first position only; the calls inside
    the block follow the threshold, or the noise schedule in entropy order."""
    from dllm_agents.decoding.fast_dllm import above, block_call

    canvas, decoding = job.canvas, job.decoding
    length = min(decoding.block_length or BLOCK_LENGTH, decoding.max_new_tokens)
    steps = steps_per_block(decoding.steps, decoding.max_new_tokens, length)
    times = torch.linspace(1, EPS, steps + 1)
    by_threshold = order_of(job) == "confidence_threshold"
    threshold = THRESHOLD if decoding.threshold is None else decoding.threshold
    for start, stop in blocks(canvas.prompt_length, canvas.length, length):
        yield from first_look(job, start, stop, job.whole)
        first = torch.tensor([start])
        predicted = job.sampler.predict((yield job.whole(first, cached=True)))
        canvas.settle(first, predicted.token_ids, predicted.confidence)
        step = 1
        while len(positions := canvas.masked(start, stop)):
            call = block_call(job, start, stop, positions)
            predicted = job.sampler.predict((yield call))
            confidence = predicted.confidence if by_threshold else rank(predicted, "entropy")
            ranking = job.ranking(confidence, positions, call)
            chosen = above(ranking, threshold) if by_threshold else top(ranking, transfer_count(len(positions), times, step))
            job.settle(chosen, positions, predicted.token_ids, predicted.confidence, call)
            step += 1
        if canvas.turn_over:
            return
