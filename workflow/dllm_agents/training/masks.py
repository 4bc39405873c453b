"""Who sees whom, as dense boolean masks [batch, 1, queries, keys]; True lets the query see the key.

Rows may hold several packed examples (`segment` 0, 1, 2, ...) and are padded on the right (`segment` -1). Examples never see one another.
A padded position sees itself, so that no softmax runs over nothing, and nobody else sees it.
"""

from __future__ import annotations

import torch
from torch import Tensor


def causal(segment: Tensor) -> Tensor:
    """Each position sees itself and what lies before it in its segment. `segment` is [batch, length]."""
    order = torch.arange(segment.shape[1], device=segment.device)
    return _finish((order[:, None] >= order[None, :])[None], segment)


def full(segment: Tensor) -> Tensor:
    """Every position sees its whole segment (LLaDA section 2.1: no causal mask)."""
    return _finish(torch.ones(1, 1, 1, dtype=torch.bool, device=segment.device), segment)


def block_diffusion(block: Tensor, copy: Tensor, segment: Tensor) -> Tensor:
    """The three-part mask of [clean ; noisy copies] training (BD3-LM section 3.2, equation 7; SDAR, Fast-dLLM v2).

    `block` [batch, length] numbers the blocks of each example; `copy` is 0 on the clean tokens and 1, 2, ... on the noisy copies. Clean
    tokens see clean tokens of their own and earlier blocks (block-causal); a noisy token sees its own block in its own copy
    (block-diagonal) and the clean tokens of strictly earlier blocks (offset block-causal).
    """
    query_block, key_block = block[:, :, None], block[:, None, :]
    query_copy, key_copy = copy[:, :, None], copy[:, None, :]
    to_clean = (key_copy == 0) & (key_block < query_block)
    inside = (key_copy == query_copy) & (key_block == query_block)
    return _finish(to_clean | inside, segment)


def _finish(seen: Tensor, segment: Tensor) -> Tensor:
    together = (segment[:, :, None] == segment[:, None, :]) & (segment >= 0)[:, None, :]
    itself = torch.eye(segment.shape[1], dtype=torch.bool, device=segment.device)
    return ((seen & together) | itself)[:, None]
