"""The HTTP contract: OpenAI's shapes, refusals with their reasons, streams that follow the settled text."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import openai
import pytest
from fastapi.testclient import TestClient

from dllm_agents.client.client import BadReply
from dllm_agents.config import Backbone
from dllm_agents.decoding.settings import Decoding
from dllm_agents.engine.engine import Failed, Finished, Unmasked
from dllm_agents.serving.app import create_app

CALL = '<tool_call>{"name": "search", "arguments": {"query": ["red ball"]}}</tool_call>'
TOOLS = [{"type": "function", "function": {"name": "search", "description": "find", "parameters": {"type": "object", "properties": {}}}}]
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "go to the red ball"}]}


@pytest.fixture
def client(tokenizer: Any, scripted: Callable[..., Any]) -> Callable[..., TestClient]:
    def make(script: Any, api_key: str | None = None, context: int = 512, **options: Any) -> TestClient:
        app = create_app(scripted(script, **options), tokenizer, "tiny", Decoding(max_new_tokens=128), context, api_key)
        return TestClient(app, raise_server_exceptions=False)

    return make


def test_the_openai_client_works_unchanged(tokenizer: Any, scripted: Callable[..., Any], serving: Callable[[Any], str]) -> None:
    text = "Thought: go to the red ball\nAction: go ✓"
    base_url = serving(create_app(scripted(text), tokenizer, "tiny", Decoding(), 512))
    with openai.OpenAI(base_url=base_url, api_key="unused", max_retries=0) as ours:
        assert [model.id for model in ours.models.list()] == ["tiny"]
        whole = ours.chat.completions.create(**CHAT, max_tokens=100, temperature=0, seed=1)
        assert whole.choices[0].message.content == text and whole.choices[0].finish_reason == "stop"
        tokens = len(tokenizer(text)["input_ids"])
        assert whole.usage is not None and whole.usage.completion_tokens == tokens and whole.usage.model_extra == {"nfe": tokens}
        assert whole.usage.total_tokens == whole.usage.prompt_tokens + tokens
        chunks = list(ours.chat.completions.create(**CHAT, stream=True, stream_options={"include_usage": True}))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == text
        assert chunks[-2].choices[0].finish_reason == "stop" and chunks[-1].usage == whole.usage
        plain = ours.completions.create(model="tiny", prompt="go", max_tokens=100, extra_body={"return_trace": True})
        assert plain.choices[0].text == text
        extra = plain.choices[0].model_extra
        assert extra is not None and (trace := extra["trace"])["token_ids"] == tokenizer(text)["input_ids"]
        assert trace["reveal_step"] == list(range(tokens)) and len(trace["tokens"]) == len(trace["confidence"]) == tokens
        assert all(0 <= value <= 1 for value in trace["confidence"]) and all(isinstance(token, str) for token in trace["tokens"])
        assert "".join(chunk.choices[0].text for chunk in ours.completions.create(model="tiny", prompt="go", stream=True)) == text
        with pytest.raises(openai.NotFoundError, match="'other' is not served here"):
            ours.chat.completions.create(model="other", messages=CHAT["messages"])
        with pytest.raises(openai.BadRequestError, match="steps"):
            ours.chat.completions.create(**CHAT, extra_body={"steps": -1})


def test_decoding_fields_reach_the_engine(tokenizer: Any, scripted: Callable[..., Any]) -> None:
    engine = scripted("ok")
    default = Decoding(strategy="fast_dllm", threshold=0.9, cache="dual", max_new_tokens=64, seed=7)
    client = TestClient(create_app(engine, tokenizer, "tiny", default, 512))
    prefill = {"open": 3, "close": 9, "bias": 0.25}
    for extra in ({}, {"max_tokens": 8, "threshold": 0.5, "seed": 1}, {"max_completion_tokens": 9, "tool_prefill": prefill, "cache": None}):
        assert client.post("/v1/chat/completions", json=CHAT | extra).status_code == 200
    assert engine.seen[0] == default
    assert engine.seen[1] == default.model_copy(update={"max_new_tokens": 8, "threshold": 0.5, "seed": 1})
    assert engine.seen[2].max_new_tokens == 9 and engine.seen[2].cache == "dual"
    assert engine.seen[2].tool_prefill is not None and engine.seen[2].tool_prefill.bias == 0.25


def test_a_named_strategy_brings_all_of_its_settings(tokenizer: Any, scripted: Callable[..., Any]) -> None:
    engine = scripted("ok")
    client = TestClient(create_app(engine, tokenizer, "tiny", Decoding(strategy="fast_dllm", threshold=0.9, cache="dual"), 512))
    assert client.post("/v1/chat/completions", json=CHAT | {"strategy": "llada", "steps": 16}).status_code == 200
    assert engine.seen == [Decoding(strategy="llada", steps=16)]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown field": ({"stepz": 3}, "stepz: this server has no such field"),
    "a field of OpenAI's that is not offered": ({"functions": []}, "functions: this server has no such field"),
    "a penalty": ({"frequency_penalty": 0.5}, "frequency_penalty"),
    "a bias": ({"logit_bias": {"5": 1}}, "logit_bias"),
    "sound": ({"modalities": ["text", "audio"]}, "modalities"),
    "alternatives of nothing": ({"top_logprobs": 2}, "top_logprobs needs logprobs"),
    "an image": ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "should be 'text'"),
    "too many stop strings": ({"stop": ["a"] * 20}, "at most 8 items"),
    "negative steps": ({"steps": -1}, "steps"),
    "absurd steps": ({"steps": 10**9}, "at most"),
    "absurd block": ({"block_length": 10**9}, "at most"),
    "absurd max_tokens": ({"max_tokens": 10**9}, "max_tokens"),
    "no room for any prompt": ({"max_tokens": 512}, "max_new_tokens is 512, which leaves no prompt room"),
    "no room": ({"max_tokens": 511}, "exceed the context of 512"),
    "two lengths": ({"max_tokens": 8, "max_new_tokens": 9}, "give one of them"),
    "zero tokens": ({"max_tokens": 0}, "max_tokens"),
    "steps as text": ({"steps": "3"}, "steps"),
    "temperature as truth": ({"temperature": True}, "temperature"),
    "unknown strategy": ({"strategy": "magic"}, "strategy"),
    "unknown role": ({"messages": [{"role": "oracle", "content": "x"}]}, "role"),
    "no messages": ({"messages": []}, "messages"),
    "no answers": ({"n": 0}, "n"),
    "mask id out of range": ({"mask_id": 10**6}, "outside the vocabulary"),
    "stop id out of range": ({"stop_ids": [-1]}, "outside the vocabulary"),
    "empty stop string": ({"stop": ""}, "stop"),
    "seed beyond 64 bits": ({"seed": 2**70}, "seed"),
    "unknown tag option": ({"tool_prefill": {"open": 1, "shut": 2}}, "shut"),
    "lone surrogate": ({"messages": [{"role": "user", "content": "\ud800"}]}, "not Unicode"),
    "surrogate as a field": ({"\ud800": 1}, "unicode"),
    "long prompt": ({"messages": [{"role": "user", "content": "x " * 500_000}]}, "exceed the context"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_name_the_reason(name: str, client: Callable[..., TestClient]) -> None:
    extra, reason = REFUSED[name]
    response = client("never").post("/v1/chat/completions", content=json.dumps(CHAT | extra), headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert reason in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"model": "tiny", ', 400),
        (b'{"model": "tiny\xff"}', 400),
        (b"", 400),
        (b"[]", 400),
        (b"[" * 100_000, 400),
        (b'{"model": "tiny", "temperature": NaN, "messages": [{"role": "user", "content": "x"}]}', 400),
        (b" " * (5 << 20), 413),
    ],
    ids=["cut", "not UTF-8", "empty", "list", "deep", "NaN", "5 MiB"],
)
def test_bodies_that_are_no_request(body: bytes, status: int, client: Callable[..., TestClient]) -> None:
    response = client("never").post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert response.status_code == status and response.json()["error"]["message"]


def test_a_failure_is_a_500_with_its_reason_also_when_streamed(client: Callable[..., TestClient]) -> None:
    failing = client(lambda prompt, decoding: [Failed("logits are not finite")])
    for stream in (False, True):
        response = failing.post("/v1/chat/completions", json=CHAT | {"stream": stream})
        assert response.status_code == 500 and response.json()["error"]["message"] == "logits are not finite"
    assert (
        client(lambda prompt, decoding: [Failed("no such order", settings=True)]).post("/v1/chat/completions", json=CHAT).status_code == 400
    )


def test_a_late_failure_ends_the_stream_with_its_reason(client: Callable[..., TestClient]) -> None:
    late = client(lambda prompt, decoding: [Unmasked([0], [65], 0), Failed("logits are not finite")])
    assert '"message": "logits are not finite"' in late.post("/v1/chat/completions", json=CHAT | {"stream": True}).text


def test_a_full_queue_answers_429(client: Callable[..., TestClient]) -> None:
    response = client("never", capacity=0).post("/v1/chat/completions", json=CHAT)
    assert response.status_code == 429 and response.headers["retry-after"] == "1"


def test_the_key_guards_everything_but_health(client: Callable[..., TestClient]) -> None:
    guarded = client("yes", api_key="secret")
    assert guarded.get("/health").status_code == 200
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}):
        assert guarded.post("/v1/chat/completions", json=CHAT, headers=headers).status_code == 401
        assert guarded.get("/metrics", headers=headers).status_code == 401
    assert guarded.post("/v1/chat/completions", json=CHAT, headers={"Authorization": "Bearer secret"}).status_code == 200


def test_stop_strings_end_the_answer_where_they_begin(client: Callable[..., TestClient]) -> None:
    body = client("go to the ball\nObservation: the red ball").post("/v1/chat/completions", json=CHAT | {"stop": ["\nObs"]}).json()
    assert body["choices"][0]["message"]["content"] == "go to the ball" and body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"]["nfe"] == body["usage"]["completion_tokens"]


def test_the_length_limit_is_told(client: Callable[..., TestClient]) -> None:
    body = client("the red ball " * 20).post("/v1/chat/completions", json=CHAT | {"max_tokens": 5}).json()
    assert body["choices"][0]["finish_reason"] == "length" and body["usage"]["completion_tokens"] == 5


@pytest.mark.parametrize("stream", [False, True])
def test_tool_calls_in_openai_form(stream: bool, client: Callable[..., TestClient]) -> None:
    asked = client(f"I search. {CALL}")
    assert CALL in asked.post("/v1/chat/completions", json=CHAT).json()["choices"][0]["message"]["content"]
    response = asked.post("/v1/chat/completions", json=CHAT | {"tools": TOOLS, "stream": stream})
    if stream:
        deltas = [chunk["choices"][0] for chunk in events(response.text)]
        calls = [call for delta in deltas for call in delta["delta"].get("tool_calls", [])]
        content = "".join(delta["delta"].get("content", "") for delta in deltas)
        finish_reason = deltas[-1]["finish_reason"]
    else:
        choice = response.json()["choices"][0]
        calls, content, finish_reason = choice["message"]["tool_calls"], choice["message"]["content"], choice["finish_reason"]
    assert content == "I search. " and finish_reason == "tool_calls"
    assert [call["function"] for call in calls] == [{"name": "search", "arguments": '{"query": ["red ball"]}'}]


def events(text: str) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def prefilled(tokenizer: Any, thought: str) -> Callable[..., list[Any]]:
    """P-ReAct's order: the call between its tags settles first, the thinking in front of it afterwards, back to front."""

    def script(prompt_ids: Any, decoding: Decoding) -> list[Any]:
        front, call = (tokenizer(part, add_special_tokens=False)["input_ids"] for part in (thought, CALL))
        places = list(range(len(front), len(front) + len(call)))
        ends = [Unmasked([places[0], places[-1]], [call[0], call[-1]], 0), Unmasked(places[1:-1], call[1:-1], 1)]
        back = [Unmasked([place], [front[place]], 2 + step) for step, place in enumerate(reversed(range(len(front))))]
        steps = [1 + len(front) - place for place in range(len(front))] + [0, *[1] * (len(call) - 2), 0]
        return [
            *ends,
            *back,
            Finished(
                SimpleNamespace(
                    token_ids=front + call, nfe=2 + len(front), reveal_step=steps, confidence=[1.0] * len(steps), finish_reason="stop"
                )
            ),
        ]

    return script


