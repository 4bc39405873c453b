"""What a workflow needs of a backbone: one function from messages to its recorded answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from dllm_agents.client.client import PromptTooLong
from dllm_agents.client.streaming import Partial
from dllm_agents.records import Call, Ending

Message = dict[str, str]


class EpisodeLimit(Exception):
    """The episode has used up the tokens it may take. A workflow ends it there and keeps what was played."""


def ending_of(stop: EpisodeLimit | PromptTooLong) -> Ending:
    """How an episode ends that can take no further answer: it has used up what it may, or its prompt no longer fits the context."""
    return "token_limit" if isinstance(stop, EpisodeLimit) else "prompt_too_long"


class Complete(Protocol):
    """Ask a backbone. `seed` makes the sampling of this one call, `constraint` says what its answer must match (`Decoding.constraint`);
    raises PromptTooLong when the messages do not fit."""

    def __call__(self, messages: Sequence[Message], *, seed: int, constraint: dict[str, Any] | None = None) -> Call: ...


class Stream(Protocol):
    """Ask a backbone and watch its answer grow: snapshots, then the whole of it. `turn` counts from 0: it decides whether a tool call is
    forced on it. Raises PromptTooLong before the first snapshot."""

    def __call__(
        self, messages: Sequence[Message], *, seed: int, turn: int, constraint: dict[str, Any] | None = None
    ) -> Iterator[Partial | Call]: ...
