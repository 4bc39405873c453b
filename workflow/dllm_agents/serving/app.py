"""The OpenAI-compatible server over an engine: chat and text completions, streamed or whole, models, health and metrics."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from dllm_agents import __version__
from dllm_agents.decoding.settings import Decoding, ToolPrefill
from dllm_agents.serving.api import BadRequest, ChatRequest, CompletionRequest
from dllm_agents.serving.engine import Busy, Engine, Event, Failed, Finished, Settled
from dllm_agents.serving.forms import ErrorBody, Form, error_body, event
from dllm_agents.serving.gate import Gate
from dllm_agents.serving.metrics import Metrics
from dllm_agents.serving.reply import Reply
from dllm_agents.serving.text import CLOSE, OPEN, Piece, Splitter, chat_prompt

REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorBody, "description": "The request cannot be answered as it is"},
    401: {"model": ErrorBody, "description": "The bearer key is missing or wrong"},
    404: {"model": ErrorBody, "description": "No such model"},
    413: {"model": ErrorBody, "description": "The body is too large"},
    429: {"model": ErrorBody, "description": "The queue is full"},
    500: {"model": ErrorBody, "description": "The model or the decoder failed"},
    503: {"model": ErrorBody, "description": "The server is shutting down"},
}
# Nobody reads it: the client has hung up.
GONE = Response(status_code=499)
# A longer prompt cannot fit; it is refused before a tokenizer spends seconds on it.
MAX_CHARACTERS_PER_TOKEN = 64


class Backend:
    """What the routes need: the engine, its tokenizer and the backbone's settings. Turns requests into replies in the making."""

    def __init__(self, engine: Engine, tokenizer: Any, name: str, default_decoding: Decoding, context: int) -> None:
        self.engine, self.tokenizer, self.name = engine, tokenizer, name
        self.default_decoding, self.context = default_decoding, context
        self.vocabulary = engine.model.vocab_size
        self.metrics = Metrics(engine)
        self.created = int(time.time())
        self.closing = False

    def encode(self, request: ChatRequest | CompletionRequest) -> list[int]:
        """The prompt's token ids; chat goes through the checkpoint's template. Raises BadRequest."""
        if isinstance(request, ChatRequest):
            messages = [message.template_values() for message in request.messages]
            self._check_text("".join(message["content"] for message in messages))
            try:
                return chat_prompt(self.tokenizer, messages, request.offered_tools())
            except Exception as error:  # templates come with the checkpoint and raise what they like
                raise BadRequest(f"the chat template refuses these messages: {error}", "messages") from None
        if isinstance(request.prompt, str):
            self._check_text(request.prompt)
            return list(self.tokenizer(request.prompt)["input_ids"])
        return request.prompt

    def _check_text(self, text: str) -> None:
        if len(text) > MAX_CHARACTERS_PER_TOKEN * self.context:
            reason = f"{len(text)} characters of prompt exceed the context of {self.context} tokens"
            raise BadRequest(reason, code="context_length_exceeded")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise BadRequest(f"the prompt is not Unicode text ({error.reason})", "messages") from None

    def decode(self, token_ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def check_sizes(self, prompt_ids: Sequence[int], decoding: Decoding) -> None:
        """Refuse what cannot fit or would hardly end. Raises BadRequest."""
        if not prompt_ids:
            raise BadRequest("the prompt has no tokens", "prompt")
        if len(prompt_ids) + decoding.max_new_tokens > self.context:
            raise BadRequest(
                f"{len(prompt_ids)} prompt tokens and {decoding.max_new_tokens} new ones exceed the context of {self.context} tokens",
                code="context_length_exceeded",
            )
        for field, limit in {"steps": 4 * self.context, "block_length": self.context, "sub_block_length": self.context}.items():
            if (value := getattr(decoding, field)) is not None and value > limit:
                raise BadRequest(f"{field} is {value}; with a context of {self.context} tokens it is at most {limit}", field)
        for field, ids in {"prompt": prompt_ids, "mask_id": [decoding.mask_id or 0], "stop_ids": decoding.stop_ids or []}.items():
            if any(not 0 <= token < self.vocabulary for token in ids):
                raise BadRequest(f"a token id is outside the vocabulary of {self.vocabulary}", field)

    def reply(self, request: ChatRequest | CompletionRequest, decoding: Decoding) -> Reply:
        tools = isinstance(request, ChatRequest) and request.offered_tools() is not None
        stop_ids = decoding.stop_ids if decoding.stop_ids is not None else self.engine.model.stop_ids
        splitter = Splitter(request.stop_strings(), tools)
        return Reply(self.decode, splitter, frozenset(stop_ids), self._tags(decoding.tool_prefill) if decoding.tool_prefill else None)

    def _tags(self, prefill: ToolPrefill) -> tuple[int, int] | None:
        vocabulary = self.tokenizer.get_vocab()
        opening = prefill.open_id if prefill.open_id is not None else vocabulary.get(OPEN)
        closing = prefill.close_id if prefill.close_id is not None else vocabulary.get(CLOSE)
        return None if opening is None or closing is None else (opening, closing)

    async def pieces(self, prompt_ids: list[int], decoding: Decoding, reply: Reply, watch: bool) -> AsyncIterator[list[Piece]]:
        """Submit, and give the answer's pieces as they become certain. Leaving early cancels the request.

        Without `watch` there is one batch of pieces, at the end: nobody waits for the text or looks for stop strings in it, so the
        engine's thread need not wake this loop at every forward.
        Raises HTTPException with 429 when the queue is full, 503 when the server shuts down, 500 or 400 with the engine's reason when
        the request fails.
        """
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[Event] = asyncio.Queue()

        def listen(event: Event) -> None:
            if watch or not isinstance(event, Settled):
                loop.call_soon_threadsafe(events.put_nowait, event)

        started = time.perf_counter()
        try:
            handle = self.engine.submit(prompt_ids, decoding, listen)
        except Busy as error:
            raise HTTPException(429, str(error), {"Retry-After": "1"}) from None
        except RuntimeError as error:
            raise HTTPException(503, str(error)) from None
        try:
            while not reply.done:
                event = await events.get()
                if isinstance(event, Failed):
                    raise HTTPException(400 if event.settings else 503 if self.closing else 500, event.message)
                yield reply.finish(event.generation) if isinstance(event, Finished) else reply.settle(event)
        finally:
            handle.cancel()
            self.metrics.observe(time.perf_counter() - started)

    def close(self) -> None:
        """End the engine; requests still in flight are answered with 503."""
        self.closing = True
        self.engine.close()

    async def answer(self, request: ChatRequest | CompletionRequest, connection: Request) -> Response:
        """The HTTP response to a checked request."""
        if request.model != self.name:
            raise HTTPException(404, f"model {request.model!r:.200} is not served here; this server has {self.name!r}")
        decoding = request.decoding(self.default_decoding)
        prompt_ids = await asyncio.to_thread(self.encode, request)
        self.check_sizes(prompt_ids, decoding)
        reply = self.reply(request, decoding)
        options = request.stream_options
        form = Form(
            self.name,
            len(prompt_ids),
            chat=isinstance(request, ChatRequest),
            trace=bool(request.return_trace),
            include_usage=bool(options and options.include_usage),
        )
        pieces = self.pieces(prompt_ids, decoding, reply, watch=bool(request.stream or request.stop))
        if request.stream:
            # The first piece is awaited here, so that a request that fails at once is answered with a status, not with a broken stream.
            first = await _unless_disconnected(connection, anext(pieces))
            return GONE if first is None else StreamingResponse(_stream(form, first, pieces, reply), media_type="text/event-stream")
        collected = await _unless_disconnected(connection, _collect(pieces))
        return GONE if collected is None else JSONResponse(form.whole(collected, reply))


async def _collect(pieces: AsyncIterator[list[Piece]]) -> list[Piece]:
    return [piece async for batch in pieces for piece in batch]


async def _unless_disconnected(connection: Request, work: Any) -> Any:
    """The work's result, or None when the client hangs up first (the work is then cancelled)."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_hang_up(connection))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        return await task if task.done() else None
    finally:
        for running in (task, gone):
            running.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _hang_up(connection: Request) -> None:
    while (await connection.receive())["type"] != "http.disconnect":
        pass


async def _stream(form: Form, first: list[Piece], rest: AsyncIterator[list[Piece]], reply: Reply) -> AsyncIterator[str]:
    async with contextlib.aclosing(rest):  # type: ignore[type-var]
        try:
            yield form.opening()
            for piece in first:
                yield form.chunk(piece)
            async for batch in rest:
                for piece in batch:
                    yield form.chunk(piece)
            yield form.closing(reply)
        except HTTPException as error:
            yield event(error_body(error.status_code, error.detail))


def create_app(
    engine: Engine, tokenizer: Any, name: str, default_decoding: Decoding, context: int = 4000, api_key: str | None = None
) -> FastAPI:
    """The ASGI application; its `state.backend.close()` ends it.

    `tokenizer` is a transformers tokenizer; `context` bounds prompt and completion together, in tokens.
    """
    backend = Backend(engine, tokenizer, name, default_decoding, context)
    app = FastAPI(title="dllm-agents", version=__version__, description=__doc__ or "")
    app.state.backend = backend
    app.add_middleware(Gate, api_key=api_key)
    _handle_errors(app)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok", "model": name}

    @app.get("/metrics", response_class=PlainTextResponse, responses={401: REFUSALS[401]})
    async def metrics() -> Response:
        return Response(backend.metrics.render(), media_type=backend.metrics.content_type)

    @app.get("/v1/models", responses={401: REFUSALS[401]})
    async def models() -> dict[str, Any]:
        entry = {"id": name, "object": "model", "created": backend.created, "owned_by": "dllm-agents", "max_model_len": context}
        return {"object": "list", "data": [entry]}

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
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        errors = error.errors()
        # A value that fits no member of a union fails once per member; the one that was followed furthest is the one that was meant.
        field = [other for other in errors if other["loc"][:2] == errors[0]["loc"][:2]]
        told = max(field, key=lambda other: (len(other["loc"]), not other["type"].endswith("_type")))
        param = ".".join(str(part) for part in told["loc"][1:]) or None
        reason = "this server has no such field" if told["type"] == "extra_forbidden" else told["msg"]
        return JSONResponse(error_body(400, f"{param or 'body'}: {reason}", param), 400)

    @app.exception_handler(BadRequest)
    async def refused(_: Request, error: BadRequest) -> JSONResponse:
        return JSONResponse(error_body(400, str(error), error.param, error.code), 400)

    @app.exception_handler(HTTPException)
    async def failed(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse(error_body(error.status_code, str(error.detail)), error.status_code, error.headers)