def test_with_p_react_the_call_is_streamed_while_the_thinking_goes_on(
    tokenizer: Any, scripted: Callable[..., Any], serving: Callable[[Any], str]
) -> None:
    engine = scripted(prefilled(tokenizer, "the ball"))
    engine.gate = threading.Semaphore(1)  # both events of the call, and nothing of the thinking
    base_url = serving(create_app(engine, tokenizer, "tiny", Decoding(), 512))
    body = CHAT | {"tools": TOOLS, "stream": True, "tool_prefill": {"open": 2, "close": 30}}
    with httpx.Client() as http, http.stream("POST", f"{base_url}/chat/completions", json=body) as response:
        deltas = (json.loads(line[6:])["choices"][0]["delta"] for line in response.iter_lines() if line.startswith("data: {"))
        first_call = next(delta for delta in deltas if "tool_calls" in delta)
        engine.gate.release(100)
        rest = list(deltas)
    assert first_call["tool_calls"][0]["function"]["name"] == "search"
    assert "".join(delta.get("content", "") for delta in rest) == "the ball"
    assert not any("tool_calls" in delta for delta in rest)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_hangs_up_cancels_its_request(
    stream: bool, tokenizer: Any, scripted: Callable[..., Any], serving: Callable[[Any], str]
) -> None:
    engine = scripted("the red ball " * 60)
    engine.gate = threading.Semaphore(3)  # fewer than the answer has tokens
    base_url = serving(create_app(engine, tokenizer, "tiny", Decoding(), 512))
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{base_url}/chat/completions", json=CHAT | {"stream": stream}, timeout=httpx.Timeout(10, read=0.5))
    for _ in range(200):
        engine.gate.release()
        if engine.cancelled.wait(0.02):
            break
    assert engine.cancelled.is_set()


