"""The tokenizer made from the training texts."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dllm_agents.training import tokenizer

COLOURS, THINGS = ["red", "blue", "green", "grey"], ["ball", "key", "box"]
OBSERVATIONS = [
    f"In front of you in this room, you can see: There is a {colour} {thing} {n} right in front of you {steps} steps away.  "
    f"The room has walls around you. You are not carrying anything."
    for colour in COLOURS
    for thing in THINGS
    for n in (1, 2)
    for steps in (1, 2, 3)
]
ACTIONS = [
    f"Thought: I see the {colour} {thing}.\nAction: go to {colour} {thing} {n}" for colour in COLOURS for thing in THINGS for n in (1, 2)
]
REMINDER = "Reply with a Thought and an Action."


@pytest.fixture(scope="module")
def words():
    return tokenizer.build([text + REMINDER for text in OBSERVATIONS] + ACTIONS, OBSERVATIONS + ACTIONS, 1024)


def ids(words, text):
    return words(text, add_special_tokens=False)["input_ids"]


def pieces(words, text):
    return [words.decode([index]) for index in ids(words, text)]


def test_training_texts_round_trip_and_phrases_are_single_tokens(words):
    for text in OBSERVATIONS + ACTIONS:
        assert words.decode(ids(words, text)) == text
    found = pieces(words, OBSERVATIONS[0])
    assert " red" in found and " ball" in found and " 1" in found, "what varies stays apart"
    assert any(piece.count(" ") > 3 for piece in found), "what never varies is joined"
    assert len(found) < len(OBSERVATIONS[0].split()) / 2


def test_an_object_is_the_same_tokens_where_it_is_seen_and_where_it_is_named(words):
    seen, named = ids(words, OBSERVATIONS[0]), ids(words, ACTIONS[0])
    target = [words.convert_tokens_to_ids("Ġ" + word) for word in ("red", "ball", "1")]
    for text_ids in (seen, named):
        assert any(text_ids[at : at + 3] == target for at in range(len(text_ids)))


def test_the_reminder_is_never_joined(words):
    assert pieces(words, REMINDER)[:4] == ["Reply", " with", " a", " Thought"]


@settings(deadline=None, max_examples=60)
@given(text=st.text(max_size=40))
def test_any_text_round_trips(text):
    fast = ANY.get("fast") or ANY.setdefault("fast", tokenizer.build(OBSERVATIONS, OBSERVATIONS, 512))
    if not any(token in text for token in (*tokenizer.CONTROL_TOKENS, *tokenizer.TAGS)):
        assert fast.decode(ids(fast, text)) == text


ANY: dict[str, object] = {}


def test_tags_and_control_tokens_are_one_token_each(words):
    for token in (*tokenizer.CONTROL_TOKENS, *tokenizer.TAGS):
        assert pieces(words, f"a{token}b") == ["a", token, "b"]
    kept = words.decode(ids(words, "<tool_call>{}</tool_call><eos>"), skip_special_tokens=True)
    assert kept == "<tool_call>{}</tool_call>"


def test_open_texts_get_byte_pairs_within_the_vocabulary():
    texts = [f"word{i}x{i * 7} naïve <think>q{i}</think>" for i in range(400)]
    fast = tokenizer.build(texts, [], 400)
    assert len(fast) <= 400
    for text in (*texts[:5], "unseen Ωmega 中"):
        assert fast.decode(ids(fast, text)) == text


def test_same_texts_same_tokenizer_and_it_reloads_with_its_chat_template(words, tmp_path: Path):
    from transformers import PreTrainedTokenizerFast

    again = tokenizer.build([text + REMINDER for text in OBSERVATIONS] + ACTIONS, OBSERVATIONS + ACTIONS, 1024)
    assert again.backend_tokenizer.to_str() == words.backend_tokenizer.to_str()
    words.save_pretrained(tmp_path, save_jinja_files=False)
    loaded = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    rendered = loaded.apply_chat_template([{"role": "user", "content": "hi"}], add_generation_prompt=True, tokenize=False)
    assert rendered == "<|user|>hi<|assistant|>"
    assert (loaded.pad_token, loaded.eos_token, loaded.mask_token, loaded.unk_token) == ("<pad>", "<eos>", "<mask>", "<unk>")
    assert ids(loaded, OBSERVATIONS[0]) == ids(words, OBSERVATIONS[0])
