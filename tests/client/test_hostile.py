"""Whatever a server answers is an answer that can be stored, or one of the client's own errors, within bounds."""

from __future__ import annotations

import gzip
import json
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from local_server import Handler, local_servers

from dllm_agents.agents.recording import recorded
from dllm_agents.client import client as client_module
from dllm_agents.client import reading
from dllm_agents.client.client import BadReply, Client, Endpoint, RequestRefused, ServerFault, completion_of, reason_of
from dllm_agents.client.judge import parse_grade
from dllm_agents.client.reading import BrokenStream, Collected, events, json_object, lines
from dllm_agents.client.streaming import stream
from dllm_agents.config import Backbone
from dllm_agents.decoding.settings import Decoding
from dllm_agents.errors import StageError
from dllm_agents.records import TracedCall
from dllm_agents.serving.launch import configured_endpoint

TEXT = st.text(st.characters() | st.sampled_from("\ud800\udfff\u2028\x85\r\n\0"), max_size=6)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from([10**30, -1, 2**31, 1e308]) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT | st.sampled_from(["name", "function", "text"]), inner, max_size=3),
    max_leaves=8,
)


def some(**fields: Any) -> Any:
    """Objects that mostly have these fields, or any JSON in their place."""
    return st.fixed_dictionaries({}, optional={name: value | JSON for name, value in fields.items()}) | JSON


CALL = some(id=TEXT, index=st.integers(), function=some(name=TEXT, arguments=TEXT | JSON.map(json.dumps)))
MESSAGE = some(content=TEXT, tool_calls=st.lists(CALL, max_size=3), refusal=TEXT)
TRACE = some(tokens=st.lists(TEXT), reveal_step=st.lists(st.integers()), confidence=st.lists(st.floats()), decoding=JSON)
CHOICE = some(message=MESSAGE, delta=MESSAGE, finish_reason=TEXT, trace=TRACE, index=st.integers(0, 1))
REPLY = some(choices=st.lists(CHOICE, max_size=2), usage=some(prompt_tokens=st.integers(), nfe=st.integers()), error=JSON)


def stored(payload: Any) -> None:
    line = recorded("policy", 1, completion_of(payload, 0.1)).model_dump_json(exclude_none=True)
    TracedCall.model_validate_json(line)


@settings(max_examples=400, deadline=None)
@given(REPLY)
def test_any_reply_is_stored_or_refused(reply: Any) -> None:
    with suppress(BadReply):
        stored(json_object(json.dumps(reply).encode(), "the reply"))


@settings(max_examples=400, deadline=None)
@given(st.lists(REPLY, max_size=4), st.booleans())
def test_any_stream_is_stored_or_refused(replies: list[Any], escaped: bool) -> None:
    body = "".join(f"data: {json.dumps(reply, ensure_ascii=escaped)}\n\n" for reply in replies).encode("utf-8", "replace")
    collected = Collected()
    with suppress(BadReply, BrokenStream):
        for event in events([body]):
            if collected.add(event) and collected.has_grown():
                collected.complete_calls()
        stored(collected.payload())


@settings(max_examples=200, deadline=None)
@given(JSON)
def test_any_error_body_has_a_reason_that_can_be_said(value: Any) -> None:
    for content in (json.dumps({"error": value}), json.dumps({"error": {"message": value, "code": value}}), repr(value)):
        assert reason_of(content.encode("utf-8", "replace")).message.encode() is not None


def test_a_line_in_tiny_pieces_takes_linear_time() -> None:
    pieces = (b"x" for _ in range(200_000))
    begun = time.process_time()
    assert [len(line) for line in lines(pieces)] == [200_000]
    assert time.process_time() - begun < 20  # four minutes where every piece was searched again with all before it


def looks(pieces: int, **delta: Any) -> tuple[int, list[Any]]:
    """How often a stream of equal pieces is looked at, and the calls of the last look."""
    collected, count, calls = Collected(), 0, ()
    for _ in range(pieces):
        if collected.add({"choices": [{"delta": delta}]}) and collected.has_grown():
            count, calls = count + 1, collected.complete_calls()
    return count, list(calls)


def test_an_answer_in_tiny_pieces_is_not_looked_at_after_each() -> None:
    short, long = looks(1000, content="é")[0], looks(40_000, content="é")[0]
    assert short == 1000 and long < 6000
    part = {"index": 0, "function": {"name": "f", "arguments": "["}}
    assert looks(40_000, tool_calls=[part])[0] < 6000


def test_a_call_is_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[Any] = []
    monkeypatch.setattr(reading, "tool_call", lambda call: parsed.append(call) or {"name": "f", "arguments": {}})
    collected = Collected()
    collected.add({"choices": [{"delta": {"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": "{}"}}]}}]})
    for _ in range(50):
        collected.add({"choices": [{"delta": {"content": "x"}}]})
        assert len(collected.complete_calls()) == 1
    assert len(parsed) == 1


@pytest.mark.parametrize("arguments", [5, None, True, 1.5, [], {}, [5], "5", "", '"x"'])
def test_arguments_of_any_kind_are_an_answer_or_none(arguments: Any) -> None:
    collected = Collected()
    for _ in range(2):
        event = {"choices": [{"delta": {"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": arguments}}]}}]}
        with suppress(BadReply):
            if collected.add(event) and collected.has_grown():
                collected.complete_calls()
    with suppress(BadReply):
        stored(collected.payload())