def test_metrics_are_prometheus_text(client: Callable[..., TestClient]) -> None:
    asked = client("yes")
    asked.post("/v1/chat/completions", json=CHAT)
    text = asked.get("/metrics").text
    assert "dllm_agents_requests_running 0.0" in text and "dllm_agents_request_seconds_count 1.0" in text


def test_a_server_that_shuts_down_answers_503(diffusion_checkpoint: Path, tokenizer: Any) -> None:
    from dllm_agents.engine.engine import Engine
    from dllm_agents.models import load

    engine = Engine(load(diffusion_checkpoint))
    app = create_app(engine, tokenizer, "tiny", Decoding(strategy="llada", max_new_tokens=450, block_length=450), 512)
    client = TestClient(app)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(client.post, "/v1/chat/completions", json=CHAT)
        while not engine.stats().running:
            time.sleep(0.01)
        app.state.backend.close()
        assert answer.result(30).status_code == 503
    late = client.post("/v1/chat/completions", json=CHAT)
    assert late.status_code == 503 and "closed" in late.json()["error"]["message"]


def test_settings_the_decoder_cannot_carry_out_are_refused_and_the_engine_lives(diffusion_checkpoint: Path, tokenizer: Any) -> None:
    """What only the decoder can know: the schema lets it pass, the answer is a 400 that names the field."""
    from dllm_agents.engine.engine import Engine
    from dllm_agents.models import load

    default = Decoding(strategy="fast_dllm", threshold=0.9, max_new_tokens=16, block_length=8)
    app = create_app(Engine(load(diffusion_checkpoint)), tokenizer, "tiny", default, 512)
    client = TestClient(app, raise_server_exceptions=False)
    for extra, named in (
        ({"tool_prefill": {"open": 10**9, "close": 10**9 + 1}}, "tool_prefill"),
        ({"tool_prefill": {"open": 6, "close": 2}}, "tool_prefill"),
        ({"tool_prefill": {"open": 2, "close": 6, "open_id": 10**9}}, "tool_prefill"),
        ({"strategy": "ar"}, "strategy"),
        ({"strategy": "sdar"}, "strategy"),
        ({"strategy": "llada", "cache": "dual"}, "cache"),
        ({"remasking": "low_confidence_static"}, "remasking"),
    ):
        refused = client.post("/v1/chat/completions", json=CHAT | extra)
        assert refused.status_code == 400 and named in refused.json()["error"]["message"], refused.text
        assert client.post("/v1/chat/completions", json=CHAT).status_code == 200
    assert client.post("/v1/chat/completions", json=CHAT | {"messages": [{"role": "user", "content": ""}]}).status_code == 200
    app.state.backend.close()


