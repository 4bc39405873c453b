"""MAKER (Meyerson et al., 2025): every step of a task has its own short context; samples of a step vote, and red-flagged samples are
discarded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from dllm_agents import prompts
from dllm_agents.agents.game import Game
from dllm_agents.records import Call


def play(game: Game) -> None:
    """Every step: sample the next action from the goal, the latest step and the observation alone, until one leads by `ahead` votes
    (first-to-ahead-by-k), at most `samples` times. Red-flagged replies, unreadable or too long, are discarded and not repaired."""
    assert game.environment is not None
    observation = game.outcome.initial_observation
    for _ in range(game.benchmark.max_steps):
        action, call, problem = decide(game, observation)
        step = game.act(action, call=call.key if call is not None else None, error=problem)
        observation = step.observation
        if step.done:
            break


def decide(game: Game, observation: str) -> tuple[str | None, Call | None, str | None]:
    """The action of a step, a call that proposed it, and the problem with the vote, if any."""
    messages = prompts.embodied_messages(
        game.style,
        game.task.benchmark,
        game.task.goal,
        game.outcome.initial_observation,
        game.outcome.steps[-1:],
        game.environment.valid_actions() if game.environment is not None and game.benchmark.lists_actions else (),
        observation=observation,
    )
    votes: Counter[str] = Counter()
    proposed: dict[str, Call] = {}
    for _ in range(game.options["samples"]):
        call = game.complete()(messages, seed=game.next_seed())
        game.counts["samples"] += 1
        read = prompts.parse_react(call.text)
        if read is None or len(call.text) > game.options["characters"] or call.finish_reason == "length":
            game.counts["red_flags"] += 1
            continue
        action = read[1]
        proposed.setdefault(action, call)
        votes[action] += 1
        if lead(votes.values()) >= game.options["ahead"]:
            return action, proposed[action], None
    if not votes:
        return None, None, f"none of {game.options['samples']} samples could be read"
    game.counts["undecided"] += 1
    action = max(votes, key=lambda one: votes[one])  # ties go to the one proposed first
    return (
        action,
        proposed[action],
        f"no action led by {game.options['ahead']} after {game.options['samples']} samples; the most frequent is played",
    )


def lead(votes: Iterable[int]) -> int:
    """How far the first is ahead of the second."""
    first, second, *_ = [*sorted(votes, reverse=True), 0, 0]
    return first - second
