"""A training step's forward: the logits of the places that carry loss.

The last layer computes keys and values everywhere, but queries, attention's output and the feed-forward only at those places, since no
later layer reads the others. In an agent's trajectories they are a tenth to a third of all.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dllm_agents.training import masks

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

    from dllm_agents.training.objectives import Batch

# transformers' attentions that `_attend` computes; others are left whole.
PLAIN_ATTENTION = ("LlamaAttention", "Qwen2Attention", "Qwen3Attention")


def logits_of(model: LlamaForCausalLM, batch: Batch) -> Tensor:
    """The logits [supervised, vocabulary] of the places that carry loss, in row order."""
    return model.lm_head(_hidden(model, batch, mask_for(model, batch)))


def mask_for(model: LlamaForCausalLM, batch: Batch) -> Any:
    """Who sees whom, in the form that the attention implementation of the model's configuration takes."""
    shape, device = batch.input_ids.shape, batch.input_ids.device
    if model.config._attn_implementation == "flex_attention":
        return masks.blocks(batch.rule, shape, device)
    seen = masks.dense(batch.rule, shape, device)  # as numbers, made once and not by every layer
    return torch.zeros_like(seen, dtype=model.dtype).masked_fill(~seen, -torch.inf)


def _hidden(model: LlamaForCausalLM, batch: Batch, seen: Any) -> Tensor:
    """The last hidden states [supervised, hidden] of the places that carry loss. Of prompts that are run without gradients the rest reads
    the keys."""
    ids, positions, cut = batch.input_ids, batch.position_ids, batch.prompt
    places, columns = batch.supervised_places(), batch.supervised_columns()
    keys = None
    if cut:
        nothing = places[:0], columns.new_zeros(len(columns), 1)  # one query a line: only keys are wanted
        with torch.no_grad(), _last_layer_at(model, *nothing, ids[:, :cut].shape):
            before = {"attention_mask": seen[..., :cut, :cut], "position_ids": positions[:, :cut]}
            keys = model.model(input_ids=ids[:, :cut], use_cache=True, **before).past_key_values
        places, columns = places - cut * (places // ids.shape[1] + 1), columns - cut
        ids, positions, seen = ids[:, cut:], positions[:, cut:], seen[..., cut:, :]
    with _last_layer_at(model, places, columns, ids.shape):
        states = model.model(input_ids=ids, attention_mask=seen, position_ids=positions, past_key_values=keys, use_cache=bool(cut))
    return states.last_hidden_state.flatten(0, 1)[places]


@contextmanager
def _last_layer_at(model: LlamaForCausalLM, places: Tensor, columns: Tensor, shape: torch.Size) -> Iterator[None]:
    """Inside, the last layer runs for some places alone and adds nothing elsewhere: `places` [k] are indices into the flattened `shape`
    (batch, length), `columns` [batch, k] the same line by line, padded with the length. A layer under activation checkpointing runs whole:
    it runs again in backward, when this is over."""
    layer = model.model.layers[-1]
    if hasattr(layer, "_checkpoint_wrapped_module"):
        yield
        return

    def take(module: nn.Module, inputs: tuple[Tensor]) -> Tensor:
        return inputs[0].flatten(0, 1)[places]

    def put(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        return output.new_zeros(shape.numel(), output.shape[-1]).index_copy(0, places, output).unflatten(0, shape)

    attention, feed_forward = layer.self_attn, layer.mlp
    hooks = feed_forward.register_forward_pre_hook(take), feed_forward.register_forward_hook(put)
    plain = model.config._attn_implementation == "sdpa" and type(attention).__name__ in PLAIN_ATTENTION
    if plain:
        attention.forward = partial(_attend, attention, columns)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        if plain:
            del attention.forward  # the class's own is seen again


def _attend(
    attention: Any,
    columns: Tensor,
    hidden_states: Tensor,
    position_embeddings: tuple[Tensor, Tensor],
    attention_mask: Tensor,
    past_key_values: Any = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """An attention of transformers for queries at `columns` [batch, k] alone, and zeros [batch, length, hidden] elsewhere."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.models.llama.modeling_llama import rotate_half

    length = hidden_states.shape[1]
    rows = columns.clamp(max=length - 1)[..., None]

    def at_rows(x: Tensor) -> Tensor:
        return x.gather(1, rows.expand(-1, -1, x.shape[-1]))

    def heads(x: Tensor, projection: nn.Module, norm: nn.Module | None = None) -> Tensor:
        parts = projection(x).unflatten(-1, (-1, attention.head_dim))
        return (parts if norm is None else norm(parts)).transpose(1, 2)

    def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return x * cos[:, None] + rotate_half(x) * sin[:, None]

    norms = getattr(attention, "q_norm", None), getattr(attention, "k_norm", None)
    queries = rotated(heads(at_rows(hidden_states), attention.q_proj, norms[0]), *map(at_rows, position_embeddings))
    keys = rotated(heads(hidden_states, attention.k_proj, norms[1]), *position_embeddings)
    values = heads(hidden_states, attention.v_proj)
    if past_key_values is not None:
        keys, values = past_key_values.update(keys, values, attention.layer_idx)
    mask = at_rows(attention_mask[:, 0])[:, None]
    dropout = attention.attention_dropout if attention.training else 0.0
    mixed, _weights = sdpa_attention_forward(attention, queries, keys, values, mask, dropout=dropout, scaling=attention.scaling)
    output = attention.o_proj(mixed.flatten(2))
    whole = output.new_zeros(len(output), length + 1, output.shape[-1])
    return whole.scatter(1, columns[..., None].expand_as(output), output)[:, :-1], None
