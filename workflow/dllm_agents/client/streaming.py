"""Streamed chat completions: what is known of an answer while it is still being decoded."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from dllm_agents.client.client import (
    MAX_REPLY_BYTES,
    RETRIED_STATUS,
    BadReply,
    Client,
    Completion,
    ServerFault,
    _completion,
    _reason,
    _refusal,
    _tool_call,
)
from dllm_agents.decoding.settings import Decoding


@dataclass(frozen=True)
class Partial:
    """An answer so far: its text without the tool calls, and the calls that are complete, as {name, arguments}. A diffusion server
    gives a call as soon as it is decoded, before the thinking in front of it."""

    content: str
    tool_calls: tuple[dict[str, Any], ...] = ()


@dataclass
class _Collected:
    """The pieces of one stream."""

    content: list[str] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    choice: dict[str, Any] = field(default_factory=dict)
    usage: dict[str, Any] = field(default_factory=dict)

    def add(self, event: Mapping[str, Any]) -> bool:
        """Take in one event; whether it told something new of the answer."""
        self.usage = event.get("usage") or self.usage
        for choice in event.get("choices") or []:
            delta = choice.get("delta") or {}
            self.choice.update({key: choice[key] for key in ("finish_reason", "trace") if choice.get(key) is not None})
            if isinstance(delta.get("content"), str):
                self.content.append(delta["content"])
            self.calls += delta.get("tool_calls") or []
            return bool(delta.get("content") or delta.get("tool_calls"))
        return False

    def partial(self) -> Partial:
        return Partial("".join(self.content), tuple(map(_tool_call, self.calls)))

    def payload(self) -> dict[str, Any]:
        message = {"content": "".join(self.content), "tool_calls": self.calls}
        return {"choices": [{"message": message, **self.choice}], "usage": self.usage}


def stream(
    client: Client,
    messages: Sequence[Mapping[str, Any]],
    *,
    decoding: Decoding,
    seed: int | None = None,
    tools: Sequence[Mapping[str, Any]] = (),
) -> Iterator[Partial | Completion]:
    """One chat completion as it comes: snapshots of the answer so far, then the whole of it.

    Tools are offered to this project's server alone, which then gives calls ahead of the text; any other streams plain text.
    A stream that breaks is asked for again from the start, so a snapshot may be shorter than the one before. Raises as
    `Client.complete` does.
    """
    body: dict[str, Any] = {"model": client.endpoint.model, "messages": list(messages), "stream": True, **client._settings(decoding, seed)}
    body["stream_options"] = {"include_usage": True}
    if tools and client.endpoint.native:
        body["tools"] = list(tools)
    fault = "no answer"
    for attempt in range(client.attempts):
        if attempt:
            time.sleep(client.backoff * 2 ** (attempt - 1))
        started, collected = time.perf_counter(), _Collected()
        try:
            with client._http.stream("POST", "chat/completions", json=body) as response:
                if response.status_code == 200:
                    for event in _events(response):
                        if collected.add(event):
                            yield collected.partial()
                    yield _completion(collected.payload(), time.perf_counter() - started)
                    return
                reason = _reason(response.read())
                fault = f"HTTP {response.status_code}: {reason.message}"
                if response.status_code not in RETRIED_STATUS:
                    raise _refusal(response.status_code, reason, client.endpoint)
        except (httpx.TransportError, httpx.StreamError) as error:
            fault = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    raise ServerFault(f"{client.endpoint!r} does not answer after {client.attempts} attempts ({fault})")


def _events(response: httpx.Response) -> Iterator[dict[str, Any]]:
    """The JSON events of a stream up to its end mark. Raises StreamError when it breaks off, BadReply for anything else."""
    size = 0
    for line in response.iter_lines():
        size += len(line)
        if size > MAX_REPLY_BYTES:
            raise BadReply(f"a stream of more than {MAX_REPLY_BYTES >> 20} MiB")
        if not line.startswith("data:"):
            continue
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            return
        try:
            event = json.loads(data)
        except (ValueError, RecursionError):
            raise BadReply(f"a stream event is not JSON: {data[:80]!r}") from None
        if not isinstance(event, dict):
            raise BadReply(f"a stream event is {type(event).__name__}, not an object")
        if event.get("error"):
            raise httpx.StreamError(str(event["error"])[:200])
        yield event
    raise httpx.StreamError("the stream broke off")
