"""The execution before the batched core (commit 9be3c05), kept to measure against: attention loops over requests in every layer, and each
request chooses its tokens by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

IMPLEMENTATION = "previous"


@dataclass
class Segment:
    """A request's tokens [n] from `start`, which see the keys of its own cache below `limit`; every row's logits are wanted."""

    token_ids: Tensor
    start: int
    limit: int
    keys: Tensor
    values: Tensor


def attend(module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, scaling: float, **kwargs: Any) -> Any:
    layer, grouped = module.layer_idx, query.shape[1] != key.shape[1]
    seen = []
    start = 0
    for segment in kwargs["segments"]:
        stop = start + len(segment.token_ids)
        first, last = segment.start, segment.start + len(segment.token_ids)
        segment.keys[layer, :, first:last] = key[0, :, start:stop]
        segment.values[layer, :, first:last] = value[0, :, start:stop]
        keys, values = segment.keys[layer : layer + 1, :, : segment.limit], segment.values[layer : layer + 1, :, : segment.limit]
        seen.append(functional.scaled_dot_product_attention(query[:, :, start:stop], keys, values, scale=scaling, enable_gqa=grouped))
        start = stop
    return (seen[0] if len(seen) == 1 else torch.cat(seen, dim=2)).transpose(1, 2), None


def segments(model: Any, count: int, tokens: int, prompt: int, length: int) -> list[Segment]:
    config = model.network.config
    shape = (config.num_hidden_layers, config.num_key_value_heads, length, config.head_dim)
    ids = torch.randint(0, model.vocab_size - 2, (tokens,))
    return [
        Segment(ids, prompt, length, *(torch.empty(shape, dtype=model.dtype, device=model.device).normal_() for _ in range(2)))
        for _ in range(count)
    ]


@torch.inference_mode()
def step(model: Any, batch: Sequence[Segment], threshold: float) -> None:
    """A forward of all, then for each request its tokens and confidences, what passes the threshold, and the copies to the host."""
    from transformers import AttentionInterface

    AttentionInterface.register(IMPLEMENTATION, attend)
    network = model.network
    network.config._attn_implementation = IMPLEMENTATION
    body, device = network.model, model.device
    positions = torch.cat([torch.arange(s.start, s.start + len(s.token_ids)) for s in batch])[None].to(device)
    hidden = body.embed_tokens(torch.cat([s.token_ids for s in batch])[None].to(device))
    shared = {"attention_mask": None, "position_ids": positions, "position_embeddings": body.rotary_emb(hidden, position_ids=positions)}
    for layer in body.layers:
        hidden = layer(hidden, **shared, segments=batch)
    logits = network.lm_head(body.norm(hidden))[0].float()
    for rows in logits.split([len(s.token_ids) for s in batch]):
        best, token_ids = rows.max(dim=-1)
        if model.mask_id is not None and bool((token_ids == model.mask_id).any()):
            rows[token_ids == model.mask_id, model.mask_id] = -torch.inf
        dtype = torch.float32 if len(rows) == 1 else torch.float64
        confidence = rows.to(dtype).sub(best[:, None]).exp_().sum(dim=-1).reciprocal()
        if not torch.isfinite(confidence).all():
            raise RuntimeError("not finite")
        chosen = confidence >= threshold
        chosen[confidence.argmax()] = True
        chosen.nonzero().flatten().cpu(), token_ids.cpu(), confidence.cpu()
