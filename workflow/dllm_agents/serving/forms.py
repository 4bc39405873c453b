"""OpenAI's JSON shapes of an answer, whole or in chunks, for chat and for text completions."""

from __future__ import annotations

import json
import math
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from dllm_agents.serving.reply import Reply
from dllm_agents.serving.text import Piece


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


@dataclass
class Form:
    """One answer's shape. `prompt_tokens` is known from the start; everything else comes from the Reply."""

    model: str
    prompt_tokens: int
    chat: bool
    trace: bool = False
    include_usage: bool = False
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))
    calls: int = 0

    def usage(self, reply: Reply) -> dict[str, int]:
        completion = len(reply.token_ids)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": completion,
            "total_tokens": self.prompt_tokens + completion,
            "nfe": reply.nfe,
        }

    def whole(self, pieces: list[Piece], reply: Reply) -> dict[str, Any]:
        """The answer to a request that is not streamed."""
        text = "".join(piece for piece in pieces if isinstance(piece, str))
        calls = [self._call(piece) for piece in pieces if isinstance(piece, dict)]
        choice: dict[str, Any] = {"index": 0, "finish_reason": reply.finish_reason, "logprobs": None}
        if self.chat:
            message: dict[str, Any] = {"role": "assistant", "content": text if text or not calls else None}
            choice["message"] = {**message, "tool_calls": calls} if calls else message
        else:
            choice["text"] = text
        if self.trace:
            choice["trace"] = self._trace(reply)
        return {**self._head("chat.completion" if self.chat else "text_completion"), "choices": [choice], "usage": self.usage(reply)}

    def opening(self) -> str:
        """The first event of a chat stream; text streams have none."""
        return self._chunk({"role": "assistant", "content": ""}) if self.chat else ""

    def chunk(self, piece: Piece) -> str:
        """The event that carries one piece."""
        if isinstance(piece, str):
            return self._chunk({"content": piece} if self.chat else piece)
        index = self.calls
        return self._chunk({"tool_calls": [{"index": index, **self._call(piece)}]})

    def closing(self, reply: Reply) -> str:
        """The last events of a stream: finish reason and trace, usage when asked for, the end mark."""
        extra = {"trace": self._trace(reply)} if self.trace else {}
        last = self._chunk({} if self.chat else "", reply.finish_reason, **extra)
        if self.include_usage:
            last += event({**self._head(self._chunk_kind), "choices": [], "usage": self.usage(reply)})
        return last + "data: [DONE]\n\n"

    @property
    def _chunk_kind(self) -> str:
        return "chat.completion.chunk" if self.chat else "text_completion"

    def _head(self, kind: str) -> dict[str, Any]:
        prefix = "chatcmpl-" if self.chat else "cmpl-"
        return {"id": prefix + self.id, "object": kind, "created": self.created, "model": self.model}

    def _chunk(self, delta: Any, finish_reason: str | None = None, **extra: Any) -> str:
        body = {"delta": delta} if self.chat else {"text": delta}
        choice = {"index": 0, **body, "finish_reason": finish_reason, "logprobs": None, **extra}
        return event({**self._head(self._chunk_kind), "choices": [choice]})

    def _call(self, call: dict[str, Any]) -> dict[str, Any]:
        self.calls += 1
        function = {"name": call["name"], "arguments": json.dumps(call["arguments"], ensure_ascii=False)}
        return {"id": f"call_{self.id}_{self.calls - 1}", "type": "function", "function": function}

    def _trace(self, reply: Reply) -> dict[str, Any]:
        known = {
            "reveal_step": reply.reveal_step,
            "token_ids": reply.token_ids,
            "tokens": [reply.decode([token]) for token in reply.token_ids],
        }
        confidence = [round(value, 3) if math.isfinite(value) else 0.0 for value in reply.confidence]
        return known | ({"confidence": confidence} if confidence else {})


def event(data: dict[str, Any]) -> str:
    """One server-sent event."""
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"
