"""BFCL-v3: the published draw, disjoint training tasks, official prompt, references and random answers."""

import importlib.resources
import json
import random
import subprocess
import sys

import pytest
import yaml

from dllm_agents.benchmarks import bfcl_answers, bfcl_data, load
from dllm_agents.benchmarks.base import Verdict
from dllm_agents.benchmarks.bfcl import BFCL
from dllm_agents.config import BFCL_MULTI_TURN, BFCL_SINGLE_TURN, BFCLOptions
from dllm_agents.errors import StageError

EVERYTHING = 10_000


@pytest.fixture(scope="module")
def bfcl():
    benchmark = BFCL(BFCLOptions())
    yield benchmark
    benchmark.checker.close()


@pytest.fixture(scope="module")
def everything():
    benchmark = BFCL(BFCLOptions(per_category=EVERYTHING, categories=BFCL_SINGLE_TURN))
    yield benchmark
    benchmark.checker.close()


def published_draw(category: str) -> list[str]:
    """DiffuAgent's rule, spelt out again on the package's file."""
    lines = importlib.resources.files("bfcl_eval").joinpath("data", f"BFCL_v3_{category}.json").read_text().splitlines()
    ids = [json.loads(line)["id"] for line in lines]
    return ids if len(ids) <= 50 else [ids[index] for index in sorted(random.Random(42).sample(range(len(ids)), 50))]


def test_test_tasks_are_the_published_758_ids_in_order(bfcl):
    tasks = bfcl.tasks("test")
    assert [task.data["id"] for task in tasks] == [
        name for category in BFCL_SINGLE_TURN + BFCL_MULTI_TURN for name in published_draw(category)
    ]
    assert len(tasks) == 758


def test_ids_and_versions_name_their_source(bfcl):
    task = bfcl.tasks("test")[0]
    assert task.id == f"bfcl/simple/{task.data['id']}"
    assert task.version == "bfcl-eval 2025.7.17"
    assert task.goal == task.data["question"]


def test_smaller_draws_nest_in_larger_ones():
    def ids(**options):
        return {task.id for task in BFCL(BFCLOptions(**options)).tasks("test")}

    assert ids(per_category=5) < ids(per_category=20) < ids(per_category=50) < ids(per_category=60)
    assert ids(tasks=17) < ids(tasks=40) < ids()
    assert len(ids(tasks=40)) == 40


def test_a_limited_draw_is_spread_over_the_categories():
    categories = [task.category for task in BFCL(BFCLOptions(tasks=34)).tasks("test")]
    assert {categories.count(category) for category in BFCL_SINGLE_TURN + BFCL_MULTI_TURN} == {2}


@pytest.mark.parametrize("per_category", [10, 50, 120])
def test_training_tasks_are_outside_the_758_and_outside_the_evaluated(per_category):
    benchmark = BFCL(BFCLOptions(per_category=per_category, train_tasks=EVERYTHING))
    train = {task.data["id"] for task in benchmark.tasks("train")}
    published = {name for category in BFCL_SINGLE_TURN + BFCL_MULTI_TURN for name in published_draw(category)}
    assert not train & published
    assert not train & {task.data["id"] for task in benchmark.tasks("test")}
    assert len(train) > 1000


def test_training_tasks_follow_the_seed():
    def ids(seed):
        return [task.id for task in BFCL(BFCLOptions(train_tasks=50), seed).tasks("train")]

    assert len(ids(1)) == 50
    assert ids(1) == ids(1) != ids(2)


def test_generated_calls_pass_bfcls_own_checker_and_share_no_name_with_it(bfcl):
    benchmark = BFCL(BFCLOptions(train_tasks=0, generated_calls=600))
    tasks = benchmark.tasks("train")
    assert len(tasks) == 600 and tasks == BFCL(BFCLOptions(train_tasks=0, generated_calls=600)).tasks("train")
    assert {task.category.removeprefix("generated_") for task in tasks} == {
        "simple", "multiple", "parallel", "parallel_multiple", "irrelevance"
    }  # fmt: skip
    published = {
        function["name"] for category in BFCL_SINGLE_TURN for line in bfcl_data.lines(category) for function in json.loads(line)["function"]
    }
    assert not published & {function["name"] for task in tasks for function in task.data["functions"]}
    assert all(verdict.valid for verdict in bfcl.judge_many([(task, bfcl.reference_answer(task)) for task in tasks]))
    calls = [task for task in tasks if task.data["truth"]]
    refusals = [task for task in tasks if not task.data["truth"]]
    assert 0.15 < len(refusals) / len(tasks) < 0.25
    wrong = [bfcl.reference_answer(task).replace("=", "=1 and ", 1) for task in calls]
    assert not any(verdict.valid for verdict in bfcl.judge_many(list(zip(calls, wrong, strict=True))))
    called = [bfcl_answers.random_call(task.data["functions"], "Python", random.Random(1)) for task in refusals]
    assert not any(verdict.valid for verdict in bfcl.judge_many(list(zip(refusals, called, strict=True))))


def test_nothing_left_to_train_on_says_so():
    with pytest.raises(StageError, match="benchmarks.bfcl: no entry is left to train on"):
        BFCL(BFCLOptions(categories=["javascript"])).tasks("train")


