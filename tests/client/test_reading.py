"""Answers in the shapes that servers give them: nothing that arrived is lost, and no split of a stream changes what is read."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dllm_agents.client.client import completion_of
from dllm_agents.client.reading import DONE, BadReply, BrokenStream, Collected, events, lines, text_of, tool_call


def chunk(finish_reason=None, **delta):
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}


def body(*chunks, end="\n\n", done=True):
    return "".join(
        f"data: {item if isinstance(item, str) else json.dumps(item, ensure_ascii=False)}{end}" for item in [*chunks, *["[DONE]"] * done]
    )


def collected(text):
    answer = Collected()
    for event in events([text.encode()]):
        answer.add(event)
    return answer


def answer(text):
    return completion_of(collected(text).payload(), 0.0)


HELLO = [chunk(role="assistant", content=""), chunk(content="Hel"), chunk(content="lo"), chunk("stop")]
STREAMS = {
    "plain": body(*HELLO),
    "CR LF": body(*HELLO, end="\r\n\r\n"),
    "CR": body(*HELLO, end="\r\r"),
    "no end mark": body(*HELLO, done=False),
    "no end mark and no last blank line": body(*HELLO, done=False).rstrip("\n"),
    "comments": ": ping\n\n" + body(*HELLO[:2]).removesuffix("data: [DONE]\n\n") + ":\n: OPENROUTER PROCESSING\n\n" + body(*HELLO[2:]),
    "names and ids": body(*HELLO).replace("data: {", "event: message\nid: 7\nretry: 3\ndata: {"),
    "no blank behind the colon": body(*HELLO).replace("data: ", "data:"),
    "data over two lines": body(*HELLO).replace('"choices": [', '"choices":\ndata: ['),
    "empty events": "data:\n\n" + body(*HELLO),
    "parts": body(chunk(content=[{"type": "text", "text": "Hel"}]), chunk(content=[{"type": "text", "text": "lo"}]), chunk("stop")),
    "null deltas": body({"choices": [{"index": 0, "delta": None}]}, *HELLO, {"choices": None}, {"choices": []}),
    "text chunks": body({"choices": [{"text": "Hel"}]}, {"choices": [{"text": "lo", "finish_reason": "stop"}]}),
    "the finished message at the end": body({"choices": [{"index": 0, "message": {"content": "Hello"}, "finish_reason": "stop"}]}),
    "and beside the pieces": body(*HELLO[:3], {"choices": [{"index": 0, "message": {"content": "Hello"}, "finish_reason": "stop"}]}),
    "no stream at all": json.dumps({"choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}]}, indent=1),
    "another choice": body(*HELLO[:2], {"choices": [{"index": 1, "delta": {"content": "x"}}]}, *HELLO[2:]),
    "the end mark alone ends it": body(*HELLO[:3]),
}


@pytest.mark.parametrize("name", STREAMS)
def test_every_manner_of_stream_is_read(name):
    assert answer(STREAMS[name]).text == "Hello" and collected(STREAMS[name]).ended


def test_separators_of_unicode_end_no_line():
    text = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg"
    assert answer(body(chunk(content=text), chunk("stop"))).text == text


@settings(max_examples=100, deadline=None)
@given(st.data(), st.lists(st.text(max_size=6), max_size=4), st.sampled_from(["\n", "\r\n", "\r"]))
def test_any_split_of_the_bytes_gives_the_same_events(data, texts, end):
    raw = body(*[chunk(content=text) for text in texts], chunk("stop"), end=end * 2).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=8)))
    blocks = [raw[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    assert list(events(blocks)) == list(events([raw])) == [*[chunk(content=text) for text in texts], chunk("stop"), DONE]
    assert list(lines(blocks)) == list(lines([raw]))


def test_calls_come_whole_or_in_fragments():
    f = {"name": "f", "arguments": {"a": [1, "x"]}}
    parts = ['{"a"', ': [1, "x', '"]}']
    whole = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "".join(parts)}}
    shapes = {
        "whole": [chunk(tool_calls=[{"index": 0, **whole}])],
        "by index": [
            chunk(tool_calls=[{"index": 0, "id": "1", "function": {"name": "f", "arguments": ""}}]),
            *[chunk(tool_calls=[{"index": 0, "function": {"arguments": part}}]) for part in parts],
        ],
        "the name every time": [
            chunk(tool_calls=[{"index": 0, "id": "1", "function": {"name": "f", "arguments": part}}]) for part in parts
        ],
        "the name in two": [
            chunk(tool_calls=[{"index": 0, "id": "1", "function": {"name": "", "arguments": parts[0]}}]),
            chunk(tool_calls=[{"index": 0, "function": {"name": "f", "arguments": parts[1]}}]),
            chunk(tool_calls=[{"index": 0, "function": {"name": None, "arguments": parts[2]}}]),
        ],
        "no index": [chunk(tool_calls=[{"id": "1", "function": {"name": "f", "arguments": parts[0]}}])]
        + [chunk(tool_calls=[{"function": {"arguments": part}}]) for part in parts[1:]],
        "an object": [chunk(tool_calls=[{"index": 0, "id": "1", "function": {"name": "f", "arguments": {"a": [1, "x"]}}}])],
        "the older form": [
            chunk(function_call={"name": "f", "arguments": parts[0]}),
            chunk(function_call={"arguments": "".join(parts[1:])}),
        ],
    }
    for name, pieces in shapes.items():
        assert answer(body(*pieces, chunk("tool_calls"))).tool_calls == (f,), name
    late = [chunk(tool_calls=[{"index": at, **whole, "function": {"name": name, "arguments": "{}"}}]) for at, name in ((1, "g"), (0, "f"))]
    assert [call["name"] for call in answer(body(*late, chunk("tool_calls"))).tool_calls] == ["f", "g"]
    two = [chunk(tool_calls=[{"index": 0, **whole}]), chunk(tool_calls=[{"index": 0, **whole, "id": "2"}])]
    assert answer(body(*two, chunk("tool_calls"))).tool_calls == (f, f)


def test_a_call_is_shown_once_its_arguments_are_whole():
    growing = Collected()
    growing.add(chunk(tool_calls=[{"index": 0, "function": {"name": "f", "arguments": '{"a"'}}]))
    assert growing.complete_calls() == ()
    growing.add(chunk(tool_calls=[{"index": 0, "function": {"arguments": ": 1}"}}]))
    assert growing.complete_calls() == ({"name": "f", "arguments": {"a": 1}},)


def test_streams_that_are_none():
    for text in ("data: {\n\n", "data: 3\n\n", "<html>", 'data: {"choices": 3}\n\n'):
        with pytest.raises(BadReply):
            collected(text)
    with pytest.raises(BrokenStream, match="boom"):
        collected(body({"error": {"message": "boom"}}))
    assert not collected(body(*HELLO[:2], done=False)).ended


def test_contents_and_calls_of_whole_answers():
    assert (
        text_of([{"type": "text", "text": "a"}, "b", {"type": "output_text", "text": {"value": "c"}}, {"type": "refusal", "refusal": "d"}])
        == "abcd"
    )
    assert text_of(None) == "" and text_of({"type": "text", "text": "x"}) == "x"
    assert tool_call({"function": {"name": "f", "arguments": {"a": 1}}}) == {"name": "f", "arguments": {"a": 1}}
    assert (
        tool_call({"function": {"name": "f"}}) == tool_call({"function": {"name": "f", "arguments": ""}}) == {"name": "f", "arguments": {}}
    )
    older = {
        "choices": [{"message": {"content": None, "function_call": {"name": "f", "arguments": "{}"}}}],
        "usage": {"prompt_tokens": 3.0},
    }
    assert completion_of(older, 0.0).tool_calls == ({"name": "f", "arguments": {}},) and completion_of(older, 0.0).prompt_tokens == 3
    for wrong in (3, [3], {"content": 3}, {"content": "x", "tool_calls": 3}):
        with pytest.raises(BadReply):
            completion_of({"choices": [{"message": wrong}]}, 0.0)
