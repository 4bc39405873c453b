"""One attention for every family: the tokens of many requests in one row, each request reading its own slot of keys and values.

transformers calls `attend` in place of its own attention; what a request sees (everything, its past, its block and the past) is said by
its `Segment`. Nothing is padded: the linear layers run over all requests' tokens together, attention over each request alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface

from dllm_agents.models.families import Attention

if TYPE_CHECKING:
    from dllm_agents.models.loading import Model

IMPLEMENTATION = "dllm_segments"


class Slot:
    """Keys and values of one request, after RoPE: [layers, kv heads, capacity, head size] each."""

    def __init__(self, model: Model, capacity: int) -> None:
        self.keys = torch.empty(_slot_shape(model, capacity), dtype=model.dtype, device=model.device)
        self.values = torch.empty_like(self.keys)

    @property
    def bytes(self) -> int:
        return 2 * self.keys.numel() * self.keys.element_size()

    @staticmethod
    def size(model: Model, capacity: int) -> int:
        """Bytes of a slot of `capacity` positions."""
        return 2 * math.prod(_slot_shape(model, capacity)) * model.dtype.itemsize

    def copy(self, other: Slot, length: int) -> None:
        """Take over another slot's keys and values of the first `length` positions."""
        self.keys[:, :, :length] = other.keys[:, :, :length]
        self.values[:, :, :length] = other.values[:, :, :length]


def _slot_shape(model: Model, capacity: int) -> tuple[int, int, int, int]:
    config: Any = model.network.config
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return config.num_hidden_layers, config.num_key_value_heads, capacity, size


@dataclass(slots=True)
class Segment:
    """One request's share of a forward: `token_ids` [n] at positions start .. start + n - 1, which see keys of positions below `limit`.

    Positions below `start` (and, with stale keys, those from start + n on) are read from `slot`; the segment's own keys are written to
    it. Without a slot the segment is all there is. `rows` [k] are the positions whose logits are wanted.
    """

    token_ids: Tensor
    start: int
    limit: int
    attention: Attention
    block_length: int | None
    rows: Tensor
    slot: Slot | None = None

    def mask(self, device: torch.device) -> Tensor | None:
        """Who sees whom [n, limit] as booleans, or None where every query sees every key."""
        length = len(self.token_ids)
        if self.attention == "full" or (length == 1 and self.limit == self.start + 1):
            return None
        keys = torch.arange(self.limit, device=device)
        queries = torch.arange(self.start, self.start + length, device=device)
        if self.attention == "block_causal":
            assert self.block_length is not None
            if self.start // self.block_length == (self.limit - 1) // self.block_length:
                return None
            keys, queries = keys // self.block_length, queries // self.block_length
        return keys[None, :] <= queries[:, None]


def attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, scaling: float, **kwargs: Any
) -> tuple[Tensor, None]:
    """Attention of one layer. `query` [1, heads, tokens, size] holds the segments one after another; returns [1, tokens, heads, size]."""
    plan: Sequence[tuple[Segment, Tensor | None]] = kwargs["segments"]
    layer: int = module.layer_idx  # type: ignore[assignment]
    grouped = query.shape[1] != key.shape[1]
    seen = []
    start = 0
    for segment, mask in plan:
        stop = start + len(segment.token_ids)
        keys, values = key[:, :, start:stop], value[:, :, start:stop]
        if (slot := segment.slot) is not None:
            first, last = segment.start, segment.start + len(segment.token_ids)
            slot.keys[layer, :, first:last] = keys[0]
            slot.values[layer, :, first:last] = values[0]
            keys, values = slot.keys[layer : layer + 1, :, : segment.limit], slot.values[layer : layer + 1, :, : segment.limit]
        if (weights := kwargs.get("weights")) is not None:
            weights.append(_weights(query[0, :, start:stop], keys[0], mask, scaling))
        seen.append(
            functional.scaled_dot_product_attention(
                query[:, :, start:stop], keys, values, attn_mask=mask, scale=scaling, enable_gqa=grouped
            )
        )
        start = stop
    return (seen[0] if len(seen) == 1 else torch.cat(seen, dim=2)).transpose(1, 2), None


def _weights(query: Tensor, keys: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
    """What scaled dot-product attention weighs values with: [heads, n, limit] for `query` [heads, n, size] and `keys` [kv heads, limit,
    size]."""
    scores = scaling * query.float() @ keys.float().repeat_interleave(query.shape[0] // keys.shape[0], dim=0).transpose(1, 2)
    return (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(-1)


AttentionInterface.register(IMPLEMENTATION, attend)


@dataclass(frozen=True, slots=True)
class Batch:
    """Segments one after another, on the model's device: token ids and positions [1, tokens], who sees whom, and the rows wanted [k]."""

    token_ids: Tensor
    positions: Tensor
    plan: list[tuple[Segment, Tensor | None]]
    wanted: Tensor

    @staticmethod
    def of(segments: Sequence[Segment], device: torch.device) -> Batch:
        offsets = list(accumulate((len(segment.token_ids) for segment in segments), initial=0))
        wanted = [segment.rows - segment.start + offset for segment, offset in zip(segments, offsets, strict=False)]
        positions = [torch.arange(segment.start, segment.start + len(segment.token_ids)) for segment in segments]
        return Batch(
            torch.cat([segment.token_ids for segment in segments])[None].to(device),
            torch.cat(positions)[None].to(device),
            [(segment, segment.mask(device)) for segment in segments],
            torch.cat(wanted).to(device),
        )


@torch.inference_mode()
def attention_weights(model: Model, token_ids: Tensor) -> Tensor:
    """The attention weights of one forward over a whole sequence [n], under the model's own mask: [layers, heads, n, n] in float32."""
    length = len(token_ids)
    segment = Segment(token_ids, 0, length, model.attention, model.block_length, torch.arange(0))
    weights: list[Tensor] = []
    network: Any = model.network
    network.model(
        input_ids=token_ids[None].to(model.device),
        position_ids=torch.arange(length, device=model.device)[None],
        use_cache=False,
        segments=[(segment, segment.mask(model.device))],
        weights=weights,
    )
    return torch.stack(weights)


@torch.inference_mode()
def forward(model: Model, segments: Sequence[Segment]) -> list[Tensor]:
    """One forward over all segments; returns each one's logits [k, vocabulary] in float32, in the order of its `rows`."""
    return list(run(model.network, Batch.of(segments, model.device)).split([len(segment.rows) for segment in segments]))


def run(network: Any, batch: Batch) -> Tensor:
    """The network's layers over a batch: logits [k, vocabulary] of its wanted rows in float32. Nothing in it waits for the device.

    Past the last layer's attention, which still leaves its keys in the slots, only the wanted rows are run.
    """
    body, positions = network.model, batch.positions
    hidden = body.embed_tokens(batch.token_ids)
    shared = {"attention_mask": None, "position_ids": positions, "position_embeddings": body.rotary_emb(hidden, position_ids=positions)}
    *layers, last = body.layers
    for layer in layers:
        hidden = layer(hidden, **shared, segments=batch.plan)
    mixed, _ = last.self_attn(hidden_states=last.input_layernorm(hidden), **shared, segments=batch.plan)
    hidden = (hidden + mixed)[:, batch.wanted]
    hidden = hidden + last.mlp(last.post_attention_layernorm(hidden))
    return network.lm_head(body.norm(hidden))[0].float()
