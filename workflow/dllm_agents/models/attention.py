"""One attention for every family: the tokens of many requests in one row, each request reading its own slot of one pool of keys.

What a request sees (everything, its past, its block and the past) is said by its `Segment`. Nothing is padded: the linear layers run over
all requests' tokens together. On CUDA one call of FlashAttention serves all of them, whose key starts and lengths are tensors, so that a
captured graph follows them; on a CPU each request is one call over a view of the pool.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dllm_agents.models.families import Attention
from dllm_agents.models.network import Layers

if TYPE_CHECKING:
    from dllm_agents.models.loading import Model


class Pool:
    """Keys and values after RoPE, of all requests: [layers, kv heads, positions, head size] each."""

    def __init__(self, model: Model, positions: int) -> None:
        layers = model.layers
        self.positions = positions
        shape = (len(layers.layers), layers.kv_heads, positions, layers.size)
        self.keys = torch.empty(shape, dtype=model.dtype, device=model.device)
        self.values = torch.empty_like(self.keys)


def cell_bytes(model: Model) -> int:
    """Bytes of one position's keys and values."""
    config = model.network.config
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads  # type: ignore[union-attr,operator]
    return int(2 * config.num_hidden_layers * config.num_key_value_heads * size * model.dtype.itemsize)  # type: ignore[union-attr,operator]


class Slot:
    """A request's share of a pool: `length` positions from `start`; without a pool, one of its own."""

    def __init__(self, model: Model, length: int, pool: Pool | None = None, start: int = 0) -> None:
        self.pool = pool or Pool(model, length)
        self.start, self.length = start, length

    @torch.inference_mode()
    def copy(self, other: Slot, length: int) -> None:
        """Take over another slot's keys and values of the first `length` positions."""
        for mine, theirs in ((self.pool.keys, other.pool.keys), (self.pool.values, other.pool.values)):
            mine[:, :, self.start : self.start + length] = theirs[:, :, other.start : other.start + length]


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
    _lanes: list[tuple[int, int]] | None = None

    @property
    def lanes(self) -> list[tuple[int, int]]:
        """(queries, keys) of groups of neighbouring queries that see the same keys, or, under causal attention, end at the last one."""
        if self._lanes is None:
            self._lanes = self._cut()
        return self._lanes

    def _cut(self) -> list[tuple[int, int]]:
        stop = self.start + len(self.token_ids)
        if self.attention != "block_causal" or self.block_length is None:
            return [(len(self.token_ids), self.limit)]
        first, last = self.start // self.block_length, (self.limit - 1) // self.block_length
        ends = [min((block + 1) * self.block_length, stop) for block in range(first, last)] + [stop]
        bounds = [self.start, *ends]
        return [(b - a, self.limit if b == stop else b) for a, b in zip(bounds[:-1], bounds[1:], strict=True) if b > a]

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


class Batch:
    """Segments one after another on the model's device: tokens and positions [t], the pool rows their keys go to [t], the rows whose
    logits are wanted [k], and for each lane of attention where its queries and keys begin and how many keys it sees.

    All of it is one int32 tensor, copied to the device once and not waited for.
    """

    def __init__(self, model: Model, segments: Sequence[Segment], idle: int = 0, scratch: int = 0) -> None:
        """`idle` more lanes are like the first segment's, but write to and read from the pool's rows from `scratch` on."""
        if any(segment.slot is None for segment in segments):
            segments = _with_slots(model, segments)
        self.segments = segments
        self.pool = segments[0].slot.pool  # type: ignore[union-attr]
        lengths = [segment.token_ids.shape[0] for segment in segments]
        offsets = list(accumulate(lengths, initial=0))
        lanes = [(segment.slot.start, *lane) for segment in segments for lane in segment.lanes]  # type: ignore[union-attr]
        width = lanes[0][1]
        lanes += [(scratch, width, width)] * idle
        self.rows = sum(segment.rows.shape[0] for segment in segments)
        self.tokens = offsets[-1] + idle * width
        self.lanes, self.longest = len(lanes), max(queries for _, queries, _ in lanes)
        # A single query of a causal model sees all keys of its lane: only longer ones need the mask.
        self.causal = self.longest > 1 and segments[0].attention == "causal"
        self.reach = max(segment.start + length for segment, length in zip(segments, lengths, strict=True))
        positions = np.concatenate([np.arange(s.start, s.start + n) for s, n in zip(segments, lengths, strict=True)])
        starts = np.repeat([segment.slot.start for segment in segments], lengths)  # type: ignore[union-attr]
        spare = np.tile(np.arange(width), idle)
        numbers = np.concatenate(
            [
                *(segment.token_ids.numpy() for segment in segments), np.zeros_like(spare),
                positions, spare,
                positions + starts, spare + scratch,
                np.cumsum([0, *(queries for _, queries, _ in lanes)]),
                [start for start, _, _ in lanes], [lanes[-1][0] + lanes[-1][2]],
                [keys for _, _, keys in lanes],
                *(s.rows.numpy() - s.start + offset for s, offset in zip(segments, offsets, strict=False)),
            ]
        )  # fmt: skip
        self.numbers = torch.from_numpy(numbers.astype(np.int32))

    def on(self, device: torch.device, numbers: Tensor | None = None) -> Inputs:
        """The tensors on the device; of `numbers` where they are there already."""
        if numbers is None:
            pinned = self.numbers.pin_memory() if device.type == "cuda" else self.numbers
            numbers = pinned.to(device, non_blocking=True)
        sizes = [self.tokens] * 3 + [self.lanes + 1, self.lanes + 1, self.lanes, self.rows]
        return Inputs(*numbers[: sum(sizes)].split(sizes), batch=self)  # type: ignore[misc]


