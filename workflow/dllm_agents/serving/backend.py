"""From a checked request to its answers: prompts, settings, the engine's events, and likelihoods of echoed prompts."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from dllm_agents import foreign
from dllm_agents.decoding.settings import Decoding, ToolPrefill
from dllm_agents.engine.engine import Busy, Engine, Event, Failed, Finished, Unmasked
from dllm_agents.serving.api import BadRequest, ChatRequest, CompletionRequest
from dllm_agents.serving.forms import Choice, Form, TokenScore, error_body, event
from dllm_agents.serving.metrics import Metrics
from dllm_agents.serving.reply import Reply
from dllm_agents.serving.structured import constrained
from dllm_agents.serving.templates import TemplateError, chat_prompt, writes_bare_calls
from dllm_agents.serving.text import Decode, Splitter
from dllm_agents.tool_calls import CLOSE, KEPT, OPEN, Piece

AnyRequest = ChatRequest | CompletionRequest
# Nobody reads it: the client has hung up.
GONE = Response(status_code=499)
# A longer prompt cannot fit; it is refused before a tokenizer spends seconds on it.
MAX_CHARACTERS_PER_TOKEN = 64
MAX_ANSWERS = 2048
# Strategies whose sequence is laid out whole: without a limit of its own a request gets the default one, not all that is left.
LAID_OUT_WHOLE = ("llada", "dream", "fast_dllm")
LIKELIHOOD_DRAWS = 32


@dataclass(frozen=True)
class Served:
    """What is served under which names, and how its chat template is used. Names beside the first are its aliases."""

    names: tuple[str, ...]
    template_values: Mapping[str, Any]
    control: str = "text"
    bare_calls: bool | None = None


class Backend:
    """What the routes need: the engine, its tokenizer and the backbone's settings. Turns requests into replies in the making."""

    def __init__(self, engine: Engine, tokenizer: Any, served: Served, default_decoding: Decoding, context: int) -> None:
        self.engine, self.tokenizer, self.served = engine, tokenizer, served
        self.default_decoding, self.context = default_decoding, context
        self.vocabulary = engine.model.vocab_size
        self.metrics = Metrics(engine)
        self.created = int(time.time())
        self.closing = False
        added = tokenizer.added_tokens_decoder.items()
        self._special = {token: entry.content for token, entry in added if entry.special}
        self._bare = writes_bare_calls(tokenizer) if served.bare_calls is None else served.bare_calls

    @property
    def name(self) -> str:
        return self.served.names[0]

    def card(self) -> dict[str, Any]:
        """The model's entry in the list of models."""
        return {"id": self.name, "object": "model", "created": self.created, "owned_by": "dllm-agents", "max_model_len": self.context}

    def check_model(self, name: str) -> None:
        if name not in self.served.names:
            raise HTTPException(404, f"model {name!r:.200} is not served here; this server has {self.name!r}")

    def encode(self, request: AnyRequest) -> list[list[int]]:
        """The token ids of every prompt; chat goes through the checkpoint's template. Raises BadRequest."""
        if isinstance(request, ChatRequest):
            messages = [message.template_values() for message in request.messages]
            self._check_text("".join(message["content"] for message in messages), "messages")
            tools = None if request.tools_in_prompt else request.offered_tools()
            values = request.template_variables(dict(self.served.template_values))
            for shown, param in (
                ([tools, *(message.get("tool_calls") for message in messages)], "tools"),
                (values, "chat_template_kwargs"),
            ):
                if foreign.depth(shown) > foreign.DEEPEST:
                    raise BadRequest(f"nested over {foreign.DEEPEST} levels deep", param)
                self._check_text(json.dumps(shown), param)
            messages, tools, values = foreign.valid([messages, tools, values])
            try:
                return [chat_prompt(self.tokenizer, messages, tools, values, self.served.control)]
            except TemplateError as error:
                raise BadRequest(str(error), error.param) from None
        prompts = []
        for prompt in request.prompts():
            if isinstance(prompt, str):
                self._check_text(prompt, "prompt")
                prompt = list(self.tokenizer(prompt)["input_ids"])
            prompts.append(prompt)
        return prompts

    def _check_text(self, text: str, param: str) -> None:
        if len(text) > MAX_CHARACTERS_PER_TOKEN * self.context:
            reason = f"{len(text)} characters of prompt exceed the context of {self.context} tokens"
            raise BadRequest(reason, param, "context_length_exceeded")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise BadRequest(f"the prompt is not Unicode text ({error.reason})", param) from None

    def decode(self, token_ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def decoder(self, names: Sequence[str]) -> Decode:
        """`decode` that keeps the special tokens that the `wanted` texts speak of: marks of calls, stop strings."""
        kept = {token for token, text in self._special.items() if any(text in one or one in text for one in names)}
        if not kept:
            return self.decode
        left_out = self._special.keys() - kept

        def decode(token_ids: Sequence[int]) -> str:
            shown = [token for token in token_ids if token not in left_out]
            return str(self.tokenizer.decode(shown, skip_special_tokens=False, clean_up_tokenization_spaces=False))

        return decode

    def settings(self, request: AnyRequest, prompt_ids: Sequence[int]) -> Decoding:
        """How one prompt is decoded: without a limit, up to what is left of the context. Raises BadRequest for what cannot fit."""
        prompt = "messages" if isinstance(request, ChatRequest) else "prompt"
        if not prompt_ids:
            raise BadRequest("the prompt has no tokens", prompt)
        decoding = request.decoding(self.default_decoding)
        left = self.context - len(prompt_ids)
        if not request.names_length():
            limited = "max_new_tokens" in decoding.model_fields_set or self._laid_out_whole(decoding)
            length = min(left, decoding.max_new_tokens) if limited else left
            decoding = decoding.model_copy(update={"max_new_tokens": max(1, length)})
        new = 0 if request.max_tokens == 0 else decoding.max_new_tokens
        if new >= self.context:
            raise BadRequest(
                f"max_new_tokens is {new}, which leaves no prompt room in a context of {self.context} tokens", "max_new_tokens"
            )
        if new > left:
            raise BadRequest(
                f"{len(prompt_ids)} prompt tokens and {new} new ones exceed the context of {self.context} tokens",
                prompt,
                code="context_length_exceeded",
            )
        for field, limit in {"steps": 4 * self.context, "block_length": self.context, "sub_block_length": self.context}.items():
            if (value := getattr(decoding, field)) is not None and value > limit:
                raise BadRequest(f"{field} is {value}; with a context of {self.context} tokens it is at most {limit}", field)
        for field, ids in {prompt: prompt_ids, "mask_id": [decoding.mask_id or 0], "stop_ids": decoding.stop_ids or []}.items():
            if any(not 0 <= token < self.vocabulary for token in ids):
                raise BadRequest(f"a token id is outside the vocabulary of {self.vocabulary}", field)
        if request.seed is None and decoding.temperature > 0:
            decoding = decoding.model_copy(update={"seed": secrets.randbits(63)})
        return constrained(request, decoding, lambda settings: settings.resolved(self.engine.model))

    def _laid_out_whole(self, decoding: Decoding) -> bool:
        return (decoding.strategy or getattr(self.engine.model, "strategy", "ar")) in LAID_OUT_WHOLE

    def reply(self, request: AnyRequest, decoding: Decoding) -> Reply:
        stop = request.stop_strings()
        tools = isinstance(request, ChatRequest) and request.offered_tools() is not None
        schemas, single = {}, False
        if isinstance(request, ChatRequest) and tools:
            schemas = {tool.function.name: tool.function.parameters or {} for tool in request.tools or []}
            single = request.parallel_tool_calls is False
        whole_calls = isinstance(decoding.constraint, dict) and "tools" in decoding.constraint
        splitter = Splitter(stop, tools, schemas, self._bare, single, whole_calls)
        stop_ids = decoding.stop_ids if decoding.stop_ids is not None else self.engine.model.stop_ids
        tags = self._tags(decoding.tool_prefill) if decoding.tool_prefill else None
        return Reply(self.decoder([*stop, *(KEPT if tools else ())]), splitter, frozenset(stop_ids), tags)

    def _tags(self, prefill: ToolPrefill) -> tuple[int, int] | None:
        vocabulary = self.tokenizer.get_vocab()
        opening = prefill.open_id if prefill.open_id is not None else vocabulary.get(OPEN)
        closing = prefill.close_id if prefill.close_id is not None else vocabulary.get(CLOSE)
        return None if opening is None or closing is None else (opening, closing)

    async def pieces(
        self, choices: Sequence[tuple[Choice, Decoding]], watch: bool, top: int | None = None
    ) -> AsyncIterator[tuple[Choice, list[Piece]]]:
        """Submit, and give the answers' pieces as they become certain. Leaving early cancels the requests.

        Without `watch` there is one batch of pieces an answer, at the end: nobody waits for the text or looks for stop strings in it,
        so the engine's thread need not wake this loop at every forward. With `top` an answer is waited for to its end, since its
        probabilities come with it.
        Raises HTTPException with 429 when the queue is full, 503 when the server shuts down, 500 or 400 with the engine's reason when
        a request fails.
        """
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[tuple[Choice, Event]] = asyncio.Queue()

        def listener(choice: Choice) -> Callable[[Event], None]:
            def listen(event: Event) -> None:
                if watch or not isinstance(event, Unmasked):
                    loop.call_soon_threadsafe(events.put_nowait, (choice, event))

            return listen

        started = time.perf_counter()
        handles = {}
        try:
            for choice, decoding in choices:
                handles[choice.index] = self._submit(choice, decoding, listener(choice), top)
            while handles:
                choice, event = await events.get()
                if choice.index not in handles:
                    continue
                if isinstance(event, Failed):
                    raise HTTPException(400 if event.settings else 503 if self.closing else 500, event.message)
                reply = choice.reply
                if isinstance(event, Finished):
                    choice.logprobs = event.scores
                yield choice, reply.finish(event.generation) if isinstance(event, Finished) else reply.settle(event)
                if reply.done and (top is None or isinstance(event, Finished)):
                    handles.pop(choice.index).cancel()
        finally:
            for handle in handles.values():
                handle.cancel()
            self.metrics.observe(time.perf_counter() - started)

    def _submit(self, choice: Choice, decoding: Decoding, listen: Callable[[Event], None], top: int | None) -> Any:
        scored = {} if top is None else {"top": top}
        try:
            return self.engine.submit(choice.prompt_ids, decoding, listen, **scored)
        except Busy as error:
            raise HTTPException(429, str(error), {"Retry-After": "1"}) from None
        except RuntimeError as error:
            raise HTTPException(503, str(error)) from None

    def close(self) -> None:
        """End the engine; requests still in flight are answered with 503."""
        self.closing = True
        self.engine.close()

    async def answer(self, request: AnyRequest, connection: Request) -> Response:
        """The HTTP response to a checked request."""
        self.check_model(request.model)
        top = request.logprobs_wanted()
        prompts = await asyncio.to_thread(self.encode, request)
        if len(prompts) * (request.n or 1) > MAX_ANSWERS:
            raise BadRequest(f"{len(prompts)} prompts with {request.n} answers each are more than {MAX_ANSWERS}", "n")
        choices = await asyncio.to_thread(self._choices, request, prompts)  # a constraint may take a second to compile
        options = request.stream_options
        form = Form(
            self.name,
            sum(map(len, prompts)),
            chat=isinstance(request, ChatRequest),
            trace=bool(request.return_trace),
            include_usage=bool(options and options.include_usage),
            logprobs=None if top is None else self._answer_scores,
        )
        if isinstance(request, CompletionRequest) and request.echo:
            scored = await _unless_disconnected(connection, self._echo(request, [choice for choice, _ in choices], top))
            if scored is None:
                return GONE
        open_ = [] if request.max_tokens == 0 else choices
        pieces = self.pieces(open_, bool(request.stream or request.stop), top)
        everything = [choice for choice, _ in choices]
        if request.stream:
            # The first piece is awaited here, so that a request that fails at once is answered with a status, not with a broken stream.
            first = await _unless_disconnected(connection, _first(pieces))
            return GONE if first is None else StreamingResponse(_stream(form, everything, first, pieces), media_type="text/event-stream")
        collected = await _unless_disconnected(connection, _collect(pieces))
        return GONE if collected is None else JSONResponse(form.whole(everything))

    def _choices(self, request: AnyRequest, prompts: Sequence[list[int]]) -> list[tuple[Choice, Decoding]]:
        """An answer to be for every prompt and each of `n`, whose seeds follow each other."""
        choices: list[tuple[Choice, Decoding]] = []
        for prompt_ids in prompts:
            decoding = self.settings(request, prompt_ids)
            for number in range(request.n or 1):
                seed = decoding.seed + number
                chosen = decoding.model_copy(update={"seed": seed if seed < 2**64 else seed - 2**64}) if number else decoding
                choice = Choice(len(choices), prompt_ids, self.reply(request, chosen))
                if request.max_tokens == 0:
                    choice.reply.done, choice.reply.finish_reason = True, "length"
                choices.append((choice, chosen))
        return choices

    async def _echo(self, request: CompletionRequest, choices: Sequence[Choice], top: int | None) -> bool:
        """Put the prompts before the answers, with their likelihoods where they are asked for."""
        texts = request.prompts()
        copies = request.n or 1
        gone = threading.Event()
        try:
            for place, prompt in enumerate(texts):
                mine = choices[place * copies : (place + 1) * copies]
                echo = prompt if isinstance(prompt, str) else self.decode(prompt)
                scores = [] if top is None else await asyncio.to_thread(self._prompt_scores, request, mine[0].prompt_ids, top, gone)
                for choice in mine:
                    choice.echo, choice.scores = echo, scores
        except RuntimeError as error:
            raise HTTPException(503, str(error)) from None
        finally:
            gone.set()
        return True

    def _prompt_scores(self, request: CompletionRequest, prompt_ids: list[int], top: int, gone: threading.Event) -> list[TokenScore]:
        from dllm_agents.decoding.likelihood import likelihood

        def run(segments: Any) -> Any:
            if gone.is_set():
                raise RuntimeError("the client has hung up")
            return self.engine.run(segments)

        draws = request.likelihood_draws or LIKELIHOOD_DRAWS
        seed = request.seed if request.seed is not None else 0
        scores = likelihood(self.engine.model, prompt_ids, run, top=top, draws=draws, seed=seed, context=request.context_tokens or 0)
        return [self._score(token, *score) for token, score in zip(prompt_ids, scores, strict=True)]

    def _answer_scores(self, choice: Choice) -> list[TokenScore]:
        """The tokens of an answer with the probability of each at the forward that settled it."""
        reply = choice.reply
        scores = [self._score(token, *score) for token, score in zip(reply.token_ids, choice.logprobs or [], strict=False)]
        if choice.scores and not scores and choice.logprobs is not None:
            # An answer that ends at once has its end as a token, as clients count on that score the prompt before it.
            scores = [TokenScore(str(self.tokenizer.eos_token or ""), None)]
        return scores

    def _score(self, token: int, logprob: float | None, top: Mapping[int, float]) -> TokenScore:
        return TokenScore(self._token_text(token), logprob, {self._token_text(other): value for other, value in top.items()})

    def _token_text(self, token: int) -> str:
        """A token's text; half a character is shown by the tokenizer's own spelling."""
        text = str(self.tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False))
        return str(self.tokenizer.convert_ids_to_tokens(token)) if "\ufffd" in text else text


async def _first(pieces: AsyncIterator[tuple[Choice, list[Piece]]]) -> list[tuple[Choice, list[Piece]]]:
    return [first] if (first := await anext(pieces, None)) is not None else []


async def _collect(pieces: AsyncIterator[tuple[Choice, list[Piece]]]) -> bool:
    async for choice, batch in pieces:
        choice.pieces += batch
    return True


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


async def _stream(
    form: Form,
    choices: Sequence[Choice],
    first: list[tuple[Choice, list[Piece]]],
    rest: AsyncIterator[tuple[Choice, list[Piece]]],
) -> AsyncIterator[str]:
    async with contextlib.aclosing(rest):  # type: ignore[type-var]
        try:
            for choice in choices:
                yield form.opening(choice)
            for choice, batch in first:
                yield "".join(form.chunk(choice, piece) for piece in batch)
            async for choice, batch in rest:
                yield "".join(form.chunk(choice, piece) for piece in batch)
            for choice in choices:
                yield form.end(choice)
            yield form.closing(choices)
        except HTTPException as error:
            yield event(error_body(error.status_code, error.detail))