def test_a_trace_tells_the_settings_with_every_default_filled_in(diffusion_checkpoint: Path, tokenizer: Any) -> None:
    from dllm_agents.client.client import completion_of
    from dllm_agents.engine.engine import Engine
    from dllm_agents.models import load

    model = load(diffusion_checkpoint)
    app = create_app(Engine(model), tokenizer, "tiny", Decoding(), 512)
    asked = {"max_new_tokens": 16, "return_trace": True}
    answer = TestClient(app).post("/v1/chat/completions", json=CHAT | asked).json()
    app.state.backend.close()
    assert completion_of(answer, 0.0).decoding == Decoding(max_new_tokens=16).resolved(model)
    answer["choices"][0]["trace"]["decoding"]["strategy"] = "nobody's"
    with pytest.raises(BadReply, match="strategy"):
        completion_of(answer, 0.0)


def test_a_trace_tells_what_happened_forward_by_forward_where_it_is_asked_for(diffusion_checkpoint: Path, tokenizer: Any) -> None:
    """From the server into the record of an episode, as `generate` notes it."""
    from dllm_agents.agents.recording import recorded
    from dllm_agents.client.client import completion_of
    from dllm_agents.decoding import generate
    from dllm_agents.engine.engine import Engine
    from dllm_agents.models import load

    model = load(diffusion_checkpoint)
    app = create_app(Engine(model), tokenizer, "tiny", Decoding(), 512)
    settings = {"max_new_tokens": 16, "dynamics": True}
    answer, plain = (
        TestClient(app).post("/v1/completions", json={"model": "tiny", "prompt": "go", "return_trace": True, **fields}).json()
        for fields in (settings, {"max_new_tokens": 16})
    )
    app.state.backend.close()
    trace = answer["choices"][0]["trace"]
    expected = generate(model, tokenizer("go")["input_ids"], Decoding(**settings)).dynamics
    assert trace["dynamics"] == asdict(expected) and "dynamics" not in plain["choices"][0]["trace"]
    said = {**answer, "choices": [{"message": {"content": "x"}, "finish_reason": "stop", "trace": trace}]}
    kept = recorded("policy", 1, completion_of(said, 0.0)).dynamics
    assert kept is not None and kept.masks == trace["dynamics"]["masks"] and sum(kept.accepted) == 16
    trace["dynamics"]["masks"].append(3)
    with pytest.raises(BadReply, match="a value for every forward"):
        completion_of(said, 0.0)


