"""Automata, patterns, numbers and schemas against `re`, arithmetic, jsonschema, the official test suite and llguidance."""

import json
import os
import random
import re
from datetime import date
from fractions import Fraction
from pathlib import Path

import jsonschema
import pytest
from languages import SCHEMAS, Texts, closed, random_language

from dllm_agents.decoding.constraints import ConstraintError, language
from dllm_agents.decoding.constraints.automata import Bounds, compile_expression
from dllm_agents.decoding.constraints.expressions import both, lit, rep, without
from dllm_agents.decoding.constraints.formats import FORMATS
from dllm_agents.decoding.constraints.json_schema import json_text
from dllm_agents.decoding.constraints.numbers import bound, integers, numbers
from dllm_agents.decoding.constraints.patterns import compile_pattern

CHECKER = jsonschema.Draft202012Validator.FORMAT_CHECKER


def texts_of(letters, longest):
    texts = [b""]
    for text in texts:
        if len(text) < longest:
            texts += [text + bytes([letter]) for letter in letters]
    return texts


def test_automata_accept_what_re_accepts():
    texts = texts_of(b"abc", 5)
    counts = [0, 0]
    for seed in range(120):
        e, pattern = random_language(random.Random(seed))
        d, wanted = compile_expression(e), re.compile(pattern.encode())
        for text in texts:
            accepted = d.accepts(text)
            assert accepted == bool(wanted.fullmatch(text)), (seed, pattern, text)
            counts[accepted] += 1
    assert min(counts) > 1000


def test_intersections_and_exclusions_are_those_of_the_texts():
    texts = texts_of(b"ab", 9)
    ends_in_a = language({"regex": "[ab]*a"})
    for pattern in (b"a", b"aba", b"abab", b"aab"):
        d = compile_expression(both(ends_in_a, without(pattern)))
        assert all(d.accepts(text) == (text.endswith(b"a") and pattern not in text) for text in texts)


def test_automata_are_minimal():
    d = compile_expression(language({"regex": "(?:a|b|ab|ba)*abb|[ab]*abb"}))
    assert len(d.table) == 4


