"""Who sees whom: one rule for each paradigm, read as a dense mask or as the blocks that flex_attention skips by.

A rule tells whether a query sees a key, by the indices (batch, head, query, key) that flex_attention's `mask_mod` takes. Rows may hold
several packed examples (`segment` 0, 1, 2, ...) and are padded on the right (`segment` -1). Examples never see one another. A padded
position sees itself, so that no softmax runs over nothing, and nobody else sees it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

Rule = Callable[[Any, Any, Any, Any], Tensor]


def causal(segment: Tensor) -> Rule:
    """Each position sees itself and what lies before it in its segment. `segment` is [batch, length]."""
    return _inside(segment, lambda batch, head, query, key: query >= key)


def full(segment: Tensor) -> Rule:
    """Every position sees its whole segment (LLaDA section 2.1: no causal mask)."""
    return _inside(segment, lambda batch, head, query, key: key >= 0)


def block_diffusion(block: Tensor, copy: Tensor, segment: Tensor) -> Rule:
    """The three-part mask of [clean ; noisy copies] training (BD3-LM section 3.2, equation 7; SDAR, Fast-dLLM v2).

    `block` [batch, length] numbers the blocks of each example; `copy` is 0 on the clean tokens and 1, 2, ... on the noisy copies. Clean
    tokens see clean tokens of their own and earlier blocks (block-causal); a noisy token sees its own block in its own copy
    (block-diagonal) and the clean tokens of strictly earlier blocks (offset block-causal). Noisy tokens of a negative copy are context
    that those of the positive one do not see ahead of them (DLLM Agent equation 13).
    """

    def seen(batch: Any, head: Any, query: Any, key: Any) -> Tensor:
        to_clean = (copy[batch, key] == 0) & (block[batch, key] < block[batch, query])
        own = (copy[batch, key].abs() == copy[batch, query].abs()) & (block[batch, key] == block[batch, query])
        later = (copy[batch, key] < 0) & (copy[batch, query] > 0) & (key > query)
        return to_clean | (own & ~later)

    return _inside(segment, seen)


def context_causal(block: Tensor, copy: Tensor, segment: Tensor) -> Rule:
    """The mask of context-causal block diffusion (openPangu-R-7B-Diffusion; NBDiff section 3): as `block_diffusion`, but clean tokens
    see only themselves and the clean tokens before them, as an AR model does, so that a next-token loss may be taken on them."""

    def seen(batch: Any, head: Any, query: Any, key: Any) -> Tensor:
        clean = copy[batch, key] == 0
        before = torch.where(copy[batch, query] == 0, query >= key, block[batch, key] < block[batch, query])
        own = (copy[batch, key] == copy[batch, query]) & (block[batch, key] == block[batch, query])
        return (clean & before) | (~clean & own)

    return _inside(segment, seen)


def dense(rule: Rule, shape: torch.Size, device: torch.device) -> Tensor:
    """The rule as booleans [batch, 1, length, length], True where the query sees the key. `shape` is (batch, length)."""
    batch, place = torch.arange(shape[0], device=device), torch.arange(shape[1], device=device)
    return rule(batch[:, None, None], None, place[None, :, None], place[None, None, :])[:, None]


def blocks(rule: Rule, shape: torch.Size, device: torch.device) -> BlockMask:
    """The rule as flex_attention reads it: squares of positions in which nobody sees anybody are not computed."""
    from torch.nn.attention.flex_attention import create_block_mask

    return create_block_mask(rule, shape[0], None, shape[1], shape[1], device=device)


def _inside(segment: Tensor, seen: Rule) -> Rule:
    def rule(batch: Any, head: Any, query: Any, key: Any) -> Tensor:
        together = (segment[batch, query] == segment[batch, key]) & (segment[batch, key] >= 0)
        return (seen(batch, head, query, key) & together) | (query == key)

    return rule
