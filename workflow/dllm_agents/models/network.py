"""A loaded checkpoint's layers as pure functions of tensors: Llama, Qwen2, Qwen3 and Ministral 3 in one form.

Query, key and value projections are one matrix, gate and up another; the checkpoint's own parameters become views of them, so nothing is
held twice. A layer is two functions around attention, `project` and `finish`, the same for all layers: one compilation serves them all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Layer:
    """The tensors of one layer, as `project` and `finish` take them; None where a checkpoint has no such one."""

    before: tuple[Tensor | None, ...]
    after: tuple[Tensor | None, ...]


def project(
    x: Tensor,
    norm: Tensor,
    qkv: Tensor,
    bias: Tensor | None,
    qk_norm: Tensor | None,
    cos: Tensor,
    sin: Tensor,
    scale: Tensor | None,
    kv_heads: int,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Rotated queries [t, heads, size], rotated keys and values [t, kv heads, size] of hidden states `x` [t, hidden].

    `qk_norm` [heads + kv heads, size] holds Qwen3's two norms, row by row. `cos` and `sin` [t, 1, size], the latter with the sign of the
    half it is multiplied with; `scale` [t, 1, 1] goes to the queries.
    """
    size = cos.shape[-1]
    projected = functional.linear(functional.rms_norm(x, x.shape[-1:], norm, eps), qkv, bias).view(x.shape[0], -1, size)
    heads = projected.shape[1] - 2 * kv_heads
    turned, values = projected[:, : heads + kv_heads], projected[:, heads + kv_heads :]
    if qk_norm is not None:
        turned = functional.rms_norm(turned, (size,), None, eps) * qk_norm
    first, second = turned.chunk(2, dim=-1)
    turned = torch.addcmul(turned * cos, torch.cat((second, first), dim=-1), sin)
    queries = turned[:, :heads] if scale is None else turned[:, :heads] * scale
    return queries, turned[:, heads:], values


def finish(
    x: Tensor,
    mixed: Tensor,
    out: Tensor,
    out_bias: Tensor | None,
    norm: Tensor,
    gate_up: Tensor,
    gate_up_bias: Tensor | None,
    down: Tensor,
    down_bias: Tensor | None,
    eps: float,
) -> Tensor:
    """The layer's output [t, hidden] from its input and what attention mixed [t, heads * size]."""
    x = x + functional.linear(mixed, out, out_bias)
    gate, up = functional.linear(functional.rms_norm(x, x.shape[-1:], norm, eps), gate_up, gate_up_bias).chunk(2, dim=-1)
    return x + functional.linear(functional.silu(gate) * up, down, down_bias)


class Layers:
    """A transformers *ForCausalLM taken apart. Its parameters go on living in it, as views."""

    def __init__(self, network: Any) -> None:
        config, body = network.config, network.model
        self.heads, self.kv_heads = int(config.num_attention_heads), int(config.num_key_value_heads)
        self.size = int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
        self.eps = float(config.rms_norm_eps)
        self.network = network
        weight = body.embed_tokens.weight
        # FlashAttention takes half precision on cards that have bfloat16's units.
        self.fused = weight.is_cuda and weight.dtype != torch.float32 and torch.cuda.get_device_capability(weight.device) >= (8, 0)
        self.layers = [self._layer(layer) for layer in body.layers]
        self._rope_positions = 0
        self.project: Callable[..., tuple[Tensor, Tensor, Tensor]] = project
        self.finish: Callable[..., Tensor] = finish

    def _layer(self, layer: Any) -> Layer:
        attention, mlp = layer.self_attn, layer.mlp
        qkv, qkv_bias = _merge([attention.q_proj, attention.k_proj, attention.v_proj])
        gate_up, gate_up_bias = _merge([mlp.gate_proj, mlp.up_proj])
        norm = None
        if getattr(attention, "q_norm", None) is not None:
            queries = attention.q_norm.weight.expand(self.heads, -1)
            norm = torch.cat([queries, attention.k_norm.weight.expand(self.kv_heads, -1)])
        out, down = attention.o_proj, mlp.down_proj
        return Layer(
            (layer.input_layernorm.weight, qkv, qkv_bias, norm),
            (out.weight, out.bias, layer.post_attention_layernorm.weight, gate_up, gate_up_bias, down.weight, down.bias),
        )

    def embed(self, token_ids: Tensor) -> Tensor:
        return functional.embedding(token_ids, self.network.model.embed_tokens.weight)

    def norm(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, x.shape[-1:], self.network.model.norm.weight, self.eps)

    def logits(self, x: Tensor) -> Tensor:
        """Logits [t, vocabulary] of hidden states after the last norm."""
        return self.network.lm_head(x)  # type: ignore[no-any-return]

    def compile(self) -> None:
        """Fuse each layer's small operations; products and attention stay what they are."""
        self.project, self.finish = torch.compile(project), torch.compile(finish)

    def reach(self, positions: int) -> bool:
        """Make the rotary tables hold `positions` positions; returns whether they had to be made anew."""
        if positions <= self._rope_positions:
            return False
        body, config = self.network.model, self.network.config
        self._rope_positions = max(256, 1 << (positions - 1).bit_length())
        at = torch.arange(self._rope_positions, device=body.embed_tokens.weight.device)[None]
        cos, sin = body.rotary_emb(body.embed_tokens.weight[:1], position_ids=at)
        half = sin.shape[-1] // 2
        self.cos, self.sin = cos[0, :, None], torch.cat([-sin[0, :, None, :half], sin[0, :, None, half:]], dim=-1)
        beta = (getattr(config, "rope_parameters", None) or {}).get("llama_4_scaling_beta")
        self.scale = None
        if beta is not None:  # Ministral 3 sharpens attention beyond the length it was trained on first
            length = config.rope_parameters["original_max_position_embeddings"]
            self.scale = (1 + beta * torch.log(1 + torch.floor(at[0] / length)))[:, None, None].to(cos.dtype)
        return True

    def rotation(self, positions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """cos, sin and query scale at `positions` [t], which `reach` has covered."""
        tables = (self.cos, self.sin, self.scale)
        cos, sin, scale = (None if table is None else table.index_select(0, positions) for table in tables)
        assert cos is not None and sin is not None
        return cos, sin, scale


def _merge(parts: list[Any]) -> tuple[Tensor, Tensor | None]:
    """The weights of linear layers as one matrix, and their biases as one vector, of which theirs become views."""
    weight = _view([part.weight for part in parts])
    return weight, None if parts[0].bias is None else _view([part.bias for part in parts])


def _view(parameters: list[nn.Parameter]) -> Tensor:
    merged = torch.cat([parameter.detach() for parameter in parameters])
    for parameter, share in zip(parameters, merged.split([len(parameter) for parameter in parameters]), strict=True):
        parameter.data = share
    return merged
