"""The chat client of rollouts and probes: one completion, retried over server faults, strictly read. Safe to share between threads."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

import httpx
from pydantic import ValidationError

from dllm_agents import foreign
from dllm_agents.client.reading import MAX_REPLY_BYTES, BadReply, BrokenStream, calls_of, count, json_object, listed, text_of, tool_call
from dllm_agents.config import Backbone
from dllm_agents.decoding.constraints.turns import tool_schema
from dllm_agents.decoding.settings import Decoding
from dllm_agents.errors import StageError
from dllm_agents.records import Dynamics
from dllm_agents.retry import RETRIED_STATUS, PassingFault, retried
from dllm_agents.tool_calls import CLOSE, OPEN

T = TypeVar("T")
REPLY_SECONDS = 3600.0  # from the first byte to the last, however steadily they come
GO_ON = "Go on."
OPENAI_FIELDS = ("temperature", "top_p")
LONGEST_REASON = 100  # characters of a finish reason
# What of a request differs from prompt to prompt; a refusal that names anything else would meet every request.
PROMPT_FIELDS = ("messages", "prompt")
# A prompt that does not fit, in the words of OpenAI, vLLM, SGLang, llama.cpp, Anthropic and Gemini.
_TOO_LONG = re.compile(
    r"context.{0,80}(?:length|exceed|window|size)|exceeds?.{0,40}context|(?:prompt|input|request).{0,40}too (?:long|large)"
    r"|(?:token count|input tokens?|number of tokens).{0,60}exceed",
    re.IGNORECASE | re.DOTALL,
)


class ServerFault(Exception):
    """The server is gone, refuses the key, or keeps failing: further requests would fare no better."""


class RequestRefused(Exception):
    """The server answers, but not to this request (400 and the like)."""


class SettingsRefused(RequestRefused):
    """The server refuses what every request to it holds: the model's name, or a decoding setting. `field` is its name in the request
    ("model", "strategy", ...), empty where the server does not say."""

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class PromptTooLong(RequestRefused):
    """Prompt and completion do not fit the context."""


@dataclass(frozen=True)
class Endpoint:
    """Where a backbone is served. `native` says it is this project's server, which takes decoding fields beside OpenAI's; `is_alive`,
    where this job started it, that the process is there which was seen to listen."""

    base_url: str
    model: str
    native: bool = True
    api_key: str | None = None
    is_alive: Callable[[], bool] | None = field(default=None, compare=False)

    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}

    def __repr__(self) -> str:
        return f"{self.model} at {self.base_url}"


@dataclass(frozen=True)
class Completion:
    """One answer. What the server does not count is None. `nfe` is the number of forward evaluations (for plain OpenAI servers, which
    decode autoregressively, the number of new tokens), `reveal_step` the 0-based forward that unmasked each token, `tokens` their texts,
    `confidence` the probability with which each was unmasked, `decoding` the settings with every default filled in where the server
    tells them, `repaired` how many tokens a constraint put in place of the model's own, `dynamics` what happened forward by forward where
    the settings ask for it, `seconds` the wall time with retries left out."""

    text: str
    prompt_tokens: int | None
    completion_tokens: int | None
    nfe: int | None
    seconds: float
    finish_reason: str | None
    reveal_step: list[int] | None = None
    token_ids: list[int] | None = None
    tool_calls: tuple[dict[str, Any], ...] = ()
    tokens: list[str] | None = None
    confidence: list[float] | None = None
    decoding: Decoding | None = None
    repaired: int = 0
    dynamics: Dynamics | None = None


class Client:
    """A connection pool to one endpoint. `timeout` is seconds without a byte before a request counts as failed.

    Fields in `omit` are left out of every request; with `max_tokens` left out, the limit goes as `max_completion_tokens`, unless that is
    left out too. `template` are variables of the chat template, as `enable_thinking`.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        timeout: float = 600.0,
        attempts: int = 6,
        backoff: float = 0.5,
        template: Mapping[str, Any] | None = None,
        omit: Collection[str] = (),
    ) -> None:
        self.endpoint, self.attempts, self.backoff = endpoint, attempts, backoff
        self._omit = frozenset(omit)
        self._template = {"chat_template_kwargs": dict(template)} if template else {}
        self._extensions = {"trace": self._check_server} if endpoint.is_alive else {}
        self._http = httpx.Client(
            base_url=endpoint.base_url.rstrip("/") + "/",
            headers=endpoint.headers() | foreign.ACCEPTED,
            timeout=httpx.Timeout(timeout, connect=10.0),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
            # A proxy set for the outside world must not see requests to a server on this machine.
            trust_env=not _is_local(endpoint.base_url),
        )

    @classmethod
    def for_backbone(cls, endpoint: Endpoint, backbone: Backbone) -> Client:
        """A client of a backbone's endpoint, with the key named by `api_key_env` when the endpoint brings none."""
        if endpoint.api_key is None and backbone.api_key_env:
            endpoint = replace(endpoint, api_key=api_key(backbone))
        return cls(endpoint, template=backbone.template_settings, omit=backbone.omit)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def complete(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        decoding: Decoding,
        seed: int | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
        stop: Sequence[str] = (),
    ) -> Completion:
        """One chat completion.

        Server faults (no connection, 429, 5xx) are retried with growing pauses. Raises ServerFault when they last,
        PromptTooLong or RequestRefused when the server refuses this request, SettingsRefused when it would refuse any with these
        settings, BadReply for an answer that is no completion.
        """
        named = {"tools": list(tools), "stop": list(stop)}
        body = self.body(messages, decoding, seed, **{name: value for name, value in named.items() if value})
        return completion_of(*next(self.exchange(body, self._whole)))

    def body(self, messages: Sequence[Mapping[str, Any]], decoding: Decoding, seed: int | None, **fields: Any) -> dict[str, Any]:
        """The request for one chat completion. A reply that ends the messages is gone on with; this project's server, which cannot, is
        asked in a turn of its own."""
        body = {"model": self.endpoint.model, "messages": list(messages), **self._settings(decoding, seed), **fields}
        if messages and messages[-1]["role"] == "assistant":
            body |= (
                {"messages": [*messages, {"role": "user", "content": GO_ON}]}
                if self.endpoint.native
                else {"continue_final_message": True, "add_generation_prompt": False}
            )
        return {name: value for name, value in body.items() if name not in self._omit}

    def _settings(self, decoding: Decoding, seed: int | None) -> dict[str, Any]:
        chosen = seed if seed is not None else decoding.seed
        if self.endpoint.native:
            return {**decoding.model_dump(exclude_none=True), **self._template, "seed": chosen, "return_trace": True}
        plain = {name: getattr(decoding, name) for name in OPENAI_FIELDS if getattr(decoding, name) is not None}
        if decoding.constraint is not None:
            plain["structured_outputs"] = structured_outputs(decoding.constraint)
        limit = "max_completion_tokens" if "max_tokens" in self._omit else "max_tokens"
        return {**plain, **self._template, limit: decoding.max_new_tokens, "seed": chosen}

    def exchange(self, body: dict[str, Any], read: Callable[[httpx.Response, float], Iterator[T]]) -> Iterator[T]:
        """What `read` makes of the answer (status 200) to a request and of the time it was sent. Server faults are retried, and so is an
        answer of which `read` raises BrokenStream. Raises as `complete` does."""

        def ask() -> Iterator[T]:
            started = time.perf_counter()
            try:
                with self._http.stream("POST", "chat/completions", json=body, extensions=self._extensions) as response:
                    if response.status_code == 200:
                        yield from read(response, started)
                        return
                    reason = reason_of(b"".join(self.blocks(response)))
                    if response.status_code not in RETRIED_STATUS:
                        raise refusal(response.status_code, reason, self.endpoint)
                    raise PassingFault(f"HTTP {response.status_code}: {reason.message}", response.headers.get("Retry-After", ""))
            except (httpx.RequestError, httpx.StreamError, BrokenStream) as error:
                raise PassingFault(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__) from None

        try:
            yield from retried(ask, self.attempts, self.backoff)
        except PassingFault as fault:
            raise ServerFault(f"{self.endpoint!r} does not answer after {self.attempts} attempts ({fault})") from None

    def _check_server(self, event: str, _: Any) -> None:
        """Send nothing over a new connection when the server has ended: another user may have taken its port since."""
        if event == "connection.connect_tcp.complete" and self.endpoint.is_alive and not self.endpoint.is_alive():
            raise ServerFault(f"{self.endpoint!r} has ended; another process listens on its port")

    def _whole(self, response: httpx.Response, started: float) -> Iterator[tuple[dict[str, Any], float]]:
        """The payload of an answer, and its seconds. Raises BrokenStream for an error in its place."""
        content = b"".join(self.blocks(response))
        payload = json_object(content, "the reply")
        if not payload or (payload.get("error") and not payload.get("choices")):
            raise BrokenStream(f"HTTP 200: {reason_of(content).message}")
        yield payload, time.perf_counter() - started

    def blocks(self, response: httpx.Response) -> Iterator[bytes]:
        """A reply as it comes. Raises BadReply beyond 16 MiB, and when it is not whole after an hour."""
        try:
            yield from foreign.bounded(foreign.body_of(response), MAX_REPLY_BYTES, REPLY_SECONDS)
        except foreign.TooMuch as error:
            raise BadReply(f"{self.endpoint!r}: a reply {error}") from None


