"""Requests and checkpoints that are too large, or go round in circles: each is answered with one line, and the server goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from fastapi.testclient import TestClient
from small_checkpoints import make_tokenizer, save_checkpoint

from dllm_agents.decoding.settings import Decoding
from dllm_agents.engine.engine import Engine
from dllm_agents.models import load
from dllm_agents.serving.app import create_app

HELLO = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
MEGABYTE = b" " * (1 << 20)


@pytest.fixture
def url(tokenizer: Any, scripted: Callable[..., Any], serving: Callable[[Any], str]) -> str:
    return serving(create_app(scripted("fine"), tokenizer, "tiny", Decoding(), 131072))


def post(url: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{url}/chat/completions", json=HELLO | body, timeout=60)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_of_100_megabytes_is_refused_and_not_kept(url: str, chunked: bool) -> None:
    assert post(url).status_code == 200
    before = psutil.Process().memory_info().rss
    headers = {"Content-Type": "application/json"} | ({} if chunked else {"Content-Length": str(100 << 20)})
    answer = httpx.post(f"{url}/chat/completions", content=(MEGABYTE for _ in range(100)), headers=headers, timeout=60)
    assert answer.status_code == 413 and "over 4194304 bytes" in answer.json()["error"]["message"]
    assert psutil.Process().memory_info().rss - before < 50 << 20 and post(url).status_code == 200


def test_thousands_of_messages_are_a_prompt_and_more_are_refused(
    url: str, tokenizer: Any, scripted: Callable[..., Any], serving: Callable[[Any], str]
) -> None:
    messages = [{"role": ("user", "assistant")[number % 2], "content": f"<|im_end|>{number}"} for number in range(10_001)]
    started = time.perf_counter()
    refused = post(url, messages=messages).json()["error"]
    assert refused["param"] == "messages" and "at most 4096" in refused["message"]
    messages = messages[:4095]
    wide = serving(create_app(scripted("fine"), tokenizer, "tiny", Decoding(), 1 << 20))
    assert post(wide, messages=messages).json()["choices"][0]["message"]["content"] == "fine"
    assert time.perf_counter() - started < 60


def test_a_template_that_loops_holds_up_nobody(tokenizer: Any, scripted: Callable[..., Any], serving: Callable[[Any], str]) -> None:
    looping = make_tokenizer()
    looping.chat_template = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    url = serving(create_app(scripted("fine"), looping, "tiny", Decoding(), 512))
    answer = post(url)
    assert (
        answer.status_code == 400 and answer.json()["error"]["param"] == "messages" and "does not end" in answer.json()["error"]["message"]
    )
    text = httpx.post(f"{url}/completions", json={"model": "tiny", "prompt": "x", "max_tokens": 4}, timeout=60)
    assert text.json()["choices"][0]["text"] == "fine"


REF = {"$ref": "#"}
CIRCLES: dict[str, dict[str, Any]] = {
    "itself": REF,
    "a property that is the whole": {"type": "object", "properties": {"a": REF}},
    "a property that must be there": {"type": "object", "properties": {"a": REF}, "required": ["a"]},
    "a list of itself": {"type": "object", "properties": {"a": {"type": "array", "items": REF}}},
    "two definitions": {
        "type": "object", "properties": {"a": {"$ref": "#/$defs/b"}}, "$defs": {"b": {"$ref": "#/$defs/c"}, "c": {"$ref": "#/$defs/b"}}
    },
    "any of itself": {"anyOf": [REF, {"type": "object"}]},
    "not itself": {"not": REF},
    "what is not there": {"$ref": "#/$defs/none"},
    "what is elsewhere": {"$ref": "http://127.0.0.1:9/schema.json"},
}  # fmt: skip


@pytest.fixture(scope="module")
def real(ar_checkpoint: Path) -> Iterator[TestClient]:
    model = load(ar_checkpoint)
    engine = Engine(model)
    yield TestClient(create_app(engine, model.tokenizer, "tiny", Decoding(max_new_tokens=8), 512), raise_server_exceptions=False)
    engine.close()


@pytest.mark.parametrize("name", CIRCLES)
def test_a_tool_schema_that_goes_round_in_circles(real: TestClient, name: str) -> None:
    function = {"name": "f", "parameters": CIRCLES[name]}
    started = time.perf_counter()
    for choice, strict in (("auto", None), ("auto", True), ("required", None), ("none", None)):
        body = HELLO | {"tools": [{"type": "function", "function": function | {"strict": strict}}], "tool_choice": choice}
        answer = real.post("/v1/chat/completions", json=body)
        assert answer.status_code in (200, 400), (choice, strict, answer.text)
        if answer.status_code == 400:
            error = answer.json()["error"]
            assert error["message"] and error["param"] and (strict or choice == "required"), (choice, strict, error)
    assert time.perf_counter() - started < 30


def test_a_tokenizer_that_is_larger_than_the_head(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    folder = save_checkpoint(tmp_path / "small", tokenizer, diffusion=False)
    tokenizer.add_tokens(["<beyond>"])
    tokenizer.save_pretrained(folder)
    model = load(folder)
    engine = Engine(model)
    client = TestClient(create_app(engine, model.tokenizer, "tiny", Decoding(max_new_tokens=4), 512), raise_server_exceptions=False)
    try:
        beyond = client.post("/v1/completions", json={"model": "tiny", "prompt": "a <beyond> b"})
        assert beyond.status_code == 400 and "outside the vocabulary" in beyond.json()["error"]["message"]
        for constraint in ({}, {"response_format": {"type": "json_object"}}, {"logprobs": True, "top_logprobs": 3}):
            assert client.post("/v1/chat/completions", json=HELLO | constraint).status_code == 200, constraint
    finally:
        engine.close()
