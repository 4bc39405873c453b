"""What backbones answered in an episode: recorded while it is played, and fed back to play it again without any model.

An answer is found again by its role and seed; every call of a workflow has a seed of its own. The same answers give the same
episode, but for times.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from dllm_agents.agents.policy import Complete, EpisodeLimit, Message, Stream
from dllm_agents.agents.search import early_call
from dllm_agents.client.client import Completion, PromptTooLong
from dllm_agents.client.streaming import Partial
from dllm_agents.decoding.settings import Decoding
from dllm_agents.errors import StageError
from dllm_agents.records import Record, TracedCall, TracedEpisode

MAX_REPLY_CHARACTERS = 64_000
ANSWER_FIELDS = (
    *("text", "prompt_tokens", "completion_tokens", "nfe", "seconds", "finish_reason"),
    *("tool_calls", "reveal_step", "tokens", "confidence", "repaired", "dynamics"),
)
"""What a call keeps of a completion."""


class Answer(Protocol):
    """A backbone that answers whole."""

    def __call__(self, messages: Sequence[Message], *, seed: int, constraint: dict[str, Any] | None = None) -> Completion: ...


class StreamedAnswer(Protocol):
    """A backbone that is watched while it answers; see `policy.Stream`."""

    def __call__(
        self, messages: Sequence[Message], *, seed: int, turn: int, constraint: dict[str, Any] | None = None
    ) -> Iterator[Partial | Completion]: ...


class Backbones(Protocol):
    """The backbones of an agent, by role."""

    def complete(self, role: str) -> Answer | None:
        """What answers for a role; None when nothing plays it."""

    def stream(self, role: str) -> StreamedAnswer:
        """What answers for a role, as a stream."""


def recorded(role: str, seed: int, completion: Completion, early: Partial | None = None) -> TracedCall:
    """A completion as a call, its text cut to 64,000 characters. `early` is the stream when its first tool call was complete."""
    answer: dict[str, Any] = {name: getattr(completion, name) for name in ANSWER_FIELDS}
    answer["text"] = completion.text[:MAX_REPLY_CHARACTERS]
    ahead = {"content": early.content, "tool_calls": list(early.tool_calls)} if early is not None else None
    return TracedCall(role=role, seed=seed, early=ahead, **answer)


@dataclass
class Recording:
    """Backbones whose answers in one episode are kept in `calls`, and the settings that a role was first decoded with, where its server
    tells them, in `decoding`. Once the episode has taken `max_tokens` new tokens, the next call raises EpisodeLimit."""

    backbones: Backbones
    max_tokens: int | None = None
    calls: list[TracedCall] = field(default_factory=list)
    decoding: dict[str, Decoding] = field(default_factory=dict)

    def in_order(self) -> tuple[TracedCall, ...]:
        """The calls in an order that does not depend on which of several at once was faster."""
        return tuple(sorted(self.calls, key=lambda call: call.key))

    def complete(self, role: str) -> Complete | None:
        """What answers for a role, recorded; None when nothing plays it."""
        live = self.backbones.complete(role)
        if live is None:
            return None

        def ask(messages: Sequence[Message], *, seed: int, constraint: dict[str, Any] | None = None) -> TracedCall:
            with self._refusals(role, seed):
                return self._keep(role, seed, live(messages, seed=seed, constraint=constraint))

        return ask

    def required(self, role: str) -> Complete:
        """What answers for a role that the workflow cannot do without."""
        complete = self.complete(role)
        assert complete is not None, f"the workflow has a {role}"
        return complete

    def stream(self, role: str) -> Stream:
        """What answers for a role, recorded, as a stream."""
        live = self.backbones.stream(role)

        def ask(
            messages: Sequence[Message], *, seed: int, turn: int, constraint: dict[str, Any] | None = None
        ) -> Iterator[Partial | TracedCall]:
            early: Partial | None = None
            with self._refusals(role, seed):
                for part in live(messages, seed=seed, turn=turn, constraint=constraint):
                    if not isinstance(part, Partial):
                        yield self._keep(role, seed, part, early)
                        continue
                    if early is None and early_call(part) is not None:
                        early = part
                    yield part

        return ask

    def _keep(self, role: str, seed: int, completion: Completion, early: Partial | None = None) -> TracedCall:
        if completion.decoding is not None:
            self.decoding.setdefault(role, completion.decoding)
        self.calls.append(recorded(role, seed, completion, early))
        return self.calls[-1]

    def _written(self) -> int:
        """New tokens so far. Raises StageError when a server does not count them."""
        uncounted = next((call.role for call in self.calls if call.refused is None and call.completion_tokens is None), None)
        if uncounted is not None:
            raise StageError(f"the server of {uncounted} does not say how many tokens it writes, so max_tokens cannot limit an episode")
        return sum(call.completion_tokens or 0 for call in self.calls)

    @contextmanager
    def _refusals(self, role: str, seed: int) -> Iterator[None]:
        """Note why a call was not answered, where the workflow reacts to it."""
        try:
            if self.max_tokens is not None and self._written() >= self.max_tokens:
                raise EpisodeLimit()
            yield
        except EpisodeLimit:
            self.calls.append(TracedCall(role=role, seed=seed, refused="token_limit"))
            raise
        except PromptTooLong:
            self.calls.append(TracedCall(role=role, seed=seed, refused="prompt_too_long"))
            raise


class Replay:
    """The stored answers of an episode in place of its backbones. Raises StageError when the workflow asks for one that is not stored."""

    def __init__(self, episode: TracedEpisode, roles: Sequence[str]) -> None:
        self._episode, self._roles = episode, roles
        self._calls: dict[tuple[str, int], deque[TracedCall]] = defaultdict(deque)
        for call in episode.calls:
            self._calls[call.key].append(call)

    def complete(self, role: str) -> Answer | None:
        if role not in self._roles:
            return None

        def ask(messages: Sequence[Message], *, seed: int, constraint: dict[str, Any] | None = None) -> Completion:
            return self._answer(self._next(role, seed))

        return ask

    def stream(self, role: str) -> StreamedAnswer:
        def ask(
            messages: Sequence[Message], *, seed: int, turn: int, constraint: dict[str, Any] | None = None
        ) -> Iterator[Partial | Completion]:
            call = self._next(role, seed)
            answer = self._answer(call)
            if call.early is not None:
                yield Partial(call.early["content"], tuple(call.early["tool_calls"]))
            yield answer

        return ask

    def _next(self, role: str, seed: int) -> TracedCall:
        calls = self._calls[role, seed]
        if not calls:
            raise StageError(
                f"task {self._episode.task_id}: its stored episode has no answer of {role} with seed {seed}; "
                "replay it with the configuration and tasks it was played with"
            )
        return calls.popleft()

    def _answer(self, call: TracedCall) -> Completion:
        if call.refused == "prompt_too_long":
            raise PromptTooLong("as recorded")
        if call.refused is not None:
            raise EpisodeLimit()
        settings = self._episode.decoding.get(call.role)
        decoding = None if settings is None else Decoding.model_validate(settings)
        return Completion(**{name: getattr(call, name) for name in ANSWER_FIELDS}, decoding=decoding)


def timeless(value: Any) -> Any:
    """A record or plain data as a replay gives it again: without `started` and all whose name ends in `seconds`."""
    if isinstance(value, Record):
        return timeless(value.model_dump(mode="json", exclude_none=True))
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if key != "started" and not key.endswith("seconds")}
    return [timeless(item) for item in value] if isinstance(value, list | tuple) else value
