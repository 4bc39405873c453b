"""BFCL-v3 multi-turn: ground truth replays, the turn protocol, isolation of runs from each other."""

import ast
import importlib.resources
import json

import pytest
import yaml

from dllm_agents.agents.tool_calling import converse
from dllm_agents.benchmarks import bfcl_data
from dllm_agents.benchmarks.bfcl import BFCL
from dllm_agents.config import BFCL_MULTI_TURN, BFCLOptions
from dllm_agents.errors import StageError
from dllm_agents.records import Call


@pytest.fixture(scope="module")
def bfcl():
    benchmark = BFCL(BFCLOptions(per_category=10_000, categories=BFCL_MULTI_TURN))
    yield benchmark
    benchmark.checker.close()


@pytest.fixture(scope="module")
def tasks(bfcl):
    return {task.data["id"]: task for task in bfcl.tasks("test")}


def play(environment, answers):
    """The steps of an episode with the given answers."""
    return [environment.step(answer) for answer in answers]


@pytest.mark.parametrize(("category", "count"), [(category, 200 if category == "multi_turn_base" else 50) for category in BFCL_MULTI_TURN])
def test_ground_truth_is_valid(bfcl, tasks, category, count):
    """All 200 of one category here, of the others the published 50; benchmarks/bfcl_rates.py replays all 800."""
    drawn = {bfcl_data.entry(category, index)["id"] for index in bfcl_data.draw(len(bfcl_data.lines(category)))[:count]}
    chosen = [tasks[name] for name in sorted(drawn)]
    references = [[[turn] if turn else [] for turn in bfcl.checker.reference_turns(task.data["id"])] for task in chosen]
    verdicts = bfcl.checker.judge_turns([(task.data["id"], turns) for task, turns in zip(chosen, references, strict=True)])
    assert [task.id for task, verdict in zip(chosen, verdicts, strict=True) if not verdict.valid] == []
    assert len(verdicts) == count


def test_turns_and_truth_differ_only_in_the_listed_entry(tasks):
    listed = yaml.safe_load(importlib.resources.files("dllm_agents.benchmarks").joinpath("bfcl_data_errors.yaml").read_text())
    unequal = {name for name, task in tasks.items() if len(task.data["turns"]) != len(bfcl_data.answers(task.category)[name])}
    assert unequal == {name for name in listed if name.startswith("multi_turn")}


@pytest.mark.parametrize("category", BFCL_MULTI_TURN)
def test_the_teacher_plays_through_the_environment(bfcl, tasks, category):
    for index in (0, 57, 140):
        with bfcl.environment(tasks[f"{category}_{index}"]) as environment:
            environment.reset()
            done = False
            while not done:
                _, progress, done, valid = environment.step(environment.expert_action()[1])
                assert valid
            assert (environment.success, progress) == (True, 1.0)


def test_results_come_in_the_official_form_and_a_plain_reply_opens_the_next_turn(bfcl, tasks):
    task = tasks["multi_turn_base_0"]
    with bfcl.environment(task) as environment:
        assert environment.reset() == task.data["turns"][0][0]["content"] == task.goal
        step = environment.step("[cd(folder='document'), mkdir(dir_name='temp')]")
        first, second = ast.literal_eval(step.observation)  # the official form is Python's repr
        assert first == {"role": "tool", "name": "cd(folder='document')", "content": json.dumps({"current_working_directory": "document"})}
        assert second["name"] == "mkdir(dir_name='temp')"
        assert (step.done, step.valid, step.progress) == (False, True, 0.0)
        assert environment.step("All done.").observation == task.data["turns"][1][0]["content"]
        assert [message["role"] for message in environment.conversation] == ["system", "user", "assistant", "user", "assistant", "user"]


def test_missing_functions_are_offered_in_their_turn(bfcl, tasks):
    task = tasks["multi_turn_miss_func_0"]
    assert "sort" not in [function["name"] for function in task.data["functions"]]
    with bfcl.environment(task) as environment:
        environment.reset()
        assert "'name': 'sort'" not in environment.conversation[0]["content"]
        offered = play(environment, [""] * 3)[-1].observation
        assert "'name': 'sort'" in offered
        assert offered.endswith("I have updated some more functions you can choose from. What about now?")


def test_a_silent_agent_fails_by_an_empty_turn(bfcl, tasks):
    with bfcl.environment(tasks["multi_turn_base_0"]) as environment:
        environment.reset()
        steps = play(environment, [""] * 4)
        assert [step.done for step in steps] == [False, False, False, True]
        assert environment.verdict == (False, "multi_turn:empty_turn_model_response")
        assert environment.step("[ls()]").valid is False


