"""A router between two backbones: the small one answers, and the large one is asked where the small one's confidence is low."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dllm_agents.agents import react, search
from dllm_agents.agents.game import Game
from dllm_agents.agents.policy import Complete, Message
from dllm_agents.records import Call


def play(game: Game) -> None:
    """The benchmark's own workflow; replies of the policy with a mean token confidence below `confidence` are replaced by the role
    `large`'s."""
    assert game.environment is not None
    settings: dict[str, Any] = {"style": game.style, "max_steps": game.benchmark.max_steps, "seed": game.seed}
    if game.benchmark.workflow == "react":
        settings |= {"attempts": game.agent.attempts, "list_actions": game.benchmark.lists_actions}
        game.outcome = react.play(game.environment, game.task, routed(game), **settings)
    else:
        game.outcome = search.play(game.environment, game.task, search.whole(routed(game)), **settings)


def routed(game: Game) -> Complete:
    """The two backbones as one."""
    small, large = game.complete(), game.complete("large")

    def ask(messages: Sequence[Message], *, seed: int, constraint: dict[str, Any] | None = None) -> Call:
        call = small(messages, seed=seed)
        if confidence(call) >= game.options["confidence"]:
            game.counts["small_alone"] += 1
            return call
        game.counts["handed_on"] += 1
        return large(messages, seed=seed)

    return ask


def confidence(call: Call) -> float:
    """The mean probability of a call's tokens when decoded; 0 if the server does not report it."""
    values = getattr(call, "confidence", None) or []
    return sum(values) / len(values) if values else 0.0
