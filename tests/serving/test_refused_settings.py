"""The real server refuses a setting: the rollout stops with the key that holds it."""

from pathlib import Path

import pytest

from dllm_agents import benchmarks
from dllm_agents.agents.rollout import Shard, rollout
from dllm_agents.config import Config
from dllm_agents.decoding.settings import Decoding
from dllm_agents.engine.engine import Engine
from dllm_agents.errors import StageError
from dllm_agents.files import write_jsonl
from dllm_agents.models.loading import load
from dllm_agents.serving.app import create_app


@pytest.mark.parametrize(
    ("decoding", "served_name", "key"),
    [
        ({"strategy": "ar"}, "m", "backbones.mine.decoding.strategy"),
        ({"max_new_tokens": 100_000}, "m", "backbones.mine.decoding.max_new_tokens"),
        ({"strategy": "llada"}, "other", "backbones.mine.served_name"),
    ],
)
def test_what_the_server_refuses_is_named_by_its_key(
    serving, tokenizer, diffusion_checkpoint: Path, tmp_path: Path, decoding: dict[str, object], served_name: str, key: str
) -> None:
    engine = Engine(load(diffusion_checkpoint))
    url = serving(create_app(engine, tokenizer, "m", Decoding(), context=1000))
    config = Config.model_validate(
        {
            "benchmarks": {"babyai": {"levels": ["GoToObj"], "seeds": [1, 2], "max_steps": 2}},
            "backbones": {"mine": {"url": url, "served_name": served_name, "prompt": "compact", "decoding": decoding}},
            "agents": {"a": {"policy": "mine"}},
        }
    )
    write_jsonl(tmp_path / "tasks.jsonl", benchmarks.load("babyai", config).tasks("test"))
    try:
        with pytest.raises(StageError) as caught:
            rollout(config, "a", Shard(tmp_path / "tasks.jsonl", tmp_path / "e.jsonl"))
    finally:
        engine.close()
    assert key in str(caught.value) and "\n" not in str(caught.value) and not (tmp_path / "e.jsonl").exists()
