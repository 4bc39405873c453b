"""What a training starts from: a new tiny model with a tokenizer of its texts, or a checkpoint of any family, ready to be trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from accelerate import PartialState

from dllm_agents import models
from dllm_agents.config import Training
from dllm_agents.errors import StageError
from dllm_agents.models.loading import read_tokenizer
from dllm_agents.training import data, tokenizer

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    # A transformers *ForCausalLM with Llama's interface: Llama, Qwen2, Qwen3.
    Network = LlamaForCausalLM


def build_tokenizer(exchanges: Sequence[data.Exchange], max_vocabulary: int) -> PreTrainedTokenizerFast:
    """The tokenizer of these exchanges; it depends on nothing that differs between paradigms."""
    texts = [text for exchange in exchanges for text in (*(message["content"] for message in exchange.messages), exchange.reply)]
    return tokenizer.build(texts, [text for exchange in exchanges for text in exchange.sources], max_vocabulary)


def new_model(settings: Training, words: PreTrainedTokenizerFast, start: Literal["random", "copying"] = "random") -> LlamaForCausalLM:
    """A Llama of the configured size with random weights, drawn from torch's global generator."""
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(
        LlamaConfig(  # type: ignore[call-arg]
            vocab_size=len(words),
            hidden_size=settings.hidden_size,
            intermediate_size=3 * settings.hidden_size,
            num_hidden_layers=settings.layers,
            num_attention_heads=settings.heads,
            num_key_value_heads=settings.heads,
            max_position_embeddings=4096,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=words.eos_token_id,
            pad_token_id=words.pad_token_id,
            attn_implementation=attention_form(settings, settings.hidden_size // settings.heads),
            # Positions that lie a few tokens apart are told apart by heads of 32 numbers, and contexts are short.
            rope_parameters={"rope_type": "default", "rope_theta": 100.0 if start == "copying" else 10_000.0},
        )
    )
    if start == "copying":
        _copy_from_the_start(model)
    return model


@torch.no_grad()
def _copy_from_the_start(model: LlamaForCausalLM) -> None:
    """Attention that looks for tokens like the own one and hands on what it sees (mimetic initialisation, Trockman & Kolter 2023), and
    embeddings wide enough to stay apart: that a name is copied is then learnt by every seed, within some hundred steps."""
    torch.nn.init.normal_(model.model.embed_tokens.weight, std=0.1)
    for layer in model.model.layers:
        attention = layer.self_attn
        torch.nn.init.orthogonal_(attention.v_proj.weight)
        attention.o_proj.weight.copy_(0.6 * attention.v_proj.weight.T)
        attention.k_proj.weight.copy_(attention.q_proj.weight)


def attention_form(settings: Training, head_size: int) -> str:
    """transformers' name of the attention to train with: flex_attention for packed rows where its kernels run, which is on a GPU from 16
    numbers a head on, and the dense mask with the same rule elsewhere."""
    packed = settings.packed_length is not None and head_size >= 16
    return "flex_attention" if packed and PartialState().device.type == "cuda" else "sdpa"


def base_tokenizer(directory: Path, mask_id: int | None, mask_token: str | None = None) -> tuple[PreTrainedTokenizerFast, bool]:
    """The tokenizer of a checkpoint directory with the checkpoint's mask token, else `mask_token`, and whether that one is new as a mask.
    Raises StageError when there is none that can be read, without `mask_token`, or when it cuts a tool tag of its own chat format in
    pieces."""
    words: PreTrainedTokenizerFast = read_tokenizer(directory)
    token = None if mask_id is None else words.convert_ids_to_tokens(mask_id)
    added = words.mask_token is None and token is None
    if added and mask_token is not None and mask_token not in words.get_vocab():
        raise StageError(f"training.mask_token: {mask_token}: no such token in {directory}")
    if words.mask_token is None:
        words.add_special_tokens({"mask_token": token or mask_token or tokenizer.MASK})
    if words.pad_token is None:
        words.pad_token = words.eos_token
    for tag in tokenizer.TAGS:
        if tag in (words.chat_template or "") and len(words.encode(tag, add_special_tokens=False)) != 1:
            raise StageError(f"base {directory}: its tokenizer splits {tag}; add it to the tokenizer as one token")
    return words, added


def base_model(loaded: models.Model, words: PreTrainedTokenizerFast, new_mask: bool, settings: Training) -> Network:
    """The network of a checkpoint of any family, ready to be trained; its embeddings grown, and the row of a `new_mask` set to the mean
    of the others, which is where an unknown word stands."""
    model: Network = loaded.network  # type: ignore[assignment]
    head_size = getattr(model.config, "head_dim", None) or model.config.hidden_size // model.config.num_attention_heads
    model.config._attn_implementation = attention_form(settings, head_size)
    model.requires_grad_(True)
    if len(words) > model.config.vocab_size:
        model.resize_token_embeddings(len(words), mean_resizing=False)
    if new_mask:
        mask = int(words.mask_token_id)
        with torch.no_grad():
            for rows in {model.get_input_embeddings().weight, model.get_output_embeddings().weight}:
                rows[mask] = rows[torch.arange(len(rows)) != mask].mean(0)
    return model