@dataclass(frozen=True, slots=True)
class Inputs:
    """A batch's tensors on the device, int32."""

    token_ids: Tensor
    positions: Tensor
    cells: Tensor
    query_starts: Tensor
    key_starts: Tensor
    key_lengths: Tensor
    kept_rows: Tensor
    batch: Batch


def _with_slots(model: Model, segments: Sequence[Segment]) -> list[Segment]:
    """The same segments, each with a slot of a pool that lives as long as they do."""
    pool = Pool(model, sum(segment.limit for segment in segments))
    starts = accumulate((segment.limit for segment in segments), initial=0)
    return [
        Segment(s.token_ids, s.start, s.limit, s.attention, s.block_length, s.rows, Slot(model, s.limit, pool, start))
        for s, start in zip(segments, starts, strict=False)
    ]


def hidden_states(layers: Layers, inputs: Inputs, pool: Pool, every_row: bool = False, weights: list[Tensor] | None = None) -> Tensor:
    """Hidden states after the last norm: [k, hidden] of the rows wanted, or [t, hidden] of all. Keys and values are left in the pool.

    Nothing in it waits for the device.
    """
    x = layers.embed(inputs.token_ids)
    cells = inputs.cells.long()
    cos, sin, scale = layers.rotation(inputs.positions)
    views = [] if layers.fused else _views(inputs.batch, x.device)
    for number, layer in enumerate(layers.layers):
        queries, keys, values = layers.project(x, *layer.before, cos, sin, scale, layers.kv_heads, layers.eps)
        all_keys, all_values = pool.keys[number], pool.values[number]
        all_keys.index_copy_(1, cells, keys.transpose(0, 1))
        all_values.index_copy_(1, cells, values.transpose(0, 1))
        if weights is not None:
            weights.append(_weights(queries, all_keys, inputs.batch.segments[0]))
        mixed = _flash(queries, all_keys, all_values, inputs) if layers.fused else _one_by_one(queries, all_keys, all_values, views)
        if layer is layers.layers[-1] and not every_row:
            x, mixed = x.index_select(0, inputs.kept_rows), mixed.index_select(0, inputs.kept_rows)
        x = layers.finish(x, mixed, *layer.after, layers.eps)
    return layers.norm(x)


def _flash(queries: Tensor, keys: Tensor, values: Tensor, inputs: Inputs) -> Tensor:
    """All lanes in one call [t, heads * size]: keys of a lane start at `key_starts` in the pool and number `key_lengths`.

    Where no mask is needed, the heads that share a key become queries of their own, so that it is read once.
    """
    batch = inputs.batch
    tokens, heads, size = queries.shape
    kv_heads = keys.shape[0]
    group = 1 if batch.causal else heads // kv_heads
    if group > 1:
        queries = queries.view(tokens, kv_heads, group, size).transpose(1, 2).reshape(tokens * group, kv_heads, size)
    mixed = torch.ops.aten._flash_attention_forward(
        queries, keys.transpose(0, 1), values.transpose(0, 1), inputs.query_starts * group if group > 1 else inputs.query_starts,
        inputs.key_starts, batch.longest * group, keys.shape[1], 0.0, batch.causal, False, seqused_k=inputs.key_lengths,
    )[0]  # fmt: skip
    if group > 1:
        mixed = mixed.view(tokens, group, kv_heads, size).transpose(1, 2)
    return mixed.reshape(tokens, heads * size)


