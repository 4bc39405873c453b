"""Tiny checkpoints for the clients' checks: a random AR and a random diffusion model, and one that says what a script lets it say.

Run by the project's own interpreter: python checkpoints.py FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "serving"))

import torch
from safetensors.torch import save_file
from small_checkpoints import make_tokenizer, save_checkpoint

CALL = '<tool_call>{"name": "add", "arguments": {"a": 2, "b": 2}}</tool_call>'
FINAL = '<tool_call>{"name": "final_answer", "arguments": {"answer": "It is 4."}}</tool_call>'
# What the last message ends in decides what is said: a word of the user's, or the result of a tool.
SAYS = {"<|ask|>": CALL, "<|told|>": "It is 4.", "<|finish|>": FINAL}
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}"
    "{% for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}<|im_end|>{% endfor %}"
    "{% if tools %}{{ tools | tojson }}{% endif %}"
    "{% if 'final_answer' in (tools | string) %}<|finish|>{% elif messages[-1].role == 'tool' %}<|told|>{% else %}<|ask|>{% endif %}"
)


def scripted(folder: Path) -> None:
    """A Llama of one idle layer: its head holds, for every token, the one that follows it."""
    tokenizer = make_tokenizer()
    tokenizer.add_tokens([*SAYS, *SAYS.values()])
    tokenizer.chat_template = TEMPLATE
    size = -(-len(tokenizer) // 64) * 64
    ids = tokenizer.convert_tokens_to_ids
    follows = {ids(key): ids(said) for key, said in SAYS.items()}
    embeddings = torch.eye(len(tokenizer), size)
    head = torch.zeros(len(tokenizer), size)
    head[tokenizer.eos_token_id] = 1.0
    for token, said in follows.items():
        head[said, token] = 2.0
    layer, wide = "model.layers.0.", {"q_proj", "k_proj", "v_proj", "o_proj"}
    weights: dict[str, Any] = {"model.embed_tokens.weight": embeddings, "model.norm.weight": torch.ones(size), "lm_head.weight": head}
    weights |= {f"{layer}self_attn.{name}.weight": torch.zeros(size, size) for name in wide}
    weights |= {f"{layer}mlp.{name}.weight": torch.zeros(64, size) for name in ("gate_proj", "up_proj")}
    weights[f"{layer}mlp.down_proj.weight"] = torch.zeros(size, 64)
    weights |= {f"{layer}{name}.weight": torch.ones(size) for name in ("input_layernorm", "post_attention_layernorm")}
    config = {
        "model_type": "llama",
        "hidden_size": size,
        "num_attention_heads": size // 64,
        "num_key_value_heads": size // 64,
        "head_dim": 64,
        "num_hidden_layers": 1,
        "intermediate_size": 64,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 16384,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "eos_token_id": tokenizer.eos_token_id,
    }
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(weights, folder / "model.safetensors")
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    root = Path(sys.argv[1])
    for name, diffusion in (("tiny-ar", False), ("tiny-diffusion", True)):
        save_checkpoint(root / name, make_tokenizer(), diffusion)
    scripted(root / "scripted")
