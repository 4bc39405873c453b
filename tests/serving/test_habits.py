"""What OpenAI's clients send, echo and count on: accepted where it cannot change the answer, carried out, or refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import answer_with
from fastapi.testclient import TestClient

from dllm_agents.decoding.settings import Decoding
from dllm_agents.serving.app import create_app

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "go to the red ball"}]}
TEXT = {"model": "tiny", "prompt": "go"}
F = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {}}}}}


@pytest.fixture
def ask(tokenizer: Any, scripted: Callable[..., Any]) -> Callable[..., Any]:
    def send(body: dict[str, Any], answer: Any = "the red ball", path: str = "", **options: Any) -> Any:
        engine = scripted(answer)
        app = create_app(engine, options.pop("tokenizer", tokenizer), "tiny", options.pop("decoding", Decoding()), 512, **options)
        path = path or ("/v1/completions" if "prompt" in body else "/v1/chat/completions")
        response = TestClient(app, raise_server_exceptions=False).post(path, json=body)
        response.engine = engine  # type: ignore[attr-defined]
        return response

    return send


def turns(*messages: dict[str, Any]) -> dict[str, Any]:
    return {**CHAT, "messages": [*CHAT["messages"], *messages, {"role": "user", "content": "y"}]}


ECHO = {"role": "assistant", "content": "y", "refusal": None, "annotations": None, "audio": None, "function_call": None, "tool_calls": None}
CALLED = {"id": "c1", "type": "function", "index": 0, "function": {"name": "f", "arguments": "{}", "parsed_arguments": {"a": 1}}}
ACCEPTED = {
    "an echo of model_dump": turns(ECHO),
    "an echo of a parsed message": turns({**ECHO, "parsed": {"x": 1}, "id": "m1", "annotations": [], "provider_specific_fields": {}}),
    "reasoning beside the answer": turns({"role": "assistant", "content": "y", "reasoning_content": "z", "reasoning": "z"}),
    "a refusal as a part": turns({"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}),
    "a cached part": turns({"role": "user", "content": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}]}),
    "penalties of nothing": {**CHAT, "frequency_penalty": 0, "presence_penalty": 0.0, "repetition_penalty": 1.0, "top_k": -1, "min_p": 0},
    "notes": {**CHAT, "metadata": {"a": "b"}, "store": False, "user": "u", "service_tier": "auto", "safety_identifier": "s"},
    "hints": {**CHAT, "reasoning_effort": "low", "verbosity": "medium", "prediction": {"type": "content", "content": "x"}},
    "formats of nothing": {**CHAT, "response_format": {"type": "text"}, "modalities": ["text"], "logit_bias": {}, "logprobs": False},
    "parallel calls": {**CHAT, "parallel_tool_calls": True},
    "nulls": {
        **CHAT,
        **dict.fromkeys(["logprobs", "response_format", "tools", "tool_choice", "stop", "seed", "n", "functions", "guided_json"]),
    },
    "completions": {**TEXT, "best_of": 1, "echo": False, "suffix": "", "frequency_penalty": 0, "logprobs": None},
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_cannot_change_the_answer_is_accepted(name: str, ask: Any) -> None:
    response = ask(ACCEPTED[name])
    assert response.status_code == 200, response.text


REFUSED = {
    "frequency_penalty": 0.1,
    "logit_bias": {"7": 1},
    "response_format": {"type": "html"},
    "functions": [F["function"]],
    "web_search_options": {},
    "modalities": ["audio"],
    "use_beam_search": True,
    "top_k": 40,
    "ignore_eos": True,
    "verbosity": "low",
}


@pytest.mark.parametrize("field", REFUSED)
def test_what_would_be_silently_wrong_is_refused_by_name(field: str, ask: Any) -> None:
    response = ask({**CHAT, field: REFUSED[field]})
    assert response.status_code == 400 and response.json()["error"]["param"].partition(".")[0] == field


IMAGE = {"type": "image_url", "image_url": {"url": "x"}}
FAULTS = {
    "messages.0.content.0.type": {**CHAT, "messages": [{"role": "user", "content": [IMAGE]}]},
    "messages.0.content": {**CHAT, "messages": [{"role": "user", "content": 5}]},
    "messages.0.role": {**CHAT, "messages": [{"content": "x"}]},
    "tool_choice.type": {**CHAT, "tool_choice": {"type": "allowed_tools"}},
    "stop.0": {**CHAT, "stop": [None]},
    "prompt.0": {**TEXT, "prompt": [[]]},
    "prompt.0.0": {**TEXT, "prompt": [[-1]]},
    "prompt.1": {**TEXT, "prompt": ["a", [1]]},
}


@pytest.mark.parametrize("place", FAULTS)
def test_a_fault_is_placed_by_keys_of_the_request_alone(place: str, ask: Any) -> None:
    response = ask(FAULTS[place])
    error = response.json()["error"]
    assert response.status_code == 400 and error["param"] == place and error["message"].startswith(f"{place}: "), error


def test_a_body_that_is_not_sent_as_json_is_told_the_header(tokenizer: Any, scripted: Callable[..., Any]) -> None:
    client = TestClient(create_app(scripted("x"), tokenizer, "tiny", Decoding(), 512), raise_server_exceptions=False)
    for kind in ("application/x-www-form-urlencoded", "text/plain", ""):
        response = client.post("/v1/chat/completions", content=json.dumps(CHAT), headers={"content-type": kind})
        assert response.status_code == 400 and "content-type: application/json" in response.json()["error"]["message"], kind


@pytest.mark.parametrize("content", [{"type": "image_url", "image_url": {"url": "x"}}, {"type": "text", "text": "x", "weight": 2}])
def test_contents_that_cannot_be_read_are_refused(content: Any, ask: Any) -> None:
    response = ask(turns({"role": "user", "content": [content]}))
    assert response.status_code == 400 and response.json()["error"]["param"].startswith("messages.1.content")


def test_several_answers_to_several_prompts_have_seeds_of_their_own(ask: Any) -> None:
    response = ask({**TEXT, "prompt": ["go", "to the ball"], "n": 2, "seed": 2**64 - 1, "temperature": 1.0})
    body = response.json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3] and response.status_code == 200
    assert [decoding.seed for decoding in response.engine.seen] == [2**64 - 1, 0] * 2
    assert body["usage"]["completion_tokens"] == 4 * body["usage"]["nfe"] // 4
    assert ask({**TEXT, "prompt": [[65, 66], [67]]}).json()["usage"]["prompt_tokens"] == 3
    streamed = ask({**CHAT, "n": 3, "stream": True}).text
    chunks = [json.loads(line[6:]) for line in streamed.splitlines() if line.startswith("data: {")]
    for index in range(3):
        mine = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        assert "".join(choice["delta"].get("content", "") for choice in mine) == "the red ball" and mine[-1]["finish_reason"] == "stop"


def test_a_sampled_answer_without_a_seed_is_a_fresh_one(ask: Any) -> None:
    seeds = {ask({**CHAT, "temperature": 1.0}).engine.seen[0].seed for _ in range(5)}
    assert len(seeds) == 5 and all(0 <= seed < 2**63 for seed in seeds)
    assert ask({**CHAT, "temperature": 1.0, "seed": 7}).engine.seen[0].seed == 7


def test_without_a_limit_an_answer_may_take_what_is_left(ask: Any) -> None:
    prompt = len(ask(CHAT).engine.seen) and ask(CHAT).json()["usage"]["prompt_tokens"]
    assert ask(CHAT).engine.seen[0].max_new_tokens == 512 - prompt
    assert ask(CHAT, decoding=Decoding(max_new_tokens=64)).engine.seen[0].max_new_tokens == 64
    assert ask(CHAT, decoding=Decoding(strategy="llada")).engine.seen[0].max_new_tokens == 128
    assert ask({**CHAT, "max_completion_tokens": 9}).engine.seen[0].max_new_tokens == 9
    long = {**CHAT, "messages": [{"role": "user", "content": "ball " * 120}]}
    left = ask(long, decoding=Decoding(max_new_tokens=500))
    assert left.status_code == 200 and left.engine.seen[0].max_new_tokens == 512 - left.json()["usage"]["prompt_tokens"]


def test_probabilities_of_an_answer_s_tokens(ask: Any, tokenizer: Any) -> None:
    choice = ask({**CHAT, "logprobs": True, "top_logprobs": 2}).json()["choices"][0]
    tokens = [tokenizer.decode([token]) for token in tokenizer("the red ball")["input_ids"]]
    entries = choice["logprobs"]["content"]
    assert [entry["token"] for entry in entries] == tokens and all(entry["logprob"] == 0.0 for entry in entries)
    assert bytes(entries[0]["bytes"]).decode() == tokens[0] and "top_logprobs" in entries[0]
    plain = ask({**TEXT, "logprobs": 1}).json()["choices"][0]["logprobs"]
    assert plain["tokens"] == tokens and plain["text_offset"][1] == len(tokens[0])
    stopped = ask({**CHAT, "logprobs": True, "stop": " ball"}).json()["choices"][0]
    assert stopped["message"]["content"] == "the red" and all(entry["logprob"] == 0.0 for entry in stopped["logprobs"]["content"])


def test_models_are_told_one_by_one_and_answer_to_their_aliases(tokenizer: Any, scripted: Callable[..., Any]) -> None:
    client = TestClient(create_app(scripted("ok"), tokenizer, ["tiny", "owner/tiny", "/models/tiny"], Decoding(), 512))
    assert [entry["id"] for entry in client.get("/v1/models").json()["data"]] == ["tiny"]
    for name in ("tiny", "owner/tiny", "/models/tiny"):
        assert client.get(f"/v1/models/{name}").json()["id"] == "tiny"
        assert client.post("/v1/chat/completions", json={**CHAT, "model": name}).json()["model"] == "tiny"
    assert client.get("/v1/models/other").status_code == 404


def test_stop_strings_reach_over_special_tokens(ask: Any) -> None:
    for stop, text in (("<mask>", "the "), ("<mask> red", "the ")):
        assert ask({**CHAT, "stop": stop}, "the <mask> red ball").json()["choices"][0]["message"]["content"] == text
    assert ask(CHAT, "the <mask> red ball").json()["choices"][0]["message"]["content"] == "the  red ball"


def special_tags(tokenizer: Any, tmp_path: Path) -> Any:
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    other = AutoTokenizer.from_pretrained(tmp_path)
    other.add_special_tokens({"extra_special_tokens": ["<tool_call>", "</tool_call>", "[TOOL_CALLS]", "<|python_tag|>"]})
    other.chat_template = tokenizer.chat_template
    return other


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "answer",
    [
        '<tool_call>{"name": "f", "arguments": {"a": "</tool_call>"}}</tool_call>',
        '[TOOL_CALLS][{"name": "f", "arguments": {"a": "</tool_call>"}}]',
        '<|python_tag|>{"name": "f", "parameters": {"a": "</tool_call>"}}',
    ],
)
def test_marks_that_are_special_tokens_are_read(answer: str, stream: bool, ask: Any, tokenizer: Any, tmp_path: Path) -> None:
    special = special_tags(tokenizer, tmp_path)
    response = ask({**CHAT, "tools": [F], "stream": stream}, answer_with(special, answer), tokenizer=special)
    assert json.dumps(json.dumps({"a": "</tool_call>"})) in response.text
    assert '"tool_calls"' in response.text and "python_tag" not in response.text and "TOOL_CALLS" not in response.text


def test_an_answer_without_parallel_calls_has_one(ask: Any) -> None:
    call = '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'
    two = ask({**CHAT, "tools": [F]}, call * 2).json()["choices"][0]["message"]["tool_calls"]
    one = ask({**CHAT, "tools": [F], "parallel_tool_calls": False}, call * 2).json()["choices"][0]["message"]["tool_calls"]
    assert len(two) == 2 and len(one) == 1 and two[0]["id"] != two[1]["id"] and two[0]["id"].isalnum() and len(two[0]["id"]) == 9


def test_half_a_surrogate_pair_in_a_call_is_written_as_an_escape(ask: Any) -> None:
    answer = '<tool_call>{"name": "f", "arguments": {"a": "\\ud800"}}</tool_call>'
    for stream in (False, True):
        response = ask({**CHAT, "tools": [F], "stream": stream}, answer)
        assert response.status_code == 200 and "ud800" in response.text


def test_variables_of_the_template_come_from_request_and_backbone(ask: Any, tokenizer: Any) -> None:
    from copy import deepcopy

    thinking = deepcopy(tokenizer)
    thinking.chat_template = "{{ messages[-1].content }}{% if enable_thinking is not defined or enable_thinking %}<think>{% endif %}"
    tokens = {
        name: ask({**CHAT, **extra}, tokenizer=thinking, template_values=values).json()["usage"]["prompt_tokens"]
        for name, extra, values in (
            ("default", {}, {}),
            ("request", {"chat_template_kwargs": {"enable_thinking": False}}, {}),
            ("effort", {"reasoning_effort": "none"}, {}),
            ("backbone", {}, {"enable_thinking": False}),
            ("both", {"chat_template_kwargs": {"enable_thinking": True}}, {"enable_thinking": False}),
        )
    }
    assert tokens["default"] == tokens["both"] > tokens["request"] == tokens["effort"] == tokens["backbone"]
