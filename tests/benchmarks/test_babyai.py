"""BabyAI: AgentBoard's text interface on hand-made rooms, its published observations, progress, and the teacher."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from dllm_agents.benchmarks import babyai, load
from dllm_agents.benchmarks.babyai_teacher import Teacher
from dllm_agents.benchmarks.babyai_text import describe, look, matches, options, pose_of
from dllm_agents.config import load as load_config
from dllm_agents.errors import StageError
from dllm_agents.records import Task

EASY_LEVELS = load_config([Path(__file__).parents[2] / "config" / "demo.yaml"]).benchmarks.babyai.levels

DATA = Path(os.environ.get("DLLM_AGENTS_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
PUBLISHED = DATA / "agentboard" / "babyai_test.jsonl"
published = pytest.mark.skipif(not PUBLISHED.is_file(), reason="AgentBoard's task list is not here")


def room(things: dict[tuple[int, int], str], pose: tuple[int, int, int] = (3, 5, 3), carrying: str = "") -> Any:
    """An 8 x 8 room (cells 1..6 free) that holds only `things`, the agent at `pose` (facing up unless told)."""
    from minigrid.core.world_object import Ball, Box, Door, Key

    kinds = {"ball": Ball, "box": Box, "key": Key}

    def make(name: str) -> Any:
        words = name.split()
        if words[-1] == "door":
            return Door(words[0], is_open=words[1] == "open", is_locked=words[1] == "locked")
        return kinds[words[-1]](words[0])

    simulator = babyai.make_simulator("GoToObj", 0)
    for x in range(1, 7):
        for y in range(1, 7):
            simulator.grid.set(x, y, None)
    for (x, y), name in things.items():
        simulator.grid.set(x, y, make(name))
    simulator.agent_pos, simulator.agent_dir = pose[:2], pose[2]
    simulator.carrying = make(carrying) if carrying else None
    return simulator


def seen(simulator: Any) -> Any:
    return look(simulator, pose_of(simulator))


def task(level: str, seed: int, subgoals: list[str]) -> Task:
    data = {"level": level, "seed": seed, "subgoals": subgoals}
    return Task(id=f"babyai/{level}/{seed}", benchmark="babyai", split="test", category=level, seed=seed, version="", goal="", data=data)


def play(environment: Any, steps: int, generator: random.Random | None = None, exploration: float = 0.0) -> int:
    """Follow the teacher, or a random valid action with probability `exploration`; returns the number of steps."""
    environment.reset()
    for step in range(steps):
        action = environment.expert_action()[1]
        if generator and generator.random() < exploration:
            action = generator.choice(environment.valid_actions())
        if environment.step(action).done:
            return step + 1
    return steps


# What is seen ----------------------------------------------------------------------------------------------------------------------


def test_observation_numbers_equal_things_from_the_nearest_and_tells_places_relative_to_the_agent() -> None:
    simulator = room({(3, 2): "red ball", (2, 4): "grey key", (5, 3): "grey key"})
    assert describe(seen(simulator)) == (
        "In front of you in this room, you can see several objects: "
        "There is a grey key 1 1 steps in front of you and 1 steps to your left.  "
        "There is a red ball 1 right in front of you 3 steps away.  "
        "There is a grey key 2 2 steps in front of you and 2 steps to your right.  "
        "The room has walls around you. You are facing a wall 5 steps away. You are not carrying anything."
    )


def test_observation_tells_the_nearest_wall_or_box_ahead_and_what_is_carried() -> None:
    simulator = room({(3, 3): "blue box"}, carrying="green key")
    assert describe(seen(simulator)).endswith("You are facing a box 2 steps away. You are carrying a green key.")


def test_things_behind_the_agent_are_not_seen() -> None:
    assert "ball" not in describe(seen(room({(3, 6): "red ball"})))


@pytest.mark.parametrize("level", ["GoToLocal", "GoToObjMazeS7", "KeyCorridorS6R3", "UnlockLocalDist"])
def test_field_of_view_is_minigrids_own(level: str) -> None:
    from minigrid.core.constants import IDX_TO_COLOR, IDX_TO_OBJECT

    simulator = babyai.make_simulator(level, 7)
    generator = random.Random(1)
    images: dict[bytes, tuple[str, ...]] = {}
    for _ in range(150):
        simulator.step(generator.choice([0, 1, 2, 2, 2, 3, 4, 5, 5]))
        view = seen(simulator)
        image = type(simulator).gen_obs(simulator)["image"]
        ours = {(3 + thing.right, 6 - thing.ahead): thing.name.split() for thing in view.things}
        theirs = {
            (i, j): [IDX_TO_COLOR[image[i, j, 1]], *([["open", "closed", "locked"][image[i, j, 2]]] if image[i, j, 0] == 4 else []), kind]
            for i in range(7)
            for j in range(7)
            if (i, j) != (3, 6) and (kind := IDX_TO_OBJECT[image[i, j, 0]]) not in ("unseen", "empty")
        }
        assert ours == theirs
        # Two views look alike exactly when minigrid's images are equal.
        assert images.setdefault(image.tobytes(), view.image) == view.image
    assert len(set(images.values())) == len(images) > 20


# What can be done ------------------------------------------------------------------------------------------------------------------


def test_actions_of_an_open_room_are_listed_in_agentboards_order() -> None:
    assert list(options(seen(room({(3, 2): "red ball"}))).moves) == [
        "turn left",
        "turn right",
        "move forward",
        "pickup red ball 1",
        "go to red ball 1",
        "check available actions",
    ]


def test_walks_go_around_things() -> None:
    moves = options(seen(room({(3, 2): "red ball", (3, 4): "grey box"}))).moves
    assert moves["go to grey box 1"] == ()
    assert "move forward" not in moves
    assert len(moves["go to red ball 1"]) == 7 and moves["pickup red ball 1"][-1] == 3


@pytest.mark.parametrize(
    ("things", "carrying", "action", "refusal"),
    [
        ({(3, 4): "grey box"}, "", "move forward", "There is a barrier in front of you, you can't move forward."),
        ({}, "", "drop", "You cannot drop the object, as you are not carrying anything."),
        ({(3, 4): "red ball"}, "red key", "drop", "You cannot drop the object, as there is already an object in front of you."),
        (
            {(3, 0): "red locked door"},
            "",
            "toggle and go through red locked door 1",
            "You cannot toggle and go through red locked door 1, as you are not carrying a key.",
        ),
        (
            {(3, 0): "red locked door"},
            "red ball",
            "toggle and go through red locked door 1",
            "You cannot toggle and go through red locked door 1, as you are not carrying a key.",
        ),
        (
            {(3, 0): "red locked door"},
            "blue key",
            "toggle and go through red locked door 1",
            "You cannot toggle and go through red locked door 1, as the color of the key you are carrying "
            "does not match the color of door.",
        ),
        (
            {(3, 0): "red closed door"},
            "",
            "go through red closed door 1",
            "You cannot go through red closed door 1, as it is closed. You should toggle it first.",
        ),
    ],
)
def test_every_failure_has_its_own_message(things: dict[tuple[int, int], str], carrying: str, action: str, refusal: str) -> None:
    found = options(seen(room(things, carrying=carrying)))
    assert action not in found.moves
    assert found.refusals[action] == refusal


def _walled_in(*extra: tuple[tuple[int, int], str]) -> dict[tuple[int, int], str]:
    return {(x, 3): "grey box" for x in range(1, 7)} | dict(extra)


def test_things_without_a_way_are_refused_and_do_not_count_in_the_numbers_of_go_to() -> None:
    found = options(seen(room(_walled_in(((3, 1), "red ball")))))
    assert found.refusals["go to red ball 1"] == "You cannot go to red ball 1, as there is no path leading to it."
    assert found.refusals["pickup red ball 1"] == "You cannot pickup red ball 1, as there is no path leading to it."
    two = options(seen(room(_walled_in(((3, 2), "red ball"), ((6, 4), "red ball")), pose=(3, 4, 3))))
    assert two.targets["go to red ball 1"] == (6, 4)  # the observation's number 2


def test_unreachable_closed_doors_print_agentboards_table_of_counts() -> None:
    found = options(seen(room(_walled_in(((3, 0), "red closed door")))))
    action = "toggle and go through red closed door 1"
    assert found.refusals[action] == (
        "You cannot toggle and go through red closed door {'red closed door': 1}, as there is no path leading to it."
    )


def test_doors_can_be_toggled_from_right_in_front_and_passed_when_open() -> None:
    shut = options(seen(room({(3, 4): "red closed door"})))
    assert shut.moves["toggle"] == (5,)
    assert shut.moves["toggle and go through red closed door 1"] == (5, 2)
    assert options(seen(room({(3, 4): "red open door"}))).moves["go through red open door 1"] == (2,)
    assert options(seen(room({(3, 4): "red locked door"}, carrying="red key"))).moves["toggle"] == (5,)


# Progress and end ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "holds"),
    [
        ("There is a red ball **", True),
        (" There is a red ball ** right in front of you 1 steps away.", True),
        ("There is a red ball ** right in front of you 2 steps away.", False),
        ("There is a blue ball ** right in front of you 1 steps away.", False),  # the pieces stand in different sentences
        ("You are carrying a red key.", False),
        ("You are not carrying *", True),
    ],
)
def test_all_pieces_of_a_pattern_must_stand_in_one_sentence(pattern: str, holds: bool) -> None:
    observation = (
        "There is a red ball 1 right in front of you 1 steps away.  "
        "There is a blue ball 1 0 steps in front of you and 1 steps to your left.  "
    )
    assert matches(observation + "You are not carrying anything.", pattern) is holds


def started(subgoals: list[str], things: dict[tuple[int, int], str], target: tuple[int, int], **where: Any) -> babyai.BabyAIEnvironment:
    """An environment in a hand-made room where the instruction is to go to the thing at `target`."""
    environment = babyai.BabyAIEnvironment(task("GoToObj", 0, subgoals))
    environment.reset()
    simulator = room(things, **where)
    wanted = simulator.instrs.desc
    wanted.obj_set, wanted.obj_poss = [simulator.grid.get(*target)], [target]
    environment._simulator, environment._teacher = simulator, Teacher(simulator)
    environment._observe()
    return environment


SEE, REACH = "There is a red ball **", "There is a red ball ** right in front of you 1 steps away."


def test_an_action_earns_one_subgoal_and_full_progress_ends_the_episode() -> None:
    environment = started([SEE, REACH, "There is a **"], {(5, 3): "red ball"}, (5, 3))
    first = environment.step("go to red ball 1")
    assert (first.progress, first.done) == (pytest.approx(1 / 3), False)
    assert first.observation.endswith("\n The task is completed.")  # the end signal is spelled out, and dropped
    second = environment.step("turn left")  # the first pattern of the list that is left and matches is the last one
    assert (second.progress, second.done) == (pytest.approx(2 / 3), False)
    assert "The task is completed." not in second.observation
    last = environment.step("turn right")
    assert (last.progress, last.done, environment.success) == (1.0, True, True)


def test_an_end_signal_above_half_of_the_progress_stands() -> None:
    environment = started([SEE, REACH, "never"], {(3, 2): "red ball"}, (3, 2))
    assert environment.step("move forward") == (environment._observation, pytest.approx(1 / 3), False, True)
    last = environment.step("go to red ball 1")
    assert (last.progress, last.done, environment.success) == (pytest.approx(2 / 3), True, True)


def test_full_progress_ends_without_the_simulators_signal() -> None:
    environment = started([SEE], {(3, 2): "red ball", (1, 5): "blue key"}, (1, 5))
    step = environment.step("move forward")
    assert step.done and environment.success and step.observation.endswith("\n The task is completed.")


def test_going_where_one_stands_changes_nothing() -> None:
    environment = started([SEE, REACH], {(3, 4): "red ball"}, (3, 4))
    assert environment.step("go to red ball 1") == ("No change in state.", 0.0, False, True)
    assert environment.expert_action()[1] == "turn left"


def test_a_walk_stops_at_the_first_move_that_leaves_the_view_unchanged() -> None:
    environment = started([SEE, REACH], {(3, 2): "red ball"}, (3, 2))
    environment._options = options(environment._view)
    environment._options.moves["turn left"] = (4, 0)  # dropping with empty hands changes nothing, so the turn is not played
    environment.step("turn left")
    assert environment._simulator.agent_dir == 3


@pytest.mark.parametrize(
    ("action", "observation", "valid"),
    [
        ("", "No change in state.", False),
        ("   ", "No change in state.", False),
        ("fly", "The action is not recognized. Please check valid actions.", False),
        ("x" * 100_000, "The action is not recognized. Please check valid actions.", False),
        ("\x00\x1b[2J\u202e\ud800 turn left", "The action is not recognized. Please check valid actions.", False),
        (
            "  CHECK Available actions\n",
            "You can take the following actions: turn left, turn right, move forward, pickup red ball 1, go to red ball 1, "
            "check available actions",
            True,
        ),
    ],
)
def test_unknown_empty_and_asking_inputs_change_nothing(action: str, observation: str, valid: bool) -> None:
    environment = started([SEE, REACH], {(3, 2): "red ball"}, (3, 2))
    before = environment._simulator.hash()
    assert environment.step(action) == (observation, 0.0, False, valid)
    assert environment._simulator.hash() == before
    assert environment.step("  Turn LEFT ").valid


# Tasks -----------------------------------------------------------------------------------------------------------------------------


@published
def test_the_112_published_initial_observations_and_goals_are_reproduced() -> None:
    lines = [json.loads(line) for line in PUBLISHED.read_text(encoding="utf-8").splitlines()]
    tasks = load("babyai", {"task_list": str(PUBLISHED)}).tasks("test")
    assert len(tasks) == len(lines) == 112
    for one, line in zip(tasks, lines, strict=True):
        assert line["additional_info"]["subtask"] == f"BabyAI-{one.category}-v0"
        assert load("babyai").environment(one).reset() == line["additional_info"]["init_obs"], one.id
        assert one.goal == babyai.shown_goal(line["goal"]), one.id
        assert one.data["subgoals"] == line["subgoals"]


@published
def test_a_task_list_of_another_version_is_refused_by_line(tmp_path: Path) -> None:
    lines = PUBLISHED.read_text(encoding="utf-8").splitlines()
    other = tmp_path / "other.jsonl"
    other.write_text("\n".join([lines[0], lines[1].replace("2 steps away", "3 steps away")]), encoding="utf-8")
    with pytest.raises(StageError, match=r"other.jsonl:2: not what minigrid .* makes of GoToRedBallGrey with seed 1235"):
        load("babyai", {"task_list": str(other), "levels": ["GoToRedBallGrey"]}).tasks("test")


@pytest.mark.parametrize(
    "line", ['{"goal": "go"', "[]", '{"goal": "g", "subgoals": [], "additional_info": {"subtask": "BabyAI-GoTo-v0", "init_obs": ""}}']
)
def test_a_broken_task_list_is_refused_by_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "list.jsonl"
    path.write_text(line, encoding="utf-8")
    with pytest.raises(StageError, match="list.jsonl:1: not a task of AgentBoard's list"):
        load("babyai", {"task_list": str(path)}).tasks("test")


def test_a_missing_task_list_and_an_unknown_level_are_named() -> None:
    with pytest.raises(StageError, match="nowhere.jsonl: No such file"):
        load("babyai", {"task_list": "nowhere.jsonl"}).tasks("test")
    with pytest.raises(StageError, match="no level 'GoToRedBal'; did you mean GoToRedBall"):
        load("babyai", {"levels": ["GoToRedBal"]}).tasks("test")


def test_training_seeds_are_never_evaluated_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(babyai, "TRAIN_SEED_START", 1229)
    benchmark = load("babyai", {"levels": ["GoToObj", "PickupLoc"], "seeds": [1230, 1240], "train_tasks": 30})
    trained = {(one.category, one.seed) for one in benchmark.tasks("train")}
    assert len(trained) == 30
    assert not {seed for _, seed in trained} & {1230, 1234, 1235, 1236, 1237, 1240}
    assert {(one.category, one.seed) for one in benchmark.tasks("test")} == {
        (lv, seed) for lv in ("GoToObj", "PickupLoc") for seed in (1230, 1240)
    }


def test_a_draw_of_tasks_depends_on_the_seed_alone() -> None:
    section = {"levels": EASY_LEVELS, "tasks": 5}
    draws = [[one.id for one in load("babyai", section | {"seed": seed}).tasks("test")] for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2] and len(set(draws[0])) == 5


def test_making_levels_prints_nothing_and_is_bounded(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    load("babyai", {"levels": ["GoToSeqS5R2", "Unlock"]}).tasks("test")
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(babyai, "_MAX_DRAWS", 5)
    with pytest.raises(StageError, match="babyai/GoToObj/3: cannot be generated"):
        babyai.make_simulator("GoToObj", 3)


def test_sequences_are_shown_without_their_order() -> None:
    assert babyai.shown_goal("open the red door, then open the blue door") == "open the red door, and open the blue door"
    assert babyai.shown_goal("go to the box after you go to the key") == "go to the box and go to the key"


@pytest.mark.parametrize(
    ("level", "seed", "subgoals"),
    [
        ("GoToRedBall", 1234, ["There is a red ball **", "There is a red ball ** right in front of you 1 steps away."]),
        ("PickupLoc", 1236, ["You are carrying a blue key."]),
        ("UnlockLocalDist", 1234, ["You are carrying a green key.", "There is a green open door **"]),
        ("UnlockPickupDist", 1234, ["You are carrying a red key.", "There is a yellow box **", "You are carrying a yellow box."]),
    ],
)
def test_derived_subgoals_say_what_to_see_to_carry_and_to_reach(level: str, seed: int, subgoals: list[str]) -> None:
    assert babyai.derive_subgoals(babyai.make_simulator(level, seed)) == subgoals


def test_instructions_that_no_pattern_can_tell_end_with_the_simulators_signal() -> None:
    for level in ("PutNextLocal", "GoToSeqS5R2", "OpenDoorsOrderN4"):
        subgoals = [babyai.derive_subgoals(babyai.make_simulator(level, seed)) for seed in range(6)]
        assert any(goals[-1] == "The task is completed" for goals in subgoals)


# The teacher -----------------------------------------------------------------------------------------------------------------------


def test_teacher_solves_agentboards_levels_within_30_steps() -> None:
    benchmark = load("babyai", {"seeds": [1234, 1235]})
    environments = [benchmark.environment(one) for one in benchmark.tasks("test")]
    for environment in environments:
        play(environment, 30)
    assert sum(environment.success for environment in environments) >= 0.95 * 56


def test_teacher_solves_easy_levels_within_8_steps() -> None:
    benchmark = load("babyai", {"levels": EASY_LEVELS, "train_tasks": 160})
    environments = [benchmark.environment(one) for one in benchmark.tasks("train")]
    for environment in environments:
        play(environment, 8)
    assert sum(environment.success for environment in environments) >= 157


@pytest.mark.parametrize("level", ["PickupLoc", "BlockedUnlockPickup", "UnlockToUnlock", "PutNextLocal", "BossLevel", "KeyInBox"])
def test_teacher_has_a_short_thought_and_a_valid_action_for_every_reachable_state(level: str) -> None:
    benchmark = load("babyai", {"levels": [level], "train_tasks": 3})
    generator = random.Random(5)
    for one in benchmark.tasks("train"):
        environment = babyai.BabyAIEnvironment(one)
        environment.reset()
        for _ in range(25):
            thought, action = environment.expert_action()
            assert action in environment.valid_actions()
            assert 0 < len(thought.split()) <= 12
            assert (thought, action) == environment.expert_action()  # asking changes nothing
            if environment.step(generator.choice([action, *generator.sample(environment.valid_actions(), 2)])).done:
                break


def test_teacher_looks_to_the_left_and_walks_on_once_all_sides_were_seen() -> None:
    environment = started([SEE, REACH], {(6, 1): "red ball"}, (6, 1), pose=(1, 6, 1))
    labels = []
    for _ in range(9):  # from corner to corner
        labels.append(environment.expert_action()[1])
        if environment.step(labels[-1]).done:
            break
    assert labels[:3] == ["turn left"] * 3
    assert "move forward" in labels and labels[-1] == "go to red ball 1" and environment.success


def test_equal_tasks_play_equally() -> None:
    one = load("babyai", {"levels": ["PickupDistDebug"]}).tasks("test")[1]

    def transcript() -> list[Any]:
        environment, generator = babyai.BabyAIEnvironment(one), random.Random(3)
        environment.reset()
        return [environment.step(generator.choice([environment.expert_action()[1], *environment.valid_actions()])) for _ in range(12)]

    assert transcript() == transcript()
