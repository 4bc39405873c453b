"""Structured answers over HTTP: OpenAI's client as it is, on AR, block and full models, and what is refused."""

import json
import os
import queue
import random
import threading
import time

import httpx
import jsonschema
import pytest
from fastapi.testclient import TestClient
from openai import OpenAI
from pydantic import BaseModel

from dllm_agents.decoding.constraints import CACHE
from dllm_agents.decoding.settings import Decoding
from dllm_agents.engine.engine import Engine
from dllm_agents.serving.app import create_app


class Place(BaseModel):
    city: str
    unit: str | None = None


class Weather(BaseModel):
    """What a client's own code writes."""

    place: Place
    days: int


WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Rome", "Oslo"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
ASK = [{"role": "user", "content": "go"}]
CHOICE = {"choice": ["the ball", "the red box"]}


def schema_format(schema):
    return {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}


@pytest.fixture(scope="module", params=["ar", "full", "block"])
def app(request, tmp_path_factory, tokenizer, checkpoint):
    from dllm_agents.models import load

    folder = checkpoint(tmp_path_factory.mktemp(request.param) / "model", request.param != "ar")
    decoding = Decoding(max_new_tokens=64)
    if request.param == "block":
        config = json.loads((folder / "config.json").read_text())
        config["dllm"] |= {"attention": "block_causal", "block_length": 4}
        (folder / "config.json").write_text(json.dumps(config))
        decoding = Decoding(strategy="sdar", max_new_tokens=64)
    engine = Engine(load(folder))
    yield create_app(engine, tokenizer, "tiny", decoding, context=400)
    engine.close()


@pytest.fixture
def post(app):
    client = TestClient(app)

    def send(path="/v1/chat/completions", **fields):
        body = {"model": "tiny", "messages": ASK, **fields}
        return client.post(path, json={key: value for key, value in body.items() if value is not None})

    return send


@pytest.fixture
def openai(app, serving):
    return OpenAI(base_url=serving(app), api_key="none", max_retries=0)


def test_the_official_client_parses_pydantic_models(openai):
    answer = openai.beta.chat.completions.parse(model="tiny", messages=ASK, response_format=Weather)
    assert isinstance(answer.choices[0].message.parsed, Weather) and answer.choices[0].finish_reason == "stop"
    with openai.beta.chat.completions.stream(model="tiny", messages=ASK, response_format=Weather) as stream:
        for _ in stream:
            pass
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, Weather)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_strict_tools_are_called_as_they_want(openai, choice):
    answer = openai.chat.completions.create(model="tiny", messages=ASK, tools=[WEATHER], tool_choice=choice, extra_body={"temperature": 1})
    calls = answer.choices[0].message.tool_calls
    for call in calls:
        assert call.function.name == "weather"
        jsonschema.validate(json.loads(call.function.arguments), WEATHER["function"]["parameters"])
    pieces = openai.chat.completions.create(
        model="tiny", messages=ASK, tools=[WEATHER], tool_choice=choice, stream=True, parallel_tool_calls=False
    )
    heard = [call for piece in pieces for call in (piece.choices[0].delta.tool_calls or [])]
    assert len(heard) == 1 and json.loads(heard[0].function.arguments)["city"] in ("Rome", "Oslo")


def test_with_auto_a_strict_tool_is_called_well_or_not_at_all(post):
    for seed in range(4):
        message = post(tools=[WEATHER], temperature=1.0, seed=seed).json()["choices"][0]["message"]
        for call in message.get("tool_calls") or []:
            jsonschema.validate(json.loads(call["function"]["arguments"]), WEATHER["function"]["parameters"])
        assert "<tool_call>" not in (message["content"] or "")


@pytest.mark.parametrize(
    "fields, matches",
    [
        ({"response_format": {"type": "json_object"}}, lambda text: isinstance(json.loads(text), dict)),
        (
            {"response_format": schema_format({"type": "integer"})},
            lambda text: int(text) is not None,
        ),
        ({"structured_outputs": {"regex": "[ab]{3}-\\d"}}, lambda text: text[3] == "-"),
        ({"structured_outputs": {"json": '{"type": "null"}'}}, lambda text: json.loads(text) is None),
        ({"guided_choice": CHOICE["choice"]}, lambda text: text in CHOICE["choice"]),
        ({"guided_regex": "x{4}"}, lambda text: text == "xxxx"),
        ({"guided_json": {"type": "boolean"}}, lambda text: json.loads(text) in (True, False)),
        ({"constraint": CHOICE, "constraint_rule": "posterior"}, lambda text: text in CHOICE["choice"]),
    ],
)
def test_every_spelling_of_a_constraint(post, fields, matches):
    body = post(return_trace=True, temperature=1.0, **fields).json()
    assert matches(body["choices"][0]["message"]["content"]), body
    assert body["choices"][0]["trace"]["repaired"]
    text = post("/v1/completions", messages=None, prompt="go", **fields).json()["choices"][0]["text"]
    assert matches(text)


def test_a_tool_or_an_answer_that_matches(post):
    fields = {"response_format": schema_format({"type": "integer"}), "tools": [WEATHER]}
    for seed in range(4):
        message = post(temperature=1.0, seed=seed, **fields).json()["choices"][0]["message"]
        assert message.get("tool_calls") or isinstance(json.loads(message["content"]), int)


DEEP: dict = {}
for _ in range(10_000):
    DEEP = {"items": DEEP}