PATTERNS = [
    *(
        "a*",
        "(a|b)+c?",
        "[a-c]{2,4}",
        "x{0}y",
        "[^ab]",
        "\\d{3}-\\w+",
        "\\s\\S\\D\\W",
        ".",
        "a.c",
        "^ab$",
        "(?:a|ab)(?:c|bcd)",
        "\\x41\\u00e9?",
    ),
    *("é+", "[é-ü]", "[\\w.-]+@\\w+", "(?P<n>a)b", "\\.\\*\\\\", "[]a]", "a+?b*?", "^a|b$"),
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_match_whole_texts_as_re_does(pattern):
    d, wanted = compile_expression(language({"regex": pattern})), re.compile(pattern, re.ASCII)
    rng = random.Random(pattern)
    letters = "abcdxyA09_ .-@*\\]éçz\t"
    for _ in range(3000):
        text = "".join(rng.choice(letters) for _ in range(rng.randrange(0, 6)))
        assert d.accepts(text.encode()) == bool(wanted.fullmatch(text)), text
    texts = Texts(d, rng)
    own = [texts.text(12).decode() for _ in range(50)]
    assert all(wanted.fullmatch(text) for text in own if text.isascii())


@pytest.mark.parametrize("pattern", ["a+b", "^a", "b$", "^(x|y)$", "^a|b$", "[^a]", "\\d"])
def test_a_schemas_pattern_searches(pattern):
    d = compile_expression(json_text({"type": "string", "pattern": pattern}))
    rng = random.Random(pattern)
    for _ in range(2000):
        value = "".join(rng.choice('abxy1"\\\n') for _ in range(rng.randrange(0, 5)))
        matches = bool(re.search(pattern.replace("$", "\\Z"), value))
        assert d.accepts(json.dumps(value).encode()) == matches, value


@pytest.mark.parametrize("pattern", ["(?=a)b", "(a)\\1", "\\bword", "(?i)a", "a(?<!b)", "(?>a+)b", "x^y", "(", "a**"])
def test_patterns_that_are_not_regular_are_refused(pattern):
    with pytest.raises(ConstraintError) as caught:
        language(closed(code={"type": "string", "pattern": pattern}))
    assert caught.value.code == "unsupported_pattern" and caught.value.where == "#/properties/code/pattern"


def test_integers_between_bounds():
    rng = random.Random(0)
    for _ in range(40):
        low, high = sorted(rng.randrange(-1200, 1200) for _ in range(2))
        d = compile_expression(integers(Fraction(low), Fraction(high)))
        for value in range(-1300, 1300):
            assert d.accepts(str(value).encode()) == (low <= value <= high)
        assert not d.accepts(b"07") and not d.accepts(b"+7")


def test_numbers_between_bounds():
    rng = random.Random(1)
    for _ in range(60):
        low, high = sorted(rng.choice([round(rng.uniform(-3, 3), rng.randrange(0, 4)), rng.randrange(-30, 30) / 8]) for _ in range(2))
        open_low, open_high = rng.random() < 0.3, rng.random() < 0.3
        d = compile_expression(numbers(bound(low, False if open_low else None), bound(high, True if open_high else None)))
        for _ in range(300):
            text = f"{rng.choice([low, high, rng.uniform(-4, 4)]) + rng.choice([0, 0, 0.001, -0.001, 0.1]):.{rng.randrange(1, 7)}f}"
            value = float(text)
            inside = (low < value if open_low else low <= value) and (value < high if open_high else value <= high)
            assert d.accepts(text.encode()) == inside, (low, high, open_low, open_high, text)
        own = None if d.empty else Texts(d, rng)
        for _ in range(30 if own else 0):
            value = float(own.text())
            assert (low < value if open_low else low <= value) and (value < high if open_high else value <= high)


def test_dates_are_those_of_the_calendar():
    d = compile_expression(compile_pattern(FORMATS["date"]))
    for year in (1, 4, 1900, 2000, 2023, 2024, 2100, 9999):
        for month in range(0, 14):
            for day in range(0, 33):
                try:
                    date(year, month, day)
                    exists = True
                except ValueError:
                    exists = False
                assert d.accepts(f"{year:04d}-{month:02d}-{day:02d}".encode()) == exists


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_text_of_a_schema_satisfies_it(name):
    d = compile_expression(language(SCHEMAS[name]))
    validator = jsonschema.Draft202012Validator(SCHEMAS[name], format_checker=CHECKER)
    rng = random.Random(name)
    texts = Texts(d, rng)
    lengths = set()
    for _ in range(200):
        text = texts.text(rng.choice([5, 30, 120]))
        assert validator.is_valid(json.loads(text.decode())), text
        lengths.add(len(text))
    assert len(lengths) > 3


ACCEPTED = [
    (SCHEMAS["optional"], ['{"c": true}', '{"d":null,\n "a": 3, "c": false}', '{"c":true,"b":"x","a":-1,"d":null}']),
    (SCHEMAS["many"], ['{"b": true, "g": false}', '{"a": true, "b": true, "d": true, "g": false, "h": true}']),
    (SCHEMAS["additional"], ['{"name": "a", "age": 3}', '{"nam": null, "name": "x", "names": 1, "na": 2}', '{"name": ""}']),
    (SCHEMAS["dictionary"], ['{"a": 1}', '{"a": 1, "b": 2.5, "": -3e2}']),
    (SCHEMAS["tree"], ['{"value": 1, "children": [{"value": 2, "children": []}, {"value": 3, "children": []}]}']),
    (SCHEMAS["tuple"], ["[1]", "[1, true]", "[1, false, null, null]"]),
    (SCHEMAS["anything"], ['{"a": [1, "x", {"b": null}], "c": {"d": {"e": [true]}}}']),
    (SCHEMAS["pattern"], ['{"word": "xa bx", "code": "AB-12"}', ' { "code" : "XY-0", "word" : "ab" } ']),
    ({"type": "string"}, ['"\\ud83d\\ude00 \\u00e9 \\/ é 😀"']),
    ({"minLength": 2}, ['"ab"']),
]
REJECTED = [
    (SCHEMAS["optional"], ['{"a": 1}', '{"c": true, "c": true}', '{"c": true,}', '{"c": true, "e": 1}']),
    (SCHEMAS["additional"], ['{"name": "a", "nam": 3}', '{"name": 3}', '{"name": "a", "age": "3"}', '{"name": "a", "\\u006eam": 3}']),
    (SCHEMAS["dictionary"], ["{}", '{"a": 1, "b": 1, "c": 1, "d": 1}']),
    (SCHEMAS["tuple"], ["[]", "[true]", "[1, true, 2]"]),
    (SCHEMAS["call"], ['{"name": "search", "arguments": {"query": "1234567890123", "top": 3}}']),
    (SCHEMAS["both"], ['{"a": 4}', "{}"]),
    ({"type": "string"}, ['"\\ud83d"', '"\n"', '"a', '"\\x"']),
    ({"type": "integer"}, ["1.5", "01", "+1", "--1", "- 1", "1e2", ""]),
]


@pytest.mark.parametrize("schema, texts", ACCEPTED)
def test_texts_a_schema_lets_through(schema, texts):
    d = compile_expression(language(schema))
    assert all(d.accepts(text.encode()) for text in texts), [text for text in texts if not d.accepts(text.encode())]


@pytest.mark.parametrize("schema, texts", REJECTED)
def test_texts_a_schema_keeps_out(schema, texts):
    d = compile_expression(language(schema))
    assert not any(d.accepts(text.encode()) for text in texts), [text for text in texts if d.accepts(text.encode())]


DEEP = {"type": "integer"}
for _ in range(200):
    DEEP = {"type": "array", "items": DEEP}
REFUSED = [
    (closed(a={"not": {}}), "unsupported_schema", "#/properties/a/not"),
    ({"anyOf": [{"type": "string"}, {"patternProperties": {}}]}, "unsupported_schema", "#/anyOf/1/patternProperties"),
    (closed(**{"a/b": {"uniqueItems": True}}), "unsupported_schema", "#/properties/a~1b/uniqueItems"),
    ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, "unsupported_schema", "#/oneOf"),
    ({"$ref": "other.json"}, "unsupported_schema", "#/$ref"),
    ({"$ref": "#/$defs/none"}, "unsupported_schema", "#/$ref"),
    ({"type": "strin"}, "unsupported_schema", "#/type"),
    ({"type": "string", "format": "regex"}, "unsupported_schema", "#/format"),
    ({"type": "string", "minLength": "3"}, "unsupported_schema", "#/minLength"),
    ({"type": "string", "maxLength": 10**9}, "schema_too_large", "#/maxLength"),
    ({"type": "number", "minimum": float("inf")}, "unsupported_schema", "#/minimum"),
    ({"properties": []}, "unsupported_schema", "#/properties"),
    ({"enum": []}, "unsupported_schema", "#/enum"),
    ({"items": 3}, "unsupported_schema", "#/items"),
    ({"allOf": [closed(a={"type": "null"}), closed(b={"type": "null"})]}, "unsupported_schema", "#/additionalProperties"),
    (DEEP, "schema_too_large", "#" + "/items" * 65),
    ({"regex": "(((" + "a{1,1000}" * 3 + "){1,1000}){1,1000})"}, "schema_too_large", "#"),
    ({"regex": "[ab]*a[ab]{20}"}, "schema_too_large", "#"),
    ({"regex": "a" * 140_000}, "schema_too_large", "regex"),
    ({"choice": []}, "unsupported_schema", "choice"),
    ({"tools": []}, "unsupported_schema", "tools"),
]


