"""The taxonomy, rule by rule, with an example each."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dllm_agents.analysis.failures import TAXONOMY, argument_failures, classify, loops, runs
from dllm_agents.analysis.layouts import Call, layout, parse_calls, plain_layout
from dllm_agents.records import Call as Answer
from dllm_agents.records import Episode, EpisodeStep


def episode(*steps: EpisodeStep, **fields) -> Episode:
    base = {"task_id": "babyai/GoTo/1", "benchmark": "babyai", "category": "GoTo", "goal": "go", "agent": "a", "seed": 1, "max_steps": 8}
    return Episode(**(base | {"ended": "success", "success": True, "steps": list(steps)} | fields))


def replied(text: str, finish_reason: str = "stop", **step) -> Episode:
    """An episode of one step, on a reply."""
    call = Answer(role="policy", seed=7, text=text, finish_reason=finish_reason)
    return episode(EpisodeStep(index=0, call=call.key, **step), calls=(call,))


def acts(*actions: str | None, observations: str | None = None) -> list[EpisodeStep]:
    return [
        EpisodeStep(
            index=index,
            action=action,
            observation=observations[index] if observations else str(index),
        )
        for index, action in enumerate(actions)
    ]


def kinds(found) -> list[str]:
    return [failure.kind for failure in found]


@pytest.mark.parametrize(
    ("actions", "length"),
    [([], 0), (["a"], 1), (["a", "a", "b"], 2), (["a", "b", "b", "b", "a"], 3), ([None, None], 0), (["a", None, "a"], 1), (["a", "A"], 1)],
)
def test_longest_run(actions, length):
    assert max((run.length for run in runs(actions)), default=0) == length


def test_a_loop_is_three_or_more_identical_actions_with_its_steps_and_text():
    found = loops(episode(*acts("go", "turn left", "turn left", "turn left", "turn left", "go", "go")))
    assert [(f.kind, f.first_step, f.last_step, f.count, f.evidence) for f in found] == [("loop", 1, 4, 4, "turn left")]
    assert loops(episode(*acts("a", "a"))) == []


def test_loop_threshold_is_a_parameter_and_more_than_three_is_count_above_it():
    played = episode(*acts(*"aaabbbb"))
    assert [f.count for f in loops(played)] == [3, 4]
    assert [f.count for f in loops(played, loop_length=4)] == [4]


def test_a_loop_says_whether_the_observation_changed():
    found = loops(episode(*acts(*"aaabbb", observations="xxxxyz")))
    assert [f.detail for f in found] == ["unchanged observation", "changing observation"]


def test_a_step_without_action_breaks_a_loop():
    assert loops(episode(*acts("a", "a", None, "a", "a"))) == []


RULES = {
    "format": replied("I will go to the ball."),
    "empty": replied(" \n"),
    "invalid_action": replied("Thought: t Action: fly", action="fly", valid=False),
    "truncated": replied("Thought: t Action: go", "length", action="go"),
    "server": episode(success=False, ended="error", error="connection refused"),
    "step_limit": episode(*acts("a", "b"), success=False, ended="step_limit"),
    "prompt_too_long": episode(success=False, ended="prompt_too_long"),
    "premature_exit": episode(*acts("a", "b"), success=False, ended="early_exit"),
    "loop": episode(*acts("a", "a", "a")),
}


@pytest.mark.parametrize("kind", RULES)
def test_each_rule_finds_its_example_and_nothing_else(kind):
    assert kinds(classify(RULES[kind])) == [kind]


def test_a_good_episode_has_no_failure():
    assert classify(episode(*acts("a", "b", "a"))) == []


def test_every_kind_found_is_in_the_taxonomy():
    assert {failure.kind for example in RULES.values() for failure in classify(example)} <= set(TAXONOMY)


def test_steps_of_one_kind_are_one_failure_with_first_last_and_count():
    steps = acts("a", "b", "c")
    found = classify(episode(steps[0], steps[1].model_copy(update={"valid": False}), steps[2].model_copy(update={"valid": False})))
    assert [(f.kind, f.first_step, f.last_step, f.count) for f in found] == [("invalid_action", 1, 2, 2)]


def test_an_episode_that_ended_in_an_error_is_a_server_failure_with_its_reason():
    found = classify(episode(success=False, ended="error", error="server: port closed"))
    assert [(f.kind, f.evidence, f.first_step) for f in found] == [("server", "server: port closed", -1)]


def test_an_environment_that_ends_without_success_is_a_premature_exit():
    found = classify(episode(*acts("focus on dog"), success=False, ended="done"))
    assert [(f.kind, f.detail) for f in found] == [("premature_exit", "environment")]


def test_evidence_is_cut():
    found = classify(replied("x" * 100_000))
    assert len(found[0].evidence) == 200


TOOLS = [
    {
        "name": "area.circle",
        "parameters": {
            "type": "dict",
            "properties": {"radius": {"type": "float"}, "unit": {"type": "string", "enum": ["m", "ft"]}},
            "required": ["radius"],
        },
    }
]


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ("[area.circle(radius=2)]", [Call("area.circle", {"radius": 2})]),
        ("area.circle(radius=2.5, unit='m')", [Call("area.circle", {"radius": 2.5, "unit": "m"})]),
        ('<tool_call>{"name": "search", "arguments": {"query": ["x"]}}</tool_call>', [Call("search", {"query": ["x"]})]),
        ("", []),
        ("I would call area.circle", None),
        ("[area.circle(2)]", None),
        ("[area.circle(radius=__import__('os'))]", None),
        ('<tool_call>{"name": </tool_call>', None),
        ("(" * 5000, None),
        ("[" * 60 + "]" * 60, None),
    ],
)
def test_parse_calls(text, calls):
    assert parse_calls(text) == calls


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"radius": 2}, []),
        ({"radius": "2"}, [("parameter_value", "radius: type")]),
        ({}, [("parameter_value", "area.circle: required")]),
        ({"radius": 2, "unit": "mile"}, [("parameter_value", "unit: enum")]),
        ({"radius": 2, "colour": 1}, [("parameter_value", "area.circle: additionalProperties")]),
    ],
)
def test_arguments_are_checked_against_the_offered_tool(arguments, expected):
    assert argument_failures([Call("area.circle", arguments)], TOOLS) == expected


def test_a_call_of_a_tool_that_is_not_offered():
    assert argument_failures([Call("area.square", {})], TOOLS) == [("wrong_function", "area.square: not offered")]


@pytest.mark.parametrize(
    ("kind", "value", "fits"),
    [
        *[("dict", {"a": 1}, True), ("dict", [], False), ("tuple", (1, 2), True), ("tuple", [1, 2], True), ("array", (1, 2), False)],
        *[("float", 2, True), ("float", "2", False), ("float", True, False), ("integer", 2, True), ("integer", 2.0, False)],
        *[("any", "x", True), ("any", None, True), ("boolean", "True", False), ("String", 3, True)],
    ],
)
def test_bfcls_words_for_types_are_understood_and_an_unknown_one_convicts_nobody(kind, value, fits):
    tool = {"name": "f", "parameters": {"type": "dict", "properties": {"x": {"type": kind}, "description": {"type": "string"}}}}
    found = argument_failures([Call("f", {"x": value, "description": "a parameter of that name"})], [tool])
    assert found == ([] if fits else [("parameter_value", "x: type")])


def test_items_of_nested_values_are_checked_and_named():
    tool = {"name": "f", "parameters": {"type": "dict", "properties": {"x": {"type": "array", "items": {"type": "float"}}}}}
    assert argument_failures([Call("f", {"x": [1, 2.5, "3"]})], [tool]) == [("parameter_value", "x.2: type")]


def answer(*actions: str, **fields) -> Episode:
    steps = [EpisodeStep(index=index, action=action or None) for index, action in enumerate(actions)]
    return episode(*steps, benchmark="bfcl", **fields)


def test_calls_of_a_conversation_are_checked_step_by_step_and_prose_ends_a_turn():
    played = answer("[area.circle(radius=1)]", "I am done.", "[area.circle(radius='x')]", "[area.circle(radius='y'), f()]")
    found = classify(played, tools=TOOLS)
    assert [(f.kind, f.detail, f.source, f.first_step, f.last_step, f.count) for f in found] == [
        ("parameter_value", "radius: type", "rules", 2, 3, 2),
        ("wrong_function", "f: not offered", "rules", 3, 3, 1),
    ]
    assert found[0].evidence == "[area.circle(radius='x')]"
    assert kinds(classify(played)) == []


@pytest.mark.parametrize(
    ("text", "kind", "detail"),
    [
        ("[area.circle(radius='x')]", "parameter_value", "radius: type"),
        ("[area.square(side=2)]", "wrong_function", "area.square: not offered"),
        ("a circle", "schema", "not a call"),
    ],
)
def test_a_single_answer_is_the_checkers_to_judge_and_our_reading_stands_beside(text, kind, detail):
    (found,) = classify(answer(text, answer=text, ended="answered"), tools=TOOLS)
    assert (found.kind, found.detail, found.source, found.evidence) == (kind, detail, "beside checker", text)


def test_the_checkers_class_and_our_reading_are_told_apart():
    text = "[area.circle(radius='x')]"
    found = classify(answer(text, answer=text, success=False, ended="answered"), "value_error:others", tools=TOOLS)
    assert sorted((f.source, f.detail) for f in found) == [("beside checker", "radius: type"), ("checker", "value_error:others")]


def test_fences_and_missing_brackets_are_forgiven_as_the_official_decoder_does():
    assert parse_calls("```\n[area.circle(radius=2)]\n```") == parse_calls("area.circle(radius=2)") == [Call("area.circle", {"radius": 2})]


LAYOUTS = {
    "[\n    f(a=1),\n    g(b=2)\n]": "calls in a layout that is not read",
    "f(a=1)\ng(b=2)": "calls in a layout that is not read",
    "```python\n[f(a=1)]\n```": "calls in a layout that is not read",
    '{"name": "f", "arguments": {"a": 1}}': "calls as JSON",
    '[{"name": "f", "arguments": {"a": 1}}]': "calls as JSON",
    '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>': "calls as JSON",
    '```json\n{"name": "f", "arguments": {"a": 1}}\n```': "calls as JSON",
    '[TOOL_CALLS]f({"a": 1})': "calls as JSON",
    "<think>[f(a=1)]</think>": "calls in or before a thought",
    "[f(a=1)]<think>x</think>": "calls in or before a thought",
    '<think>{"name": "f", "arguments": {}}</think>I am done.': "calls in or before a thought",
    "<think>x</think>[\n    f(a=1),\n    g(b=2)\n]": "calls in a layout that is not read",
    "<think>f(</think>I cannot help with f(.": "wrong call syntax",
    "<think>x [f(a=1)]": "thinking not closed",
    "Here you are: [f(a=1)] Done.": "calls with text around them",
    'Sure: {"name": "f", "arguments": {"a": 1}}.': "calls as JSON",
    '[\n    f(a={"name": "g", "arguments": {}}),\n    g(b=2)\n]': "calls in a layout that is not read",
    "[f(a=1": "wrong call syntax",
    "f(a=1, b=)": "wrong call syntax",
    "I cannot help.": "no call",
    "": "no call",
}


@pytest.mark.parametrize("text", LAYOUTS)
def test_what_the_official_decoder_cannot_read_is_told_apart(text):
    assert layout(text) == LAYOUTS[text]
    found = classify(answer(text, answer=text, success=False, ended="answered"), "ast_decoder:decoder_failed", tools=TOOLS)
    assert ("checker", "ast_decoder:decoder_failed") in {(f.source, f.detail) for f in found if f.kind == "schema"}
    assert ("beside checker", LAYOUTS[text]) in {(f.source, f.detail) for f in found if f.kind == "schema"}


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text("ab'\"\\\n[](){}é,`=", max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab ", max_size=2), inner, max_size=2),
    max_leaves=5,
)
CALLS = st.lists(st.builds(Call, st.sampled_from(["f", "g.h"]), st.dictionaries(st.sampled_from("abc"), VALUES)), min_size=1, max_size=3)


def as_python(call):
    return f"{call.name}({', '.join(f'{name}={value!r}' for name, value in call.arguments.items())})"


def as_json(calls):
    return json.dumps([{"name": call.name, "arguments": call.arguments} for call in calls])


WRITTEN = {
    "a call a line": lambda calls: "\n".join(map(as_python, calls)),
    "over lines": lambda calls: "[\n    " + ",\n    ".join(map(as_python, calls)) + "\n]",
    "behind a thought": lambda calls: f"<think>[x(y=1)] or not</think>\n[{', '.join(map(as_python, calls))}]",
    "with text around": lambda calls: f"I call [{', '.join(map(as_python, calls))}] now.",
    "JSON": as_json,
    "JSON behind a thought": lambda calls: f"<think>so</think>{as_json(calls)}",
    "Hermes": lambda calls: "\n".join(f"<tool_call>{as_json([call])[1:-1]}</tool_call>" for call in calls),
    "Mistral": lambda calls: f"[TOOL_CALLS]{as_json(calls)}",
}


@pytest.mark.parametrize("written", WRITTEN)
@settings(max_examples=60, deadline=None)
@given(calls=CALLS)
def test_calls_in_any_layout_are_written_as_the_official_decoder_reads_them(written, calls):
    text = WRITTEN[written](calls)
    plain = plain_layout(text)
    assert plain is not None and plain.startswith("[") and parse_calls(plain) == calls, (text, plain)
    assert layout(text) not in ("wrong call syntax", "no call", "thinking not closed", "calls in or before a thought")


def test_what_holds_no_call_is_not_rewritten_and_other_languages_are_only_laid_bare():
    for text in ("", "I cannot help.", "[f(a=1", "f({'a': 1})", "f(1)", "<think>x [f(a=1)]", "[" * 60 + "]" * 60, "(" * 5000):
        assert plain_layout(text) is None, text
    for text in ("<think>x</think>[f(a=5L)]", "```java\n[f(a=5L)]\n```", "Here: [f(a=5L)].", "[f(a=5L)]"):
        assert plain_layout(text, python=False) == "[f(a=5L)]"
    assert plain_layout("nothing", python=False) is None


def test_the_checkers_verdict_gives_the_figure_4_class():
    answered = episode(EpisodeStep(index=0, action="[f(a=1)]"), benchmark="bfcl", success=False, ended="answered", answer="[f(a=1)]")
    found = classify(answered, error_type="simple_function_checker:wrong_func_name")
    assert [(f.kind, f.detail) for f in found] == [("wrong_function", "simple_function_checker:wrong_func_name")]


def test_a_thought_that_is_not_closed_is_a_class_of_its_own():
    for text, kind in (("<think>First I", "unclosed_thought"), ("no action", "format"), ("<think>Go.</think>", "format")):
        assert kinds(classify(replied(text))) == [kind], text
    single = answer("<think>x [f(a=1)]", answer="<think>x [f(a=1)]", success=False, ended="answered")
    assert "unclosed_thought" in kinds(classify(single, "ast_decoder:decoder_failed"))


def test_hostile_text_is_only_text(recwarn):
    text = "<script>alert(1)</script>\x00" * 5000
    assert kinds(classify(answer(text, answer=text), tools=TOOLS)) == ["schema"]
    name = f"[{'f' * 5000}(x='\\d', y=1if 1else 2)]"
    assert all(len(failure.detail) <= 200 for failure in classify(answer(name, answer=name), tools=TOOLS)) and not recwarn.list
