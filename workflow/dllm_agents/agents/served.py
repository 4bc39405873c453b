"""The served backbones of an agent, by role, and what their servers refuse."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from dllm_agents.agents.policy import Message
from dllm_agents.agents.recording import Answer, StreamedAnswer
from dllm_agents.agents.search import SEARCH_TOOL
from dllm_agents.client.client import BadReply, Client, Completion, PromptTooLong, RequestRefused, SettingsRefused
from dllm_agents.client.streaming import Partial, stream
from dllm_agents.config import Config
from dllm_agents.config.dialects import DIALECTS
from dllm_agents.decoding.settings import Decoding
from dllm_agents.errors import StageError

UNANSWERED = 3
"""Failed requests, with none answered, after which a server counts as broken."""


@dataclass(frozen=True)
class Served:
    """The served backbones of an agent, by role. A backbone whose server refuses its settings, or gives no readable answer, ends the run
    (StageError, naming the key): every further episode would fail the same way."""

    config: Config
    agent: str
    benchmark: str
    clients: Mapping[str, Client]
    _accepted: set[str] = field(default_factory=set)
    """Roles whose settings the server has taken."""
    _unanswered: Counter[str] = field(default_factory=Counter)
    """Requests of a role that failed before the first one was answered."""

    def complete(self, role: str) -> Answer | None:
        """What answers for a role; None when nothing plays it."""
        name = self.config.agent_backbones(self.agent, self.benchmark).get(role)
        if name is None:
            return None
        decoding, dialect = self.config.decoding(self.agent, role, self.benchmark), self.config.dialect(self.agent, self.benchmark)
        stop = DIALECTS[dialect].stop if dialect is not None else ()

        def ask(messages: Sequence[Message], *, seed: int, constraint: dict[str, Any] | None = None) -> Completion:
            chosen = decoding.model_copy(update={"constraint": constraint or decoding.constraint})
            with self._settings(role):
                return self.clients[name].complete(messages, decoding=chosen, seed=seed, stop=stop)

        return ask

    def stream(self, role: str) -> StreamedAnswer:
        """What answers for a role, as a stream."""
        name = self.config.agent_backbones(self.agent, self.benchmark)[role]
        decoding = self.config.decoding(self.agent, role, self.benchmark)
        prefill, last = decoding.tool_prefill, self.config.benchmark_options(self.benchmark).max_steps - 1

        def ask(
            messages: Sequence[Message], *, seed: int, turn: int, constraint: dict[str, Any] | None = None
        ) -> Iterator[Partial | Completion]:
            tags = None if prefill is None else prefill.on_turn(turn, last)
            chosen = decoding.model_copy(update={"tool_prefill": tags, "constraint": constraint or decoding.constraint})
            with self._settings(role):
                yield from stream(self.clients[name], messages, decoding=chosen, seed=seed, tools=[SEARCH_TOOL])

        return ask

    @contextmanager
    def _settings(self, role: str) -> Iterator[None]:
        """Tell a refusal of the settings from one of a prompt: settings that have been answered before are not what is refused now."""
        name = self.config.agent_backbones(self.agent, self.benchmark)[role]
        try:
            yield
        except SettingsRefused as refusal:
            if role in self._accepted and refusal.field != "model":
                raise
            own = self.config.agents[self.agent].named(role) is not None
            key = setting_key(self.config, name, self.benchmark, refusal.field, "" if own else self.agent)
            raise StageError(f"{refusal}; change {key}; finished episodes are kept") from None
        except PromptTooLong:
            raise
        except (BadReply, RequestRefused) as error:
            self._unanswered[role] += 1
            if role not in self._accepted and self._unanswered[role] >= UNANSWERED:
                endpoint = self.clients[name].endpoint
                raise StageError(f"{endpoint!r} has answered none of {UNANSWERED} requests ({error}); see backbones.{name}") from None
            raise
        self._accepted.add(role)


def setting_key(config: Config, backbone: str, benchmark: str, field: str, agent: str = "") -> str:
    """The key of the configuration that sets a field of the requests to a backbone, as a server names it; an agent's own settings come
    before the backbone's."""
    if field == "model":
        return f"backbones.{backbone}.served_name"
    field = "max_new_tokens" if field in ("max_tokens", "max_completion_tokens") else field
    if agent and field in config.agents[agent].decoding:
        return f"agents.{agent}.decoding.{field}"
    section = f"benchmark_decoding.{benchmark}" if benchmark in config.backbones[backbone].benchmark_decoding else "decoding"
    return f"backbones.{backbone}.{section}" + (f".{field}" if field in Decoding.model_fields else "")
