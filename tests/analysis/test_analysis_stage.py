"""The classify-failures stage on BFCL's own tasks: tools come from the task record."""

import json

import pytest

from dllm_agents import benchmarks
from dllm_agents.analysis.stage import classify_file, offered_tools, score_file
from dllm_agents.config import Config
from dllm_agents.errors import StageError
from dllm_agents.files import iter_jsonl, write_jsonl
from dllm_agents.frames import read_frame, write_frame
from dllm_agents.records import Call, Episode, EpisodeStep, Failure, Score, Task, ToolMeasures, TracedCall, TracedEpisode


@pytest.fixture(scope="module")
def config() -> Config:
    categories = ["simple", "java", "multi_turn_miss_func"]
    return Config.model_validate({"scale": "test", "benchmarks": {"bfcl": {"per_category": 2, "categories": categories}}})


@pytest.fixture(scope="module")
def tasks(config) -> list[Task]:
    return benchmarks.load("bfcl", config).tasks("test")


def answered(task: Task, text: str) -> Episode:
    step = EpisodeStep(index=0, action=text)
    fields = {"benchmark": "bfcl", "category": task.category, "goal": "g", "agent": "a", "seed": 1, "max_steps": 1}
    return Episode(task_id=task.id, steps=[step], answer=text, ended="answered", **fields)


def test_the_rules_read_answers_with_the_tools_of_the_task_beside_the_official_verdict(config, tasks, tmp_path):
    python, java = (next(task for task in tasks if task.category == category) for category in ("simple", "java"))
    name = python.data["functions"][0]["name"]
    write_jsonl(tmp_path / "t.jsonl", tasks)
    write_jsonl(tmp_path / "e.jsonl", [answered(python, f"[{name}(no_such_parameter=1)]"), answered(java, "[f(x=5L)]")])
    files = [tmp_path / name for name in ("e.jsonl", "s.parquet", "t.jsonl", "f.parquet")]
    score_file(config, files[0], files[2], files[1])
    classify_file(config, *files)
    found = read_frame(files[3], Failure)
    of_python = {row["source"]: row for _, row in found[found["category"] == "simple"].iterrows()}
    assert (of_python["checker"]["kind"], of_python["beside checker"]["kind"]) == ("parameter_value", "parameter_value")
    assert of_python["checker"]["detail"].startswith("simple_function_checker:")
    assert of_python["beside checker"]["detail"] in (f"{name}: required", f"{name}: additionalProperties")
    assert set(found[found["category"] == "java"]["source"]) == {"checker"}  # its values are not Python's


def test_right_calls_in_a_layout_that_is_not_read_are_told_beside_the_official_score(config, tasks, tmp_path):
    categories = ["simple", "irrelevance"]
    config = Config.model_validate({"benchmarks": {"bfcl": {"per_category": 1, "categories": categories}}})
    bfcl = benchmarks.load("bfcl", config)
    simple, nothing = bfcl.tasks("test")
    right, thought = bfcl.reference_answer(simple), "<think>hm</think>\n[f(a=1)]"
    said = [
        (simple, right, True, 1),
        (simple, f"```python\n{right}\n```", False, 1),
        (simple, f"<think>x</think>{right}", True, 1),
        (simple, f"<think>x</think>[\n  {right[1:-1]}\n]", False, 1),
        (simple, f"{right}<think>x</think>", False, 0),
        (simple, f"[\n  {right[1:-1]}\n]", False, 1),
        (simple, f"<think>x {right}", False, 0),
        (simple, "```python\n[f(a=1)]\n```", False, 0),
        (nothing, "No.", True, 1),
        (nothing, thought, False, 0),
        (nothing, "[f(a=1)]", False, 0),
    ]
    write_jsonl(tmp_path / "t.jsonl", [simple, nothing])
    for task, text, official, any_layout in said:
        write_jsonl(tmp_path / "e.jsonl", [answered(task, text)])
        score_file(config, tmp_path / "e.jsonl", tmp_path / "t.jsonl", tmp_path / "s.parquet")
        (row,) = read_frame(tmp_path / "s.parquet", Score).to_dict("records")
        assert (row["success"], row["measures"]["any_layout"]) == (official, any_layout), text


