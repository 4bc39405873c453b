"""Constrained decoding: the lattice against enumeration; validity, and identity where no help is needed, over all strategies."""

import itertools
import json
import os
import random
import re

import jsonschema
import numpy as np
import pytest
import torch
from languages import SCHEMAS, closed, random_language
from random_checkpoints import MASK, STOP
from tokenizers import AddedToken, Tokenizer, decoders, models

from dllm_agents.agents.search import HELD_TO
from dllm_agents.benchmarks.search_reply import Reply, parse_reply
from dllm_agents.decoding import Decoding, ToolPrefill, generate
from dllm_agents.decoding.canvas import Canvas
from dllm_agents.decoding.constrained import Constraint
from dllm_agents.decoding.constraints import CACHE, ConstraintError, TokenAutomaton, Vocabulary
from dllm_agents.decoding.constraints.automata import compile_expression
from dllm_agents.decoding.constraints.lattice import Lattice
from dllm_agents.decoding.constraints.vocabulary import TAGS, _byte_letters
from dllm_agents.decoding.session import Session
from dllm_agents.decoding.settings import DecodingError

PIECES = ['": "', '", "', '{"', '"}', '": ', "}, ", "true", "false", "null", "name", "er", "in", "10", '"]', '["', "-1", ".5", "search"]
WORDS = [*(bytes([b]) for b in range(0x20, 0x7F)), b"\n", *(piece.encode() for piece in PIECES), "é".encode(), b"\xc3", b"\xa9"]
OPEN_ID, CLOSE_ID = 122, 123
RUNS = int(os.environ.get("CONSTRAINED_RUNS", "12"))
STRATEGIES = {
    "llada": ("llada", {"block_length": 16}),
    "llada by three": ("llada", {"strategy": "llada", "steps": 0, "block_length": 32}),
    "llada random": ("llada", {"strategy": "llada", "remasking": "random", "steps": 0}),
    "llada left to right": ("llada", {"strategy": "llada", "remasking": "sequential", "steps": 0}),
    "llada to the end": ("llada", {"strategy": "llada", "stop_early": False, "steps": 0}),
    "fast_dllm 0.9 dual": ("llada", {"strategy": "fast_dllm", "cache": "dual", "threshold": 0.9, "block_length": 16}),
    "fast_dllm 0.1 dual": ("llada", {"strategy": "fast_dllm", "cache": "dual", "threshold": 0.1, "block_length": 16}),
    "fast_dllm 0 none": ("llada", {"strategy": "fast_dllm", "cache": "none", "threshold": 0.0, "block_length": 64}),
    "fast_dllm random": ("llada", {"strategy": "fast_dllm", "remasking": "random", "threshold": 0.5}),
    "fast_dllm factor prefix": ("llada", {"strategy": "fast_dllm", "cache": "prefix", "factor": 3.0, "block_length": 16}),
    "dllm_var 0.2": ("llada", {"strategy": "dllm_var", "threshold": 0.2, "block_length": 16}),
    "dream entropy": ("Dream", {"strategy": "dream", "steps": 0}),
    "dream margin": ("Dream", {"strategy": "dream", "order": "topk_margin", "steps": 0}),
    "dream origin": ("Dream", {"strategy": "dream", "order": "origin", "steps": 0}),
    "dream threshold 0.1": ("Dream", {"strategy": "dream", "order": "confidence_threshold", "threshold": 0.1}),
    "fast_dllm on dream": ("Dream", {"strategy": "fast_dllm", "cache": "dual", "threshold": 0.1, "block_length": 16}),
    "fast_dllm by entropy": ("Dream", {"strategy": "fast_dllm", "cache": "prefix", "order": "entropy", "steps": 0, "block_length": 16}),
    "sdar dynamic 0.2": ("sdar", {"threshold": 0.2, "block_length": 8}),
    "sdar static": ("sdar", {"remasking": "low_confidence_static", "block_length": 8, "steps": 0}),
    "sdar unmerged": ("sdar", {"block_length": 4, "merge_stores": False}),
    "fast_dllm_v2 0.2 dual": ("Fast_dLLM_Qwen", {"threshold": 0.2, "cache": "dual"}),
    "fast_dllm_v2 0": ("Fast_dLLM_Qwen", {"threshold": 0.0}),
    "ar": ("qwen3", {}),
}


