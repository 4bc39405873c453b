"""openPangu's tokenizer as it is converted, beside sentencepiece itself."""

import json

import pytest
import sentencepiece
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dllm_agents import models
from dllm_agents.errors import StageError
from dllm_agents.models import loading
from dllm_agents.models.sentencepiece import converted

MASK, END = "[unused0]", "[unused10]"
SPECIALS = ["<|User|>", MASK, "[unused9]", END, "[unused11]", "[unused12]"]
TEXTS = [
    "The planner hands out tasks; seekers search and report back to it.",
    "系统：你是一个搜索助手。用户：谁写了这本书？助手：我来查一下。",
    'def f(x):\n    return {"name": "batch_web_search", "arguments": {"queries": [x]}}',
] * 20


def trained(folder, **changed):
    """A small byte-pair model with byte pieces, made as openPangu's is: nothing is normalised, a blank goes in front."""
    options = {"model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity", "remove_extra_whitespaces": False}
    options |= {"vocab_size": 600, "character_coverage": 0.995, "user_defined_symbols": SPECIALS, "pad_id": -1, "hard_vocab_limit": False}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_prefix=str(folder / "tokenizer"), minloglevel=2, num_threads=1, **options | changed
    )
    (folder / "tokenizer.vocab").unlink()
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


def checkpoint(folder, words, **changed):
    """What stands beside the tokenizer; its own code is asked for, and not run."""
    own = {"attention": "context_causal", "mask_token_id": words.piece_to_id(MASK), "block_length": 32}
    config = {"model_type": "PanguEmbedded", "eos_token_id": words.piece_to_id(END), "dllm": own, "vocab_size": len(words)}
    (folder / "config.json").write_text(json.dumps(config | changed))
    listed = {str(words.piece_to_id(text)): {"content": text, "special": True} for text in SPECIALS}
    remote = {"tokenizer_class": "PanguTokenizer", "auto_map": {"AutoTokenizer": ["evil.PanguTokenizer", None]}, "add_bos_token": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(remote | {"added_tokens_decoder": listed, "chat_template": "{{ messages }}"}))
    (folder / "evil.py").write_text("raise SystemExit('run')")


@pytest.fixture(scope="module")
def pangu(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pangu")
    words = trained(folder)
    checkpoint(folder, words)
    return folder, words


@pytest.fixture(scope="module")
def tokenizer(pangu, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        return loading.read_tokenizer(pangu[0])


def expected(words, parts):
    """Each text between specials cut by sentencepiece on its own, `<s>` in front of all."""
    ids = [words.bos_id()]
    for part in parts:
        ids += [words.piece_to_id(part)] if part in SPECIALS else words.encode(part)
    return ids


@settings(max_examples=200, deadline=None)
@given(text=st.text(st.sampled_from('abcplan \n系统你搜索，{}"é🙂\tß_▁'), min_size=1, max_size=40))
def test_text_is_cut_as_sentencepiece_cuts_it(pangu, tokenizer, text):
    _, words = pangu
    ids = tokenizer(text)["input_ids"]
    assert ids == expected(words, [text])
    assert tokenizer.decode(ids, skip_special_tokens=True) == words.decode(words.encode(text))


def test_specials_are_one_token_each_and_nothing_of_theirs_is_run(pangu, tokenizer):
    _, words = pangu
    parts = ["[unused9]", "系统：你好", END, "[unused9]", "助手：", "[unused11]", '[{"name": "x"}]', "[unused12]", END]
    assert tokenizer("".join(parts))["input_ids"] == expected(words, parts)
    assert (tokenizer.mask_token_id, tokenizer.eos_token_id) == (words.piece_to_id(MASK), words.piece_to_id(END))
    assert (tokenizer.bos_token_id, tokenizer.chat_template) == (words.bos_id(), "{{ messages }}")


def test_a_conversion_is_done_once(pangu, monkeypatch, tmp_path):
    folder, words = pangu
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = loading.read_tokenizer(folder)("系统 search")["input_ids"]
    monkeypatch.setattr("dllm_agents.models.sentencepiece.tokenizer_of", None)
    assert loading.read_tokenizer(folder)("系统 search")["input_ids"] == first == expected(words, ["系统 search"])


def test_a_tokenizer_of_another_model_is_refused(pangu, tmp_path):
    folder, words = pangu
    with pytest.raises(StageError, match=r"tokenizer.model: is of another model: piece 5 is .*, not \[unused0\]"):
        converted(folder, 5, words.piece_to_id(END))
    with pytest.raises(StageError, match=r"piece 45830 is missing, not \[unused0\]"):
        converted(folder, 45830, 45892)
    (tmp_path / "tokenizer.model").write_bytes(b"\x00no model")
    with pytest.raises(StageError, match="no sentencepiece model"):
        converted(tmp_path, 5, 6)
    trained(tmp_path, model_type="unigram")
    with pytest.raises(StageError, match="no sentencepiece model of byte pairs"):
        converted(tmp_path, 5, 6)
    (tmp_path / "tokenizer.model").write_bytes((folder / "tokenizer.model").read_bytes()[:-300])
    with pytest.raises(StageError, match="sentencepiece model|another model"):
        converted(tmp_path, words.piece_to_id(MASK), len(words) - 1)


def test_a_choice_of_model_type_that_is_not_there_is_refused(pangu, tmp_path):
    folder, words = pangu
    (tmp_path / "tokenizer.model").write_bytes((folder / "tokenizer.model").read_bytes())
    checkpoint(tmp_path, words, dllm={"attention": "sideways", "mask_token_id": 3, "block_length": 32})
    with pytest.raises(StageError, match=r"dllm.attention must be one of"):
        loading.read_tokenizer(tmp_path)
    checkpoint(tmp_path, words, model_type="PanguEmbodied")
    with pytest.raises(StageError, match="'PanguEmbodied' is not supported"):
        models.load(tmp_path, dtype=torch.float32)