def structured_outputs(constraint: Mapping[str, Any]) -> dict[str, Any]:
    """A constraint as vLLM spells it; a turn that may call tools as a structural tag. One that must is nothing but calls there."""
    if set(constraint) <= {"regex", "choice"}:
        return dict(constraint)
    if "tools" not in constraint:
        return {"json": _anchored(constraint)}
    calls = [{"type": "json_schema", "json_schema": _anchored(tool_schema(tool))} for tool in constraint["tools"]]
    turn = {
        "type": "triggered_tags",
        "triggers": [OPEN],
        "tags": [{"type": "tag", "begin": f"{OPEN}\n", "content": {"type": "or", "elements": calls}, "end": f"\n{CLOSE}"}],
        "at_least_one": bool(constraint.get("required")) or "answer" in constraint,
        "stop_after_first": not constraint.get("several", True),
    }
    whole = {"type": "or", "elements": [*_formats(constraint["answer"]), turn]} if "answer" in constraint else turn
    return {"structural_tag": json.dumps({"type": "structural_tag", "format": whole})}


def _formats(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The texts of a constraint as formats of a structural tag."""
    if "choice" in answer:
        return [{"type": "const_string", "value": text} for text in answer["choice"]]
    return [
        {"type": "regex", "pattern": answer["regex"]} if "regex" in answer else {"type": "json_schema", "json_schema": _anchored(answer)}
    ]


def _anchored(schema: Any) -> Any:
    """The schema with patterns for xgrammar, which takes each for the whole string: what may stand around a match is written out."""
    if isinstance(schema, list):
        return [_anchored(part) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    return {
        key: _whole(part) if key == "pattern" else part if key in ("const", "enum") else _anchored(part) for key, part in schema.items()
    }


def _whole(pattern: Any) -> Any:
    if not isinstance(pattern, str):  # a property of that name
        return _anchored(pattern)
    first, last = pattern.startswith("^"), re.search(r"(?<!\\)(?:\\\\)*\$\Z", pattern) is not None
    if first and last or "|" in pattern and (first or last):  # of which branch the anchor is only a parser could tell
        return pattern
    around = r'[^"\\\x00-\x1F]*'
    return f"^{'' if first else around}(?:{pattern[first : len(pattern) - last]}){'' if last else around}$"


def api_key(backbone: Backbone) -> str | None:
    """The key for a backbone's URL, from the environment variable it names. Raises StageError when that is not set."""
    if backbone.api_key_env is None:
        return None
    key = os.environ.get(backbone.api_key_env)
    if not key:
        raise StageError(f"environment variable {backbone.api_key_env} is not set; it holds the key for {backbone.url}")
    return key


def _is_local(url: str) -> bool:
    return httpx.URL(url).host in ("127.0.0.1", "localhost", "::1")


class Reason(NamedTuple):
    """An error body: what it says, OpenAI's code for it, and the part of the request at fault."""

    message: str
    code: str | None = None
    param: str | None = None


def refusal(status: int, reason: Reason, endpoint: Endpoint) -> Exception:
    message = reason.message
    if reason.code == "context_length_exceeded" or (status in (400, 413, 422) and _TOO_LONG.search(message)):
        return PromptTooLong(message)
    if 300 <= status < 400:
        return ServerFault(f"{endpoint!r} sends requests elsewhere (HTTP {status}); set the URL that answers itself")
    if status in (401, 403):
        return ServerFault(f"{endpoint!r} refuses the key (HTTP {status}: {message}); set the right one")
    text, field = f"{endpoint!r} refuses (HTTP {status}: {message})", _field(reason)
    if status == 404:
        return SettingsRefused(text, "model")
    if status in (400, 422) and field not in PROMPT_FIELDS and reason.code != "content_filter":
        return SettingsRefused(text, field)
    return RequestRefused(f"HTTP {status}: {message}")


def _field(reason: Reason) -> str:
    """The field of the request that is at fault: as the server names it, else the first word of its message if that is one."""
    if reason.param:
        return reason.param.partition(".")[0].partition("[")[0]
    word = reason.message.partition(":")[0]
    return word if word in Decoding.model_fields or word in PROMPT_FIELDS else ""


def reason_of(content: bytes) -> Reason:
    """What an error body says, whatever its shape."""
    text = content[:2000].decode("utf-8", "replace").strip()
    try:
        error = foreign.loads(content).get("error")
        message, code, param = error.get("message"), error.get("code"), error.get("param")
    except (ValueError, AttributeError):
        return Reason(" ".join(text.split())[:300] or "no reason given")
    return Reason(foreign.valid_text(str(message))[:300], *(value if isinstance(value, str) else None for value in (code, param)))


def completion_of(payload: Mapping[str, Any], seconds: float) -> Completion:
    """The answer that a chat completion holds, in any of the shapes that servers give it. Raises BadReply when it holds none."""
    try:
        choice = foreign.valid(payload["choices"][0])
        message = choice["message"]
        usage = payload.get("usage") or {}
        content = text_of(message.get("content")) or text_of(message.get("refusal"))
        finish_reason = choice.get("finish_reason")
        trace = choice.get("trace") or {}
        calls = tuple(map(tool_call, calls_of(message)))
        prompt_tokens, completion_tokens, nfe = (count(usage, name) for name in ("prompt_tokens", "completion_tokens", "nfe"))
        reveal_step, token_ids = (listed(trace.get(name), int) for name in ("reveal_step", "token_ids"))
        tokens, confidence = listed(trace.get("tokens"), str), listed(trace.get("confidence"), float)
        repaired = len(listed(trace.get("repaired"), int) or ())
        decoding = None if trace.get("decoding") is None else Decoding.model_validate(trace["decoding"])
        dynamics = None if trace.get("dynamics") is None else Dynamics.model_validate(trace["dynamics"])
    except (KeyError, IndexError, TypeError, AttributeError, ValidationError, RecursionError) as error:
        reason = " ".join(str(error).split())[:300]
        raise BadReply(f"the reply is no chat completion ({type(error).__name__}: {reason})") from None
    finish_reason = finish_reason if isinstance(finish_reason, str) and len(finish_reason) <= LONGEST_REASON else None
    completion_tokens = None if completion_tokens == 0 and (content or calls) else completion_tokens
    nfe = completion_tokens if nfe is None else nfe
    cost, texts = (prompt_tokens, completion_tokens, nfe, seconds), (tokens, confidence)
    return Completion(content, *cost, finish_reason, reveal_step, token_ids, calls, *texts, decoding, repaired, dynamics)
