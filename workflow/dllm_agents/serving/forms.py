"""OpenAI's JSON shapes of an answer, whole or in chunks, for chat and for text completions."""

from __future__ import annotations

import json
import math
import secrets
import string
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import BaseModel

from dllm_agents.serving.reply import Reply
from dllm_agents.tool_calls import Piece, json_text

CALL_ID_LETTERS = string.ascii_letters + string.digits
CALL_ID_LENGTH = 9  # Mistral's chat templates take no other


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(BaseModel):
    """What every refusal looks like."""

    error: ErrorDetail


def error_body(status: int, message: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
    kind = kinds.get(status, "invalid_request_error" if status < 500 else "server_error")
    # Messages quote the request, which may hold lone surrogates that no response can carry.
    detail = ErrorDetail(message=_printable(message), type=kind, param=param and _printable(param), code=code)
    return ErrorBody(error=detail).model_dump()


def _printable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


@dataclass(frozen=True)
class TokenScore:
    """A token of the answer or of an echoed prompt: its text, the log of its probability, and the likeliest ones in its place.

    None where there is no probability: the first token of a prompt, context that is not scored, the end of an answer.
    """

    text: str
    logprob: float | None
    top: Mapping[str, float] = field(default_factory=dict)


@dataclass
class Choice:
    """One answer of a request: its prompt, and what has come of it. `scores` are those of an echoed prompt, `logprobs` the answer's own."""

    index: int
    prompt_ids: list[int]
    reply: Reply
    echo: str = ""
    scores: Sequence[TokenScore] = ()
    pieces: list[Piece] = field(default_factory=list)
    calls: int = 0
    logprobs: Sequence[tuple[float | None, Mapping[int, float]]] | None = None


@dataclass
class Form:
    """A request's shape. `logprobs` gives an answer's tokens with their probabilities, where they were asked for."""

    model: str
    prompt_tokens: int
    chat: bool
    trace: bool = False
    include_usage: bool = False
    logprobs: Any = None
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def usage(self, choices: Sequence[Choice]) -> dict[str, int]:
        completion = sum(len(choice.reply.token_ids) for choice in choices)
        published = [getattr(choice.reply.generation, "published_nfe", None) for choice in choices]
        totals = {} if None in published else {"published_nfe": sum(filter(None, published))}
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": completion,
            "total_tokens": self.prompt_tokens + completion,
            "nfe": sum(choice.reply.nfe for choice in choices),
            **totals,
        }

    def whole(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """The answer to a request that is not streamed."""
        head = self._head("chat.completion" if self.chat else "text_completion")
        return {**head, "choices": [self._choice(choice) for choice in choices], "usage": self.usage(choices)}

    def _choice(self, choice: Choice) -> dict[str, Any]:
        text = choice.echo + "".join(piece for piece in choice.pieces if isinstance(piece, str))
        calls = [self._call(choice, piece) for piece in choice.pieces if isinstance(piece, dict)]
        body: dict[str, Any] = {"index": choice.index, "finish_reason": choice.reply.finish_reason, "logprobs": self._logprobs(choice)}
        if self.chat:
            message: dict[str, Any] = {"role": "assistant", "content": text if text or not calls else None, "refusal": None}
            body["message"] = {**message, "tool_calls": calls} if calls else message
        else:
            body["text"] = text
        return {**body, **self._trace(choice.reply)}

    def opening(self, choice: Choice) -> str:
        """The first event of a stream: a chat's role, the prompt where it is echoed."""
        if self.chat:
            return self._chunk(choice, {"role": "assistant", "content": ""})
        return self._chunk(choice, choice.echo) if choice.echo else ""

    def chunk(self, choice: Choice, piece: Piece) -> str:
        """The event that carries one piece."""
        if isinstance(piece, str):
            return self._chunk(choice, {"content": piece} if self.chat else piece)
        index = choice.calls
        return self._chunk(choice, {"tool_calls": [{"index": index, **self._call(choice, piece)}]})

    def end(self, choice: Choice) -> str:
        """The last event of an answer: finish reason, probabilities and trace."""
        extra = {"logprobs": self._logprobs(choice), **self._trace(choice.reply)}
        return self._chunk(choice, {} if self.chat else "", choice.reply.finish_reason, **extra)

    def closing(self, choices: Sequence[Choice]) -> str:
        """The last events of a stream: usage when asked for, the end mark."""
        usage = event({**self._head(self._chunk_kind), "choices": [], "usage": self.usage(choices)}) if self.include_usage else ""
        return usage + "data: [DONE]\n\n"

    @property
    def _chunk_kind(self) -> str:
        return "chat.completion.chunk" if self.chat else "text_completion"

    def _head(self, kind: str) -> dict[str, Any]:
        prefix = "chatcmpl-" if self.chat else "cmpl-"
        return {"id": prefix + self.id, "object": kind, "created": self.created, "model": self.model}

    def _chunk(self, choice: Choice, delta: Any, finish_reason: str | None = None, **extra: Any) -> str:
        body = {"delta": delta} if self.chat else {"text": delta}
        chunk = {"index": choice.index, **body, "finish_reason": finish_reason, "logprobs": None, **extra}
        return event({**self._head(self._chunk_kind), "choices": [chunk], **({"usage": None} if self.include_usage else {})})

    def _call(self, choice: Choice, call: dict[str, Any]) -> dict[str, Any]:
        choice.calls += 1
        identity = "".join(secrets.choice(CALL_ID_LETTERS) for _ in range(CALL_ID_LENGTH))
        return {"id": identity, "type": "function", "function": {"name": call["name"], "arguments": json_text(call["arguments"])}}

    def _logprobs(self, choice: Choice) -> dict[str, Any] | None:
        if self.logprobs is None:
            return None
        scores: list[TokenScore] = [*choice.scores, *self.logprobs(choice)]
        return chat_logprobs(scores) if self.chat else completion_logprobs(scores)

    def _trace(self, reply: Reply) -> dict[str, Any]:
        if not self.trace:
            return {}
        trace = {
            "reveal_step": reply.reveal_step,
            "token_ids": reply.token_ids,
            "tokens": [reply.decode([token]) for token in reply.token_ids],
        }
        confidence = [round(value, 3) if math.isfinite(value) else 0.0 for value in reply.confidence]
        repaired = list(getattr(reply.generation, "repaired", ()))
        trace |= {name: values for name, values in (("confidence", confidence), ("repaired", repaired)) if values}
        if (decoding := getattr(reply.generation, "decoding", None)) is not None:
            trace["decoding"] = decoding.model_dump(mode="json", exclude_none=True)
        if (dynamics := getattr(reply.generation, "dynamics", None)) is not None:
            trace["dynamics"] = asdict(dynamics)
        return {"trace": trace}


def chat_logprobs(scores: Sequence[TokenScore]) -> dict[str, Any]:
    """OpenAI's chat shape: every token with its log-probability and UTF-8 bytes, and the likeliest tokens in its place."""

    def entry(text: str, logprob: float | None) -> dict[str, Any]:
        return {"token": text, "logprob": logprob, "bytes": list(text.encode("utf-8", "replace"))}

    tokens = [{**entry(score.text, score.logprob), "top_logprobs": [entry(*pair) for pair in score.top.items()]} for score in scores]
    return {"content": tokens, "refusal": None}


def completion_logprobs(scores: Sequence[TokenScore]) -> dict[str, Any]:
    """OpenAI's completions shape: four lists over the tokens."""
    offsets, length = [], 0
    for score in scores:
        offsets.append(length)
        length += len(score.text)
    return {
        "tokens": [score.text for score in scores],
        "token_logprobs": [score.logprob for score in scores],
        "top_logprobs": [dict(score.top) if score.top else None for score in scores],
        "text_offset": offsets,
    }


def event(data: dict[str, Any]) -> str:
    """One server-sent event. Only ASCII: no client takes a line separator inside a string for the end of the line."""
    return f"data: {json.dumps(data)}\n\n"
