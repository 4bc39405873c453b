"""Autoregressive decoding with cached keys and values: the prompt once, then one token a forward."""

from __future__ import annotations

import torch

from dllm_agents.decoding.canvas import Call, Steps
from dllm_agents.decoding.job import Job


def decode(job: Job) -> Steps:
    """One forward per new token; the stop token's forward counts."""
    canvas, start = job.canvas, 0
    for position in range(canvas.prompt_length, canvas.length):
        logits = yield Call(start, position, position, torch.tensor([position - 1]), "causal", clean=True, prefill=start == 0)
        predicted = job.sampler.predict(logits)
        canvas.settle(torch.tensor([position]), predicted.token_ids, predicted.confidence)
        if int(predicted.token_ids[0]) in job.stop_ids:
            return
        start = position