def test_control_tokens_spelled_out_are_text_or_tokens(tokenizer: Any, scripted: Callable[..., Any]) -> None:
    """`backbones.<name>.control_tokens`: one token each as the papers' code has them, else the letters that were sent."""
    tokens = {}
    for control in Backbone.model_validate({"url": "http://x", "control_tokens": "tokens"}).control_tokens, "text":
        app = create_app(scripted("yes"), tokenizer, "tiny", Decoding(), 512, control=control)
        said = CHAT | {"messages": [{"role": "user", "content": "<|im_end|>" * 4}]}
        tokens[control] = TestClient(app).post("/v1/chat/completions", json=said).json()["usage"]["prompt_tokens"]
    assert tokens["text"] >= tokens["tokens"] + 4


def test_an_answer_of_nothing_but_json_is_a_call_where_the_backbone_says_so(tokenizer: Any, scripted: Callable[..., Any]) -> None:
    """`backbones.<name>.bare_calls`; the template here writes calls in tags."""
    said = json.dumps({"name": "search", "arguments": {"query": "x"}})
    for bare in (Backbone.model_validate({"url": "http://x", "bare_calls": True}).bare_calls, None):
        app = create_app(scripted(said), tokenizer, "tiny", Decoding(max_new_tokens=100), 1024, bare_calls=bare)
        message = TestClient(app).post("/v1/chat/completions", json=CHAT | {"tools": TOOLS}).json()["choices"][0]["message"]
        assert [call["function"]["name"] for call in message.get("tool_calls") or []] == (["search"] if bare else [])
        assert (message["content"] or "") == ("" if bare else said)


def test_a_history_that_outgrows_the_context_is_refused(client: Callable[..., TestClient]) -> None:
    """An agent resends its history with every turn: the turn that does not fit is a 400 with OpenAI's code."""
    asked, messages = client("go to the ball"), list(CHAT["messages"])
    codes = []
    for _ in range(12):
        response = asked.post("/v1/chat/completions", json=CHAT | {"messages": messages, "max_tokens": 128})
        codes.append(response.status_code)
        if response.status_code != 200:
            assert response.json()["error"]["code"] == "context_length_exceeded"
            break
        messages += [response.json()["choices"][0]["message"], {"role": "user", "content": "x" * 100}]
    assert codes[0] == 200 and codes[-1] == 400
