"""The safe parser changes no verdict: perturbed answers of every category against the official code with its own eval."""

import random

import pytest

from dllm_agents.benchmarks import bfcl_data, bfcl_worker
from dllm_agents.benchmarks.bfcl import BFCL
from dllm_agents.config import BFCL_SINGLE_TURN, BFCLOptions

VALUES = [
    "3 + 4", "2 ** 10", "-5", "--5", "+5", "~5", "not True", "'a' 'b'", "'a' + 'b'", "'ab' * 3", "3 * [1]", "[1, 2] + [3]",
    "(1, 2) + (3,)", "7 // 2", "7 % 4", "1 / 0", "1.5 * 2", "1 << 4", "6 & 3", "6 | 3", "6 ^ 3", "'%s-%d' % ('a', 3)", "name", "a.b",
    "a.b.c(1)", "f(1)", "f(x=1)", "f(x=g(y=2))", "name + 1", "f(1) + 1", "a.b + 1", "a[0] + 1", "a[0]", "a[1:2]", "max + 1", "int | str",
    "int | None", "{'k': 1}", "{'k': [1, {'q': 2}]}", "{1, 2}", "{**d}", "[*a]", "lambda x: x", "lambda: 1 + 1", "[i for i in a]",
    "f'{x}'", "'a' + f'{x}'", "x if y else z", "1 < 2", "a and b", "None", "...", "True", "1_000", "0x1F", "1e3", "3j", "b'x'",
    "10**3 + name", "(1 < 2) + name", "[name][0] + 1", "'a'.foo + 1", "value + 1", "(yield)", "await x", "x := 1", "'unclosed", "1 +",
    "(", "9" * 5000, "'é漢字'", "'\\x00'", "[[1, 2], [3]]", "[{'a': 1}]", "-'a'", "-name", "-[1]", "[1, 2] - 1", "{'a': 1} | {'b': 2}", "@",
    "new int[]{1, 2}", "5L", "5n", '"text"', "new ArrayList<>(Arrays.asList(1, 2))", '{"a": 1}', "() => 1", "x.y()", "null", "undefined",
    "'c'", "-1.5f",
]  # fmt: skip


def perturbed(answer: str, generator: random.Random) -> list[str]:
    """Answers as models get them wrong: cut, wrapped, renamed, retyped, with other values."""
    position = generator.randrange(len(answer) + 1)
    head, equals, tail = answer.partition("=")
    value = generator.choice(VALUES)
    return [
        answer[:position],
        answer[:position] + generator.choice("()[]{}'\",=.` \n\\0x") + answer[position:],
        answer.strip("[]"),
        f"```\n{answer}\n```",
        f"```python\n{answer}\n```",
        f"<think>so</think>{answer}",
        answer.replace("(", "_(", 1),
        answer.replace("=", "= ", 1).replace(",", " ,"),
        f"{answer[:-1]}, {answer[1:]}",
        f"{head}{equals}{value}, {tail}",
        f"{head}{equals}{value})]",
        f"[{head.strip('[')}={value})]" if equals else value,
        answer.replace("'", '"'),
        answer.replace("True", "true").replace("False", "false"),
        answer.replace("=", ":"),
    ]


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """bfcl-eval in this process, with its own eval: only for the harmless answers made here."""
    bfcl_worker.import_bfcl(tmp_path_factory.mktemp("bfcl"))
    return bfcl_worker.judge


def test_perturbed_answers_get_the_official_verdict(official):
    benchmark = BFCL(BFCLOptions(per_category=20, categories=BFCL_SINGLE_TURN))
    generator = random.Random(7)
    answers = [
        (task, text)
        for task in benchmark.tasks("test")
        for reference in (benchmark.reference_answer(task), benchmark.random_answer(task, generator))
        for text in perturbed(reference, generator)
    ]
    verdicts = benchmark.judge_many(answers)
    benchmark.checker.close()
    assert not hasattr(bfcl_worker.decoding, "eval")
    different = [
        (task.data["id"], text, verdict.error_type, expected)
        for (task, text), verdict in zip(answers, verdicts, strict=True)
        if (expected := official(task.category, task.data["id"], text)) != verdict.error_type
    ]
    assert different == []
    assert {task.category for (task, _), verdict in zip(answers, verdicts, strict=True) if verdict.valid} == set(BFCL_SINGLE_TURN)


@pytest.mark.parametrize("value", VALUES)
def test_every_kind_of_value_is_decoded_as_officially(official, value):
    def decoded(text):
        try:
            return repr(bfcl_worker.decode(text, "Python"))
        except Exception as error:
            return type(error).__name__

    text = f"[f(x={value})]"
    expected = decoded(text)
    bfcl_worker.replace_eval()
    try:
        assert decoded(text) == expected
    finally:
        del bfcl_worker.decoding.eval, bfcl_worker.simulation.eval


def test_languages_follow_the_category():
    assert [bfcl_data.language(category) for category in ("java", "javascript", "live_simple")] == ["Java", "JavaScript", "Python"]
