"""Streamed completions: snapshots of an answer while it is decoded, and a search that starts before the thinking has ended."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from dllm_agents import benchmarks
from dllm_agents.agents.play import Player
from dllm_agents.agents.recording import recorded
from dllm_agents.agents.search import SEARCH_TOOL
from dllm_agents.agents.served import Served
from dllm_agents.benchmarks.search_reply import answer_text, reply_text, tool_call
from dllm_agents.client.client import BadReply, Client, Endpoint, PromptTooLong, ServerFault
from dllm_agents.client.streaming import Partial, stream
from dllm_agents.config import Config
from dllm_agents.decoding.settings import Decoding
from dllm_agents.engine.engine import Finished, Unmasked
from dllm_agents.serving.app import create_app


@pytest.fixture
def sse():
    """A server that answers each request with the next of the given bodies: (status, list of events); None breaks the stream off."""
    started = []

    def start(*answers, native=True):
        requests = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                requests.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                status, events = answers[min(len(requests), len(answers)) - 1]
                self.send_response(status)
                self.end_headers()
                for event in events:
                    if event is None:
                        return
                    data = event if isinstance(event, str) else json.dumps(event)
                    self.wfile.write((f"data: {data}\n\n" if status == 200 else data).encode())

            def log_message(self, *arguments):
                pass

        httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        started.append(httpd)
        endpoint = Endpoint(f"http://127.0.0.1:{httpd.server_port}/v1", "m", native=native)
        return Client(endpoint, attempts=3, backoff=0.01), requests

    yield start
    for httpd in started:
        httpd.shutdown()
        httpd.server_close()


def delta(**fields):
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": None}]}


CALL = {"index": 0, "id": "1", "type": "function", "function": {"name": "search", "arguments": '{"query": ["who"]}'}}
LAST = {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls", "trace": {"reveal_step": [1, 0], "token_ids": [7, 8]}}]}
USAGE = {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 2, "nfe": 2}}
EVENTS = [
    delta(role="assistant", content=""),
    delta(tool_calls=[CALL]),
    delta(content="<think>a"),
    delta(content="</think>"),
    LAST,
    USAGE,
    "[DONE]",
]


def ask(client, tools=(SEARCH_TOOL,)):
    return list(stream(client, [{"role": "user", "content": "q"}], decoding=Decoding(), seed=1, tools=tools))


def test_a_stream_gives_snapshots_and_then_the_completion(sse):
    client, requests = sse((200, EVENTS))
    call = {"name": "search", "arguments": {"query": ["who"]}}
    *partials, last = ask(client)
    assert partials == [Partial("", (call,)), Partial("<think>a", (call,)), Partial("<think>a</think>", (call,))]
    assert (last.text, last.tool_calls, last.nfe) == ("<think>a</think>", (call,), 2)
    assert (last.reveal_step, last.finish_reason) == ([1, 0], "tool_calls")
    assert recorded("policy", 1, last).whole_text == reply_text("a", tool_call(["who"]))
    assert requests[0]["stream"] and requests[0]["tools"] == [SEARCH_TOOL] and requests[0]["seed"] == 1


def test_a_broken_stream_is_asked_for_again_from_the_start(sse):
    client, requests = sse((503, []), (200, [*EVENTS[:3], None]), (200, EVENTS))
    parts = ask(client)
    assert len(requests) == 3 and parts[-1].text == "<think>a</think>" and parts[1].content == "<think>a"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ((200, [{"error": {"message": "boom"}}]), ServerFault),
        ((200, ["{"]), BadReply),
        ((200, ["3"]), BadReply),
        ((400, [{"error": {"message": "too long", "code": "context_length_exceeded"}}]), PromptTooLong),
        ((401, [{"error": {"message": "no"}}]), ServerFault),
    ],
)
def test_streams_fail_as_whole_completions_do(sse, answer, error):
    client, _ = sse(answer)
    with pytest.raises(error):
        ask(client)


def test_other_servers_are_offered_no_tools_and_stream_plain_text(sse):
    text = reply_text("a", tool_call(["who"]), tool_first=True)
    client, requests = sse((200, [delta(content=text), LAST, "[DONE]"]), native=False)
    assert ask(client)[-1].text == text and "tools" not in requests[0]


def call_first(tokenizer, thought, action):
    """A script of two forwards: the tool call between its tags, then the thinking in front of it."""
    ids, call = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (f"<think>{thought}</think>\n", action))
    places = list(range(len(ids) + len(call)))
    steps = [1] * len(ids) + [0] * len(call)
    generation = SimpleNamespace(token_ids=ids + call, nfe=2, reveal_step=steps, confidence=[1.0] * len(steps), finish_reason="stop")
    return [Unmasked(places[len(ids) :], call, 0), Unmasked(places[: len(ids)], ids, 1), Finished(generation)]


def test_p_react_over_the_real_server_calls_before_it_has_thought(scripted, serving, tokenizer):
    benchmark = benchmarks.load("multihop_qa", {"tasks": 1, "hops": [2], "max_steps": 2})
    (task,) = benchmark.tasks("test")
    query, gold = task.data["hops"][0]["query"], task.data["answers"][0]
    replies = [call_first(tokenizer, "I look", tool_call([query])), call_first(tokenizer, "known", answer_text(gold))]
    engine = scripted(lambda prompt_ids, decoding: replies.pop(0))
    url = serving(create_app(engine, tokenizer, "m", Decoding(), context=4000))
    settings = {"strategy": "llada", "max_new_tokens": 128, "tool_prefill": {}}
    config = Config.model_validate(
        {
            "benchmarks": {"multihop_qa": {"tasks": 1, "hops": [2], "max_steps": 2}},
            "backbones": {"m": {"url": url, "prompt": "compact", "decoding": settings}},
            "agents": {"a": {"policy": "m", "acting": "p_react"}},
            "run": {"benchmarks": ["multihop_qa"], "agents": ["a"]},
        }
    )
    with Client(Endpoint(url, "m"), attempts=1) as client:
        played = Player(config, "a", benchmark).play(task, Served(config, "a", "multihop_qa", {"m": client}))
    assert [decoding.tool_prefill is None for decoding in engine.seen] == [False, True]
    first, _ = played.turns()
    assert played.success and first.text == reply_text("I look", tool_call([query])) and first.step.progress == 0.5
    assert (first.call.nfe, first.call.reveal_step[0]) == (2, 1)
    # The call came before the thinking in front of it.
    assert first.call.early == {"content": "", "tool_calls": [{"name": "search", "arguments": {"query": [query]}}]}
