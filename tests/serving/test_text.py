"""Unmasked tokens become text, stop strings cut it, tool calls are taken out of it."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from dllm_agents.serving.text import Splitter, TokenText

CALL = '<tool_call>{"name": "search", "arguments": {"query": ["a"]}}</tool_call>'


def split(text: str, size: int, **options: Any) -> list[str | dict[str, Any]]:
    splitter = Splitter(**options)
    pieces = [piece for start in range(0, len(text), size) for piece in splitter.push(text[start : start + size])]
    return pieces + splitter.finish()


def content(pieces: list[str | dict[str, Any]]) -> str:
    return "".join(piece for piece in pieces if isinstance(piece, str))


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=40))
def test_token_text_joins_to_the_whole_decoding(tokenizer: Any, text: str) -> None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    stream = TokenText(lambda ids: tokenizer.decode(ids, clean_up_tokenization_spaces=False))
    pieces = [stream.push(token) for token in ids]
    whole = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    assert whole.startswith("".join(pieces))
    assert "\ufffd" in text or all("\ufffd" not in piece for piece in pieces)


@settings(max_examples=100, deadline=None)
@given(text=st.text(alphabet="abSTOP<", max_size=30), size=st.integers(1, 5))
def test_the_cut_does_not_depend_on_the_pieces(text: str, size: int) -> None:
    assert content(split(text, size, stop=["STOP", "b<"])) == min(text.partition("STOP")[0], text.partition("b<")[0], key=len)


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 30))
def test_tool_calls_leave_the_text(size: int) -> None:
    pieces = split(f"I search. {CALL} Then I read. {CALL}", size, tools=True)
    assert [piece for piece in pieces if isinstance(piece, dict)] == [{"name": "search", "arguments": {"query": ["a"]}}] * 2
    assert content(pieces) == "I search.  Then I read. "


def test_broken_calls_stay_text() -> None:
    for text in ("<tool_call>{broken</tool_call>", '<tool_call>{"name": 3}</tool_call>', "<tool_call>", "a <tool_call>[]</tool_call> b"):
        assert content(split(text, 3, tools=True)) == content(split(text, 100, tools=True)) == text


@settings(max_examples=100, deadline=None)
@given(cuts=st.lists(st.integers(0, 200), max_size=5), stop=st.sampled_from(["red", "}}</", "</tool_call>\nT", "\n", "l>x", "never"]))
def test_stop_strings_and_calls_together_do_not_depend_on_the_pieces(cuts: list[int], stop: str) -> None:
    text = f"I search. {CALL}\nThen a red one. {CALL}x"
    splitter = Splitter([stop], tools=True)
    bounds = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    pieces = [piece for start, end in zip(bounds, bounds[1:], strict=False) for piece in splitter.push(text[start:end])]
    pieces += splitter.finish()
    whole = split(text.partition(stop)[0], 1000, tools=True)
    assert content(pieces) == content(whole)
    assert [piece for piece in pieces if isinstance(piece, dict)] == [piece for piece in whole if isinstance(piece, dict)]


def test_an_answer_with_one_call_ends_behind_it() -> None:
    for size in (1, 7, 1000):
        pieces = split(f"I search. {CALL} And {CALL}", size, tools=True, single=True)
        assert content(pieces) == "I search. " and len([piece for piece in pieces if isinstance(piece, dict)]) == 1


@settings(max_examples=100, deadline=None)
@given(size=st.integers(1, 80), stop=st.sampled_from(["red", "search", "}", "Then", "\n", "never"]))
def test_stop_strings_outside_calls_leave_the_calls_whole(size: int, stop: str) -> None:
    text = f"I find. {CALL}\nThen a red one. {CALL}x"
    pieces = split(text, size, stop=[stop], tools=True, whole_calls=True)
    front, middle, back = "I find. ", "\nThen a red one. ", "x"
    wanted, calls = front.partition(stop)[0], 1
    if stop not in front:
        wanted, calls = wanted + middle.partition(stop)[0], 1 if stop in middle else 2
        wanted += "" if stop in middle else back.partition(stop)[0]
    assert content(pieces) == wanted and len([piece for piece in pieces if isinstance(piece, dict)]) == calls
