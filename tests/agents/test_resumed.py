"""A rollout killed at half plays only what is missing, whatever was changed of how it goes."""

from collections.abc import Callable
from pathlib import Path

import pytest

from dllm_agents import benchmarks
from dllm_agents.agents.rollout import Shard, rollout
from dllm_agents.client.client import ServerFault
from dllm_agents.config import Config
from dllm_agents.errors import StageError
from dllm_agents.files import read_jsonl, write_jsonl
from dllm_agents.records import Episode, Task

TASKS = 6


def configuration(url: str, **changed: object) -> Config:
    data: dict[str, object] = {
        "benchmarks": {"babyai": {"levels": ["GoToObj"], "seeds": list(range(TASKS)), "max_steps": 1}},
        "backbones": {"m": {"model": "somewhere/m"}},
        "agents": {"a": {"policy": "m", "attempts": 1, "concurrency": 1}},
        "run": {"benchmarks": ["babyai"], "agents": ["a"]},
        "endpoints": {"m": url},
    }
    return Config.model_validate(_merged(data, changed))


def _merged(data: dict, changed: dict) -> dict:
    return {
        key: _merged(data.get(key, {}), value) if isinstance(value := changed.get(key, data.get(key)), dict) else value
        for key in data | changed
    }


@pytest.fixture
def half(tmp_path: Path, said_by_prompt: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> Shard:
    """A rollout that ended when half of its episodes were played."""
    shard = Shard(tmp_path / "tasks.jsonl", tmp_path / "a.jsonl")
    config = configuration(said_by_prompt(lambda prompt: "Thought: t\nAction: turn left"))
    write_jsonl(shard.tasks, benchmarks.load("babyai", config).tasks("test"))
    asked = []

    def fails(prompt: str) -> str:
        asked.append(prompt)
        if len(asked) > TASKS // 2:
            raise ServerFault("killed")
        return "Thought: t\nAction: turn left"

    from dllm_agents.client import client

    answer = client.Client.complete
    monkeypatch.setattr(client.Client, "complete", lambda self, messages, **more: (fails(""), answer(self, messages, **more))[1])
    with pytest.raises((StageError, ServerFault)):
        rollout(config, "a", shard)
    monkeypatch.undo()
    return shard


CHANGES: dict[str, dict[str, object]] = {
    "jvm_memory_mb": {"benchmarks": {"scienceworld": {"jvm_memory_mb": 256}}},
    "recycle_after": {"benchmarks": {"scienceworld": {"recycle_after": 3}}},
    "served_name": {"backbones": {"m": {"served_name": "other"}}},
    "gpus": {"backbones": {"m": {"gpus": 2}}},
    "concurrency": {"agents": {"a": {"concurrency": 2}}},
    "another benchmark": {"benchmarks": {"bfcl": {"per_category": 1}}},
    "resources": {"resources": {"rollout": {"mem_mb": 9000}}},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_the_rerun_plays_only_what_is_missing(half: Shard, said_by_prompt: Callable[..., str], change: dict[str, object]) -> None:
    asked: list[str] = []
    # The endpoint is another one, too.
    url = said_by_prompt(lambda prompt: (asked.append(prompt), "Thought: t\nAction: turn left")[1])
    rollout(configuration(url, **change), "a", half)
    assert len(asked) == TASKS - TASKS // 2 and len(read_jsonl(half.output, Episode)) == TASKS


def test_what_an_agent_does_plays_all_again_and_keeps_what_was_played(half: Shard, said_by_prompt: Callable[..., str], capsys) -> None:
    asked: list[str] = []
    url = said_by_prompt(lambda prompt: (asked.append(prompt), "Thought: t\nAction: turn left")[1])
    rollout(configuration(url, agents={"a": {"history": "recent"}}), "a", half)
    assert len(asked) == TASKS
    (kept,) = half.output.parent.glob(".a.jsonl.*.journal")
    assert kept.name in capsys.readouterr().err and len(kept.read_text().splitlines()) == 1 + TASKS // 2


def test_another_number_of_parts_takes_up_what_was_played(half: Shard, said_by_prompt: Callable[..., str]) -> None:
    """Of an interrupted rollout and of a finished one; not where the file was changed, or another agent played it."""
    asked: list[str] = []
    config = configuration(said_by_prompt(lambda prompt: (asked.append(prompt), "Thought: t\nAction: turn left")[1]))

    def played(count: int) -> int:
        asked.clear()
        for index in range(1, count + 1):
            output = half.output.parent / "parts" / f"a.{index}-of-{count}.jsonl" if count > 1 else half.output
            rollout(config, "a", Shard(half.tasks, output, part=(index, count)))
        return len(asked)

    assert played(2) == TASKS - TASKS // 2
    assert played(3) == played(1) == 0
    assert [episode.task_id for episode in read_jsonl(half.output, Episode)] == [task.id for task in read_jsonl(half.tasks, Task)]
    for path in half.output.parent.rglob("*a.*.jsonl"):
        write_jsonl(path, [episode.model_copy(update={"agent": "b"}) for episode in read_jsonl(path, Episode)])
    half.output.write_text(half.output.read_text() + "\n")
    assert played(4) == TASKS