def test_tools_are_those_kept_by_the_selector_and_in_a_conversation_those_held_back_too(tasks):
    single = next(task for task in tasks if task.category == "simple")
    (name,) = (function["name"] for function in single.data["functions"])
    assert [tool["name"] for tool in offered_tools(single, answered(single, "")) or []] == [name]
    assert offered_tools(single, answered(single, "").model_copy(update={"tools": ToolMeasures(selected_tools=[[]])})) == []
    talk = next(task for task in tasks if task.category == "multi_turn_miss_func")
    held = {function["name"] for functions in talk.data["held_back"].values() for function in functions}
    offered = {tool["name"] for tool in offered_tools(talk, answered(talk, "").model_copy(update={"answer": None})) or []}
    assert held and held < offered
    assert offered_tools(single.model_copy(update={"data": {}}), answered(single, "")) is None


def test_an_episode_of_a_task_that_is_not_there_is_named(config, tasks, tmp_path):
    write_jsonl(tmp_path / "t.jsonl", tasks[1:])
    write_jsonl(tmp_path / "all.jsonl", tasks)
    write_jsonl(tmp_path / "e.jsonl", [answered(tasks[0], "")])
    score_file(config, tmp_path / "e.jsonl", tmp_path / "all.jsonl", tmp_path / "s.parquet")
    with pytest.raises(StageError, match=f"task {tasks[0].id} is not in .*t.jsonl; run the rollout again"):
        classify_file(config, tmp_path / "e.jsonl", tmp_path / "s.parquet", tmp_path / "t.jsonl", tmp_path / "f.parquet")


def test_readers_that_need_no_traces_skip_them(tasks, tmp_path):
    step = EpisodeStep(index=0, call=("policy", 1), action="a")
    call = TracedCall(role="policy", seed=1, text="c", nfe=2, reveal_step=[0, 1], tokens=["x", "y"], confidence=[0.5, 1.0])
    full = TracedEpisode.model_validate(dict(answered(tasks[0], "a")) | {"steps": [step], "calls": (call,)})
    write_jsonl(tmp_path / "e.jsonl", [full])
    (read,) = iter_jsonl(tmp_path / "e.jsonl", Episode)
    assert type(read.calls[0]) is Call and read.turns()[0].text == "c"
    assert read.model_dump() == full.model_dump(exclude={"calls": {0: {"reveal_step", "tokens", "confidence", "dynamics"}}})
    assert list(iter_jsonl(tmp_path / "e.jsonl", TracedEpisode)) == [full]
    (tmp_path / "bad.jsonl").write_text((tmp_path / "e.jsonl").read_text()[:-30])
    with pytest.raises(StageError, match=r"bad.jsonl:1: not a Episode record"):
        list(iter_jsonl(tmp_path / "bad.jsonl", Episode))


@pytest.mark.parametrize("record", [Episode, TracedEpisode])
def test_an_episode_of_an_earlier_version_is_refused_with_the_way_to_make_it_again(tasks, tmp_path, record):
    old = answered(tasks[0], "a").model_dump(mode="json", exclude_none=True) | {"usage": {}, "extra": {"acting": "react"}}
    (tmp_path / "e.jsonl").write_text(json.dumps(old) + "\n")
    with pytest.raises(StageError, match=r"e.jsonl:1: not a \w+ record \(\w+: .*\); delete the file to make it again"):
        list(iter_jsonl(tmp_path / "e.jsonl", record))


def test_frames_are_written_as_rows_come(tmp_path, monkeypatch):
    monkeypatch.setattr("dllm_agents.frames.ROWS_AT_ONCE", 3)
    base = {"benchmark": "b", "category": "c", "agent": "a", "kind": "loop", "first_step": 0, "last_step": 1}
    written = [Failure(task_id=str(index), **base) for index in range(7)]
    assert write_frame(tmp_path / "f.parquet", iter(written), Failure) == 7
    assert [Failure.model_validate(row) for row in read_frame(tmp_path / "f.parquet", Failure).to_dict("records")] == written
