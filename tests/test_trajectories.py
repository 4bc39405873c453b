"""Teacher trajectories: collected through the agents' environment, labelled at every state, and rejected for named reasons."""

import pytest

from dllm_agents import benchmarks, trajectories
from dllm_agents.benchmarks.base import check_tasks
from dllm_agents.errors import StageError
from dllm_agents.records import EpisodeStep, Trajectory

OPTIONS = {"levels": ["GoToRedBallNoDists", "GoToObj"], "seeds": [1234], "max_steps": 8, "train_tasks": 12}


@pytest.fixture(scope="module")
def babyai():
    return benchmarks.load("babyai", OPTIONS)


def test_the_teacher_solves_and_the_filter_accepts(babyai) -> None:
    found = [trajectories.play_teacher(babyai, task, seed=1) for task in babyai.tasks("train")]
    accepted, rejected, counts = trajectories.split_accepted(babyai, found)
    assert len(accepted) == len(found) and not rejected and not counts
    assert found == [trajectories.play_teacher(babyai, task, seed=1) for task in babyai.tasks("train")]


def test_exploration_executes_something_else_and_keeps_the_label() -> None:
    explorer = benchmarks.load("babyai", OPTIONS | {"exploration": 1.0})
    steps = [step for task in explorer.tasks("train") for step in trajectories.play_teacher(explorer, task, seed=1).steps]
    assert any(step.executed is not None for step in steps)
    assert all(step.action and step.thought and step.executed != step.action for step in steps)


def trajectory(babyai, success: bool = True, **step: object) -> Trajectory:
    values = {"index": 0, "thought": "I go.", "action": "move forward", "observation": "A wall."} | step
    return Trajectory(
        task=babyai.tasks("train")[0], teacher="expert", seed=1, steps=[EpisodeStep(**values)], success=success, progress=float(success)
    )


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        ({}, None),
        ({"thought": ""}, "no reasoning"),
        ({"action": None}, "format"),
        ({"action": "two\nlines"}, "format"),
        ({"thought": "I say Action: now"}, "format"),
        ({"valid": False}, "invalid action"),
        ({"valid": False, "executed": "toggle"}, None),
    ],
)
def test_each_rejection_has_one_named_reason(babyai, step: dict[str, object], reason: str | None) -> None:
    assert trajectories.rejection(babyai, trajectory(babyai, **step)) == reason


def test_a_failed_episode_is_rejected_first(babyai) -> None:
    _, rejected, counts = trajectories.split_accepted(babyai, [trajectory(babyai, success=False, thought="")])
    assert counts == {"goal not reached": 1} and rejected[0].rejected == "goal not reached"


def test_tasks_of_another_benchmark_are_refused(babyai) -> None:
    task = babyai.tasks("train")[0].model_copy(update={"benchmark": "bfcl"})
    with pytest.raises(StageError, match="belongs to bfcl, not babyai"):
        check_tasks(babyai, [task])
