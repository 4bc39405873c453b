"""BFCL-v4's single-turn categories from a folder of its layout: made by hand here, and judged by the installed checkers."""

import json

import pytest

from dllm_agents.benchmarks.bfcl import BFCL
from dllm_agents.config import BFCLOptions, Config
from dllm_agents.errors import StageError

AREA = {
    "name": "area.triangle",
    "description": "Area of a triangle.",
    "parameters": {
        "type": "dict",
        "properties": {"base": {"type": "integer", "description": "base"}, "unit": {"type": "string", "description": "unit"}},
        "required": ["base"],
    },
}


def ask(name, text):
    return {"id": name, "question": [[{"role": "user", "content": text}]], "function": [AREA]}


FILES = {
    "BFCL_v4_simple_python.json": [ask(f"simple_python_{number}", f"What is the area with a base of {number}?") for number in range(4)],
    "possible_answer/BFCL_v4_simple_python.json": [
        {"id": f"simple_python_{number}", "ground_truth": [{"area.triangle": {"base": [number], "unit": ["cm", ""]}}]}
        for number in range(4)
    ],
    "BFCL_v4_live_parallel.json": [ask("live_parallel_0-0-0", "Bases of 1 and 2?")],
    "possible_answer/BFCL_v4_live_parallel.json": [
        {"id": "live_parallel_0-0-0", "ground_truth": [{"area.triangle": {"base": [number], "unit": [""]}} for number in (1, 2)]}
    ],
    "BFCL_v4_irrelevance.json": [ask("irrelevance_0", "Who wrote it?")],
    "BFCL_v4_live_relevance.json": [ask("live_relevance_0-0-0", "An area, please.")],
}
CATEGORIES = ["simple", "live_parallel", "irrelevance", "live_relevance"]


@pytest.fixture
def folder(tmp_path):
    for name, lines in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def test_entries_are_read_and_judged_by_the_truth_beside_them(folder):
    bfcl = BFCL(BFCLOptions(data=str(folder), categories=CATEGORIES, train_tasks=0))
    tasks = bfcl.tasks("test")
    assert [task.data["id"] for task in tasks] == [f"simple_python_{number}" for number in range(4)] + [
        "live_parallel_0-0-0", "irrelevance_0", "live_relevance_0-0-0"
    ]  # fmt: skip
    assert {task.version for task in tasks} == {bfcl.version} and bfcl.version.startswith("BFCL-v4 sha256:")
    assert "area.triangle" in bfcl.messages(tasks[0])[0]["content"] and tasks[0].goal == "What is the area with a base of 0?"
    right = bfcl.judge_many([(task, bfcl.reference_answer(task)) for task in tasks])
    assert [verdict.valid for verdict in right] == [True] * 7
    said = ["[area.triangle(base=9)]", "[area.triangle(base=1)]", "[area.triangle(base=1)]", "I cannot."]
    wrong = bfcl.judge_many(list(zip([tasks[0], *tasks[4:]], said, strict=True)))
    assert [verdict.valid for verdict in wrong] == [False] * 4
    bfcl.checker.close()


def test_what_is_read_is_in_the_version_and_draws_nest(folder):
    def bfcl(**options):
        return BFCL(BFCLOptions(data=str(folder), categories=["simple"], **options))

    first = bfcl().version
    two, three = ({task.data["id"] for task in bfcl(per_category=count).tasks("test")} for count in (2, 3))
    assert two < three and len(two) == 2
    with pytest.raises(StageError, match="no entry is left to train on"):
        bfcl().tasks("train")
    path = folder / "BFCL_v4_simple_python.json"
    path.write_text(path.read_text().replace("base of 3", "base of 4"))
    assert bfcl().version != first


@pytest.mark.parametrize(
    "name, text, said",
    [
        ("BFCL_v4_simple_python.json", '{"id": "a"}\n', r"BFCL_v4_simple_python.json:1: not an entry of BFCL-v4; each line is"),
        ("BFCL_v4_simple_python.json", '["id"]\n', r"BFCL_v4_simple_python.json:1: not an entry"),
        ("BFCL_v4_simple_python.json", "\n{", r"BFCL_v4_simple_python.json:2: not an entry"),
        (
            "possible_answer/BFCL_v4_simple_python.json",
            "",
            "has no ground truth of simple_python_0, which BFCL_v4_simple",
        ),
        ("possible_answer/BFCL_v4_simple_python.json", '{"id": "x", "ground_truth": [1]}', r"possible_answer.*:1: not an entry"),
        ("BFCL_v4_simple_python.json", None, r"No such file or directory; correct benchmarks.bfcl.data"),
    ],
)
def test_a_file_in_another_layout_is_one_line(folder, name, text, said):
    (folder / name).unlink() if text is None else (folder / name).write_text(text)
    with pytest.raises(StageError, match=said):
        BFCL(BFCLOptions(data=str(folder), categories=["simple"])).tasks("test")


@pytest.mark.parametrize(
    "options, said",
    [
        ({"categories": ["memory"]}, "memory is not played: BFCL-v4's memory tasks need the stores"),
        ({"categories": ["web_search"]}, "web_search is not played: BFCL-v4's web search asks a paid search service"),
        ({"data": "x", "categories": ["multi_turn_base"]}, "multi_turn_base of BFCL-v4 needs its simulators"),
        ({"categories": ["simpel"]}, "unknown category 'simpel'; allowed: simple"),
    ],
)
def test_what_is_not_played_is_one_line(options, said):
    with pytest.raises(ValueError, match=said):
        Config.model_validate({"benchmarks": {"bfcl": options}})
