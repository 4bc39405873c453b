"""ALFWorld: generated games that can be won, AgentBoard's scoring, disjoint scenes, published games read with suspicion."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from threading import Thread

import pytest

from dllm_agents.benchmarks import load
from dllm_agents.benchmarks.alfworld import SIMULATOR, THOUGHTS, ALFWorld, ALFWorldEnvironment, command
from dllm_agents.benchmarks.alfworld_games import TASK_TYPES, make, subgoals
from dllm_agents.benchmarks.alfworld_planner import Household
from dllm_agents.benchmarks.simulator_process import SimulatorProcess
from dllm_agents.benchmarks.simulators import thought
from dllm_agents.errors import StageError
from dllm_agents.records import Task

pytest.importorskip("alfworld")
os.environ.setdefault("ALFWORLD_DATA", str(Path(os.environ.get("TMPDIR", "/tmp")) / f"alfworld-{os.getuid()}"))

BEDROOM = 301  # the quickest of the evaluated floor plans


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ALFWorld]:
    made = load("alfworld", {"tasks": 2, "train_tasks": 40, "task_types": ["look_at_obj_in_light"]})
    assert isinstance(made, ALFWorld)
    yield made
    made._pool.close()


def with_options(benchmark: ALFWorld, **options: object) -> ALFWorld:
    """Another ALFWorld on the same simulators."""
    made = load("alfworld", options)
    assert isinstance(made, ALFWorld)
    made._pool = benchmark._pool
    return made


def task(kind: str = "pick_and_place_simple", scene: int = BEDROOM, seed: int = 0, **data: object) -> Task:
    game = make(scene, kind, seed)
    place = {"scene": scene, "asked": game.request, "subgoals": subgoals(kind, game.request), **data}
    one = {"id": f"alfworld/{kind}/{scene}-{seed}", "benchmark": "alfworld", "split": "test", "category": kind}
    return Task.model_validate({**one, "seed": seed, "version": "generated", "goal": f"{game.goal}.", "data": place})


def play(environment: ALFWorldEnvironment) -> list[float]:
    progress = []
    while (label := environment.expert_action()) is not None and len(progress) < 30:
        progress.append(environment.step(label[1]).progress)
    return progress


SCENES = {"pick_clean_then_place_in_recep": 403, "pick_heat_then_place_in_recep": 4, "pick_cool_then_place_in_recep": 4}


@pytest.mark.parametrize("kind", TASK_TYPES)
def test_the_teacher_wins_every_task_type_and_progress_counts_each_step_towards_it(benchmark: ALFWorld, kind: str) -> None:
    one = task(kind, SCENES.get(kind, BEDROOM))
    with benchmark.environment(one) as environment:
        assert environment.reset().startswith("You are in the middle of a room. Looking quickly around you, you see ")
        progress = play(environment)
        assert environment.success and environment.executed is None
    total = sum(times for _, times in one.data["subgoals"]) + 1
    gains = [round((after - before) * total) for before, after in pairwise([0.0, *progress])]
    assert set(gains[:-1]) == {0, 1} and gains[-1] == 2 and progress[-1] == 1.0  # the last step is a sub-goal, and wins


def test_the_teacher_finds_its_way_back_from_anywhere(benchmark: ALFWorld) -> None:
    rng = random.Random(0)
    for kind in ("pick_two_obj_and_place", "look_at_obj_in_light"):
        with benchmark.environment(task(kind, seed=1)) as environment:
            environment.reset()
            for _ in range(40):
                if not environment.success:
                    environment.step(rng.choice(environment.valid_actions()))
            play(environment)
            assert environment.success


def test_the_same_task_is_the_same_game_in_every_process(benchmark: ALFWorld) -> None:
    one = task("pick_two_obj_and_place", seed=7)
    texts: dict[int, list[str]] = {}

    def run(index: int) -> None:
        rng = random.Random(3)
        with benchmark.environment(one) as environment:
            texts[index] = [environment.reset()]
            for _ in range(15):
                texts[index].append(environment.step(rng.choice(environment.valid_actions())).observation)

    threads = [Thread(target=run, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts[0] == texts[1] and len(set(texts[0])) > 5


def test_the_engine_says_the_same_words_as_without_our_shortcuts(benchmark: ALFWorld) -> None:
    script = (
        "import random, textworld\n"
        "from pathlib import Path\n"
        "from alfworld import info\n"
        "from alfworld.agents.environment.alfred_tw_env import AlfredDemangler\n"
        "from textworld.envs import PddlEnv\n"
        "from dllm_agents.benchmarks.alfworld_games import make\n"
        f"game = make({BEDROOM}, 'pick_two_obj_and_place', 5)\n"
        "grammar = Path(info.ALFRED_TWL2_PATH).read_text().replace('UNKNOWN GOAL', game.goal)\n"
        "env = AlfredDemangler(PddlEnv(textworld.EnvInfos(won=True, admissible_commands=True)))\n"
        "env.load({'pddl_domain': Path(info.ALFRED_PDDL_PATH).read_text(), 'grammar': grammar, 'pddl_problem': game.problem})\n"
        "state, rng = env.reset(), random.Random(1)\n"
        "for _ in range(10):\n"
        "    state, _, _ = env.step(rng.choice(state['admissible_commands']))\n"
        "    print(repr((state.feedback, list(state['admissible_commands']))))\n"
    )
    plain = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    said = [eval(line) for line in plain.stdout.splitlines() if line.startswith("(")]
    worker = benchmark._pool.take()
    worker.call("load", 120, scene=BEDROOM, task_type="pick_two_obj_and_place", seed=5)
    rng, admissible = random.Random(1), worker.call("admissible", 30)
    for feedback, commands in said:
        answer = worker.call("step", 30, command=rng.choice(admissible))
        assert (answer["observation"], answer["admissible"]) == (feedback, commands)
        admissible = answer["admissible"]
    assert len(said) == 10
    benchmark._pool.give(worker)


def test_splits_share_no_scene_and_say_that_they_are_generated(benchmark: ALFWorld) -> None:
    train, test = benchmark.tasks("train"), benchmark.tasks("test")
    assert len(train) == 40 and len(test) == 2
    assert len({one.id for one in train + test}) == 42
    assert not {one.data["scene"] for one in train} & {one.data["scene"] for one in test}
    assert all(one.version.startswith("generated games, alfworld ") for one in train + test)
    assert benchmark.tasks("train") == train
    assert with_options(benchmark, train_tasks=6).tasks("train")[0].category in TASK_TYPES
    assert {one.category for one in with_options(benchmark, train_tasks=6).tasks("train")} == set(TASK_TYPES)


@pytest.mark.parametrize("kind", TASK_TYPES)
def test_games_make_sense(kind: str) -> None:
    from alfworld.gen import constants

    from dllm_agents.benchmarks.alfworld_games import _items, _places, _targets, scenes

    rng = random.Random(kind)
    for scene in rng.sample(scenes(kind, "train"), 10):
        targets = _targets(scene, kind)
        wanted = rng.choice(sorted(targets))
        receptacle = rng.choice(targets[wanted])
        items = _items(scene, kind, wanted, receptacle, rng)
        assert len({item.id for item in items}) == len(items)
        assert all(item.type in constants.VAL_RECEPTACLE_OBJECTS[item.place.type] for item in items if item.type != "DeskLamp")
        count = sum(item.type == wanted for item in items)
        assert count >= (2 if kind == "pick_two_obj_and_place" else 1)
        assert not any(item.type == wanted and item.place.type == receptacle for item in items)  # not won before it begins
        assert len({place.id for place in _places(scene)}) == len(_places(scene))


def test_put_is_move_and_the_final_stop_is_dropped() -> None:
    assert command(" put mug 1 in/on desk 2. ") == "move mug 1 to desk 2"
    assert command("put mug 1 in desk 2") == command("put mug 1 on desk 2") == command("move mug 1 to desk 2") == "move mug 1 to desk 2"
    assert command("go to desk 1.") == "go to desk 1"
    assert "mug 1" in thought(THOUGHTS, "take mug 1 from desk 2")


def test_unknown_and_hostile_actions_change_nothing(benchmark: ALFWorld) -> None:
    with benchmark.environment(task()) as environment:
        environment.reset()
        for hostile in ("", "\0\ud800\n", "x" * 100_000, "go to", "{__import__('os').getcwd()}", "go to bed 1\nlook", "take everything"):
            assert environment.step(hostile) == ("Nothing happens.", 0.0, False, False)
        assert environment.step("inventory").observation == "You are not carrying anything."


def test_agentboards_look_and_list_of_actions(benchmark: ALFWorld) -> None:
    with benchmark.environment(task()) as environment:
        room = environment.reset()
        assert environment.step("look").observation == room
        seen = environment.step("go to bed 1").observation
        environment.step("inventory")
        assert environment.step("look").observation == seen
        actions = environment.valid_actions()
        assert actions == sorted(set(actions)) and "look" in actions
        assert environment.step("check valid actions").observation.startswith("Choose an action from these valid actions: ")


def test_the_nearest_command_is_taken_above_half_and_counted(benchmark: ALFWorld) -> None:
    made = with_options(benchmark, nearest_action=True)
    with made.environment(task()) as environment:
        environment.reset()
        assert environment.step("goto the bed 1").observation.startswith("You arrive at bed 1.")
        assert environment.executed == "go to bed 1"
        assert environment.step("go to desk 1").valid
        assert environment.executed is None
        assert environment.step("zzzzzzzzzz").observation == "Nothing happens." and environment.executed is None
    with benchmark.environment(task()) as environment:
        environment.reset()
        assert environment.step("goto the bed 1").observation == "Nothing happens."


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A data folder as alfworld-download lays it out, holding generated games."""
    for split, scene in (("valid_unseen", BEDROOM), ("train", 307)):
        for seed in range(2):
            game = make(scene, "pick_and_place_simple", seed)
            folder = tmp_path / "json_2.1.1" / split / f"pick_and_place_simple-X-None-Y-{scene}" / f"trial_{seed}"
            folder.mkdir(parents=True)
            grammar = f'"task": [{{"rhs": "Your task is to: {game.goal}."}}]'
            (folder / "game.tw-pddl").write_text(
                json.dumps({"pddl_domain": "", "grammar": grammar, "pddl_problem": game.problem, "solvable": True})
            )
            names = {"object_target": game.request["object"], "parent_target": game.request["receptacle"], "toggle_target": ""}
            (folder / "traj_data.json").write_text(json.dumps({"pddl_params": names}))
    return tmp_path


