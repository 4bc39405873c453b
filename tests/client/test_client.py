"""The client retries server faults only, bounds what it reads, and believes nothing it has not checked."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from local_server import Handler, local_servers

from dllm_agents.client.client import (
    BadReply,
    Client,
    Endpoint,
    PromptTooLong,
    RequestRefused,
    ServerFault,
    SettingsRefused,
    structured_outputs,
)
from dllm_agents.config import Backbone
from dllm_agents.decoding.constraints.turns import tool_schema
from dllm_agents.decoding.settings import Decoding
from dllm_agents.errors import StageError

GOOD = {"choices": [{"message": {"content": "Action: go"}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}
Answer = tuple[int, Any]


@pytest.fixture
def server() -> Iterator[Callable[[list[Answer]], tuple[str, list[dict[str, Any]]]]]:
    """A server that gives the listed answers in order (the last one for good); returns its URL and the bodies it was sent."""
    with local_servers() as serve:

        def start(answers: list[Answer]) -> tuple[str, list[dict[str, Any]]]:
            seen: list[dict[str, Any]] = []

            class Playing(Handler):
                def do_POST(self) -> None:
                    seen.append(self.body())
                    self.reply(*answers[min(len(seen), len(answers)) - 1])

            return f"{serve(Playing)}/v1", seen

        yield start


def ask(url: str, native: bool = False, **options: Any) -> Any:
    with Client(Endpoint(url, "tiny", native), backoff=0.001, attempts=3) as client:
        return client.complete(
            [{"role": "user", "content": "x"}], decoding=Decoding(strategy="llada", steps=4, max_new_tokens=8), **options
        )


def test_plain_openai_servers_get_plain_requests(server: Any) -> None:
    url, seen = server([(200, GOOD)])
    completion = ask(url, seed=3, stop=["\n"])
    assert (completion.text, completion.prompt_tokens, completion.completion_tokens, completion.nfe) == ("Action: go", 3, 2, 2)
    assert seen[0] == {
        "model": "tiny",
        "messages": [{"role": "user", "content": "x"}],
        "temperature": 0.0,
        "max_tokens": 8,
        "seed": 3,
        "stop": ["\n"],
    }


TOOLS = [{"name": "f", "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}}}]
CALL = {"type": "or", "elements": [{"type": "json_schema", "json_schema": tool_schema(TOOLS[0])}]}
TAG = {"type": "tag", "begin": "<tool_call>\n", "content": CALL, "end": "\n</tool_call>"}
TURN = {"type": "triggered_tags", "triggers": ["<tool_call>"], "tags": [TAG], "at_least_one": False, "stop_after_first": False}
BOUND = TURN | {"at_least_one": True, "stop_after_first": True}

EITHER = {"type": "or", "elements": [{"type": "regex", "pattern": "a+"}, BOUND]}


@pytest.mark.parametrize(
    "constraint, spelling",
    [
        ({"regex": "a+"}, {"regex": "a+"}),
        ({"choice": ["a", "b"]}, {"choice": ["a", "b"]}),
        ({"type": "object"}, {"json": {"type": "object"}}),
        ({"tools": TOOLS}, TURN),
        (
            {"tools": TOOLS, "several": False, "answer": {"regex": "a+"}},
            {"type": "or", "elements": [{"type": "regex", "pattern": "a+"}, BOUND]},
        ),
    ],
)
def test_a_constraint_is_spelled_as_vllm_does(server: Any, constraint: dict[str, Any], spelling: dict[str, Any]) -> None:
    url, seen = server([(200, GOOD)])
    with Client(Endpoint(url, "tiny", native=False)) as client:
        client.complete([{"role": "user", "content": "x"}], decoding=Decoding(constraint=constraint))
    asked = seen[0]["structured_outputs"]
    assert asked == spelling if "tools" not in constraint else json.loads(asked["structural_tag"])["format"] == spelling


@pytest.mark.parametrize(
    ("pattern", "whole"),
    [(r"^a$", r"^a$"), (r"^a\\$", r"^a\\$"), (r"^a\$", r'^(?:a\$)[^"\\\x00-\x1F]*$'), (r"^a\\\$", r'^(?:a\\\$)[^"\\\x00-\x1F]*$')],
)
def test_a_dollar_is_an_anchor_unless_it_is_escaped(pattern: str, whole: str) -> None:
    assert structured_outputs({"pattern": pattern}) == {"json": {"pattern": whole}}


def test_our_own_server_gets_every_decoding_field(server: Any) -> None:
    traced = {**GOOD, "usage": GOOD["usage"] | {"nfe": 4}}
    traced["choices"] = [
        GOOD["choices"][0] | {"trace": {"reveal_step": [1, 0], "token_ids": [5, 6], "tokens": ["a", "b"], "confidence": [0.5, 1.0]}}
    ]
    url, seen = server([(200, traced)])
    completion = ask(url, native=True, seed=3)
    assert completion.nfe == 4 and completion.reveal_step == [1, 0] and completion.token_ids == [5, 6]
    assert completion.tokens == ["a", "b"] and completion.confidence == [0.5, 1.0]
    assert seen[0]["strategy"] == "llada" and seen[0]["steps"] == 4 and seen[0]["max_new_tokens"] == 8 and seen[0]["seed"] == 3


@pytest.mark.parametrize("status", [429, 500, 503])
def test_server_faults_are_retried(server: Any, status: int) -> None:
    url, seen = server([(status, {"error": {"message": "busy"}}), (status, b"<html>"), (200, GOOD)])
    assert ask(url).text == "Action: go" and len(seen) == 3


@pytest.mark.parametrize(
    ("answer", "error", "requests"),
    [
        ((500, {"error": {"message": "logits are not finite"}}), ServerFault, 3),
        ((400, {"error": {"message": "unknown field"}}), SettingsRefused, 1),
        ((422, {"error": {"message": "not so long", "param": "max_new_tokens"}}), SettingsRefused, 1),
        ((400, {"error": {"message": "no such role", "param": "messages.0.role"}}), RequestRefused, 1),
        ((400, {"error": {"message": "not fit to print", "code": "content_filter"}}), RequestRefused, 1),
        ((400, {"error": {"message": "no room", "code": "context_length_exceeded"}}), PromptTooLong, 1),
        ((400, {"error": {"message": "This model's maximum context length is 4096 tokens"}}), PromptTooLong, 1),
        ((401, {"error": {"message": "key"}}), ServerFault, 1),
        ((307, b""), ServerFault, 1),
        ((404, {"detail": "Not Found"}), SettingsRefused, 1),
        ((200, b"not json"), BadReply, 1),
        ((200, []), BadReply, 1),
        ((200, {"choices": []}), BadReply, 1),
        ((200, {"choices": [{"message": {"content": 3}}]}), BadReply, 1),
        ((200, {"choices": [GOOD["choices"][0] | {"trace": {"reveal_step": ["x"]}}]}), BadReply, 1),
        ((200, b"[" * 100_000), BadReply, 1),
        ((200, b" " * ((16 << 20) + 1)), BadReply, 1),
    ],
)
def test_faults_have_a_kind(server: Any, answer: Answer, error: type[Exception], requests: int) -> None:
    url, seen = server([answer])
    with pytest.raises(error) as caught:
        ask(url)
    assert len(seen) == requests and type(caught.value) is error


@pytest.mark.parametrize(
    ("status", "error", "field"),
    [
        (400, {"message": "strategy: ar needs a causal model"}, "strategy"),
        (400, {"message": "too hot", "param": "temperature"}, "temperature"),
        (400, {"message": "no"}, ""),
        (404, {"message": "model 'm' is not served here", "param": None}, "model"),
    ],
)
def test_a_refused_setting_is_named(server: Any, status: int, error: dict[str, Any], field: str) -> None:
    url, _ = server([(status, {"error": error})])
    with pytest.raises(SettingsRefused, match=error["message"].split(":")[0]) as caught:
        ask(url)
    assert caught.value.field == field


@pytest.mark.parametrize("usage", [None, {}, {"completion_tokens": -1}, {"completion_tokens": "2"}, {"completion_tokens": True}, {"x": {}}])
def test_what_a_server_does_not_count_is_unknown(server: Any, usage: Any) -> None:
    completion = ask(server([(200, {**GOOD, "usage": usage})])[0])
    assert (completion.text, completion.prompt_tokens, completion.completion_tokens, completion.nfe) == ("Action: go", None, None, None)


def test_long_and_empty_answers_are_answers(server: Any) -> None:
    url, _ = server([(200, {"choices": [{"message": {"content": "x" * 100_000}}]}), (200, {"choices": [{"message": {"content": None}}]})])
    assert len(ask(url).text) == 100_000
    assert ask(url).text == ""


def test_a_dead_server_is_a_fault() -> None:
    with pytest.raises(ServerFault, match="does not answer after 3 attempts"):
        ask("http://127.0.0.1:9/v1")


def test_tool_calls_are_read(server: Any) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "search", "arguments": '{"query": "a"}'}}
    broken = {"id": "2", "type": "function", "function": {"name": "search", "arguments": "{"}}
    url, _ = server([(200, {"choices": [{"message": {"content": None, "tool_calls": [call, broken]}}]})])
    assert ask(url).tool_calls == ({"name": "search", "arguments": {"query": "a"}}, {"name": "search", "arguments": "{"})


def test_the_key_comes_from_the_environment_and_stays_out_of_sight(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = Backbone(url="http://127.0.0.1:9/v1", api_key_env="SOME_KEY")
    endpoint = Endpoint("http://127.0.0.1:9/v1", "m", False)
    monkeypatch.delenv("SOME_KEY", raising=False)
    with pytest.raises(StageError, match="SOME_KEY is not set"):
        Client.for_backbone(endpoint, backbone)
    monkeypatch.setenv("SOME_KEY", "hush")
    with Client.for_backbone(endpoint, backbone) as client:
        assert client.endpoint.headers() == {"Authorization": "Bearer hush"} and "hush" not in repr(client.endpoint)


REFUSES = {"max_tokens": "max_completion_tokens", "temperature": None, "seed": None}


@pytest.mark.parametrize("field", REFUSES)
def test_fields_that_a_server_refuses_can_be_left_out(server: Any, field: str) -> None:
    url, seen = server([(200, GOOD)])
    backbone = Backbone(url=url, omit=[field], chat_template_kwargs={"enable_thinking": False})
    with Client.for_backbone(Endpoint(url, "m", False), backbone) as client:
        assert client.complete([{"role": "user", "content": "x"}], decoding=Decoding(max_new_tokens=8)).text == "Action: go"
    assert field not in seen[0] and seen[0]["chat_template_kwargs"] == {"enable_thinking": False}
    assert REFUSES[field] is None or seen[0][REFUSES[field]] == 8


@pytest.mark.parametrize(
    "message",
    [
        "prompt is too long: 210000 tokens > 200000 maximum",
        "the request exceeds the available context size (4096 tokens), try increasing it",
        "The input token count (130000) exceeds the maximum number of tokens allowed (128000).",
        "Input length (5000 tokens) exceeds the maximum allowed length: this model's context window is 4096",
    ],
)
def test_a_prompt_that_does_not_fit_is_known_in_many_words(server: Any, message: str) -> None:
    url, _ = server([(400, {"error": {"message": message}})])
    with pytest.raises(PromptTooLong):
        ask(url)


def test_an_error_in_place_of_an_answer_is_a_fault(server: Any) -> None:
    url, seen = server([(200, {"error": {"message": "overloaded"}}), (529, b""), (200, GOOD)])
    assert ask(url).text == "Action: go" and len(seen) == 3