def test_wrong_calls_get_the_official_error_types(bfcl, tasks):
    task = tasks["multi_turn_base_0"]
    reference = bfcl.checker.reference_turns("multi_turn_base_0")
    wrong_state = [[["mkdir(dir_name='other')"]], *([turn] for turn in reference[1:])]
    no_answer_read = [[reference[0]], [["cd(folder='temp')"]], [reference[2]], [reference[3]]]
    verdicts = bfcl.checker.judge_turns([(task.data["id"], turns) for turns in (wrong_state, no_answer_read, [[reference[0]]])])
    assert [verdict.error_type for verdict in verdicts] == [
        "multi_turn:instance_state_mismatch",
        "multi_turn:execution_response_mismatch",
        "multi_turn:force_terminated",
    ]


def test_more_than_twenty_calls_in_a_turn_end_the_episode_by_force(bfcl, tasks):
    with bfcl.environment(tasks["multi_turn_base_0"]) as environment:
        environment.reset()
        steps = play(environment, ["[ls(a=True)]"] * 21)
        assert [step.done for step in steps] == [False] * 20 + [True]
        assert environment.verdict == (False, "multi_turn:force_terminated")


def test_two_runs_of_one_task_do_not_meet(bfcl, tasks):
    with bfcl.environment(tasks["multi_turn_base_0"]) as one, bfcl.environment(tasks["multi_turn_base_0"]) as other:
        one.reset(), other.reset()
        one.step("[cd(folder='document')]")
        assert "/document" in one.step("[pwd()]").observation
        assert "/document" not in other.step("[pwd()]").observation


def test_an_episode_goes_on_in_a_new_process(bfcl, tasks):
    with bfcl.environment(tasks["multi_turn_base_0"]) as environment:
        environment.reset()
        environment.step("[cd(folder='document')]")
        bfcl.checker.worker._process.close()
        assert '"current_working_directory": "/workspace/document"' in environment.step("[pwd()]").observation


def test_a_call_that_ends_the_process_fails_the_episode_alone(bfcl, tasks):
    with bfcl.environment(tasks["multi_turn_base_15"]) as environment:
        environment.reset()
        step = environment.step("[power(base=9, exponent=999999999)]")
        assert not step.valid
        assert "timeout" in step.observation
        assert "result" in environment.step("[power(base=9, exponent=2)]").observation
        steps = play(environment, [""] * len(environment.task.data["turns"]))
        assert steps[-1].done
        assert environment.verdict == (False, "isolation:timeout")


def test_built_ins_and_positional_arguments_are_errors_of_the_call(bfcl, tasks):
    with bfcl.environment(tasks["multi_turn_base_0"]) as environment:
        environment.reset()
        assert "name 'unknown' is not defined" in environment.step("[unknown(x=1)]").observation
        assert not environment.step("[print(x=1)]").valid
        assert "missing 1 required positional argument" in environment.step("[cd('document')]").observation


class Script:
    """A backbone that replies from a list; keeps what it was sent."""

    def __init__(self, replies):
        self.replies, self.sent = list(replies), []

    def __call__(self, messages, *, seed):
        self.sent.append([dict(message) for message in messages])
        return Call(role="policy", seed=seed, text=self.replies.pop(0))


def test_a_policy_converses_in_the_official_protocol(bfcl, tasks):
    task = tasks["multi_turn_base_0"]
    turns = bfcl.checker.reference_turns("multi_turn_base_0")
    script = Script(text for turn in turns for text in (f"<think>[cd(x=1)]</think>\n[{', '.join(turn)}]", "Done."))
    with bfcl.environment(task) as environment:
        played = converse(environment, task, script, seed=1)
    assert (played.success, played.ended, len(played.steps)) == (True, "success", 8)
    assert script.sent[0] == bfcl.messages(task)
    assert [message["role"] for message in script.sent[3]] == ["system", *["user", "assistant"] * 3, "user"]
    assert len({step.call for step in played.steps}) == 8


def test_valid_actions_are_calls_that_decode_and_a_way_to_end_the_turn(bfcl, tasks):
    with bfcl.environment(tasks["multi_turn_base_15"]) as environment:
        environment.reset()
        actions = environment.valid_actions()
        assert len(actions) == len(environment.task.data["functions"]) + 1
        calls = [action for action in actions if action.startswith("[")][:20]  # more in one turn end the episode
        assert len(calls) == 20
        for action in calls:
            environment.step(action)
        assert len(environment.turns) == 1
        assert len(environment.turns[0]) == 20
        environment.step(next(action for action in actions if not action.startswith("[")))
        assert len(environment.turns) == 2


def test_single_answers_and_episodes_are_told_apart(bfcl, tasks):
    task = tasks["multi_turn_base_0"]
    assert bfcl.interactive(task)
    with pytest.raises(StageError, match="no single answer"):
        bfcl.judge(task, "[]")
    single = BFCL(BFCLOptions(categories=["simple"], per_category=1)).tasks("test")[0]
    assert not bfcl.interactive(single)
    with pytest.raises(TypeError, match="answered once"):
        bfcl.environment(single)
