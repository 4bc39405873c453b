"""ReAct for the embodied benchmarks (DiffuAgent section 2.1; Yao et al., 2023)."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from dllm_agents import prompts
from dllm_agents.agents.modules.early_exit import Verifier
from dllm_agents.agents.modules.memory import Memory
from dllm_agents.agents.policy import Complete, EpisodeLimit, ending_of
from dllm_agents.benchmarks.base import Environment
from dllm_agents.client.client import PromptTooLong
from dllm_agents.records import Call, Ending, EpisodeStep, Outcome, Task

MAX_LISTED = 400
"""Longest list of actions that is compiled to an automaton at every step; ScienceWorld can list thousands."""
Scripted = Callable[[Environment], tuple[str | None, str] | None]


def play(
    environment: Environment,
    task: Task,
    complete: Complete,
    *,
    style: str,
    history: prompts.History = "full",
    attempts: int = 3,
    max_steps: int = 30,
    seed: int = 42,
    list_actions: bool = False,
    constrain: bool = False,
    memory: Memory | None = None,
    verifier: Verifier | None = None,
) -> Outcome:
    """Play a task with a ReAct policy, and DiffuAgent's memory and early-exit verifier where they are given.

    At each step the policy is asked up to `attempts` times in all until "Thought: ... Action: ..." parses (the released
    agent's rule); an unparsable step still costs a step. A prompt that does not fit the context loses its oldest
    interactions, whole ones, until it does. With `constrain` only replies that parse can be written, and where the prompt lists up to
    MAX_LISTED valid actions only those.
    """
    outcome = Outcome(initial_observation=environment.reset())
    dropped = 0
    ended: Ending | None = None
    try:
        for index in range(max_steps):
            if memory is not None:
                memory.update(task, outcome.initial_observation, outcome.steps, call_seed(seed, task, index, 0))
            actions = environment.valid_actions() if list_actions else ()
            constraint = {"regex": prompts.react_pattern(actions if len(actions) <= MAX_LISTED else ())} if constrain else None
            for attempt in range(1, attempts + 1):
                asking = partial(complete, seed=call_seed(seed, task, index, attempt), constraint=constraint)
                completion, dropped = ask(asking, outcome, task, style, history, actions, memory, dropped)
                parsed = prompts.parse_react(completion.text)
                if parsed is not None:
                    break
            thought, action = parsed or (None, None)
            outcome.steps.append(take_step(environment, index, action, call=completion.key, thought=thought, attempts=attempt))
            if outcome.steps[-1].done:
                break
            seen = (task.benchmark, task.goal, outcome.initial_observation, outcome.steps)
            if verifier is not None and index + 1 < max_steps and verifier.exits(*seen, call_seed(seed, task, index, -1)):
                ended = "early_exit"
                break
    except (EpisodeLimit, PromptTooLong) as stop:
        ended = ending_of(stop)
    close(environment, outcome)
    if ended is not None:
        outcome.ended = ended
    return outcome


def take_step(environment: Environment, index: int, action: str | None, **fields: Any) -> EpisodeStep:
    """Execute an action. None, from a reply that could not be read, costs a step too."""
    started = time.perf_counter()
    observation, progress, done, valid = environment.step(action or "")
    return EpisodeStep(
        index=index,
        action=action,
        executed=environment.executed,
        observation=observation,
        progress=progress,
        valid=valid,
        done=done,
        environment_seconds=time.perf_counter() - started,
        **fields,
    )


def play_scripted(environment: Environment, choose: Scripted, *, max_steps: int) -> Outcome:
    """Play a task with a scripted policy: `choose(environment)` gives (thought, action), or None for no action."""
    outcome = Outcome(initial_observation=environment.reset())
    for index in range(max_steps):
        thought, action = choose(environment) or (None, None)
        observation, progress, done, valid = environment.step(action or "")
        step = EpisodeStep(index=index, thought=thought, action=action, observation=observation, progress=progress, valid=valid, done=done)
        outcome.steps.append(step)
        if done:
            break
    return close(environment, outcome)


def close(environment: Environment, outcome: Outcome) -> Outcome:
    """Read the outcome off the environment."""
    outcome.success = environment.success
    outcome.native_score = environment.native_score
    outcome.answer = environment.answer
    if environment.success:
        outcome.ended = "success"
    elif outcome.steps and outcome.steps[-1].done:
        outcome.ended = "done"
    else:
        outcome.ended = "step_limit"
    return outcome


def call_seed(seed: int, task: Task, index: int, attempt: int) -> int:
    """A seed of its own for every call, the same on every run."""
    return zlib.crc32(f"{seed}:{task.id}:{index}:{attempt}".encode())


def ask(
    backbone: Callable[[list[dict[str, str]]], Call],
    outcome: Outcome,
    task: Task,
    style: str,
    history: prompts.History,
    actions: Sequence[str],
    memory: Memory | None,
    dropped: int,
) -> tuple[Call, int]:
    """One completion, dropping the oldest interactions until the prompt fits; returns it and how many are dropped now."""
    while True:
        messages = prompts.embodied_messages(
            style,
            task.benchmark,
            task.goal,
            outcome.initial_observation,
            outcome.steps[dropped:],
            actions,
            history=memory.window(len(outcome.steps)) if memory is not None and memory.text else history,
            memory=memory.text if memory is not None else "",
            observation=outcome.steps[-1].observation if outcome.steps else None,
        )
        try:
            return backbone(messages), dropped
        except PromptTooLong:
            if dropped < len(outcome.steps):
                dropped += 1
            elif actions:
                # ScienceWorld lists over a thousand actions at times; a prompt without the list is better than no prompt.
                actions = ()
            else:
                raise
