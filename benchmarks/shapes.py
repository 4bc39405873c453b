"""Random models of published shapes, and how measurements are printed. Needs torch, numpy and transformers alone."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

SMALL = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8, "num_attention_heads": 8, "vocab_size": 32000}
TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 512}
LLADA_8B = {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 32, "num_attention_heads": 32, "vocab_size": 126464}
SDAR_8B = {
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
}


def without_pydantic() -> None:
    """Let settings be read on a machine without pydantic: three stand-ins that give fields their defaults and check nothing."""
    try:
        import pydantic  # noqa: F401
    except ModuleNotFoundError:
        module = ModuleType("pydantic")
        vars(module).update(BaseModel=_Settings, ConfigDict=dict, Field=lambda default=None, **_: default)
        sys.modules["pydantic"] = module


class _Settings:
    def __init__(self, **values: Any) -> None:
        names = [name for kind in type(self).__mro__ for name in vars(kind).get("__annotations__", {})]
        self.__dict__.update({name: getattr(type(self), name, None) for name in names} | values)

    def model_copy(self, update: dict[str, Any]) -> Any:
        return type(self)(**(self.__dict__ | update))


def random_model(
    shape: dict[str, int], attention: Any, device: str = "cpu", dtype: torch.dtype = torch.float32, block: int | None = None
) -> Any:
    """A model of random weights, drawn on the device; the mask id is the last of the vocabulary, and nothing stops a generation.

    Llama's computation, or Qwen3's where the shape names a head size.
    """
    import transformers

    from dllm_agents.models.loading import Model

    torch.manual_seed(0)
    kind = "Qwen3" if "head_dim" in shape else "Llama"
    config = getattr(transformers, f"{kind}Config")(**shape, max_position_embeddings=8192, tie_word_embeddings=False)
    with torch.device("meta"):
        network = getattr(transformers, f"{kind}ForCausalLM")(config)
    network = network.to(dtype).to_empty(device=device).eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter.fill_(1) if parameter.ndim == 1 else parameter.normal_(0, shape.get("initializer_range", 0.02))
    network.model.rotary_emb = type(network.model.rotary_emb)(config).to(device)
    shift = attention == "causal"
    own = {"causal": "ar", "full": "llada", "block_causal": "sdar"}[attention]
    mask_id = None if shift else shape["vocab_size"] - 1
    return Model(network, Path("random"), attention, own, mask_id, (), shift, block, 8192, {})


def draw_prompt(length: int, vocabulary: int, seed: int = 0) -> list[int]:
    return torch.randint(0, vocabulary - 2, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def spread(values: Sequence[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}, n={len(values)}"


def median(values: Sequence[float]) -> float:
    return float(statistics.median(values))