DEEP_TEXT = '{"items":' * 400 + "{}" + "}" * 400
BAD_TOOL = {"name": "f", "strict": True, "parameters": {"if": {}}}
REFUSED = {
    "unsupported": ({"guided_json": {"not": {}}}, "guided_json", "unsupported_schema"),
    "unsatisfiable": ({"guided_json": {"type": "integer", "minimum": 3, "maximum": 2}}, "guided_json", "unsatisfiable_schema"),
    "recursive": (
        {"response_format": schema_format({"$ref": "#"})},
        "response_format",
        "unsatisfiable_schema",
    ),
    "1 MB": ({"guided_json": {"description": "x" * 1_000_000}}, "guided_json", "schema_too_large"),
    "exponential": ({"guided_regex": "[ab]*a[ab]{24}"}, "guided_regex", "schema_too_large"),
    "repetitions": ({"guided_json": {"type": "string", "pattern": "((a{1,900}){1,900}){1,900}"}}, "guided_json", "schema_too_large"),
    "no regex": ({"structured_outputs": {"regex": "("}}, "structured_outputs.regex", "unsupported_pattern"),
    "nested": ({"guided_json": DEEP_TEXT}, "guided_json", "schema_too_large"),
    "tool": (
        {"tools": [{"type": "function", "function": {"name": "f", "strict": True, "parameters": {"if": {}}}}]},
        "tools",
        "unsupported_schema",
    ),
    "budget": ({"guided_choice": ["the thought is to search it"], "max_tokens": 2}, "max_tokens", "max_tokens_too_small"),
    "stop": ({"guided_choice": ["a"], "stop": "a"}, "stop", "stop_with_constraint"),
    "two": ({"guided_choice": ["a"], "guided_regex": "a"}, "guided_choice", None),
    "no tools": ({"tool_choice": "required"}, "tool_choice", None),
    "other tool": ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice", None),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_held_to_is_refused_within_a_second(post, name):
    fields, param, code = REFUSED[name]
    started = time.thread_time()
    cpu = time.process_time()
    answer = post(**fields)
    assert answer.status_code == 400, answer.text[:300]
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == (param, code), error
    assert time.process_time() - cpu < 5 and time.thread_time() - started < 5
    if name == "budget":
        assert any(word.isdigit() and int(word) > 2 for word in error["message"].replace(";", "").split())
    assert post(guided_choice=["a"], max_tokens=4).json()["choices"][0]["message"]["content"] == "a"


REQUESTS = int(os.environ.get("CONSTRAINED_SCHEMAS", "32"))


def test_many_schemas_at_once_neither_fail_nor_pile_up(app, serving):
    rng = random.Random(0)
    url, statuses = serving(app).removesuffix("/v1"), []

    def ask(number):
        kind = rng.choice(["string", "integer", "boolean", "array"])
        schema = {
            "type": "object",
            "properties": {f"k{number}": {"type": kind, **({"items": {"type": "null"}} if kind == "array" else {})}},
        }
        schema |= {"required": [f"k{number}"], "additionalProperties": False}
        body = {"model": "tiny", "messages": ASK, "guided_json": schema, "max_tokens": 32, "temperature": 1.0}
        reply = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)
        statuses.append(reply.status_code)
        jsonschema.validate(json.loads(reply.json()["choices"][0]["message"]["content"]), schema)

    threads = [threading.Thread(target=lambda first=first: list(map(ask, range(first, REQUESTS, 4)))) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * REQUESTS and CACHE.nbytes <= CACHE.most
    text = httpx.get(f"{url}/metrics").text
    assert "dllm_agents_repaired_tokens_total" in text and "dllm_agents_constraint_compile_seconds_total" in text


def test_requests_with_and_without_constraints_decode_together(app):
    """The engine gives each, in one batch, what `generate` gives it alone."""
    from dllm_agents.decoding import generate
    from dllm_agents.engine.engine import Finished

    backend = app.state.backend
    wanted = [None, CHOICE, {"type": "integer"}, {"regex": "[ab]{3,9}"}, {"type": "object"}, None]
    ended: queue.Queue = queue.Queue()
    requests = []
    for number, constraint in enumerate(wanted):
        fields = {"constraint": constraint, "max_new_tokens": 24, "seed": number, "temperature": float(number % 2)}
        requests.append(([5 + number, 6, 7], backend.default_decoding.model_copy(update=fields)))
    for number, request in enumerate(requests):
        backend.engine.submit(*request, lambda event, number=number: isinstance(event, Finished) and ended.put((number, event.generation)))
    for _ in requests:
        number, answer = ended.get(timeout=60)
        alone = generate(backend.engine.model, *requests[number])
        assert (answer.token_ids, answer.reveal_step, answer.repaired) == (alone.token_ids, alone.reveal_step, alone.repaired)


def test_tools_that_are_not_strict_share_one_bound_of_time(monkeypatch):
    from dllm_agents.decoding.constraints import automata
    from dllm_agents.serving.api import ChatRequest
    from dllm_agents.serving.structured import _of_tools

    ticks = []
    monkeypatch.setattr(automata.time, "thread_time", lambda: ticks.append(1) or 0.05 * len(ticks))
    parameters = {"type": "object", "properties": {f"p{i}": {"type": "integer"} for i in range(40)}}
    loose = [{"type": "function", "function": {"name": f"f{i}", "parameters": parameters}} for i in range(100)]
    turn = _of_tools(ChatRequest(model="m", messages=ASK, tools=[WEATHER, *loose]))
    held = [tool["parameters"] is not None for tool in turn["tools"]]
    assert held == sorted(held, reverse=True) and 1 < sum(held) < 10, "the first are held to their parameters, the rest to calls alone"
    assert len(ticks) < 300, "a tool behind the bound is looked at once"
