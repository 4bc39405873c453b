"""Constraints that are out to cost time or memory, or are no constraints at all, are refused by name and nothing else happens."""

import random

import pytest
from hostile import HOSTILE
from languages import SCHEMAS
from test_constraint_tokens import byte_level

from dllm_agents.decoding.constraints import Cache, ConstraintError, language
from dllm_agents.decoding.constraints.automata import compile_expression
from dllm_agents.decoding.constraints.json_schema import SUPPORTED

JUNK = [
    None,
    True,
    -1,
    0.5,
    10**400,
    1e300,
    float("inf"),
    "",
    "x" * 300,
    "\ud800",
    [],
    [[]],
    [{}],
    [1, "a"],
    {},
    {"a": 1},
    {"$ref": "#"},
    "#/$defs/p",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_constraints_are_refused(name):
    constraint, code = HOSTILE[name]
    tokenizer = byte_level()
    with pytest.raises(ConstraintError) as caught:
        Cache().automaton(constraint, tokenizer, tokenizer.get_vocab_size(), [tokenizer.token_to_id("<|end|>")])
    assert caught.value.code == code and len(str(caught.value)) < 700


def spoilt(value, rng):
    """The schema with a value somewhere inside replaced by junk."""
    if not isinstance(value, dict | list) or not value or rng.random() < 0.25:
        return rng.choice(JUNK)
    at = rng.choice(list(value) if isinstance(value, dict) else range(len(value)))
    inside = spoilt(value[at], rng)
    return {**value, at: inside} if isinstance(value, dict) else [*value[:at], inside, *value[at + 1 :]]


def test_junk_in_a_schema_is_carried_out_or_refused():
    rng = random.Random(0)
    outcomes = {"carried out": 0}
    schemas = [*SCHEMAS.values(), *({"type": "object", key: True, "allOf": [{key: []}, {"type": "object"}]} for key in SUPPORTED)]
    for _ in range(1500):
        schema = spoilt(rng.choice(schemas), rng)
        try:
            compile_expression(language(schema))
            outcomes["carried out"] += 1
        except ConstraintError as error:
            outcomes[error.code] = outcomes.get(error.code, 0) + 1
    assert outcomes["carried out"] > 100 and outcomes["unsupported_schema"] > 300, outcomes
