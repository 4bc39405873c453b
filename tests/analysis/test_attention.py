"""Where the tokens of a reply look: weights against transformers' own, spans of a prompt, and the forwards that settled a reply."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))

from random_checkpoints import MASK, VOCABULARY, llada, llama_like

from dllm_agents.analysis.attention import Said, look, marked
from dllm_agents.models import load
from dllm_agents.models.attention import attention_weights


class Letters:
    """A tokenizer of one token a letter; the chat is its last message."""

    def apply_chat_template(self, messages, add_generation_prompt, tokenize):
        return messages[-1]["content"]

    def __call__(self, text, add_special_tokens, return_offsets_mapping=False):
        return {"input_ids": [ord(letter) % 100 for letter in text], "offset_mapping": [(n, n + 1) for n in range(len(text))]}


def with_letters(model):
    model.__dict__["tokenizer"] = Letters()
    return model


def said(text, trace, prompt="Question: who? Found: Anna. Reply."):
    return Said("planner", 1, [{"role": "user", "content": prompt}], SimpleNamespace(text=text, reveal_step=trace, tokens=list(text)))


def test_weights_are_those_of_transformers_eager_attention(tmp_path):
    from transformers import AutoModelForCausalLM

    folder = llama_like(tmp_path / "m", "qwen3")
    ids = torch.randint(0, VOCABULARY, (12,), generator=torch.Generator().manual_seed(1))
    reference = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
    with torch.inference_mode():
        expected = torch.cat(reference(ids[None], output_attentions=True).attentions)
    torch.testing.assert_close(attention_weights(load(folder), ids), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("attention", "build"), [("full", llada), ("block_causal", lambda folder: llama_like(folder, "sdar"))])
def test_weights_follow_the_models_own_mask(tmp_path, attention, build):
    model = load(build(tmp_path / "m"))
    assert model.attention == attention
    length = 2 * (model.block_length or 6)
    weights = attention_weights(model, torch.arange(length))
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights.sum(-1)))
    ahead = weights[:, :, 0, 1:]
    block = model.block_length or length
    assert (ahead[..., : block - 1] > 0).all() and (ahead[..., block - 1 :] == 0).all()


def test_spans_are_marked_longest_first_and_once():
    places = marked("who is Anna? Anna is it", {"question": ["who is Anna?"], "results": ["Anna", "Anna is", ""]})
    assert sorted(places) == [(0, 12, "question"), (13, 20, "results")]


def test_mass_of_an_ar_reply_is_that_of_the_rows_that_predicted_it(tmp_path):
    model = with_letters(load(llama_like(tmp_path / "m", "qwen3")))
    spans = {"question": ["who?"], "results": ["Anna"], "plan": ["absent"]}
    found = look(model, said("ab", [0, 1]), spans)
    prompt = "Question: who? Found: Anna. Reply."
    ids = torch.tensor([ord(letter) % 100 for letter in prompt + "ab"])
    # The token at place n was predicted where the one before it stands, which saw nothing behind itself.
    weights = attention_weights(model, ids)[:, :, len(prompt) - 1 : len(prompt) + 1].mean((0, 1, 2))
    assert found.question == pytest.approx(float(weights[10:14].sum()), rel=1e-4) and found.plan == 0
    assert found.own == pytest.approx(float(weights[len(prompt) :].sum()), rel=1e-4)
    assert (found.rows, found.prompt_tokens) == (2, len(prompt))
    assert sum((found.question, found.plan, found.results, found.format, found.own)) == pytest.approx(1)
    assert 0 < found.entropy <= 1


def test_a_diffusion_reply_is_read_with_what_was_not_yet_settled_masked(tmp_path, monkeypatch):
    from dllm_agents.analysis import attention

    model, shown = with_letters(load(llada(tmp_path / "m"))), []
    monkeypatch.setattr(
        attention, "attention_weights", lambda model, ids: (shown.append(ids[-3:].tolist()), attention_weights(model, ids))[1]
    )
    found = look(model, said("abc", [1, 0, 1]), {})
    assert shown == [[MASK, MASK, MASK], [MASK, ord("b") % 100, MASK]]
    assert found.rows == 3 and found.own + found.format == pytest.approx(1)


def test_a_reply_that_is_not_its_tokens_is_left_out(tmp_path):
    model = with_letters(load(llada(tmp_path / "m")))
    assert look(model, said("abc", [0, 1]), {}) is None and look(model, said("", []), {}) is None
