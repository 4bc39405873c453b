"""The replay-verifiers stage: early-exit verifiers look at stored episodes (DiffuAgent section 5.1 and Figure 6).

Offline, every verifier judges the same episodes, so that verifiers, prompts and paradigms are compared on equal ground and what an
exit would have lost is known.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, get_args

from dllm_agents.agents import MODULE_STYLE
from dllm_agents.agents.modules.early_exit import Strength, Verifier
from dllm_agents.agents.policy import Message
from dllm_agents.agents.recording import Answer, recorded
from dllm_agents.agents.rollout import spread
from dllm_agents.agents.served import setting_key
from dllm_agents.client.client import Client, PromptTooLong, ServerFault, SettingsRefused
from dllm_agents.commands import add_paths, named_directory, say
from dllm_agents.config import Config, load
from dllm_agents.errors import StageError
from dllm_agents.files import read_jsonl
from dllm_agents.frames import write_frame
from dllm_agents.models.checkpoints import not_run
from dllm_agents.progress import track
from dllm_agents.records import Call, Episode, Exit, RoleUsage, usage_of
from dllm_agents.serving.launch import running_server

CONCURRENCY = 8


def replay_verifiers(config: Config, episodes: Sequence[Path], models: Mapping[str, Path], output: Path) -> int:
    """Replay the run's verifiers on stored episodes of one benchmark; returns how many rows were written.

    `models` are the checkpoints trained for the benchmark (backbone -> directory); a verifier whose checkpoint was not trained has no
    rows. Raises StageError when a server cannot be started or dies for good.
    """
    settings = config.run.verification
    stored = [episode for path in episodes for episode in _chosen(path, settings.episodes)]
    exits: list[Exit] = []
    for name in settings.backbones if stored else ():
        if name in models and (reason := not_run(models[name])) is not None:
            print(f"{output}: {name} not run: {reason}", file=sys.stderr, flush=True)
            continue
        benchmark = stored[0].benchmark
        serving = running_server(name, config, models.get(name), benchmark=benchmark)
        with serving as server, Client.for_backbone(server, config.backbones[name]) as client:
            ask: Answer = partial(client.complete, decoding=config.role_decoding(name, "verifier", benchmark))
            pairs = [(prompt, episode) for prompt in get_args(Strength) for episode in stored]
            with ThreadPoolExecutor(CONCURRENCY) as pool:
                rows = pool.map(lambda pair: _verified(ask, name, settings.every, config.seed, *pair), pairs)  # noqa: B023 - used up here
                try:
                    exits += track(rows, len(pairs), f"{name} as verifier")
                except ServerFault as error:
                    raise StageError(f"{error}; run the same command again") from None
                except SettingsRefused as refusal:
                    raise StageError(f"{refusal}; change {setting_key(config, name, benchmark, refusal.field)}") from None
    return write_frame(output, exits, Exit)


def _chosen(path: Path, count: int | None) -> list[Episode]:
    """Episodes of a file that were played to their end; none of an agent that was not run."""
    episodes = [episode for episode in read_jsonl(path, Episode) if episode.ended not in ("error", "early_exit") and episode.steps]
    return spread(episodes, count)


def _verified(ask: Answer, backbone: str, every: int, seed: int, prompt: Strength, episode: Episode) -> Exit:
    calls: list[Call] = []

    def complete(messages: Sequence[Message], *, seed: int, constraint: dict[str, Any] | None = None) -> Call:
        calls.append(recorded("verifier", seed, ask(messages, seed=seed)))
        return calls[-1]

    verifier = Verifier(complete, MODULE_STYLE, prompt, every)
    e = replay(verifier, episode, seed)
    return exit_of(episode, e, backbone, verifier, usage_of(calls).get("verifier", RoleUsage()))


def replay(verifier: Verifier, episode: Episode, seed: int = 0) -> int | None:
    """The step after which the verifier would have ended a stored episode, None when it never would; what it cannot read because it is
    too long, it lets go on."""
    with suppress(PromptTooLong):
        for t in range(verifier.every, len(episode.steps), verifier.every):
            if verifier.exits(episode.benchmark, episode.goal, episode.initial_observation, episode.steps[:t], seed + t):
                return t
    return None


def exit_of(episode: Episode, e: int | None, backbone: str, verifier: Verifier, spent: RoleUsage) -> Exit:
    """What leaving a stored episode after step e saves and loses; without an exit, e is its end. `spent` is what the verifier cost."""
    saved, lost = exit_metrics([step.progress for step in episode.steps], e) if e is not None else (0, 0.0)
    return Exit(
        task_id=episode.task_id,
        benchmark=episode.benchmark,
        category=episode.category,
        agent=episode.agent,
        verifier=backbone,
        prompt=verifier.strength,
        every=verifier.every,
        steps=len(episode.steps),
        exit_step=e,
        success=episode.success,
        success_at_exit=episode.success and e is None,
        progress=episode.progress,
        progress_lost=lost,
        redundant_steps=redundant_steps([step.progress for step in episode.steps], len(episode.steps)),
        redundant_steps_saved=saved,
        **spent.model_dump(),
    )


def redundant_steps(progress: Sequence[float], e: int) -> int:
    """RS(e): steps since progress last rose, before step e. `progress[i]` is the best so far after step i + 1.

    A trajectory whose progress never rose is redundant from its first step: RS(e) = e.
    """
    last_rise = 0
    best = 0.0
    for index, value in enumerate(progress[:e], 1):
        if value > best:
            best, last_rise = value, index
    return e - last_rise


def exit_metrics(progress: Sequence[float], e: int) -> tuple[int, float]:
    """(RS(T) - RS(e), progress(T) - progress(e)): redundant steps saved and progress lost by leaving after step e <= T."""
    total = len(progress)
    if not 1 <= e <= total:
        raise ValueError(f"exit step {e} is outside the episode's 1..{total}")
    return redundant_steps(progress, total) - redundant_steps(progress, e), progress[-1] - progress[e - 1]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--episodes", type=Path, nargs="+", required=True, metavar="FILE")
    text = "checkpoints trained for verifiers"
    parser.add_argument("--model", nargs="+", default=[], type=named_directory, metavar="BACKBONE=DIR", help=text)
    add_paths(parser, output="")


def run(args: argparse.Namespace) -> None:
    say(f"{args.output}: {replay_verifiers(load(args.config), args.episodes, dict(args.model), args.output)} verifications")
