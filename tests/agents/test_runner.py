"""The rollout runner: order, errors, resume, and a URL that stands for a backbone."""

from collections.abc import Callable
from pathlib import Path

import pytest

from dllm_agents import benchmarks
from dllm_agents.agents.play import Player
from dllm_agents.agents.rollout import Shard, rollout
from dllm_agents.config import Config
from dllm_agents.errors import StageError
from dllm_agents.files import read_jsonl, write_jsonl
from dllm_agents.records import Episode, Outcome, Task

# Starts a stand-in for a server, as the fixture said_by_prompt describes, and gives its URL.
Start = Callable[[Callable[[str], str | int]], str]

BABYAI = {"levels": ["GoToRedBallNoDists", "GoToObj"], "seeds": [1234, 1235, 1236], "max_steps": 8}
BFCL = {"categories": ["simple", "irrelevance"], "per_category": 2}


def configuration(**keys: object) -> Config:
    return Config.model_validate({"benchmarks": {"babyai": BABYAI, "bfcl": BFCL}, **keys})


def frozen(config: Config, folder: Path, *names: str) -> list[Shard]:
    shards = []
    for name in names:
        write_jsonl(folder / f"{name}.tasks.jsonl", benchmarks.load(name, config).tasks("test"))
        shards.append(Shard(folder / f"{name}.tasks.jsonl", folder / f"{name}.jsonl"))
    return shards


def without_times(episode: Episode) -> dict[str, object]:
    data = episode.model_dump(exclude={"seconds", "started"})
    for step in data["steps"]:
        step.pop("environment_seconds")
    return data


def test_scripted_agents_in_task_order_and_the_same_twice(tmp_path: Path) -> None:
    config = configuration()
    first, second = (frozen(config, tmp_path / part, "babyai", "bfcl") for part in "ab")
    for agent in ("random", "teacher", "empty"):
        for shards in (first, second):
            for shard in shards:
                rollout(config, agent, shard)
        for one, two in zip(first, second, strict=True):
            episodes = read_jsonl(one.output, Episode)
            assert [item.task_id for item in episodes] == [task.id for task in read_jsonl(one.tasks, Task)]
            assert list(map(without_times, episodes)) == list(map(without_times, read_jsonl(two.output, Episode)))
            if one.output.stem == "babyai":
                assert {"teacher": all, "empty": lambda found: not any(found), "random": any}[agent](item.success for item in episodes)
    assert not list(tmp_path.rglob("*.journal"))


def test_one_bad_episode_is_recorded_and_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configuration()
    (shard,) = frozen(config, tmp_path, "babyai")
    play = Player.play

    def faulty(player: Player, task: Task) -> Outcome:
        if task.seed == 1235:
            raise RuntimeError("the simulator broke")
        return play(player, task)

    monkeypatch.setattr(Player, "play", faulty)
    rollout(config, "teacher", shard)
    broken = [item for item in read_jsonl(shard.output, Episode) if item.ended == "error"]
    assert [item.error for item in broken] == ["RuntimeError: the simulator broke"] * 2


def test_an_interrupted_rollout_redoes_only_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configuration()
    (shard,) = frozen(config, tmp_path, "babyai")
    play, played = Player.play, []

    def stopping(player: Player, task: Task) -> Outcome:
        if len(played) == 3:
            raise StageError("stop here")
        played.append(task.id)
        return play(player, task)

    config.agents["teacher"].concurrency = 1
    monkeypatch.setattr(Player, "play", stopping)
    with pytest.raises(StageError, match="stop here"):
        rollout(config, "teacher", shard)
    assert not shard.output.exists() and list(tmp_path.glob(".*.journal"))
    monkeypatch.setattr(Player, "play", lambda player, task: (played.append(task.id), play(player, task))[1])
    rollout(config, "teacher", shard)
    assert sorted(played) == sorted(task.id for task in read_jsonl(shard.tasks, Task))


def test_tasks_of_another_version_or_twice_are_refused(tmp_path: Path) -> None:
    config = configuration()
    (shard,) = frozen(config, tmp_path, "babyai")
    tasks = read_jsonl(shard.tasks, Task)
    write_jsonl(shard.tasks, [tasks[0].model_copy(update={"version": "minigrid 0.0.1"})])
    with pytest.raises(StageError, match=r"made with minigrid 0\.0\.1, here is minigrid"):
        rollout(config, "teacher", shard)
    write_jsonl(shard.tasks, [tasks[0], tasks[0]])
    with pytest.raises(StageError, match="is listed twice"):
        rollout(config, "teacher", shard)
    write_jsonl(shard.tasks, [])
    with pytest.raises(StageError, match="holds no task"):
        rollout(config, "teacher", shard)


@pytest.mark.parametrize("text", ["", "Thought: I go.\nAction: move forward", "x" * 100_000, "\ud83d\ude00" * 10 + "[" * 10_000])
def test_a_url_plays_every_benchmark_whatever_it_says(tmp_path: Path, said_by_prompt: Start, text: str) -> None:
    said = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    config = configuration(add={"mine": {"url": said_by_prompt(lambda prompt: said)}})
    shards = frozen(config, tmp_path, "babyai", "bfcl")
    for shard in shards:
        rollout(config, "mine", shard)
        episodes = read_jsonl(shard.output, Episode)
        assert len(episodes) == len(read_jsonl(shard.tasks, Task))
        assert all(item.ended != "error" and item.backbones == {"policy": "mine"} for item in episodes)
        assert max(len(call.text) for item in episodes for call in item.calls) <= 64_000
    if text.startswith("Thought"):
        assert {step.action for step in read_jsonl(shards[0].output, Episode)[0].steps} == {"move forward"}


def test_a_server_that_fails_for_good_stops_the_run_in_one_line(tmp_path: Path, said_by_prompt: Start) -> None:
    config = configuration(add={"mine": {"url": said_by_prompt(lambda prompt: 401)}})
    (shard,) = frozen(config, tmp_path, "babyai")
    with pytest.raises(StageError, match="HTTP 401") as caught:
        rollout(config, "mine", shard)
    assert "\n" not in str(caught.value) and not shard.output.exists()
