"""What other people's compilers of grammars make of our constraints: llguidance, and xgrammar, which vLLM holds its answers to.

xgrammar gets each constraint as the client spells it for vLLM (`make test-schemas` installs it).
"""

import json
import random
import re

import jsonschema
import pytest
from languages import SCHEMAS, Texts, closed
from test_constraint_tokens import byte_level

from dllm_agents.client.client import structured_outputs
from dllm_agents.decoding.constraints import language
from dllm_agents.decoding.constraints.automata import compile_expression

ODD = re.compile(r"\de[-+]|[ \[]-0|\\u|\x7f")  # exponents between bounds, minus zero, escapes: the others know fewer spellings


def in_order(value, names):
    """A JSON value with its keys in the order of `names`, as llguidance wants them."""
    if isinstance(value, list):
        return [in_order(item, names) for item in value]
    if not isinstance(value, dict):
        return value
    ranked = sorted(value, key=lambda key: names.index(key) if key in names else len(names))
    return {key: in_order(value[key], names) for key in ranked}


def declared(schema):
    if isinstance(schema, list):
        return [name for part in schema for name in declared(part)]
    if not isinstance(schema, dict):
        return []
    return [*schema.get("properties", ()), *(name for part in schema.values() for name in declared(part))]


@pytest.mark.parametrize("name", sorted(set(SCHEMAS) - {"number"}))  # it misreads bounds with fractions: 0.12 is not at most 0.125
def test_llguidance_accepts_our_values(name):
    """An independent implementation; it wants keys in the schema's order, plain characters, and no exponents between bounds."""
    llguidance = pytest.importorskip("llguidance")
    rng = random.Random(name)
    schema, d = SCHEMAS[name], compile_expression(language(SCHEMAS[name]))
    tokenizer = llguidance.LLTokenizer("byte")
    grammar = llguidance.LLMatcher.grammar_from_json_schema(schema, defaults={"whitespace_flexible": True})
    texts, compared = Texts(d, rng), 0
    for _ in range(60):
        value = in_order(json.loads(texts.text(40).decode()), declared(schema))
        text = json.dumps(value, ensure_ascii=False)
        if ODD.search(text):
            continue
        matcher = llguidance.LLMatcher(tokenizer, grammar)
        assert matcher.try_consume_tokens(list(text.encode())) == len(text.encode()) and matcher.is_accepting(), text
        compared += 1
    assert compared > 20


@pytest.fixture(scope="module")
def fits():
    """`fits(constraint)`: the function from a text to whether xgrammar takes it, compiled for the tokenizer of these tests."""
    xgrammar = pytest.importorskip("xgrammar")
    tokenizer = byte_level("<tool_call>", "</tool_call>")
    pieces = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    end = tokenizer.token_to_id("<|end|>")
    compiler = xgrammar.GrammarCompiler(
        xgrammar.TokenizerInfo(pieces, vocab_type=xgrammar.VocabType.BYTE_LEVEL, stop_token_ids=[end]), max_threads=1
    )

    def grammar(constraint):
        ((kind, value),) = structured_outputs(constraint).items()
        if kind == "choice":  # vLLM writes a grammar of the texts
            return compiler.compile_grammar("root ::= " + " | ".join(map(json.dumps, value)))
        if kind == "json":
            return compiler.compile_json_schema(json.dumps(value), any_whitespace=True)
        return {"regex": compiler.compile_regex, "structural_tag": compiler.compile_structural_tag}[kind](value)

    def of(constraint):
        compiled = grammar(constraint)

        def takes(text):
            matcher = xgrammar.GrammarMatcher(compiled, terminate_without_stop_token=True)
            return (not text or matcher.accept_string(text)) and matcher.is_terminated()

        return takes

    return of


def spoilt(value, rng):
    """The value with one part of it replaced, left out or added to."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        key = rng.choice(list(value))
        rest = {name: item for name, item in value.items() if name != key}
        return rest if rng.random() < 0.3 else {**value, key: spoilt(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        return [*value[:-1], spoilt(value[-1], rng)]
    return rng.choice([None, True, -7, 10**6, 0.5, "x", "a much longer text than any", [], [1] * 9, {"z": 1}])


# Where xgrammar takes more than the schema allows: lengths beside a pattern, and several parts of allOf. vLLM's default backend (auto)
# hands some of such schemas to llguidance.
WIDER = {"pattern", "both"}
# Where it takes less: six digits after the point.
NARROWER = {"number"}


@pytest.mark.parametrize("name", sorted(set(SCHEMAS) - {"escapes"}))  # which it knows one spelling of alone
def test_xgrammar_means_the_same_by_a_schema(name, fits):
    rng = random.Random(name)
    schema, takes = SCHEMAS[name], fits(SCHEMAS[name])
    texts, valid = Texts(compile_expression(language(schema)), rng), jsonschema.Draft202012Validator(schema)
    compared = [0, 0]
    for _ in range(80):
        value = in_order(json.loads(texts.text(40).decode()), declared(schema))
        for kind in (value, spoilt(value, rng)):
            text, good = json.dumps(kind, ensure_ascii=False), valid.is_valid(kind)
            if not ODD.search(text.replace("\\", "\\u")) and (kind is value or not good):
                assert takes(text) == good or name in (NARROWER if good else WIDER), text
                compared[good] += 1
    assert min(compared) > 10 or name == "anything", compared


LOOK = '<tool_call>\n{"name": "look", "arguments": {"x": "a"}}\n</tool_call>'
STOP = LOOK.replace('"look"', '"stop"').replace('{"x": "a"}', "{}")
FLY = LOOK.replace("look", "fly")
CALLS = {"tools": [{"name": "look", "parameters": closed(x={"type": "string"})}, {"name": "stop", "parameters": closed()}]}
MEANINGS = {
    "free": (CALLS, ["", "hm", LOOK, f"first {STOP} then {LOOK} done"], [FLY, "<tool_call>", f"x {LOOK[:-3]}"]),
    "one": ({**CALLS, "several": False}, ["hm", LOOK, f"hm {STOP}"], [FLY, LOOK + STOP]),
    "must": ({**CALLS, "required": True}, [LOOK, LOOK + STOP], ["", "hm", FLY, "{}"]),
    "or a number": ({**CALLS, "answer": {"type": "integer"}}, ["-12", LOOK], ["", "a", FLY, "1.5"]),
    "or a choice": ({**CALLS, "answer": {"choice": ["yes", "no"]}}, ["yes", "no", STOP], ["", "yesno", FLY]),
    "or letters": ({**CALLS, "answer": {"regex": "[ab]{3}"}}, ["aba", LOOK], ["", "ab", FLY]),
    "letters": ({"regex": "a{2,3}(x|é)+-\\d"}, ["aax-1", "aaaéx-0"], ["", "ax-1", "aax-", "aax-11"]),
    "choice": ({"choice": ['say "a"', "b"]}, ['say "a"', "b"], ["", "a", "bb"]),
}


@pytest.mark.parametrize("name", MEANINGS)
def test_xgrammar_means_the_same_by_turns_patterns_and_choices(name, fits):
    constraint, good, bad = MEANINGS[name]
    ours, takes = compile_expression(language(constraint)), fits(constraint)
    assert [(text, ours.accepts(text.encode()), takes(text)) for text in good] == [(text, True, True) for text in good]
    assert [(text, ours.accepts(text.encode()), takes(text)) for text in bad] == [(text, False, False) for text in bad]