def test_a_judge_of_nothing_but_line_ends_takes_linear_time() -> None:
    begun = time.process_time()
    for reply in ("\n" * 100_000, "correct" + ":" * 100_000, "- " * 50_000 + "\n" * 50_000):
        assert parse_grade(reply).verdict == "unparsable"
    assert time.process_time() - begun < 20  # minutes where a line's beginning may be any number of lines


@pytest.mark.parametrize("calls", [128, 129])
def test_an_answer_has_a_bounded_number_of_calls(calls: int) -> None:
    call = {"function": {"name": "f", "arguments": "{}"}}
    whole = {"choices": [{"message": {"tool_calls": [call] * calls}}]}
    growing = Collected()
    if calls == 128:
        assert len(completion_of(whole, 0).tool_calls) == 128
    else:
        with pytest.raises(BadReply, match="over 128 tool calls"):
            completion_of(whole, 0)
        with pytest.raises(BadReply, match="over 128 tool calls"):
            for index in range(calls):
                growing.add({"choices": [{"delta": {"tool_calls": [{**call, "index": index}]}}]})


def test_a_pair_that_is_split_over_two_events_is_joined() -> None:
    collected = Collected()
    for event in events(
        [b'data: {"choices": [{"delta": {"content": "\\ud83d"}}]}\n\n', b'data: {"choices": [{"delta": {"content": "\\ude00"}}]}\n\n']
    ):
        collected.add(event)
    assert completion_of(collected.payload(), 0).text == "\U0001f600"


@pytest.fixture
def endless() -> Iterator[Callable[..., tuple[str, list[int]]]]:
    """A server whose body has a beginning and no end; gives its URL, and how many bytes it got rid of."""
    with local_servers() as serve:

        def start(status: int, head: bytes, block: bytes = b"x" * (1 << 16), pause: float = 0.0) -> tuple[str, list[int]]:
            sent = [0]

            class Endless(Handler):
                def do_POST(self) -> None:
                    self.send_response(status)
                    self.end_headers()
                    self.wfile.write(head)
                    try:
                        while sent[0] < 1 << 30:
                            self.wfile.write(block)
                            sent[0] += len(block)
                            time.sleep(pause)
                    except OSError:
                        pass

                do_GET = do_POST

            return f"{serve(Endless)}/v1", sent

        yield start


def ask(url: str, streamed: bool) -> Any:
    with Client(Endpoint(url, "tiny", False), backoff=0.001, attempts=2) as client:
        if streamed:
            return list(stream(client, [{"role": "user", "content": "x"}], decoding=Decoding()))
        return client.complete([{"role": "user", "content": "x"}], decoding=Decoding())


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(("status", "head"), [(200, b"data: "), (200, b'{"a": "'), (400, b'{"error": "'), (500, b"")])
def test_an_endless_body_is_given_up(endless: Any, streamed: bool, status: int, head: bytes) -> None:
    url, sent = endless(status, head)
    with pytest.raises(BadReply, match="a reply over 16,777,216 bytes"):
        ask(url, streamed)
    assert sent[0] < 64 << 20 and resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 2 << 20


@pytest.mark.parametrize("streamed", [False, True])
def test_a_body_that_trickles_for_ever_is_given_up(endless: Any, streamed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "REPLY_SECONDS", 0.3)
    url, _ = endless(200, b"data: ", b":", 0.02)
    with pytest.raises(BadReply, match=r"not whole after 0\.3 s"):
        ask(url, streamed)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("encoding", ["gzip, gzip", "gzip,gzip,gzip", "br", "zstd", "deflate, gzip", "x\u00e9", "gzip"])
def test_a_body_that_is_compressed_twice_is_not_unpacked(streamed: bool, encoding: str) -> None:
    answer: Any = {"choices": [{"index": 0, "message": {"content": "fine"}, "finish_reason": "stop"}]}
    content = gzip.compress(json.dumps(answer).encode())

    class Compressed(Handler):
        def do_POST(self) -> None:
            self.send_response(200)
            self.send_header("Content-Encoding", encoding)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    with local_servers() as serve:
        url = f"{serve(Compressed)}/v1"
        if encoding == "gzip":
            answer = ask(url, streamed)
            assert (answer[-1] if streamed else answer).text == "fine"
        else:
            with pytest.raises(BadReply, match="compressed as .* which nobody asked for"):
                ask(url, streamed)


def test_an_endless_list_of_models_is_one_line(endless: Any) -> None:
    url, sent = endless(200, b'{"data": [')
    with pytest.raises(StageError, match=r"backbones\.far\.url: .* gives no model list \(over 1,048,576 bytes\)"):
        configured_endpoint("far", Backbone(url=url), "backbones.far")
    assert sent[0] < 16 << 20


@pytest.mark.parametrize(
    "reply", [{"choices": [{"message": {"content": "x\ud800"}, "finish_reason": "stop"}]}, {"error": {"message": "\ud800"}}]
)
def test_half_a_pair_from_a_server_ends_no_run(server: Any, reply: Any) -> None:
    url, _ = server((200 if "choices" in reply else 400, reply))
    try:
        assert ask(url, False).text == "x\ufffd"
    except (RequestRefused, ServerFault) as error:
        str(error).encode()
