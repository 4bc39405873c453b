"""Which tokens are masked, and how likely that was. Only generated tokens (thoughts, actions, the end) are ever drawn.

A `Noise` holds, per token, whether it is masked and the weight 1 / p(masked) that makes the masked cross-entropy an unbiased estimate
of the ELBO.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

SMALLEST_LEVEL = 1e-3  # LLaDA: p = (1 - 1e-3) t + 1e-3, so that 1 / p stays finite


class Noise(NamedTuple):
    """`masked` [tokens] of booleans and `weight` [tokens], the inverse probability of each having been masked."""

    masked: Tensor
    weight: Tensor


def everything(generated: Tensor) -> Noise:
    """Every generated token masked: the state a reply is decoded from."""
    return Noise(generated.clone(), torch.ones(len(generated)))


def independent(
    generated: Tensor, generator: torch.Generator, block: Tensor | None = None, low: float = SMALLEST_LEVEL, high: float = 1.0
) -> Noise:
    """Each token masked with probability t ~ U(low, high), drawn once (LLaDA equation 3) or once per block (BD3-LM equation 8).
    `block` [tokens] numbers the blocks."""
    group = torch.zeros(len(generated), dtype=torch.long) if block is None else block - block.min()
    level = low + (high - low) * torch.rand(int(group.max()) + 1, generator=generator)[group]
    return Noise((torch.rand(len(generated), generator=generator) < level) & generated, 1 / level)


def fixed_count(generated: Tensor, generator: torch.Generator) -> Noise:
    """Exactly l of the L generated tokens, l uniform in 1..L, weight L / l (LLaDA equation 6): the same mean, less variance."""
    places = generated.nonzero().flatten()
    count = int(torch.randint(1, len(places) + 1, (1,), generator=generator))
    masked = torch.zeros(len(generated), dtype=torch.bool)
    masked[places[torch.randperm(len(places), generator=generator)[:count]]] = True
    return Noise(masked, torch.full((len(generated),), len(places) / count))


def complementary(noise: Noise, generated: Tensor) -> Noise:
    """What `noise` left visible, masked, so that a pair of copies scores every token once (Fast-dLLM v2 section 3.2)."""
    return Noise(generated & ~noise.masked, torch.ones(len(generated)))


def end_masked(noise: Noise, end: Tensor) -> Noise:
    """`noise` with every end token masked for certain, so that the length is learnt (dLLM-Var section 3.1). `end` [tokens] marks them."""
    return Noise(noise.masked | end, torch.where(end, 1.0, noise.weight))


def hidden_context(generated: Tensor, block: Tensor) -> Tensor:
    """Context tokens that share a block with generated tokens and follow them (DLLM-Searcher section 4.2.2, agentic noising).

    In decoding a tool response does not exist yet while the call before it is written; attention inside a block runs both ways, so a
    visible response would leak into the call. These tokens are masked in the noisy copy and never scored. [tokens] each way.
    """
    order = torch.arange(len(generated))
    earlier_generated = (block[:, None] == block[None, :]) & generated[None, :] & (order[None, :] < order[:, None])
    return ~generated & earlier_generated.any(1)
