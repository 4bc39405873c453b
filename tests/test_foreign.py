"""What comes from outside is read within bounds, as text that can be written down again."""

import json
import time
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from dllm_agents import foreign
from dllm_agents.commands import say
from dllm_agents.errors import StageError
from dllm_agents.tool_calls import call_text, read

TEXT = st.text(st.characters() | st.sampled_from("\ud800\udc00\u2028\u2029\x85\x1b\x9b\u202e\r\n\0"), max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=12,
)


class Stored(BaseModel):
    value: object


@settings(max_examples=300, deadline=None)
@given(JSON, st.booleans())
def test_any_json_is_read_as_a_value_that_can_be_stored(value, escaped):
    text = json.dumps(value, ensure_ascii=escaped)
    read_back = foreign.loads(text)
    json.dumps(read_back, allow_nan=False, ensure_ascii=False).encode()
    assert foreign.loads(Stored(value=read_back).model_dump_json())["value"] == read_back
    if text.isascii() and "\\ud" not in text.lower() and all(word not in text for word in ("NaN", "Infinity")):
        assert read_back == json.loads(text)


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters() | st.sampled_from('[]{}",:\\ue0'), max_size=30) | st.binary(max_size=30))
def test_any_text_is_json_or_a_value_error(text):
    with suppress(ValueError):
        foreign.loads(text)


@pytest.mark.parametrize("levels", [1, 64, 65, 500, 990, 100_000])
@pytest.mark.parametrize("pair", ["[]", ('{"a":', "}")], ids=["lists", "objects"])
def test_nesting_has_a_bound(levels, pair):
    text = pair[0] * levels + ("" if pair == "[]" else "1") + pair[1] * levels
    if levels <= foreign.DEEPEST:
        assert foreign.depth(foreign.loads(text)) == levels
    else:
        with pytest.raises(ValueError, match="nested over 64 levels"):
            foreign.loads(text)


def test_numbers_that_are_none_are_null_and_too_long_ones_no_json():
    assert foreign.loads("[NaN, Infinity, -Infinity, 1e999, 1.5]") == [None, None, None, None, 1.5]
    with pytest.raises(ValueError):
        foreign.loads("9" * 5000)


def test_pairs_are_joined_and_halves_replaced():
    assert foreign.loads('"\\ud83d\\ude00 \\ud83d \\\\ud83d"') == "😀 \ufffd \\ud83d"
    assert foreign.valid_text("\ud83d\ude00\ud83d") == "😀\ufffd"


@given(TEXT)
def test_what_is_shown_is_one_line_of_plain_text(text):
    shown = foreign.visible(text)
    assert len(shown.splitlines()) <= 1 and len(shown) == len(text)
    assert not set(shown) & {chr(point) for point in (*range(32), *range(127, 160), 0x202E, 0x2066)}
    shown.encode()


def test_what_a_stage_says_moves_no_cursor(capsys):
    say("x\x1b]52;c;AAAA\x07\x9b2J\ud800\nnext")
    assert capsys.readouterr().err == "x\ufffd]52;c;AAAA\ufffd\ufffd2J\ufffd next\n"


def test_a_body_is_bounded_in_bytes_and_seconds():
    assert foreign.gather([b"ab", b"c"], 3, 9) == b"abc"
    with pytest.raises(foreign.TooMuch, match="over 3 bytes"):
        foreign.gather([b"ab", b"cd"], 3, 9)

    def trickle():
        while True:
            time.sleep(0.01)
            yield b"."

    with pytest.raises(foreign.TooMuch, match="not whole after 0.1 s"):
        foreign.gather(trickle(), 1 << 20, 0.1)


@pytest.mark.parametrize("levels", [60, 100, 230, 900, 5000])
def test_a_call_that_is_nested_too_deep_to_be_stored_is_text(levels):
    nested = "[" * levels + "]" * levels
    content, calls = read(f'<tool_call>{{"name": "f", "arguments": {{"a": {nested}}}}}</tool_call>')
    assert bool(calls) == (levels < 62) and bool(content) != bool(calls)
    text = json.dumps(f'{{"a": {nested}}}')
    as_text = read(f'<tool_call>{{"name": "f", "arguments": {text}}}</tool_call>')[1]
    for call in calls + as_text:
        assert foreign.depth(call) <= foreign.DEEPEST and call_text(call)


def test_json_lines_pass_over_blank_ones_and_name_the_first_bad_one():
    content = b'\xef\xbb\xbf{"a": 1}\r\n\n{"a": "x\xe2\x80\xa8y"}\n'
    assert list(foreign.json_lines(content, "f", lambda row, place: (place, row["a"]), "no")) == [("f:1", 1), ("f:3", "x\u2028y")]
    for line in (b'{"b": 1}', b"[]", b"3", b"{", b"[" * 100_000):
        with pytest.raises(StageError, match="^f:2: no rows here$"):
            list(foreign.json_lines(b'{"a": 1}\n' + line, "f", lambda row, place: row["a"], "no rows here"))