def tokenizer_of(words, *added):
    letters = {byte: letter for letter, byte in _byte_letters().items()}
    pieces = ["".join(letters[byte] for byte in word) for word in words]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, []))
    tokenizer.decoder = decoders.ByteLevel()
    assert tokenizer.add_tokens(list(added)) == len(added)
    return tokenizer


@pytest.fixture(scope="session")
def backbone(pair):
    """`backbone(model_type)`: a random model whose 122 first tokens are text, then the tool-call tags."""
    words = [*WORDS, *(b"ab%d" % i for i in range(OPEN_ID - len(WORDS)))]
    tokenizer = tokenizer_of(words, *(AddedToken(tag, special=False) for tag in TAGS))
    assert tokenizer.token_to_id("<tool_call>") == OPEN_ID and tokenizer.token_to_id("</tool_call>") == CLOSE_ID

    def make(model_type):
        model = pair(model_type).model
        model.__dict__["tokenizer"] = Plain(tokenizer)
        return model

    return make


class Plain:
    """A tokenizer as models have it."""

    def __init__(self, backend):
        self.backend_tokenizer = backend

    def get_vocab(self):
        return self.backend_tokenizer.get_vocab()

    def decode(self, token_ids):
        return self.backend_tokenizer.decode(list(token_ids), skip_special_tokens=False)


