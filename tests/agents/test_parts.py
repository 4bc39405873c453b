"""A rollout in parts plays every task once, and merging the parts gives what one job gives."""

from pathlib import Path

import pytest

from dllm_agents import benchmarks
from dllm_agents.agents.merge import merge, played_in_other_parts, sign
from dllm_agents.agents.rollout import Shard, rollout
from dllm_agents.config import Config
from dllm_agents.errors import StageError
from dllm_agents.files import read_jsonl, write_jsonl
from dllm_agents.records import Episode

WALL_CLOCK = {"started", "seconds"}


@pytest.fixture
def config() -> Config:
    babyai = {"levels": ["GoToRedBallNoDists", "GoToObj"], "seeds": [1, 2, 3], "max_steps": 2}
    return Config.model_validate({"benchmarks": {"babyai": babyai}, "run": {"benchmarks": ["babyai"]}})


def comparable(path: Path) -> list[dict[str, object]]:
    played = [episode.model_dump(exclude=WALL_CLOCK) for episode in read_jsonl(path, Episode)]
    for episode in played:
        for step in episode["steps"]:
            step.pop("environment_seconds")
    return played


def test_parts_merge_to_what_one_job_gives(config: Config, tmp_path: Path) -> None:
    tasks, whole, merged = tmp_path / "tasks.jsonl", tmp_path / "whole.jsonl", tmp_path / "merged.jsonl"
    write_jsonl(tasks, benchmarks.load("babyai", config).tasks("test"))
    rollout(config, "random", Shard(tasks, whole))
    parts = [tmp_path / f"{index}.jsonl" for index in range(1, 5)]
    for index, part in enumerate(parts, 1):
        rollout(config, "random", Shard(tasks, part, part=(index, 4)))
    assert [len(read_jsonl(part, Episode)) for part in parts] == [2, 2, 1, 1]
    assert merge(tasks, reversed(parts), merged) == 6
    assert comparable(merged) == comparable(whole)
    with pytest.raises(StageError, match="in another part too"):
        merge(tasks, [whole, parts[0]], merged)
    write_jsonl(tasks, benchmarks.load("babyai", config).tasks("test")[1:])
    with pytest.raises(StageError, match="is not in"):
        merge(tasks, parts, merged)


def test_a_damaged_signature_signs_nothing(tmp_path: Path) -> None:
    episodes = tmp_path / "a.jsonl"
    episodes.write_text("")
    sign(episodes, "f")
    signature = tmp_path / ".a.jsonl.settings"
    for damaged in ("", "{", "[" * 100_000, "[]"):
        signature.write_text(damaged)
        assert list(played_in_other_parts(tmp_path / "a.0-of-2.jsonl", "a", 2, "f")) == []
