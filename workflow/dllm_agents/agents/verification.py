"""The replay-verifiers stage: early-exit verifiers look at stored episodes (DiffuAgent section 5.1 and Figure 6).

Offline, every verifier judges the same episodes, so that verifiers, prompts and paradigms are compared on equal ground and what an
exit would have lost is known.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from dllm_agents.agents import MODULE_STYLE
from dllm_agents.agents.modules.early_exit import Strength, Verifier, exit_of, replay
from dllm_agents.agents.policy import Complete
from dllm_agents.agents.runner import setting_key, spread
from dllm_agents.client.client import Client, ServerFault, SettingsRefused
from dllm_agents.config import Config
from dllm_agents.errors import StageError
from dllm_agents.frames import write_frame
from dllm_agents.models.checkpoints import not_run
from dllm_agents.progress import track
from dllm_agents.records import Episode, Exit, read_jsonl
from dllm_agents.serving.launch import running_server

CONCURRENCY = 8


def replay_verifiers(config: Config, episodes: Sequence[Path], models: Mapping[str, Path], output: Path) -> int:
    """Replay the run's verifiers on stored episodes of one benchmark; returns how many rows were written.

    `models` are the checkpoints trained for the benchmark (backbone -> directory); a verifier whose checkpoint was not trained has no
    rows. Raises StageError when a server cannot be started or dies for good.
    """
    settings = config.run.verification
    stored = [episode for path in episodes for episode in _chosen(path, settings.episodes)]
    found: list[Exit] = []
    for name in settings.backbones if stored else ():
        if name in models and (reason := not_run(models[name])) is not None:
            print(f"{output}: {name} not run: {reason}", file=sys.stderr, flush=True)
            continue
        benchmark = stored[0].benchmark
        serving = running_server(name, config, models.get(name), benchmark=benchmark)
        with serving as server, Client.for_backbone(server, config.backbones[name]) as client:
            complete = partial(client.complete, decoding=config.role_decoding(name, "verifier", benchmark))
            asked = [(prompt, episode) for prompt in settings.prompts for episode in stored]
            with ThreadPoolExecutor(CONCURRENCY) as pool:
                rows = pool.map(lambda pair: _verified(complete, name, settings.every, config.seed, *pair), asked)  # noqa: B023 - used up here
                try:
                    found += track(rows, len(asked), f"{name} as verifier")
                except ServerFault as error:
                    raise StageError(f"{error}; run the same command again") from None
                except SettingsRefused as refusal:
                    raise StageError(f"{refusal}; change {setting_key(config, name, stored[0].benchmark, refusal.field)}") from None
    return write_frame(output, found, Exit)


def _chosen(path: Path, count: int | None) -> list[Episode]:
    """Episodes of a file that were played to their end; none of an agent that was not run."""
    episodes = [episode for episode in read_jsonl(path, Episode) if episode.ended not in ("error", "early_exit") and episode.steps]
    return spread(episodes, count)


def _verified(complete: Complete, backbone: str, every: int, seed: int, prompt: Strength, episode: Episode) -> Exit:
    verifier = Verifier(complete, MODULE_STYLE, prompt, every)
    return exit_of(episode, replay(verifier, episode, seed), backbone, verifier)
