"""An independent, plainly written transformer over raw checkpoint tensors in their published names: no cache machinery, no batching.

What the package computes through transformers' modules and slots is compared with this, position by position.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

LLADA = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "attn_out", "gate": "ff_proj", "up": "up_proj", "down": "ff_out"}
QWEN = {
    **{short: f"self_attn.{short}_proj" for short in "qkvo"},
    **{short: f"mlp.{short}_proj" for short in ("gate", "up", "down")},
}


@dataclass
class Plain:
    """`forward` gives the logits of every row and the layer's own keys and values, before any cache."""

    tensors: dict[str, Tensor]
    layers: int
    heads: int
    kv_heads: int
    eps: float
    rope: dict[str, float | str]
    calls: int = field(default=0)

    @classmethod
    def load(cls, directory: Path) -> Plain:
        config = json.loads((directory / "config.json").read_text())
        tensors: dict[str, Tensor] = {}
        for file in sorted(directory.glob("*.safetensors")):
            tensors |= {name: value.float() for name, value in load_file(file).items()}
        heads = config.get("n_heads", config.get("num_attention_heads"))
        queries, keys = (next(len(value) for name, value in tensors.items() if name.endswith(f"{part}_proj.weight")) for part in "qk")
        return cls(
            tensors,
            config.get("n_layers", config.get("num_hidden_layers")),
            heads,
            heads * keys // queries,
            config["rms_norm_eps"],
            {"rope_theta": config.get("rope_theta"), **(config.get("rope_parameters") or config.get("rope_scaling") or {})},
        )

    @property
    def llada(self) -> bool:
        return "model.transformer.wte.weight" in self.tensors

    def forward(self, token_ids: Tensor, positions: Tensor, mask: Tensor, past: list[tuple[Tensor, Tensor]] | None = None):
        """Logits [n, vocabulary] and keys, values [kv heads, n, size] per layer. `mask` [n, past + n] says who sees whom."""
        self.calls += 1
        t = self.tensors
        embeddings = t["model.transformer.wte.weight" if self.llada else "model.embed_tokens.weight"]
        hidden = embeddings[token_ids]
        stored = []
        for layer in range(self.layers):
            normed = self._norm(hidden, layer, "attn_norm", "input_layernorm")
            query, key, value = (self._heads(normed, layer, name) for name in "qkv")
            query, key = self._qk_norm(query, layer, "q"), self._qk_norm(key, layer, "k")
            query, key = self._rope(query, positions), self._rope(key, positions)
            stored.append((key, value))
            keys, values = (
                (key, value) if past is None else (torch.cat([p, n], dim=1) for p, n in zip(past[layer], (key, value), strict=True))
            )
            group = self.heads // self.kv_heads
            scores = query @ keys.repeat_interleave(group, 0).transpose(1, 2) / math.sqrt(query.shape[-1])
            weights = scores.masked_fill(~mask, -torch.inf).softmax(-1)
            mixed = (weights @ values.repeat_interleave(group, 0)).transpose(0, 1).flatten(1)
            hidden = hidden + self._linear(mixed, layer, "o")
            normed = self._norm(hidden, layer, "ff_norm", "post_attention_layernorm")
            gate = torch.nn.functional.silu(self._linear(normed, layer, "gate"))
            hidden = hidden + self._linear(gate * self._linear(normed, layer, "up"), layer, "down")
        hidden = self._rms(hidden, t["model.transformer.ln_f.weight" if self.llada else "model.norm.weight"])
        head = t.get("model.transformer.ff_out.weight" if self.llada else "lm_head.weight")
        return hidden @ (embeddings if head is None else head).T, stored

    def full(self, token_ids: Tensor) -> Tensor:
        """Logits where every position sees every other."""
        n = len(token_ids)
        return self.forward(token_ids, torch.arange(n), torch.ones(n, n, dtype=torch.bool))[0]

    def block_causal(self, token_ids: Tensor, length: int) -> Tensor:
        """Logits where a position sees its own block, counted from 0, and earlier ones; length 1 is causal."""
        block = torch.arange(len(token_ids)) // length
        return self.forward(token_ids, torch.arange(len(token_ids)), block[:, None] >= block[None, :])[0]

    def _name(self, layer: int, part: str) -> str:
        return f"model.transformer.blocks.{layer}.{part}" if self.llada else f"model.layers.{layer}.{part}"

    def _linear(self, x: Tensor, layer: int, short: str) -> Tensor:
        name = self._name(layer, (LLADA if self.llada else QWEN)[short])
        y = x @ self.tensors[f"{name}.weight"].T
        return y + self.tensors[f"{name}.bias"] if f"{name}.bias" in self.tensors else y

    def _heads(self, x: Tensor, layer: int, short: str) -> Tensor:
        y = self._linear(x, layer, short)
        return y.view(len(x), self.heads if short == "q" else self.kv_heads, -1).transpose(0, 1)

    def _rms(self, x: Tensor, weight: Tensor) -> Tensor:
        return x / torch.sqrt((x * x).mean(-1, keepdim=True) + self.eps) * weight

    def _norm(self, x: Tensor, layer: int, llada: str, qwen: str) -> Tensor:
        return self._rms(x, self.tensors[self._name(layer, f"{llada if self.llada else qwen}.weight")])

    def _qk_norm(self, x: Tensor, layer: int, short: str) -> Tensor:
        weight = self.tensors.get(self._name(layer, f"self_attn.{short}_norm.weight"))
        return x if weight is None else self._rms(x, weight)

    def _rope(self, x: Tensor, positions: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        angle, scale = positions[:, None] * self._frequencies(half), self._scale()
        cosine, sine = angle.cos() * scale, angle.sin() * scale
        first, second = x[..., :half], x[..., half:]
        return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)

    def _scale(self) -> float:
        """YaRN (arXiv 2309.00071, equation 22): keys and queries are longer, by the factor."""
        return 0.1 * math.log(float(self.rope["factor"])) + 1 if self._kind == "yarn" else 1.0

    @property
    def _kind(self) -> str:
        return str(self.rope.get("rope_type", self.rope.get("type", "default")))

    def _frequencies(self, half: int) -> Tensor:
        """Radians a position, of every pair of dimensions: as published, interpolated, by parts (YaRN), or by wavelength (Llama 3)."""
        number = lambda name: float(self.rope[name])  # noqa: E731
        theta = number("rope_theta")
        own = theta ** (-torch.arange(half) / half)
        if self._kind == "default":
            return own
        if self._kind == "linear":
            return own / number("factor")
        length = number("original_max_position_embeddings")
        if self._kind == "yarn":
            low, high = (half * math.log(length / (turns * 2 * math.pi)) / math.log(theta) for turns in (32, 1))
            low, high = max(math.floor(low), 0), min(math.ceil(high), 2 * half - 1)
            slow = ((torch.arange(half) - low) / max(high - low, 0.001)).clamp(0, 1)
        else:
            turns = length * own / (2 * math.pi)
            low, high = number("low_freq_factor"), number("high_freq_factor")
            slow = 1 - ((turns - low) / (high - low)).clamp(0, 1)
        return own / number("factor") * slow + own * (1 - slow)
