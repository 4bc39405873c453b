"""Streamed chat completions: what is known of an answer while it is still being decoded."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from dllm_agents import foreign
from dllm_agents.client.client import Client, Completion, completion_of
from dllm_agents.client.reading import BrokenStream, Collected, events
from dllm_agents.decoding.settings import Decoding


@dataclass(frozen=True)
class Partial:
    """An answer so far: its text without the tool calls, and the calls that are complete, as {name, arguments}. A diffusion server
    gives a call as soon as it is decoded, before the thinking in front of it."""

    content: str
    tool_calls: tuple[dict[str, Any], ...] = ()


def stream(
    client: Client,
    messages: Sequence[Mapping[str, Any]],
    *,
    decoding: Decoding,
    seed: int | None = None,
    tools: Sequence[Mapping[str, Any]] = (),
) -> Iterator[Partial | Completion]:
    """One chat completion as it comes: snapshots of the answer so far, then the whole of it.

    Tools are offered to this project's server alone, which then gives calls ahead of the text; any other streams plain text. The prompt
    describes them already.
    A stream that breaks is asked for again from the start, so a snapshot may be shorter than the one before. Raises as
    `Client.complete` does.
    """
    extra: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
    if tools and client.endpoint.native:
        extra |= {"tools": list(tools), "tools_in_prompt": True}
    body = client.body(messages, decoding, seed, **extra)

    def read(response: httpx.Response, started: float) -> Iterator[Partial | Completion]:
        collected = Collected()
        for event in _whole_events(client.blocks(response), collected):
            if collected.add(event) and collected.has_grown():
                yield Partial(foreign.valid_text(collected.content), collected.complete_calls())
        yield completion_of(collected.payload(), time.perf_counter() - started)

    yield from client.exchange(body, read)


def _whole_events(blocks: Iterator[bytes], collected: Collected) -> Iterator[dict[str, Any]]:
    """The events of an answer. One that breaks off when it has said how it ends is whole. Raises BrokenStream for any other."""
    try:
        yield from events(blocks)
    except httpx.RequestError:
        if not collected.ended:
            raise
    if not collected.ended:
        raise BrokenStream("the stream broke off")
