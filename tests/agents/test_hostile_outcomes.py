"""Whatever comes of an episode is stored as it is, or stored as an error of that episode; and what stands where files go is no trap."""

import json
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dllm_agents import benchmarks
from dllm_agents.agents.journal import Journal
from dllm_agents.agents.play import Player
from dllm_agents.agents.rollout import Shard, episode_of, rollout
from dllm_agents.config import Config, load
from dllm_agents.errors import StageError
from dllm_agents.files import read_jsonl, write_jsonl
from dllm_agents.records import Episode, EpisodeStep, Outcome, Task, TracedCall, TracedEpisode

TEXT = st.text(st.characters() | st.sampled_from("\ud800\udc00\u2028\x85\0\r\n\x1b"), max_size=6)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
NESTED = st.integers(1, 600).map(lambda levels: [json.loads("[" * levels + "]" * levels)])
ARGUMENTS = st.dictionaries(TEXT, JSON | NESTED, max_size=2)
STARTED = "2026-01-01T00:00:00+00:00"


@cache
def player() -> Player:
    config = Config.model_validate({"benchmarks": {"babyai": {"levels": ["GoToObj"], "seeds": [1234], "max_steps": 3}}})
    return Player(config, "empty", benchmarks.load("babyai", config))


@cache
def task() -> Task:
    return next(iter(player().benchmark.tasks("test")))


@settings(max_examples=200, deadline=None)
@given(TEXT, TEXT, ARGUMENTS, JSON, st.floats())
def test_any_outcome_is_an_episode_that_can_be_read_again(
    tmp_path_factory: Any, said: str, seen: str, arguments: Any, answer: Any, sure: float
) -> None:
    call = TracedCall.model_construct(
        role="policy", seed=1, text=said, tool_calls=({"name": said, "arguments": arguments},), confidence=[sure], tokens=[said, seen]
    )
    step = EpisodeStep.model_construct(index=0, action=said, observation=seen, call=("policy", 1))
    outcome = Outcome.model_construct(steps=[step], calls=(call,), answer=answer, ended="done", initial_observation=seen)
    path = tmp_path_factory.mktemp("hostile") / "j"
    journal = Journal(path, "one")
    for number, result in enumerate((outcome, RuntimeError(said))):
        episode = episode_of(player(), task().model_copy(update={"id": str(number)}), result, 0.1, STARTED)
        assert episode.ended == "done" or (episode.error and len(episode.error.splitlines()) == 1)
        journal.append(episode)
    journal.close()
    stored = Journal(path, "one")
    assert sorted(stored.episodes) == ["0", "1"]
    write_jsonl(path.with_name("out"), stored.episodes.values())
    assert len(read_jsonl(path.with_name("out"), TracedEpisode)) == 2


HOSTILE_REPLIES = [
    '<tool_call>{"name": "search", "arguments": {"query": "x\\ud800"}}</tool_call>',
    "abc\u2028def\u2029ghi\x85jkl",
    "half \ud800 of a pair",
    '<tool_call>{"name": "search", "arguments": {"query": ' + "[" * 300 + "]" * 300 + "}}</tool_call>",
    "<answer>\ud83d</answer>",
]


@pytest.mark.parametrize("reply", HOSTILE_REPLIES)
def test_a_hostile_reply_ends_no_run(tmp_path: Path, said_by_prompt: Callable[..., str], reply: str) -> None:
    config = Config.model_validate(
        {
            "benchmarks": {"multihop_qa": {"tasks": 2, "train_tasks": 0, "max_steps": 2}},
            "backbones": {"far": {"url": said_by_prompt(lambda _: reply), "paradigm": "ar", "prompt": "compact"}},
            "agents": {"far": {"policy": "far"}},
        }
    )
    shard = Shard(tmp_path / "tasks.jsonl", tmp_path / "episodes.jsonl")
    write_jsonl(shard.tasks, benchmarks.load("multihop_qa", config).tasks("test"))
    rollout(config, "far", shard)
    assert len(read_jsonl(shard.output, Episode)) == 2


@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe", "folder"])
def test_a_journal_that_is_no_file_is_one_line(tmp_path: Path, kind: str) -> None:
    target, path = tmp_path / "target", tmp_path / "j"
    target.write_text("mine, all mine")
    {
        "link": lambda: path.symlink_to(target),
        "dangling link": lambda: path.symlink_to(tmp_path / "nowhere"),
        "pipe": lambda: os.mkfifo(path),
        "folder": path.mkdir,
    }[kind]()
    with pytest.raises(StageError, match="cannot be opened"):
        Journal(path, "one")
    assert target.read_text() == "mine, all mine" and not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("name", ["-x", "--config", "-rf", "..", ".", ".hidden", "a/b", "a\n", "x" * 101])
@pytest.mark.parametrize("kind", ["agents", "backbones", "add", "scale"])
def test_names_that_are_options_or_ways_out_are_refused(tmp_path: Path, kind: str, name: str) -> None:
    own = {"agents": {"policy": "random"}, "backbones": {"model": "x", "paradigm": "ar"}, "add": {"model": "x"}}
    value: Any = name if kind == "scale" else {name: own[kind]}
    path = tmp_path / "own.yaml"
    path.write_text(json.dumps({kind: value}))
    with pytest.raises(StageError, match=r"own\.yaml: (scale|(agents|backbones|add)\.)"):
        load([path])


@pytest.mark.parametrize("text", ["a: " + "[" * 2000 + "]" * 2000, "seed: " + "9" * 100_000, "seed: 9999999999999999999999"])
def test_a_configuration_that_cannot_be_read_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(StageError, match=r"own\.yaml: "):
        load([path])


@pytest.mark.parametrize("field", [{"seed": 10**400}, {"seed": 2**63}, {"goal": "x\ud800"}, {"id": 1}])
def test_a_task_that_has_no_place_in_a_table_is_one_line(tmp_path: Path, field: dict[str, Any]) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_text(json.dumps(task().model_dump() | field) + "\n")
    with pytest.raises(StageError, match=rf"{path}:1: not a Task record"):
        read_jsonl(path, Task)