def test_drawing_tasks_imports_no_checker():
    """In a process of its own: other tests import it."""
    program = (
        "import sys; from dllm_agents.benchmarks.bfcl import BFCL; from dllm_agents.config import BFCLOptions; "
        "BFCL(BFCLOptions()).tasks('test'); sys.exit('bfcl_eval.model_handler.utils' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_ground_truth_does_not_reach_the_task(bfcl):
    for task in bfcl.tasks("test"):
        assert set(task.data) <= {"id", "language", "question", "messages", "functions", "turns", "held_back"}


def test_messages_are_the_official_prompt(bfcl):
    tasks = {task.category: task for task in bfcl.tasks("test")}
    system, user = bfcl.messages(tasks["simple"])
    assert system["role"] == "system"
    assert system["content"].startswith("You are an expert in composing functions.")
    assert f"'name': '{tasks['simple'].data['functions'][0]['name']}'" in system["content"]
    assert "Note that the provided function is in Python 3 syntax." in system["content"]
    assert user == {"role": "user", "content": tasks["simple"].goal}
    assert "is in Java 8 SDK syntax." in bfcl.messages(tasks["java"])[0]["content"]
    assert "is in JavaScript syntax." in bfcl.messages(tasks["javascript"])[0]["content"]


def test_a_published_system_message_follows_the_official_one(bfcl):
    task = next(task for task in bfcl.tasks("test") if task.data["messages"][0]["role"] == "system")
    system = bfcl.messages(task)[0]["content"]
    assert system.startswith("You are an expert in composing functions.")
    assert system.endswith(task.data["messages"][0]["content"])
    assert task.data["messages"][0]["content"] not in task.goal


def test_every_reference_is_valid_but_for_the_listed_data_errors(everything):
    listed = yaml.safe_load(importlib.resources.files("dllm_agents.benchmarks").joinpath("bfcl_data_errors.yaml").read_text())
    tasks = everything.tasks("test")
    verdicts = everything.judge_many([(task, everything.reference_answer(task)) for task in tasks])
    assert {task.data["id"] for task, verdict in zip(tasks, verdicts, strict=True) if not verdict.valid} == {
        name for name in listed if not name.startswith("multi_turn")
    }


def test_a_refusal_is_right_only_where_nothing_is_to_be_called(bfcl):
    tasks = [task for task in bfcl.tasks("test") if task.category in BFCL_SINGLE_TURN]
    for task, verdict in zip(tasks, bfcl.judge_many([(task, "") for task in tasks]), strict=True):
        assert verdict.valid == task.category.endswith("irrelevance")


def test_random_answers_decode_but_rarely_pass(everything):
    generator = random.Random(0)
    tasks = [task for task in everything.tasks("test") if task.data["functions"]]
    verdicts = everything.judge_many([(task, everything.random_answer(task, generator)) for task in tasks])
    checked = [verdict for task, verdict in zip(tasks, verdicts, strict=True) if not bfcl_data.is_relevance(task.category)]
    assert sum(verdict.valid for verdict in checked) < 0.02 * len(checked)
    assert not [
        verdict
        for verdict in checked
        if str(verdict.error_type).startswith(("ast_decoder", "isolation", "type_error:java", "type_error:js"))
    ]


def test_random_answers_repeat_with_their_generator(bfcl):
    task = bfcl.tasks("test")[0]
    assert bfcl.random_answer(task, random.Random(3)) == bfcl.random_answer(task, random.Random(3))


@pytest.mark.parametrize(
    ("completion", "verdict"),
    [
        ("[{name}(base=10, height=5)]", Verdict(True)),
        ("{name}(base=10, height=5)", Verdict(True)),
        ("```\n[{name}(base=10, height=5)]\n```", Verdict(True)),
        ("[{name}(base=5*2, height=5)]", Verdict(True)),
        ("```python\n[{name}(base=10, height=5)]\n```", Verdict(False, "ast_decoder:decoder_failed")),
        ("Sure: [{name}(base=10, height=5)]", Verdict(False, "ast_decoder:decoder_failed")),
        ("", Verdict(False, "ast_decoder:decoder_failed")),
        ("[{name}(10, 5)]", Verdict(False, "simple_function_checker:missing_required")),
        ("[{name}(base=11, height=5)]", Verdict(False, "value_error:others")),
        ("[{name}(base='10', height=5)]", Verdict(False, "type_error:simple")),
        ("[other(base=10, height=5)]", Verdict(False, "simple_function_checker:wrong_func_name")),
        ("[{name}(base=10, height=5), {name}(base=10, height=5)]", Verdict(False, "simple_function_checker:wrong_count")),
    ],
)
def test_the_official_rules_on_known_answers(everything, completion, verdict):
    task = everything.tasks("test")[0]
    assert task.data["id"] == "simple_0"
    assert everything.judge(task, completion.replace("{name}", "calculate_triangle_area")) == verdict


def test_what_stands_behind_a_thought_is_judged_as_bfcl_s_handlers_of_reasoning_models_pass_it_on(bfcl):
    task = next(task for task in bfcl.tasks("test") if task.category == "simple")
    answer = bfcl.reference_answer(task)
    verdicts = {
        answer: True,
        f"<think>[f(x=1)]</think>\n\n{answer}": True,
        f"as the template began\n</think>\n{answer}": True,
        f"<think>x</think> so: {answer}": False,
        f"<think>x {answer}": False,
        f"{answer}<think>x</think>": False,
    }
    assert {text: bfcl.judge(task, text).valid for text in verdicts} == verdicts


def test_a_task_of_another_version_is_refused(bfcl):
    task = bfcl.tasks("test")[0].model_copy(update={"version": "bfcl-eval 2025.8.25"})
    with pytest.raises(StageError, match=r"bfcl/simple/.*made with bfcl-eval 2025.8.25, but bfcl-eval 2025.7.17"):
        bfcl.judge(task, "")


def test_loads_by_name():
    assert isinstance(load("bfcl", {"per_category": 1}), BFCL)
