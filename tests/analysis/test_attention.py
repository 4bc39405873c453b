"""Where the tokens of a reply look: weights against transformers' own, spans of a prompt, and the forwards that settled a reply."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))

from random_checkpoints import MASK, VOCABULARY, llada, llama_like

from dllm_agents import benchmarks
from dllm_agents.agents.deepdiver.teacher import Teacher
from dllm_agents.agents.play import Player
from dllm_agents.agents.rollout import episode_of
from dllm_agents.analysis.attention import Listening, Said, by_stage, look, marked, seen_by, spans_of
from dllm_agents.client.client import Completion
from dllm_agents.config import Config
from dllm_agents.decoding.settings import Decoding
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
    completion = SimpleNamespace(text=text, reveal_step=trace, tokens=list(text), decoding=None)
    return Said("planner", 1, [{"role": "user", "content": prompt}], completion)


def test_weights_are_those_of_transformers_eager_attention(tmp_path):
    from transformers import AutoModelForCausalLM

    folder = llama_like(tmp_path / "m", "qwen3")
    ids = torch.randint(0, VOCABULARY, (12,), generator=torch.Generator().manual_seed(1))
    reference = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
    with torch.inference_mode():
        expected = torch.cat(reference(ids[None], output_attentions=True).attentions)
    torch.testing.assert_close(attention_weights(load(folder), ids, torch.arange(12)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("attention", "build"), [("full", llada), ("block_causal", lambda folder: llama_like(folder, "sdar"))])
def test_weights_follow_the_models_own_mask(tmp_path, attention, build):
    model = load(build(tmp_path / "m"))
    assert model.attention == attention
    length = 2 * (model.block_length or 6)
    weights = attention_weights(model, torch.arange(length), torch.arange(length))
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights.sum(-1)))
    ahead = weights[:, :, 0, 1:]
    block = model.block_length or length
    assert (ahead[..., : block - 1] > 0).all() and (ahead[..., block - 1 :] == 0).all()


@pytest.mark.parametrize("block_start", [None, 5, 8])
def test_context_causal_weights_are_those_of_a_dense_mask(tmp_path, block_start):
    from transformers import LlamaConfig, LlamaForCausalLM

    model = load(llama_like(tmp_path / "m", "PanguEmbedded"))
    ids = torch.randint(0, VOCABULARY, (12,), generator=torch.Generator().manual_seed(2))
    sees = torch.ones(12, 12, dtype=torch.bool).tril()
    if block_start is not None:
        sees[block_start:, block_start:] = True
    settings = json.loads((tmp_path / "m" / "config.json").read_text())
    reference = LlamaForCausalLM(LlamaConfig(**{k: v for k, v in settings.items() if k not in ("model_type", "bias")}, attention_bias=True))
    reference.load_state_dict(model.network.state_dict())
    reference.set_attn_implementation("eager")
    with torch.inference_mode():
        mask = torch.where(sees, 0.0, -torch.inf)[None, None]
        expected = torch.cat(reference.eval()(ids[None], attention_mask=mask, output_attentions=True).attentions)
    rows = torch.tensor([9, 11])
    torch.testing.assert_close(attention_weights(model, ids, rows, block_start), expected[:, :, rows], rtol=1e-4, atol=1e-5)


def test_the_forwards_of_a_context_causal_reply_are_those_of_its_decoding(tmp_path):
    model = load(llama_like(tmp_path / "m", "PanguEmbedded"))
    ids, trace = torch.arange(20, 27), [0, 2, 1, 2, 3, 5, 4]  # blocks of 4: [causal, 2, 1, 2], [causal, 5, 4] and a place after the end
    by_block, by_token = Decoding(strategy="context_causal", block_length=4), Decoding(strategy="ar")
    prompt = torch.arange(10, 14)
    whole = torch.cat([prompt, ids])

    def seen(forward, decoding=by_block, steps=trace):
        it = seen_by(model, whole, 4, steps, forward, decoding)
        return it.token_ids.tolist(), it.rows.tolist(), it.block_start

    assert seen(0) == ([10, 11, 12, 13], [3], None)
    assert seen(1) == ([10, 11, 12, 13, 20, MASK, MASK, MASK], [5], 4)
    assert seen(2) == ([10, 11, 12, 13, 20, MASK, 22, MASK], [4, 6], 4)
    assert seen(3) == ([10, 11, 12, 13, 20, 21, 22, 23], [7], None)
    assert seen(5) == ([10, 11, 12, 13, 20, 21, 22, 23, 24, MASK, 26, MASK], [8], 8)
    assert seen(2, by_token, list(range(7))) == ([10, 11, 12, 13, 20, 21], [5], None)


def test_spans_of_a_team_are_its_tasks_queries_and_results(tmp_path):
    options = {"tasks": 1, "train_tasks": 0, "hops": [2]}
    entry = {"policy": "ar", "workflow": "deepdiver"}
    backbone = {"url": "http://localhost:1/v1"}
    backbone = {"url": "http://localhost:1/v1"}
    run = {"agents": ["team"], "benchmarks": ["multihop_qa"]}
    config = Config.model_validate({"backbones": {"ar": backbone}, "agents": {"team": entry}, "run": run})
    benchmark = benchmarks.load("multihop_qa", options)
    (task,) = benchmark.tasks("test")
    teacher = Teacher(task)

    class Backbones:
        def complete(self, role):
            def ask(messages, *, seed, constraint=None):
                return Completion(getattr(teacher, role)(messages, seed=seed).text, 5, 5, 5, 0.0, "stop")

            return ask

    player = Player(config, "team", benchmark)
    episode = episode_of(player, task, player.play(task, Backbones()), 1.0, "")
    spans = spans_of(episode, None)
    tasks = [text for plan in episode.planner.plans for text in plan]
    assert spans["question"] == [task.goal] and set(tasks) <= set(spans["plan"]) and len(spans["plan"]) > len(tasks)
    summaries = [text for text in spans["results"] if not text.startswith("{")]
    assert any('"snippet"' in line for line in spans["results"]) and summaries and not set(summaries) & set(tasks)
    listening = Listening(episode, ("planner", "seeker"))
    player.play(task, listening)
    stages = [(stage, said.role) for stage, said in by_stage(episode, listening.exchanges)]
    assert set(stages) == {("plan", "planner"), ("search", "seeker")}
    prompt = next(said for said in reversed(listening.exchanges) if said.role == "planner").messages[-1]["content"]
    assert {kind for _, _, kind in marked(prompt, spans)} >= {"results"}


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
    weights = attention_weights(model, ids, torch.tensor([len(prompt) - 1, len(prompt)])).mean((0, 1, 2))
    assert found.question == pytest.approx(float(weights[10:14].sum()), rel=1e-4) and found.plan == 0
    assert found.own == pytest.approx(float(weights[len(prompt) :].sum()), rel=1e-4)
    assert (found.rows, found.prompt_tokens) == (2, len(prompt))
    assert sum((found.question, found.plan, found.results, found.format, found.own)) == pytest.approx(1)
    assert 0 < found.entropy <= 1


def test_a_diffusion_reply_is_read_with_what_was_not_yet_settled_masked(tmp_path, monkeypatch):
    from dllm_agents.analysis import attention

    model, shown = with_letters(load(llada(tmp_path / "m"))), []
    monkeypatch.setattr(
        attention, "attention_weights", lambda model, ids, *rest: (shown.append(ids[-3:].tolist()), attention_weights(model, ids, *rest))[1]
    )
    found = look(model, said("abc", [1, 0, 1]), {})
    assert shown == [[MASK, MASK, MASK], [MASK, ord("b") % 100, MASK]]
    assert found.rows == 3 and found.own + found.format == pytest.approx(1)


def test_a_reply_that_is_not_its_tokens_is_left_out(tmp_path):
    model = with_letters(load(llada(tmp_path / "m")))
    assert look(model, said("abc", [0, 1]), {}) is None and look(model, said("", []), {}) is None