@pytest.mark.parametrize("constraint, code, where", REFUSED)
def test_what_cannot_be_guaranteed_is_refused_with_its_place(constraint, code, where):
    with pytest.raises(ConstraintError) as caught:
        compile_expression(language(constraint))
    assert (caught.value.code, caught.value.where) == (code, where)


def test_recursion_that_fans_out_ends_by_a_bound():
    names = "abcdef"
    schema = {
        "$defs": {n: closed(**{m: {"anyOf": [{"type": "null"}, {"$ref": f"#/$defs/{m}"}]} for m in names}) for n in names},
        "$ref": "#/$defs/a",
    }
    with pytest.raises(ConstraintError) as caught:
        compile_expression(language(schema))
    assert caught.value.code == "schema_too_large"


def test_a_schema_that_refers_to_itself_alone_allows_nothing():
    assert compile_expression(json_text({"$ref": "#"})).empty


def test_the_bound_of_time_names_the_place():
    with pytest.raises(ConstraintError, match="tools: takes more than 0 s"):
        compile_expression(rep(lit("ab")), Bounds(where="tools", seconds=0))


def test_a_turn_holds_calls_in_tags_and_text_around_them():
    tools = [{"name": "look", "parameters": closed(x={"type": "string"})}, {"name": "stop"}]
    look, stop = (
        '<tool_call>\n{"name": "look", "arguments": {"x": "a"}}\n</tool_call>',
        '<tool_call>{"arguments":{},"name":"stop"}</tool_call>',
    )
    turns = {
        "": (True, False),
        "thinking <tool_cal": (True, False),
        look: (True, True),
        f"first {stop} then {look} done": (True, True),
        "<tool_call>": (False, False),
        '<tool_call>{"name": "fly", "arguments": {}}</tool_call>': (False, False),
        '<tool_call>{"name": "look", "arguments": {"x": "</tool_call>"}}</tool_call>': (False, False),
        f"{look}</tool_call>": (False, False),
    }
    auto, required = (compile_expression(language({"tools": tools, "required": needed})) for needed in (False, True))
    assert {text: (auto.accepts(text.encode()), required.accepts(text.encode())) for text in turns} == turns
    single = compile_expression(language({"tools": tools, "several": False}))
    assert single.accepts(look.encode()) and not single.accepts((look + stop).encode())


