"""ReAct for the embodied benchmarks (DiffuAgent section 2.1; Yao et al., 2023)."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from dllm_agents import prompts
from dllm_agents.agents.modules.early_exit import Verifier, redundant_steps
from dllm_agents.agents.modules.memory import Memory
from dllm_agents.agents.policy import Complete, CompletionLike, EpisodeLimit, add_usage, ending_of, step_cost
from dllm_agents.benchmarks.base import Environment
from dllm_agents.client.client import PromptTooLong
from dllm_agents.records import Call, Ending, EpisodeStep, RoleUsage, Task

MAX_COMPLETION_CHARACTERS = 4000
Scripted = Callable[[Environment], tuple[str | None, str] | None]


@dataclass(slots=True)
class Played:
    """What playing a task gave; the runner makes the episode record of it."""

    initial_observation: str = ""
    steps: list[EpisodeStep] = field(default_factory=list)
    success: bool = False
    native_score: float | None = None
    answer: str | None = None
    ended: Ending = "step_limit"
    usage: dict[str, RoleUsage] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    extra: dict[str, object] = field(default_factory=dict)


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
    memory: Memory | None = None,
    verifier: Verifier | None = None,
) -> Played:
    """Play a task with a ReAct policy, and DiffuAgent's memory and early-exit verifier where they are given.

    At each step the policy is asked up to `attempts` times in all until "Thought: ... Action: ..." parses (the released
    agent's rule); an unparsable step still costs a step. A prompt that does not fit the context loses its oldest
    interactions, whole ones, until it does.
    """
    played = Played(initial_observation=environment.reset())
    dropped = 0
    ended: Ending | None = None
    try:
        for index in range(max_steps):
            if memory is not None:
                memory.update(task, played.initial_observation, played.steps, call_seed(seed, task, index, 0))
            actions = environment.valid_actions() if list_actions else ()
            parsed = None
            for attempt in range(1, attempts + 1):
                completion, dropped = _ask(
                    complete, played, task, style, history, actions, memory, dropped, call_seed(seed, task, index, attempt)
                )
                add_usage(played.usage, "policy", completion)
                parsed = prompts.parse_react(completion.text)
                if parsed is not None:
                    break
            thought, action = parsed or (None, None)
            started = time.perf_counter()
            observation, progress, done, valid = environment.step(action or "")
            played.steps.append(
                EpisodeStep(
                    index=index,
                    completion=completion.text[:MAX_COMPLETION_CHARACTERS],
                    thought=thought,
                    action=action,
                    executed=getattr(environment, "executed", None),
                    observation=observation,
                    progress=progress,
                    valid=valid,
                    done=done,
                    attempts=attempt,
                    environment_seconds=time.perf_counter() - started,
                    **step_cost(completion),
                )
            )
            if done:
                break
            last = index + 1 == max_steps
            if (
                verifier is not None
                and not last
                and verifier.exits(task.benchmark, task.goal, played.initial_observation, played.steps, call_seed(seed, task, index, -1))
            ):
                ended = "early_exit"
                break
    except (EpisodeLimit, PromptTooLong) as stop:
        ended = ending_of(stop)
    close(environment, played)
    if verifier is not None:
        reached = [step.progress for step in played.steps]
        played.extra |= {"exited": ended == "early_exit", "redundant_steps": redundant_steps(reached, len(reached))}
    if ended is not None:
        played.ended = ended
    for module in (memory, verifier):
        played.usage |= module.usage if module is not None else {}
    return played


def play_scripted(environment: Environment, choose: Scripted, *, max_steps: int) -> Played:
    """Play a task with a scripted policy: `choose(environment)` gives (thought, action), or None for no action."""
    played = Played(initial_observation=environment.reset())
    for index in range(max_steps):
        thought, action = choose(environment) or (None, None)
        observation, progress, done, valid = environment.step(action or "")
        played.steps.append(
            EpisodeStep(index=index, thought=thought, action=action, observation=observation, progress=progress, valid=valid, done=done)
        )
        if done:
            break
    return close(environment, played)


def close(environment: Environment, played: Played) -> Played:
    """Read the outcome off the environment."""
    played.success = environment.success
    played.native_score = environment.native_score
    played.answer = getattr(environment, "answer", None)
    if environment.success:
        played.ended = "success"
    elif played.steps and played.steps[-1].done:
        played.ended = "done"
    else:
        played.ended = "step_limit"
    return played


def call_seed(seed: int, task: Task, index: int, attempt: int) -> int:
    """A seed of its own for every call, the same on every run."""
    return zlib.crc32(f"{seed}:{task.id}:{index}:{attempt}".encode())


def _ask(
    complete: Complete,
    played: Played,
    task: Task,
    style: str,
    history: prompts.History,
    actions: Sequence[str],
    memory: Memory | None,
    dropped: int,
    seed: int,
) -> tuple[CompletionLike, int]:
    """One completion, dropping the oldest interactions until the prompt fits; returns it and how many are dropped now."""
    while True:
        messages = prompts.embodied_messages(
            style,
            task.benchmark,
            task.goal,
            played.initial_observation,
            played.steps[dropped:],
            actions,
            history=memory.window(len(played.steps)) if memory is not None and memory.text else history,
            memory=memory.text if memory is not None else "",
            observation=played.steps[-1].observation if played.steps else None,
        )
        try:
            return complete(messages, seed=seed), dropped
        except PromptTooLong:
            if dropped < len(played.steps):
                dropped += 1
            elif actions:
                # ScienceWorld lists over a thousand actions at times; a prompt without the list is better than no prompt.
                actions = ()
            else:
                raise
