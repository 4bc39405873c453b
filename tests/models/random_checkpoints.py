"""Small random checkpoints in every published key layout, written as the families publish them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

VOCABULARY, MASK, STOP = 128, 127, 126
HIDDEN, HEADS, LAYERS, INNER = 64, 4, 2, 96


class Random:
    """Seeded weights, large enough that the predictions are far from uniform. The head's row of the mask id, and those that no token has,
    are zero: none is ever the best."""

    def __init__(self, seed: int, scale: float = 0.3) -> None:
        self.generator, self.scale = torch.Generator().manual_seed(seed), scale

    def matrix(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator) * self.scale

    def norm(self, size: int) -> Tensor:
        return 1 + self.matrix(size) * 0.3

    def head(self, vocabulary: int, mask: int) -> Tensor:
        head = self.matrix(vocabulary, HIDDEN)
        head[mask] = 0
        head[VOCABULARY:] = 0
        return head


def write(directory: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    save_file(tensors, directory / "model.safetensors")
    return directory


def llada(directory: Path, seed: int = 0, kv_heads: int = 2, extra: dict[str, Any] | None = None) -> Path:
    """GSAI-ML/LLaDA-8B-Instruct's layout, also LLaDA-1.5's and dLLM-Var's."""
    config = {
        "model_type": "llada",
        "architectures": ["LLaDAModelLM"],
        "auto_map": {"AutoModel": "modeling_llada.LLaDAModelLM"},
        "d_model": HIDDEN,
        "n_heads": HEADS,
        "n_kv_heads": kv_heads,
        "n_layers": LAYERS,
        "mlp_hidden_size": INNER,
        "mlp_ratio": 4,
        "vocab_size": VOCABULARY,
        "embedding_size": VOCABULARY,
        "rope": True,
        "rope_theta": 500000.0,
        "rms_norm_eps": 1e-5,
        "layer_norm_type": "rms",
        "block_type": "llama",
        "activation_type": "silu",
        "weight_tying": False,
        "include_bias": False,
        "include_qkv_bias": False,
        "max_sequence_length": 4096,
        "mask_token_id": MASK,
        "eos_token_id": STOP,
        **(extra or {}),
    }
    random, vocabulary = Random(seed), config["embedding_size"] or config["vocab_size"]
    key_size = (config["n_kv_heads"] or (1 if config.get("multi_query_attention") else config["n_heads"])) * HIDDEN // config["n_heads"]
    inner = config["mlp_hidden_size"] or config["mlp_ratio"] * HIDDEN
    tensors = {
        "model.transformer.wte.weight": random.matrix(vocabulary, HIDDEN) * 3,
        "model.transformer.ln_f.weight": random.norm(HIDDEN),
        "model.transformer.ff_out.weight": random.head(vocabulary, config["mask_token_id"]),
    }
    for layer in range(config["n_layers"]):
        block = f"model.transformer.blocks.{layer}"
        tensors |= {
            f"{block}.attn_norm.weight": random.norm(HIDDEN),
            f"{block}.ff_norm.weight": random.norm(HIDDEN),
            f"{block}.q_proj.weight": random.matrix(HIDDEN, HIDDEN),
            f"{block}.k_proj.weight": random.matrix(key_size, HIDDEN),
            f"{block}.v_proj.weight": random.matrix(key_size, HIDDEN),
            f"{block}.attn_out.weight": random.matrix(HIDDEN, HIDDEN),
            f"{block}.ff_proj.weight": random.matrix(inner, HIDDEN),
            f"{block}.up_proj.weight": random.matrix(inner, HIDDEN),
            f"{block}.ff_out.weight": random.matrix(HIDDEN, inner),
        }
    return write(directory, config, tensors)


def llama_like(directory: Path, model_type: str, seed: int = 0, extra: dict[str, Any] | None = None, prefix: str = "") -> Path:
    """Dream, Fast-dLLM v2, SDAR, Llama, Qwen2, Qwen3, Ministral 3: transformers' own names."""
    config = {
        "model_type": model_type,
        "hidden_size": HIDDEN,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 2,
        "num_hidden_layers": LAYERS,
        "intermediate_size": INNER,
        "head_dim": HIDDEN // HEADS,
        "vocab_size": VOCABULARY,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
        "use_sliding_window": False,
        "eos_token_id": STOP,
        **({"mask_token_id": MASK} if model_type in ("Dream", "Fast_dLLM_Qwen", "sdar") else {}),
        **({"block_size": 4} if model_type == "sdar" else {}),
        **({"bd_size": 32} if model_type == "Fast_dLLM_Qwen" else {}),
        **({"bias": True, "mask_token_id": MASK} if model_type == "PanguEmbedded" else {}),
        **(extra or {}),
    }
    random, size, vocabulary = Random(seed), config["head_dim"], config["vocab_size"]
    queries, keys = (config[f"num_{name}_heads"] * size for name in ("attention", "key_value"))
    biased = {"Dream": "qkv", "Fast_dLLM_Qwen": "qkv", "qwen2": "qkv"}.get(model_type, "")
    biased = "qkvo" if config.get("bias") or (config.get("attention_bias") and not biased) else biased
    tensors = {
        "model.embed_tokens.weight": random.matrix(vocabulary, HIDDEN) * 3,
        "model.norm.weight": random.norm(HIDDEN),
        "lm_head.weight": random.head(vocabulary, config.get("mask_token_id", MASK)),
    }
    for layer in range(config["num_hidden_layers"]):
        block = f"model.layers.{layer}"
        for name, rows, columns in (
            ("self_attn.q_proj", queries, HIDDEN),
            ("self_attn.k_proj", keys, HIDDEN),
            ("self_attn.v_proj", keys, HIDDEN),
            ("self_attn.o_proj", HIDDEN, queries),
            ("mlp.gate_proj", INNER, HIDDEN),
            ("mlp.up_proj", INNER, HIDDEN),
            ("mlp.down_proj", HIDDEN, INNER),
        ):
            tensors[f"{block}.{name}.weight"] = random.matrix(rows, columns)
            if name.startswith("self_attn.") and name[-6] in biased:
                tensors[f"{block}.{name}.bias"] = random.matrix(rows)
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{block}.{name}.weight"] = random.norm(HIDDEN)
        if model_type in ("sdar", "qwen3"):
            tensors |= {f"{block}.self_attn.{name}_norm.weight": random.norm(size) for name in "qk"}
    return write(directory, config, {prefix + name: value for name, value in tensors.items()})
