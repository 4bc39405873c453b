"""What comes from task files and model output is bounded: patterns, delays, formats, observations."""

import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dllm_agents import benchmarks
from dllm_agents.benchmarks.bfcl_checker import Checker, unique_name
from dllm_agents.benchmarks.bfcl_parser import Evaluator, Refused
from dllm_agents.benchmarks.patterns import Pattern
from dllm_agents.errors import StageError


@pytest.mark.parametrize("pattern", [r"(([a-z]+ ?)+)+[!?]$", r"(a|aa)+$", r"(.*a){20}$"])
def test_a_pattern_that_takes_for_ever_ends_within_seconds_and_names_its_task(pattern):
    begun = time.monotonic()
    with pytest.raises(TimeoutError, match="task x: sub-goal .* takes over 1 s"):
        for length in range(1, 200):  # an engine may see through a short text
            Pattern(pattern, "task x").search("a" * 50 * length + "!!")
    assert time.monotonic() - begun < 60


@pytest.mark.parametrize("pattern", ["(", "[z-a]", "a" * 1001, 7, None, "(?P<x>a)(?P=y)"])
def test_what_is_no_pattern_is_one_line(pattern):
    with pytest.raises(StageError, match="list.jsonl:3: "):
        Pattern(pattern, "list.jsonl:3")


def test_a_pattern_gives_its_first_match():
    assert Pattern(r"You (?:take|put) the \w+", "t").search("Then. You put the mug on") == "You put the mug"
    assert Pattern("never", "t").search("now") is None


@pytest.mark.parametrize("delay", [-1, 601, 1e8, float("nan")])
def test_a_task_cannot_make_a_run_wait_for_years(delay):
    qa = benchmarks.load("multihop_qa", {"tasks": 1, "train_tasks": 0})
    (task,) = qa.tasks("test")
    task.data["tool_delay"] = delay
    with pytest.raises(StageError, match="tool_delay"):
        qa.environment(task)


WIDE = [
    "'%(a)900000000d' % {'a': 1}",
    "('%9999d'*80000) % ((1,)*80000)",
    "'%*d' % (999999999, 1)",
    "'%.999999999f' % 1.0",
    "('%(a)s'*100000) % {'a': 'x'*100000}",
    "('%(a)r'*1000) % {'a': ['x'*1000]*100}",
    "('%(a)x'*100000) % {'a': 1<<90000}",
    "'%((b)c)900000000d' % {'(b)c': 1}",
    "b'%900000000d' % 1",
    "('%(a' + '('*1000) % {}",
]


@pytest.mark.parametrize("text", WIDE)
def test_a_wide_format_is_refused_before_it_is_written(text):
    with pytest.raises((Refused, ValueError, TypeError)):
        Evaluator({})(text)


@given(st.text(alphabet="%(a)s0123.+- #dxrfc", max_size=20), st.integers() | st.text(max_size=5) | st.floats() | st.just({"a": 1}))
def test_a_narrow_format_is_what_python_writes_or_is_refused(pattern, value):
    text = f"{pattern!r} % {value!r}"
    try:
        expected = eval(text, {"nan": float("nan"), "inf": float("inf")})
    except Exception as error:
        expected = type(error)
    try:
        result = Evaluator({"nan": float("nan"), "inf": float("inf")})(text)
    except Refused:
        return
    except Exception as error:
        result = type(error)
    assert result == expected


def test_an_observation_is_cut():
    checker = Checker()
    write, read = "[touch(file_name='s'),echo(content='a'*80000,file_name='s')]", "[cat(file_name='s'),cat(file_name='s')]"
    episode, entry = unique_name(), "multi_turn_base_0"
    try:
        first = checker.play(episode, entry, [], write)
        reply = checker.play(episode, entry, [first["calls"]], read)
    finally:
        checker.close()
    assert 100_000 < len(reply["observation"]) < 101_000 and "characters cut" in reply["observation"]


@pytest.mark.parametrize(
    "answer",
    [
        "[touch(file_name='s'),touch(file_name='t'),echo(content='a\\nb\\n'*199999,file_name='s'),"
        "echo(content='b\\na\\n'*199999,file_name='t'),diff(file_name1='s',file_name2='t')]",
        "[" + ",".join(["echo(content='a'*90000)"] * 5) + "]",
    ],
)
def test_a_short_answer_makes_no_long_calls(answer):
    checker = Checker()
    try:
        assert checker.play(unique_name(), "multi_turn_base_0", [], answer) == {"refused": "the calls are too long"}
    finally:
        checker.close()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize("inside", [",".join(["'x'*1000000"] * 800), "[b'x'*900000,*0," * 150 + "1" + "]" * 150])
def test_many_large_values_are_refused_before_they_fill_the_memory(inside):
    checker = Checker()
    try:
        (verdict,) = checker.judge_many([("simple", [{"name": "f", "parameters": {}}], [], f"[f(x=[{inside}])]")])
        status = Path(f"/proc/{checker.worker._process.pid}/status").read_text()
    finally:
        checker.close()
    assert verdict.error_type in ("isolation:refused", "ast_decoder:decoder_failed")
    assert int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) < 200_000


@pytest.mark.parametrize(
    ("category", "identifier"), [("simple", "simple_99999"), ("../../x", "x_0"), ("simple", None), ("live_simple", "simple_0")]
)
def test_an_entry_that_bfcl_has_not_is_one_line_and_no_verdict(category, identifier):
    bfcl = benchmarks.load("bfcl", {"tasks": 1, "train_tasks": 0})
    (task,) = bfcl.tasks("test")
    task = task.model_copy(update={"category": category, "data": {**task.data, "id": identifier}})
    for use in (lambda: bfcl.judge(task, "[f()]"), lambda: bfcl.reference_answer(task)):
        with pytest.raises(StageError, match="BFCL has no entry"):
            use()
