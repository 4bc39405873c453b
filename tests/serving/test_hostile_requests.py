"""Requests that cost much before they are refused: nested, long, many."""

import asyncio
import json
import time
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError
from starlette.responses import Response

from dllm_agents.decoding.settings import Decoding
from dllm_agents.serving.api import MAX_MESSAGES, MAX_TOOLS, ChatRequest, CompletionRequest
from dllm_agents.serving.app import create_app
from dllm_agents.serving.gate import Gate

KEYS = {f"key{index}": 1 for index in range(100_000)}
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "max_tokens": 4}


def tool(**function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", **function}}


def nested(levels: int) -> Any:
    value: Any = {}
    for _ in range(levels):
        value = {"a": value}
    return value


def call(arguments: str) -> dict[str, Any]:
    function = {"name": "f", "arguments": arguments}
    return {"role": "assistant", "content": "", "tool_calls": [{"id": "1", "type": "function", "function": function}]}


REQUESTS: dict[str, Any] = {
    "a tool of 3 MB": {"tools": [tool(description="x" * 3_000_000)]},
    "arguments of 3 MB": {"messages": [call(json.dumps({"a": "x" * 3_000_000})), *CHAT["messages"]]},
    "130,000 messages": {"messages": [{"role": "user", "content": ""}] * 130_000},
    "too many messages": {"messages": CHAT["messages"] * (MAX_MESSAGES + 1)},
    "too many tools": {"tools": [tool()] * (MAX_TOOLS + 1)},
    "100,000 unknown keys": KEYS,
    "a message of 100,000 unknown keys": {"messages": [{"role": "user", **KEYS}]},
    "a prefill of 100,000 unknown keys": {"tool_prefill": KEYS},
    "256 unknown keys in each of 300 messages": {"messages": [dict(list(KEYS.items())[:256])] * 300},
    **{f"a million bad {name}": {name: [0] * 1_000_000} for name in ("messages", "tools", "guided_choice", "modalities", "stop")},
    "a million bad stop_ids": {"stop_ids": [""] * 900_000},
    "a million bad parts": {"messages": [{"role": "user", "content": [{}] * 900_000}]},
    "a million bad parts in 4,000 messages": {"messages": [{"role": "user", "content": [0] * 225}] * 4000},
    "a million bad calls": {"messages": [{"role": "assistant", "tool_calls": [0] * 900_000}]},
    **{f"parameters nested {levels} deep": {"tools": [tool(parameters=nested(levels))]} for levels in (70, 300)},
    **{f"arguments nested {depth} deep": {"messages": [call(json.dumps(nested(depth))), *CHAT["messages"]]} for depth in (70, 300)},
}


@pytest.mark.parametrize("name", REQUESTS)
def test_an_expensive_request_is_refused_by_field(name: str, tokenizer: Any, scripted: Callable[..., Any]) -> None:
    client = TestClient(create_app(scripted("x"), tokenizer, "tiny", Decoding(), 512), raise_server_exceptions=False)
    response = client.post("/v1/chat/completions", json={**CHAT, **REQUESTS[name]})
    assert response.status_code == 400, response.text[:300]
    error = response.json()["error"]
    assert error["param"] or error["message"] == "body: over 256 keys" or "JSON" in error["message"]
    assert len(error["message"]) < 1000


BAD_PROMPTS = {"prompt": [-1] * 900_000, "prompts": [[-1]] * 900_000, "texts": [0.5] * 900_000}


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        *((ChatRequest, {**CHAT, **body}) for name, body in REQUESTS.items() if "bad" in name or "unknown" in name),
        *((CompletionRequest, {"model": "tiny", "prompt": prompt}) for prompt in BAD_PROMPTS.values()),
    ],
)
def test_of_a_million_faults_a_few_are_listed(kind: Any, body: Any) -> None:
    with pytest.raises(ValidationError) as fault:
        kind.model_validate(body)
    assert fault.value.error_count() <= 300


def test_a_body_in_pieces_of_one_byte_takes_linear_time() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        await Response(str(len(message["body"])))(scope, receive, send)

    def pieces() -> Any:
        for _ in range(200_000):
            yield b"x"

    begun = time.process_time()
    sent: list[Any] = []
    source = pieces()

    async def receive() -> Any:
        piece = next(source, b"")
        return {"type": "http.request", "body": piece, "more_body": bool(piece)}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(Gate(app)({"type": "http", "path": "/v1/x", "method": "POST", "headers": []}, receive, send))
    assert sent[-1]["body"] == b"200000" and time.process_time() - begun < 20


HALF = "\\ud800"
HALVES = {
    "tools": '"tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"HALF": "HALF"}}}]',
    "calls": '"messages": [{"role": "assistant", "content": "", "tool_calls": [{"id": "1", "type": "function", "function": '
    '{"name": "f", "arguments": "{\\"a\\": \\"\\HALF\\"}"}}]}, {"role": "user", "content": "x"}]',
    "variables": '"chat_template_kwargs": {"HALF": ["HALF"], "shown": "HALF"}',
}


@pytest.mark.parametrize("name", HALVES)
def test_half_a_pair_in_what_the_template_shows_is_valid_text(name: str, tokenizer: Any, scripted: Callable[..., Any]) -> None:
    shows = deepcopy(tokenizer)
    shows.chat_template = "{{ tools | tojson }}{{ shown }}{% for m in messages %}{{ m | tojson }}{% endfor %}"
    client = TestClient(create_app(scripted("x"), shows, "tiny", Decoding(), 512), raise_server_exceptions=False)
    body = json.dumps(CHAT)[:-1] + ", " + HALVES[name].replace("HALF", HALF) + "}"
    response = client.post("/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("variable", ["x" * 3_000_000, nested(70)])
def test_a_variable_of_the_template_has_the_bounds_of_a_prompt(variable: Any, tokenizer: Any, scripted: Callable[..., Any]) -> None:
    client = TestClient(create_app(scripted("x"), tokenizer, "tiny", Decoding(), 512), raise_server_exceptions=False)
    response = client.post("/v1/chat/completions", json={**CHAT, "chat_template_kwargs": {"a": variable}})
    assert response.status_code == 400 and response.json()["error"]["param"] == "chat_template_kwargs"