def settings(label, budget, rng, **more):
    model_type, chosen = STRATEGIES[label]
    chosen = {key: max(1, budget // 3) if key == "steps" else value for key, value in chosen.items()}
    temperature = rng.choice([0.0, 0.0, 0.7, 1.0])
    top_p = 0.9 if temperature and rng.random() < 0.5 else None
    return model_type, Decoding(
        max_new_tokens=budget,
        temperature=temperature,
        top_p=top_p,
        seed=rng.randrange(1000),
        stop_ids=[STOP],
        mask_id=MASK,
        **chosen,
        **more,
    )


def prompt_of(rng):
    return [rng.randrange(OPEN_ID) for _ in range(rng.randrange(1, 40))]


def is_valid(text, schema):
    try:
        return jsonschema.Draft202012Validator(schema).is_valid(json.loads(text))
    except ValueError:
        return False


def random_runs(backbone, label, runs, rule="mask", seed=""):
    """(valid, all) of random answers under random schemas, budgets from the exact minimum on."""
    rng = random.Random(label + seed)
    valid = 0
    for _ in range(runs):
        schema = SCHEMAS[rng.choice(list(SCHEMAS))]
        model = backbone(STRATEGIES[label][0])
        shortest = CACHE.automaton(
            schema, model.tokenizer, model.vocab_size, [STOP], MASK if model.attention != "causal" else None
        ).shortest
        budget = shortest + rng.choice([0, 0, 1, 3, 10, 40])
        _, decoding = settings(label, budget, rng, constraint=schema, constraint_rule=rule)
        answer = generate(model, prompt_of(rng), decoding)
        valid += is_valid(model.tokenizer.decode(answer.token_ids), schema) and answer.finish_reason == "stop"
    return valid, runs


@pytest.mark.parametrize("label", STRATEGIES)
def test_every_answer_is_valid(backbone, label, capsys):
    valid, runs = random_runs(backbone, label, RUNS)
    if RUNS > 12:
        with capsys.disabled():
            print(f"\n{label}: {valid} of {runs}", flush=True)
    assert valid == runs


@pytest.mark.parametrize("rule", ["map", "posterior"])
@pytest.mark.parametrize("label", ["llada by three", "fast_dllm 0.1 dual", "dream entropy", "sdar dynamic 0.2", "fast_dllm_v2 0", "ar"])
def test_the_joint_rules_answers_are_valid_too(backbone, label, rule):
    assert random_runs(backbone, label, 4, rule) == (4, 4)


@pytest.mark.parametrize("label", ["fast_dllm 0 none", "llada by three", "fast_dllm_v2 0"])
def test_masks_of_each_place_alone_do_not_do(backbone, label, monkeypatch):
    """The same runs fail where the tokens of one step are not checked against each other."""
    monkeypatch.setattr(Constraint, "settle", lambda self, call, free, prediction, logits: prediction)
    allowed = Lattice.allowed
    # After a step that closed every way on, anything goes: else there would be no token to take.
    monkeypatch.setattr(Lattice, "allowed", lambda self, place: flags if (flags := allowed(self, place)).any() else ~flags)
    valid, runs = random_runs(backbone, label, 12)
    assert valid < runs / 2


@pytest.mark.parametrize("label", STRATEGIES)
def test_an_answer_that_needs_no_help_is_left_alone(backbone, label):
    """Tokens, steps, confidences and forwards, bit for bit, greedy and sampled."""
    rng = random.Random("same" + label)
    same = 0
    for _ in range(max(6, RUNS)):
        budget = rng.choice([8, 20, 33])
        model_type, decoding = settings(label, budget, rng)
        model, prompt = backbone(model_type), prompt_of(rng)
        free, canvas = run(model, prompt, decoding)
        new = canvas.tokens[len(prompt) : len(prompt) + budget].tolist()
        answer = list(itertools.takewhile(lambda token: token != STOP, new))
        rest = new[len(answer) :]
        if any(token not in (STOP, MASK) for token in rest) or any(token >= OPEN_ID for token in answer):
            continue  # text after a stop id, or a token that writes nothing: in no language
        text = model.tokenizer.decode(answer)
        if text.encode() != b"".join((WORDS + [b"ab%d" % i for i in range(OPEN_ID)])[token] for token in answer):
            continue  # half a character
        cut = rng.randrange(len(text) + 1)
        pattern = f"{re.escape(text)}|{re.escape(text[:cut])}[0-9]{{0,6}}|[A-Z]{{2,9}}"
        bound, bound_canvas = run(model, prompt, decoding.model_copy(update={"constraint": {"regex": pattern}}))
        assert (bound.token_ids, bound.nfe, bound.reveal_step, bound.confidence) == (
            free.token_ids,
            free.nfe,
            free.reveal_step,
            free.confidence,
        )
        assert (canvas.tokens == bound_canvas.tokens).all() and (canvas.reveal_step == bound_canvas.reveal_step).all()
        assert bound.repaired == ()
        same += 1
    assert same >= 2


def run(model, prompt, decoding):
    from dllm_agents.decoding.predicting import predictions
    from dllm_agents.models.attention import Slot, forward

    with torch.inference_mode():
        session = Session(model, prompt, decoding)
        slot = Slot(model, session.canvas.length)
        while session.call is not None:
            (logits,) = forward(model, [session.segment(slot)])
            session.advance(predictions([(session.state, session.call)], logits)[0])
    return session.generation(), session.canvas


def brute_force(seed):
    """Compare what the lattice allows with all ways to fill the canvas in."""
    rng = random.Random(seed)
    expression, pattern = random_language(rng)
    words = [b"a", b"b", b"c", b"ab", b"bc", b"ca", b"aa"]
    rng.shuffle(words)
    words = [*words[: rng.randrange(2, 5)], None]
    stop, length = len(words) - 1, rng.randrange(1, 6)
    padding = (low := rng.randrange(length), rng.randrange(low, length)) if rng.random() < 0.3 else None
    canvas = Canvas([0], 1 + length, 99)
    decided = {place: rng.randrange(len(words)) for place in range(length) if rng.random() < 0.35}
    canvas.tokens[1:] = 0
    for place, token in decided.items():
        canvas.prefill(1 + place, token)
    automaton = TokenAutomaton(compile_expression(expression), Vocabulary.of(words), [stop])
    lattice = Lattice(automaton, 1, 1 + length)
    wanted = re.compile(pattern.encode())
    good = [set() for _ in range(length)]
    for filling in itertools.product(range(len(words)), repeat=length):
        if all(filling[place] == token for place, token in decided.items()):
            text, ended = b"", False
            for place, token in enumerate(filling):
                pads = padding is not None and padding[0] <= place < padding[1]
                if token == stop:
                    ended = ended or not pads
                elif ended:
                    break
                else:
                    text += words[token]
            else:
                if wanted.fullmatch(text):
                    for place, token in enumerate(filling):
                        good[place].add(token)
    lattice.look(canvas.tokens, canvas.is_masked, length, padding and (1 + padding[0], 1 + padding[1]))
    holes = [place for place in range(length) if place not in decided]
    assert lattice.open == all(good)
    for place in holes:
        flags = lattice.allowed(1 + place)
        assert {token for token in range(len(words)) if flags[automaton.class_of[token]]} == good[place], (seed, place)
    if all(good) and holes:
        # One more commit, worked out by what changes, is the lattice of the canvas with it.
        place = rng.choice(holes)
        token = rng.choice(sorted(good[place]))
        lattice.commit(1 + place, token)
        canvas.prefill(1 + place, token)
        fresh = Lattice(automaton, 1, 1 + length)
        fresh.look(canvas.tokens, canvas.is_masked, length, padding and (1 + padding[0], 1 + padding[1]))
        for other in (hole for hole in holes if hole != place):
            assert (lattice.allowed(1 + other) == fresh.allowed(1 + other)).all(), (seed, other)
    return bool(holes) and all(good)


def test_the_lattice_allows_what_enumeration_does():
    assert sum(brute_force(seed) for seed in range(600)) > 100


DIFFUSION = ["llada", "fast_dllm 0.1 dual", "dream entropy", "sdar dynamic 0.2", "fast_dllm_v2 0", "dllm_var 0.2"]
TOOLS = {
    "tools": [{"name": "search", "parameters": closed(q={"enum": ["a", "b"]})}, {"name": "in", "parameters": closed()}],
    "required": True,
}


def call_in(text):
    inside = re.findall(r"<tool_call>(.*?)</tool_call>", text, re.DOTALL)
    assert inside and text.count("<tool_call>") == text.count("</tool_call>") == len(inside), text
    for part in inside:
        value = json.loads(part)
        tool = next(tool for tool in TOOLS["tools"] if tool["name"] == value["name"])
        assert set(value) == {"name", "arguments"}
        jsonschema.validate(value["arguments"], tool["parameters"])
    return inside


@pytest.mark.parametrize(
    "label", ["llada", "fast_dllm 0.1 dual", "dream entropy", "sdar dynamic 0.2", "fast_dllm_v2 0", "dllm_var 0.2", "ar"]
)
def test_a_turn_that_must_call_a_tool_does(backbone, label):
    rng = random.Random("turn" + label)
    for _ in range(6):
        _, decoding = settings(label, rng.choice([26, 40, 60]), rng, constraint=TOOLS)
        model = backbone(STRATEGIES[label][0])
        call_in(model.tokenizer.decode(generate(model, prompt_of(rng), decoding).token_ids))


@pytest.mark.parametrize("rule", ["always", "predicted"])
@pytest.mark.parametrize("label", DIFFUSION)
def test_prefilled_tags_hold_a_call(backbone, label, rule):
    """P-ReAct: the span may be longer than the call, and the prompt may reach into the block."""
    rng = random.Random("tags" + label)
    for close in (40, 62):
        prefill = ToolPrefill(open=8, close=close, rule=rule)
        _, decoding = settings(label, 128, rng, constraint=TOOLS, tool_prefill=prefill)
        decoding = decoding.model_copy(update={"block_length": None if label == "dream entropy" else 64})
        model = backbone(STRATEGIES[label][0])
        answer = generate(model, prompt_of(rng), decoding)
        assert len(call_in(model.tokenizer.decode(answer.token_ids))) >= 1


@pytest.mark.parametrize("rule", ["always", "predicted"])
def test_a_search_agents_replies_can_be_read_with_its_tags_in_place(backbone, rule):
    rng = random.Random(rule)
    model = backbone("llada")
    for _ in range(RUNS):
        prefill = ToolPrefill(open=64, close=127, rule=rule)
        _, decoding = settings("fast_dllm 0.1 dual", 128, rng, constraint=HELD_TO, tool_prefill=prefill)
        answer = generate(model, prompt_of(rng), decoding.model_copy(update={"block_length": 128}))
        reply = parse_reply(model.tokenizer.decode(answer.token_ids))
        assert isinstance(reply, Reply), model.tokenizer.decode(answer.token_ids)
        assert reply.queries or rule == "predicted"


def test_what_was_repaired_is_said(backbone):
    model = backbone("llada")
    decoding = Decoding(max_new_tokens=12, stop_ids=[STOP], mask_id=MASK, constraint={"choice": ["true", "false"]})
    answer = generate(model, [1, 2, 3], decoding)
    assert model.tokenizer.decode(answer.token_ids) in ("true", "false") and answer.repaired == tuple(range(len(answer.token_ids)))


def test_the_best_choice_by_the_joint_rules(backbone):
    """With one step, `map` gives the most probable word, `posterior` each place's best marginal, both by enumeration."""
    model = backbone("llada")
    choices = ["ab", "ba", "cc", "aa", "bc"]
    ids = {choice: [WORDS.index(letter.encode()) for letter in choice] for choice in choices}
    for seed in range(6):
        prompt = [random.Random(seed).randrange(OPEN_ID) for _ in range(9)]
        common = {"max_new_tokens": 2, "steps": 1, "stop_ids": [STOP], "mask_id": MASK, "constraint": {"choice": choices}}
        with torch.inference_mode():
            session = Session(model, prompt, Decoding(max_new_tokens=2, steps=1, stop_ids=[STOP], mask_id=MASK))
            from dllm_agents.models.attention import forward

            (logits,) = forward(model, [session.segment(None)])
        probabilities = torch.softmax(logits.double().index_fill(1, torch.tensor([MASK]), -torch.inf), dim=-1).numpy()
        weights = {choice: np.prod([probabilities[place, token] for place, token in enumerate(ids[choice])]) for choice in choices}
        likeliest = max(weights, key=weights.get)
        answer = generate(model, prompt, Decoding(constraint_rule="map", **common))
        assert answer.token_ids == ids[likeliest]
        answer = generate(model, prompt, Decoding(constraint_rule="posterior", **common))
        marginal = [{}, {}]
        for choice, weight in weights.items():
            for place, letter in enumerate(choice):
                marginal[place][letter] = marginal[place].get(letter, 0) + weight / sum(weights.values())
        surest = max((value, place, letter) for place in (0, 1) for letter, value in marginal[place].items())
        place = surest[1]
        assert answer.token_ids[place] == WORDS.index(surest[2].encode()) and answer.confidence[place] == pytest.approx(surest[0], abs=1e-6)


REFUSED = [
    ({"constraint": {"not": {}}}, "constraint: #/not"),
    ({"constraint": SCHEMAS["call"], "max_new_tokens": 5}, r"max_new_tokens: 5 are too few; the shortest .* has \d+ tokens"),
    ({"constraint": SCHEMAS["call"], "stop_ids": []}, "no stop id"),
    ({"constraint": TOOLS, "tool_prefill": ToolPrefill(open=3, close=9)}, r"tool_prefill: 5 places .* shortest call has \d+ tokens"),
    ({"constraint": SCHEMAS["call"], "tool_prefill": ToolPrefill(open=3, close=40)}, "it must be a list of tools"),
]


@pytest.mark.parametrize("fields, reason", REFUSED)
def test_what_cannot_be_met_is_refused_before_decoding(backbone, fields, reason):
    model = backbone("llada")
    with pytest.raises(DecodingError, match=reason):
        Decoding(**{"max_new_tokens": 64, "stop_ids": [STOP], "mask_id": MASK, **fields}).resolved(model)


def test_a_tokenizer_without_bytes_is_refused(backbone):
    model = backbone("sdar")
    model.__dict__["tokenizer"] = Plain(Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    with pytest.raises(ConstraintError, match="tokenizer"):
        Decoding(constraint={"type": "null"}, stop_ids=[STOP]).resolved(model)
