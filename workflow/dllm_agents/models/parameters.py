"""A checkpoint's parameters under the names of transformers' *ForCausalLM, and what its config.json says of them, without the code of those
classes: importing it takes longer than reading a small checkpoint. What is computed with them is `network`'s; training takes the classes.
"""

from __future__ import annotations

from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

YARN = {"type": "yarn", "factor": 16.0, "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0}
# What transformers' configuration of an architecture has where a config.json is silent, and Llama's has something else.
DEFAULTS: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Qwen2": {"num_key_value_heads": 32, "max_position_embeddings": 32768},
    "Qwen3": {"num_key_value_heads": 32, "max_position_embeddings": 32768, "head_dim": 128},
    "Ministral3": {
        "num_key_value_heads": 8,
        "max_position_embeddings": 262144,
        "head_dim": 128,
        "rms_norm_eps": 1e-5,
        "rope_parameters": YARN | {"rope_theta": 1e6, "original_max_position_embeddings": 16384, "llama_4_scaling_beta": 0.1},
    },
}


@strict
class NetworkConfig(PreTrainedConfig):
    """The keys of a config.json that say what is computed. Raises what transformers raises for values that cannot be."""

    ignore_keys_at_rope_validation = {"llama_4_scaling_beta", "max_position_embeddings"}

    architecture: str = "Llama"
    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    hidden_act: str = "silu"
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = False
    rope_parameters: dict[str, Any] | None = None
    attention_bias: bool = False
    mlp_bias: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        self.head_dim = self.head_dim or self.hidden_size // self.num_attention_heads
        self.num_key_value_heads = self.num_key_value_heads or self.num_attention_heads
        super().__post_init__(**kwargs)

    @property
    def biased(self) -> str:
        """Which of the projections q, k, v, o and the MLP's m have a bias."""
        if self.architecture == "Qwen2":
            return "qkv"
        reads = {"Llama": "qkvom", "Qwen3": "qkvo"}.get(self.architecture, "")
        return "".join(name for name in reads if (self.mlp_bias if name == "m" else self.attention_bias))


class Rotary(nn.Module):
    """RoPE's angles, in transformers' arithmetic."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        rope, size = config.rope_parameters or {}, int(config.head_dim or 0)
        if rope["rope_type"] == "default":
            frequencies, self.scaling = 1.0 / (rope["rope_theta"] ** (torch.arange(0, size, 2, dtype=torch.float) / size)), 1.0
        else:
            frequencies, self.scaling = ROPE_INIT_FUNCTIONS[rope["rope_type"]](config)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin [..., positions, head size] in `x`'s dtype."""
        angles = position_ids[..., None].float() * self.frequencies.float()  # type: ignore[union-attr,operator]
        turned = torch.cat((angles, angles), dim=-1)
        return (turned.cos() * self.scaling).to(x.dtype), (turned.sin() * self.scaling).to(x.dtype)


class Weight(nn.Module):
    """A weight [rows, columns] or [size], and a bias where `biased`. No numbers are drawn for them."""

    def __init__(self, *shape: int, biased: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape))
        self.bias = nn.Parameter(torch.empty(shape[0])) if biased else None

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight, self.bias)


class Network(nn.Module):
    """The parameters of a *ForCausalLM; it has no forward, and `Rotary` where they are filled in."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config, hidden = config, config.hidden_size
        layers = nn.ModuleList(_layer(config) for _ in range(config.num_hidden_layers))
        self.model = nn.ModuleDict({"embed_tokens": Weight(config.vocab_size, hidden), "norm": Weight(hidden), "layers": layers})
        self.lm_head = Weight(config.vocab_size, hidden)


def _layer(config: NetworkConfig) -> nn.Module:
    hidden, inner, size, biased = config.hidden_size, config.intermediate_size, int(config.head_dim or 0), config.biased
    heads, kv_heads = config.num_attention_heads * size, int(config.num_key_value_heads or 0) * size
    shapes = {"q": (heads, hidden), "k": (kv_heads, hidden), "v": (kv_heads, hidden), "o": (hidden, heads)}
    attention = {f"{name}_proj": Weight(*shape, biased=name in biased) for name, shape in shapes.items()}
    if config.architecture == "Qwen3":
        attention |= {"q_norm": Weight(size), "k_norm": Weight(size)}
    shapes = {"gate": (inner, hidden), "up": (inner, hidden), "down": (hidden, inner)}
    mlp = {f"{name}_proj": Weight(*shape, biased="m" in biased) for name, shape in shapes.items()}
    norms = {name: Weight(hidden) for name in ("input_layernorm", "post_attention_layernorm")}
    return nn.ModuleDict({"self_attn": nn.ModuleDict(attention), "mlp": nn.ModuleDict(mlp), **norms})
