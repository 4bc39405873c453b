"""The API fuzzed from its own OpenAPI schema: no 500, every refusal documented and in OpenAI's shape."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import negative_data_rejection, response_schema_conformance, status_code_conformance

from dllm_agents.decoding.settings import Decoding
from dllm_agents.engine.engine import Engine
from dllm_agents.models import load
from dllm_agents.serving.app import create_app

CHECKS = [not_a_server_error, status_code_conformance, response_schema_conformance, negative_data_rejection]


WITHOUT_INPUT = [("/health", "get"), ("/metrics", "get"), ("/v1/models", "get")]
REQUESTS = [("/v1/chat/completions", "post"), ("/v1/completions", "post")]
RETRIEVE = ("/v1/models/{model}", "get")


@pytest.fixture
def api(tokenizer: Any, ar_checkpoint: Path) -> Iterator[Any]:
    """Over a real engine, since only a model can say which constraints can be carried out."""
    engine = Engine(load(ar_checkpoint))
    app = create_app(engine, tokenizer, "tiny", Decoding(max_new_tokens=8), 512)
    yield schemathesis.openapi.from_asgi("/openapi.json", app)
    engine.close()


def test_every_operation_is_fuzzed(api: Any) -> None:
    assert {(path, method) for path in api for method in api[path]} == {*WITHOUT_INPUT, *REQUESTS, RETRIEVE}


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize(("path", "method"), REQUESTS)
def test_requests_from_the_schema_and_beside_it(path: str, method: str, mode: GenerationMode, api: Any) -> None:
    @given(case=api[path][method].as_strategy(generation_mode=mode))
    @settings(max_examples=20, deadline=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    def survives(case: Any) -> None:
        # A generated model name would only ever meet the 404.
        if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
            case.body["model"] = "tiny"
        answers.append(case.call_and_validate(checks=CHECKS).status_code)

    answers: list[int] = []
    survives()
    assert 400 in answers
    assert (200 in answers) == (mode is GenerationMode.POSITIVE)


@pytest.mark.parametrize(("path", "method"), WITHOUT_INPUT)
def test_what_takes_no_input_answers(path: str, method: str, api: Any) -> None:
    api[path][method].Case().call_and_validate(checks=CHECKS)


@given(name=...)
@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_a_model_is_there_or_not(api: Any, name: str) -> None:
    answer = api[RETRIEVE[0]][RETRIEVE[1]].Case(path_parameters={"model": name or "tiny"}).call_and_validate(checks=CHECKS[:3])
    assert answer.status_code == (200 if (name or "tiny") == "tiny" else 404)