def test_published_games_are_played_with_agentboards_sub_goals(benchmark: ALFWorld, published: Path, tmp_path: Path) -> None:
    patterns = ["You arrive at", "You pick up", "You put the .* in/on the"]
    listed = tmp_path / "list.jsonl"
    description = f"pick_and_place_simple-X-None-Y-{BEDROOM}/trial_0"
    listed.write_text(json.dumps({"subgoals": patterns, "additional_info": {"description": description}}) + "\n")
    made = load("alfworld", {"data": str(published), "task_list": str(listed), "train_tasks": 2})
    tasks = made.tasks("test")
    assert [one.id for one in tasks] == [f"alfworld/{description}", f"alfworld/{description[:-1]}1"]
    assert tasks[0].version.startswith("published games (evaluated: valid_unseen, training: train), ") and "sha256:" in tasks[0].version
    assert {one.version for one in tasks + made.tasks("train")} == {made.version}
    assert not {one.data["game"] for one in tasks} & {one.data["game"] for one in made.tasks("train")}
    assert tasks[0].goal == f"{make(BEDROOM, 'pick_and_place_simple', 0).goal}."
    with made.environment(tasks[0]) as environment:
        assert isinstance(environment, ALFWorldEnvironment)
        environment.reset()
        progress = play(environment)
        assert environment.success and set(progress) == {0.25, 0.5, 1.0}
        assert all(environment._matched)  # the third says "put", the engine says "move"
        escape = tasks[0].model_copy(update={"data": {**tasks[0].data, "game": "../../etc/passwd"}})
        with pytest.raises(StageError, match="is not below benchmarks.alfworld.data"):
            made.environment(escape).reset()
    made._pool.close()  # type: ignore[attr-defined]


