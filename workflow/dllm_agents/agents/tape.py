"""What backbones answered in an episode: recorded while it is played, and fed back to play it again without any model.

An answer is found again by its role and seed; every call of a workflow has a seed of its own. The same answers give the same
episode, but for times.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from dllm_agents.agents import search
from dllm_agents.agents.policy import Complete, CompletionLike, EpisodeLimit, Message, step_cost
from dllm_agents.client.client import Completion, PromptTooLong
from dllm_agents.client.streaming import Partial
from dllm_agents.errors import StageError
from dllm_agents.records import Call, Episode

MAX_REPLY_CHARACTERS = 64_000


class Backbones(Protocol):
    """The backbones of an agent, by role."""

    def complete(self, role: str) -> Complete | None:
        """What answers for a role; None when nothing plays it."""

    def stream(self, role: str) -> search.Stream:
        """What answers for a role, as a stream."""


@dataclass
class Recording:
    """Backbones whose answers in one episode are kept in `calls`. An answer is cut to 64,000 characters. Once the episode has taken
    `max_tokens` new tokens or `max_seconds`, the next call raises EpisodeLimit."""

    backbones: Backbones
    max_tokens: int | None = None
    max_seconds: float | None = None
    calls: list[Call] = field(default_factory=list)
    _started: float = field(default_factory=time.monotonic)

    def in_order(self) -> list[Call]:
        """The calls in an order that does not depend on which of several at once was faster."""
        return sorted(self.calls, key=lambda call: (call.role, call.seed))

    def complete(self, role: str) -> Complete | None:
        live = self.backbones.complete(role)
        if live is None:
            return None

        def ask(messages: Sequence[Message], *, seed: int) -> CompletionLike:
            with _Refusals(self, role, seed):
                return self._keep(role, seed, live(messages, seed=seed))

        return ask

    def stream(self, role: str) -> search.Stream:
        live = self.backbones.stream(role)

        def ask(messages: Sequence[Message], *, seed: int, final: bool) -> Iterator[Partial | CompletionLike]:
            early: Partial | None = None
            with _Refusals(self, role, seed):
                for part in live(messages, seed=seed, final=final):
                    if not isinstance(part, Partial):
                        yield self._keep(role, seed, part, early)
                        continue
                    if early is None and search.early_call(part) is not None:
                        early = part
                    yield part

        return ask

    def check(self) -> None:
        """Raise EpisodeLimit when the episode has used up what it may."""
        if self.max_tokens is not None and sum(call.completion_tokens for call in self.calls) >= self.max_tokens:
            raise EpisodeLimit("token_limit")
        if self.max_seconds is not None and time.monotonic() - self._started >= self.max_seconds:
            raise EpisodeLimit("time_limit")

    def _keep(self, role: str, seed: int, completion: CompletionLike, early: Partial | None = None) -> CompletionLike:
        calls = completion.tool_calls if isinstance(completion, Completion) else ()
        text = completion.text[:MAX_REPLY_CHARACTERS]
        if isinstance(completion, Completion):
            completion = replace(completion, text=text)
        ahead = {"content": early.content, "tool_calls": list(early.tool_calls)} if early is not None else None
        self.calls.append(Call(role=role, seed=seed, text=text, tool_calls=list(calls), early=ahead, **step_cost(completion)))
        return completion


@dataclass
class _Refusals:
    """Notes why a call was not answered, where the workflow reacts to it."""

    recording: Recording
    role: str
    seed: int

    def __enter__(self) -> None:
        try:
            self.recording.check()
        except EpisodeLimit as limit:
            self._note(limit.ending)
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: Any) -> None:
        if isinstance(error, PromptTooLong):
            self._note("prompt_too_long")

    def _note(self, refused: str) -> None:
        self.recording.calls.append(Call(role=self.role, seed=self.seed, refused=refused))


class Replay:
    """The stored answers of an episode in place of its backbones. Raises StageError when the workflow asks for one that is not stored."""

    def __init__(self, episode: Episode, roles: Sequence[str]) -> None:
        self._episode, self._roles = episode, roles
        self._calls: dict[tuple[str, int], deque[Call]] = defaultdict(deque)
        for call in episode.calls:
            self._calls[call.role, call.seed].append(call)

    def complete(self, role: str) -> Complete | None:
        if role not in self._roles:
            return None

        def ask(messages: Sequence[Message], *, seed: int) -> CompletionLike:
            return self._answer(self._next(role, seed))

        return ask

    def stream(self, role: str) -> search.Stream:
        def ask(messages: Sequence[Message], *, seed: int, final: bool) -> Iterator[Partial | CompletionLike]:
            call = self._next(role, seed)
            answer = self._answer(call)
            if call.early is not None:
                yield Partial(call.early["content"], tuple(call.early["tool_calls"]))
            yield answer

        return ask

    def _next(self, role: str, seed: int) -> Call:
        calls = self._calls[role, seed]
        if not calls:
            raise StageError(
                f"task {self._episode.task_id}: its stored episode has no answer of {role} with seed {seed}; "
                "replay it with the configuration and tasks it was played with"
            )
        return calls.popleft()

    def _answer(self, call: Call) -> Completion:
        if call.refused == "prompt_too_long":
            raise PromptTooLong("as recorded")
        if call.refused is not None:
            raise EpisodeLimit("time_limit" if call.refused == "time_limit" else "token_limit")
        return Completion(
            text=call.text,
            prompt_tokens=call.prompt_tokens,
            completion_tokens=call.completion_tokens,
            nfe=call.forwards,
            seconds=call.seconds,
            finish_reason=call.finish_reason,
            trace=call.trace,
            tool_calls=tuple(call.tool_calls),
            tokens=call.trace_tokens,
            confidence=call.trace_confidence,
        )