def _views(batch: Batch, device: torch.device) -> list[tuple[int, int, int, int, Tensor | None]]:
    """For each segment: its rows [first, last), its keys [start, stop) in the pool, and its mask."""
    views = []
    first = 0
    for segment in batch.segments:
        last, start = first + segment.token_ids.shape[0], segment.slot.start  # type: ignore[union-attr]
        views.append((first, last, start, start + segment.limit, segment.mask(device)))
        first = last
    return views


def _one_by_one(queries: Tensor, keys: Tensor, values: Tensor, views: list[tuple[int, int, int, int, Tensor | None]]) -> Tensor:
    """The same, a call a segment, with heads that share a key as queries of their own."""
    tokens, heads, size = queries.shape
    kv_heads = keys.shape[0]
    group = heads // kv_heads
    grouped = queries.view(1, tokens, kv_heads, group, size).permute(0, 2, 1, 3, 4)
    keys, values = keys[None], values[None]
    mixed = []
    for first, last, start, stop, mask in views:
        rows = (last - first) * group
        own = grouped[:, :, first:last].reshape(1, kv_heads, rows, size)
        mask = None if mask is None else mask.repeat_interleave(group, 0)
        mixed.append(functional.scaled_dot_product_attention(own, keys[:, :, start:stop], values[:, :, start:stop], mask))
    seen = mixed[0] if len(mixed) == 1 else torch.cat(mixed, dim=2)
    return seen.view(kv_heads, tokens, group, size).transpose(0, 1).reshape(tokens, heads * size)


def _weights(queries: Tensor, keys: Tensor, segment: Segment) -> Tensor:
    """What attention weighs values with in the rows that are wanted: [heads, k, limit] for `queries` [n, heads, size] and `keys`
    [kv heads, positions, size]."""
    start = segment.slot.start  # type: ignore[union-attr]
    rows = (segment.rows - segment.start).to(queries.device)
    seen = keys[:, start : start + segment.limit].float().repeat_interleave(queries.shape[1] // keys.shape[0], dim=0)
    scores = queries[rows].transpose(0, 1).float() @ seen.transpose(1, 2) / math.sqrt(queries.shape[-1])
    mask = segment.mask(queries.device)
    return (scores if mask is None else scores.masked_fill(~mask[rows], -torch.inf)).softmax(-1)


@torch.inference_mode()
def attention_weights(model: Model, token_ids: Tensor, rows: Tensor, block_start: int | None = None) -> Tensor:
    """The attention weights of some rows [k] of one forward over a sequence [n], under the model's own mask: [layers, heads, k, n] in
    float32. Context-causal weights see the tokens from `block_start` on, where the rows are, both ways; without it every token its past."""
    length = len(token_ids)
    slot = Slot(model, length)
    attention: Attention = "causal" if model.attention == "context_causal" else model.attention
    model.layers.reach(length)
    weights: list[Tensor] = []
    if block_start is not None:
        before = Segment(token_ids[:block_start], 0, block_start, attention, None, torch.arange(0), slot)
        hidden_states(model.layers, Batch(model, [before]).on(model.device), slot.pool)
        attention = "full"
    start = block_start or 0
    segment = Segment(token_ids[start:], start, length, attention, model.block_length, rows, slot)
    hidden_states(model.layers, Batch(model, [segment]).on(model.device), slot.pool, weights=weights)
    return torch.stack(weights)


@torch.inference_mode()
def forward(model: Model, segments: Sequence[Segment]) -> list[Tensor]:
    """One forward over all segments; returns each one's logits [k, vocabulary] in float32, in the order of its `rows`."""
    batch = Batch(model, segments)
    model.layers.reach(batch.reach)
    inputs = batch.on(model.device)
    logits = model.layers.logits(hidden_states(model.layers, inputs, batch.pool)).float()
    return list(logits.split([segment.rows.shape[0] for segment in segments]))
