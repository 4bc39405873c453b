"""The OpenAI-compatible server over an engine: chat and text completions, streamed or whole, models, health and metrics."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException

from dllm_agents import __version__
from dllm_agents.decoding.settings import Decoding
from dllm_agents.engine.engine import Engine
from dllm_agents.errors import StageError
from dllm_agents.serving.api import BadRequest, ChatRequest, CompletionRequest
from dllm_agents.serving.backend import Backend, Served
from dllm_agents.serving.forms import ErrorBody, error_body
from dllm_agents.serving.gate import Gate

log = logging.getLogger(__name__)

REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorBody, "description": "The request cannot be answered as it is"},
    401: {"model": ErrorBody, "description": "The bearer key is missing or wrong"},
    404: {"model": ErrorBody, "description": "No such model"},
    413: {"model": ErrorBody, "description": "The body is too large"},
    429: {"model": ErrorBody, "description": "The queue is full"},
    500: {"model": ErrorBody, "description": "The model or the decoder failed"},
    503: {"model": ErrorBody, "description": "The server is shutting down"},
}
RETRIEVE = "retrieve_model"
RETRIEVED = {"retrieve": {"operationId": RETRIEVE, "parameters": {"model": "$response.body#/data/0/id"}}}
UNKNOWN_FIELD = ("extra_forbidden", "none_required")


def create_app(
    engine: Engine,
    tokenizer: Any,
    name: str | Sequence[str],
    default_decoding: Decoding,
    context: int = 4000,
    api_key: str | None = None,
    template_values: Mapping[str, Any] | None = None,
    control: str = "text",
    bare_calls: bool | None = None,
) -> FastAPI:
    """The ASGI application; its `state.backend.close()` ends it.

    `tokenizer` is a transformers tokenizer; `name` the model's name, or several that all mean it; `context` bounds prompt and completion
    together, in tokens. `template_values` are variables of the chat template, `control` says what control tokens spelled out in a message
    become (`text` or `tokens`), `bare_calls` whether an answer of nothing but JSON is a call (default: as the template has it).
    """
    names = (name,) if isinstance(name, str) else tuple(name)
    backend = Backend(engine, tokenizer, Served(names, template_values or {}, control, bare_calls), default_decoding, context)
    app = FastAPI(title="dllm-agents", version=__version__, description=__doc__ or "")
    app.state.backend = backend
    app.add_middleware(Gate, api_key=api_key)
    _handle_errors(app)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok", "model": backend.name}

    @app.get("/metrics", response_class=PlainTextResponse, responses={401: REFUSALS[401]})
    async def metrics() -> Response:
        return Response(backend.metrics.render(), media_type=backend.metrics.content_type)

    @app.get("/v1/models", responses={200: {"links": RETRIEVED}, 401: REFUSALS[401]})
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [backend.card()]}

    @app.get("/v1/models/{model:path}", operation_id=RETRIEVE, responses={status: REFUSALS[status] for status in (401, 404)})
    async def model(model: str) -> dict[str, Any]:
        backend.check_model(model)
        return backend.card()

    @app.post("/v1/chat/completions", responses=REFUSALS)
    async def chat(body: ChatRequest, connection: Request) -> Response:
        return await backend.answer(body, connection)

    @app.post("/v1/completions", responses=REFUSALS)
    async def complete(body: CompletionRequest, connection: Request) -> Response:
        return await backend.answer(body, connection)

    return app


def _handle_errors(app: FastAPI) -> None:
    """Every refusal in OpenAI's shape."""

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        message, param = _first_fault(error)
        if param is None and "json" not in request.headers.get("content-type", ""):
            message = "body: it is read as JSON with the header content-type: application/json alone"
        return JSONResponse(error_body(400, message, param), 400)

    @app.exception_handler(BadRequest)
    async def refused(_: Request, error: BadRequest) -> JSONResponse:
        return JSONResponse(error_body(400, str(error), error.param, error.code), 400)

    @app.exception_handler(HTTPException)
    async def failed(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse(error_body(error.status_code, str(error.detail)), error.status_code, error.headers)

    @app.exception_handler(StageError)
    async def broken(_: Request, error: StageError) -> JSONResponse:
        return JSONResponse(error_body(500, str(error)), 500)

    @app.exception_handler(Exception)
    async def unforeseen(_: Request, error: Exception) -> JSONResponse:
        log.error("request failed", exc_info=error)
        return JSONResponse(error_body(500, f"{type(error).__name__}: {error}"), 500)


def _first_fault(error: RequestValidationError) -> tuple[str, str | None]:
    """(message, param) of a request that does not fit the schema.

    A value that fits no member of a union fails once per member; the one that was followed furthest is the one that was meant.
    """
    errors = error.errors()
    field = [other for other in errors if other["loc"][:2] == errors[0]["loc"][:2]]
    fault = max(field, key=lambda other: (len(other["loc"]), not other["type"].endswith("_type")))
    param = ".".join(_path(error.body, fault["loc"][1:], fault["type"] == "missing")) or None
    reason = "this server has no such field" if fault["type"] in UNKNOWN_FIELD else fault["msg"]
    return f"{param or 'body'}: {reason}", param


def _path(body: Any, location: Sequence[Any], missing: bool) -> Iterator[str]:
    """The keys and indices of a fault's location: those that the body has, and the last if it is `missing`; the others name types."""
    for part in location:
        if isinstance(body, Mapping) and part in body or isinstance(body, list) and isinstance(part, int) and part < len(body):
            body = body[part]
        elif not missing or part != location[-1]:
            continue
        yield str(part)
