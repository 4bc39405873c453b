"""Putting the tool-call tags into a block: at once, or after a first look at what the model would write there."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from dllm_agents.decoding.canvas import Call, Steps
from dllm_agents.decoding.job import Job


def first_look(job: Job, start: int, stop: int, call: Callable[[Tensor], Call]) -> Steps:
    """Place the tags in the block [start, stop) where they belong. With the rule `predicted` this takes one forward, which decides
    nothing; `call` makes it from the positions to predict."""
    tags = job.tags
    if tags is None or not tags.fits(job.canvas, start, stop):
        return
    if tags.settings.rule == "predicted":
        logits = yield call(job.canvas.masked(start, stop))
        if not tags.wants(job.canvas, job.sampler.greedy(logits)):
            return
    tags.place(job.canvas, start, stop)