def test_a_published_game_cannot_bring_its_own_code(published: Path) -> None:
    path = next((published / "json_2.1.1" / "valid_unseen").glob("*/trial_0/game.tw-pddl"))
    document = json.loads(path.read_text())
    document["grammar"] = "Your task is to: {__import__('os').system('true')}."
    path.write_text(json.dumps(document))
    with pytest.raises(StageError, match="not a game with pddl_problem and a goal in plain words"):
        load("alfworld", {"data": str(published)}).tasks("test")


def test_configuration_mistakes_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"task_types: unknown task type 'juggle'; allowed: pick_and_place_simple"):
        load("alfworld", {"task_types": ["juggle"]})
    with pytest.raises(StageError, match=r"no games; set benchmarks\.alfworld\.data"):
        load("alfworld", {"data": str(tmp_path)}).tasks("test")
    with pytest.raises(StageError, match=r"set benchmarks\.alfworld\.data too"):
        load("alfworld", {"task_list": "list.jsonl"})


def test_the_planner_puts_away_what_it_does_not_need() -> None:
    facts = [
        ("atlocation", "agent1", "loc1"),
        ("receptacleatlocation", "desk_1", "loc1"),
        ("receptacletype", "desk_1", "desktype"),
        ("objecttype", "pen_1", "pentype"),
        ("objecttype", "book_1", "booktype"),
        ("cancontain", "desktype", "pentype"),
        ("inreceptacle", "book_1", "desk_1"),
        ("holds", "agent1", "pen_1"),
    ]
    names = {"desk_1": "desk 1", "pen_1": "pen 1", "book_1": "book 1"}
    asked = {"object": "Book", "receptacle": "Bed", "lamp": "DeskLamp"}
    assert Household(facts, names).next_command("look_at_obj_in_light", asked) == "move pen 1 to desk 1"
    assert Household(facts[:-1], names).next_command("look_at_obj_in_light", asked) == "take book 1 from desk 1"
    assert Household(facts[:-1], names).next_command("pick_and_place_simple", asked) is None  # no bed here


def test_the_worker_is_bounded_in_memory() -> None:
    worker = SimulatorProcess(SIMULATOR, {"data": None}, memory_mb=2048)
    worker.call("load", 120, scene=BEDROOM, task_type="look_at_obj_in_light", seed=0)
    limits = Path(f"/proc/{worker.pid}/limits").read_text()
    assert str(2048 << 20) in limits.partition("Max address space")[2].splitlines()[0]
    worker.close()
