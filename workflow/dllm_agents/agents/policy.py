"""What a workflow needs of a backbone: one function from messages to a completion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

from dllm_agents.client.client import PromptTooLong
from dllm_agents.records import Ending, RoleUsage

Message = dict[str, str]


class EpisodeLimit(Exception):
    """The episode has used up the tokens or the time it may take. A workflow ends it there and keeps what was played."""

    def __init__(self, ending: Literal["token_limit", "time_limit"]) -> None:
        super().__init__(ending)
        self.ending = ending


def ending_of(stop: EpisodeLimit | PromptTooLong) -> Ending:
    """How an episode ends that can take no further answer: it has used up what it may, or its prompt no longer fits the context."""
    return stop.ending if isinstance(stop, EpisodeLimit) else "prompt_too_long"


class CompletionLike(Protocol):
    """The fields of `serving.client.Completion` that workflows read."""

    @property
    def text(self) -> str: ...
    @property
    def prompt_tokens(self) -> int: ...
    @property
    def completion_tokens(self) -> int: ...
    @property
    def nfe(self) -> int: ...
    @property
    def seconds(self) -> float: ...
    @property
    def finish_reason(self) -> str | None: ...
    @property
    def trace(self) -> list[int] | None: ...


class Complete(Protocol):
    """Ask a backbone. `seed` makes the sampling of this one call; raises PromptTooLong when the messages do not fit."""

    def __call__(self, messages: Sequence[Message], *, seed: int) -> CompletionLike: ...


def step_cost(completion: CompletionLike) -> dict[str, Any]:
    """What a step's record keeps of the completion beside its text, as fields of EpisodeStep."""
    return {
        "finish_reason": completion.finish_reason,
        "prompt_tokens": completion.prompt_tokens,
        "completion_tokens": completion.completion_tokens,
        "forwards": completion.nfe,
        "seconds": completion.seconds,
        "trace": completion.trace,
        "trace_tokens": getattr(completion, "tokens", None),
        "trace_confidence": getattr(completion, "confidence", None),
    }


def add_usage(usage: dict[str, RoleUsage], role: str, completion: CompletionLike) -> None:
    """Count one call under a role."""
    total = usage.setdefault(role, RoleUsage())
    total.calls += 1
    total.prompt_tokens += completion.prompt_tokens
    total.completion_tokens += completion.completion_tokens
    total.forwards += completion.nfe
    total.seconds += completion.seconds
