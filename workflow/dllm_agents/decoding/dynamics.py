"""How a reply is unmasked, forward by forward (DLLM Agent, Figures 4 and 6): small sums collected during decoding."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from dllm_agents.decoding.canvas import Call, Canvas, Prediction
from dllm_agents.decoding.settings import Decoding

BINS = 10


@dataclass
class Dynamics:
    """Per denoising forward, in order: the block it works on (from 0 at the first that holds new tokens), the masks of that block before
    it, and the mean entropy (nats) of the predictions at those that may be taken. Over the reply: how many such predictions were shown in
    each of ten bins of confidence on [0, 1], and how many of them were accepted.

    Forwards that only store keys do not count, nor what such a forward says of the next block's first token, nor autoregressive ones.
    Strategies without blocks work on one.
    """

    block: list[int] = field(default_factory=list)
    masks: list[int] = field(default_factory=list)
    entropy: list[float] = field(default_factory=list)
    shown: list[int] = field(default_factory=lambda: [0] * BINS)
    accepted: list[int] = field(default_factory=lambda: [0] * BINS)

    def note(self, call: Call, prediction: Prediction, canvas: Canvas, decoding: Decoding, aligned: bool) -> None:
        """Record one forward before its tokens are placed; `aligned` blocks start at position 0."""
        positions = call.positions
        if call.rule is None or prediction.entropy is None or not len(positions) or positions[0] >= call.stop:
            return
        length = decoding.block_length or canvas.length
        origin = canvas.prompt_length // length * length if aligned else canvas.prompt_length
        number = (int(positions[0]) - origin) // length
        start = origin + number * length
        self.block.append(number)
        self.masks.append(len(canvas.masked(start, min(start + length, canvas.length))))
        self.entropy.append(round(float(prediction.entropy.mean()), 4))
        bins = np.minimum((prediction.confidence * BINS).astype(np.int64), BINS - 1)
        for counts, which in ((self.shown, bins), (self.accepted, bins[prediction.chosen])):
            counts[:] = (counts + np.bincount(which, minlength=BINS)).tolist()
