"""Who sees whom, as dense boolean masks [batch, 1, queries, keys]; True lets the query see the key.

Rows are padded on the right. A padded position sees itself, so that no softmax runs over nothing, and nobody else sees it.
"""

from __future__ import annotations

import torch
from torch import Tensor


def causal(valid: Tensor) -> Tensor:
    """Each position sees itself and what lies before it. `valid` [batch, length] is False on padding."""
    length = valid.shape[1]
    order = torch.arange(length, device=valid.device)
    return _finish((order[:, None] >= order[None, :])[None], valid)


def full(valid: Tensor) -> Tensor:
    """Every position sees every other (LLaDA section 2.1: no causal mask)."""
    return _finish(torch.ones(1, valid.shape[1], valid.shape[1], dtype=torch.bool, device=valid.device), valid)


def block_diffusion(block: Tensor, copy: Tensor, valid: Tensor) -> Tensor:
    """The three-part mask of [clean ; noisy copies] training (BD3-LM section 3.2, equation 7; SDAR, Fast-dLLM v2).

    `block` [batch, length] is the block a position belongs to, counted from absolute position 0; `copy` is 0 on the clean tokens and
    1, 2, ... on the noisy copies. Clean tokens see clean tokens of their own and earlier blocks (block-causal); a noisy token sees its
    own block in its own copy (block-diagonal) and the clean tokens of strictly earlier blocks (offset block-causal).
    """
    query_block, key_block = block[:, :, None], block[:, None, :]
    query_copy, key_copy = copy[:, :, None], copy[:, None, :]
    to_clean = (key_copy == 0) & (key_block < query_block)
    inside = (key_copy == query_copy) & (key_block == query_block)
    return _finish(to_clean | inside, valid)


def _finish(seen: Tensor, valid: Tensor) -> Tensor:
    itself = torch.eye(valid.shape[1], dtype=torch.bool, device=valid.device)
    return ((seen & valid[:, None, :]) | itself)[:, None]