def test_a_tools_references_are_its_own():
    tool = {"$defs": {"p": {"type": "boolean"}}, **closed(a={"$ref": "#/$defs/p"})}
    d = compile_expression(language({"tools": [{"name": "f", "parameters": tool}]}))
    assert d.accepts(b'<tool_call>{"name": "f", "arguments": {"a": true}}</tool_call>')


def suite_cases():
    """(file, schema, tests) of JSON-Schema-Test-Suite, its directory tests/draft2020-12 named by JSON_SCHEMA_TEST_SUITE."""
    directory = os.environ.get("JSON_SCHEMA_TEST_SUITE")
    if not directory:
        pytest.skip("JSON_SCHEMA_TEST_SUITE names no directory")
    return [
        (path.stem, case["schema"], case["tests"])
        for path in sorted(Path(directory).glob("*.json"))
        for case in json.loads(path.read_text())
    ]


def test_nothing_unsound_in_the_official_suite(capsys):
    compiled = refused = accepted = rejected = 0
    rng = random.Random(0)
    cases = suite_cases()
    for name, schema, tests in cases:
        try:
            d = compile_expression(json_text(schema))
        except ConstraintError:
            refused += 1
            continue
        compiled += 1
        for test in tests:
            fits = d.accepts(json.dumps(test["data"], ensure_ascii=False).encode("utf-8", "surrogatepass"))
            assert not fits or test["valid"], (name, schema, test)
            accepted += fits
            rejected += not fits and not test["valid"]
        texts = None if d.empty else Texts(d, rng)
        for _ in range(5 if texts else 0):
            assert jsonschema.Draft202012Validator(schema).is_valid(json.loads(texts.text().decode())), (name, schema)
    with capsys.disabled():
        total = sum(test["valid"] for _, schema, tests in cases for test in tests)
        print(
            f"\nsuite: {compiled} of {len(cases)} schemas compiled, {accepted} of {total} valid instances, {rejected} invalid ones rejected"
        )
    assert compiled > 100
