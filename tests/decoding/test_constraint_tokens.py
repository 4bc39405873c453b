"""What tokens write, and automata over them, against enumeration and against the tokenizers' own decoding."""

import itertools
import json
import random

import pytest
from languages import SCHEMAS, Texts, closed, random_language
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from dllm_agents.decoding.constraints import Cache, ConstraintError, TokenAutomaton, Vocabulary, language
from dllm_agents.decoding.constraints.automata import compile_expression
from dllm_agents.decoding.constraints.vocabulary import TAGS, token_bytes

TEXT = 'a"b {"name": "search", "arguments": {"query": "Zoë → 😀 \\n"}}\n<tool_call> x</tool_call>'
SPECIAL = AddedToken("<|end|>", special=True)


def byte_level(*added):
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)} | {'Ġ"': 256, "na": 257}, [("Ġ", '"'), ("n", "a")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([SPECIAL, *added])
    return tokenizer


def sentence_piece(*added):
    pieces = [f"<0x{byte:02X}>" for byte in range(256)] + [*'▁abehmnorstuvw{}":,é', "▁{", '▁"', "na", "me", "▁yes", "yes", "▁▁"]
    tokenizer = Tokenizer(
        models.BPE({piece: i for i, piece in enumerate(pieces)}, [("n", "a"), ("m", "e"), ("▁", "{")], byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.add_tokens([SPECIAL, *added])
    return tokenizer


def spelled(tokenizer, ids):
    tokens = token_bytes(tokenizer, tokenizer.get_vocab_size())
    return b"".join(tokens[i] or b"" for i in ids)


@pytest.mark.parametrize("make", [byte_level, sentence_piece])
def test_tokens_write_the_bytes_they_are_decoded_to(make):
    tokenizer = make("<tool_call>", "</tool_call>")
    ids = tokenizer.encode(TEXT).ids
    text = spelled(tokenizer, ids).decode()
    assert tokenizer.decode(ids) == text.removeprefix(" ") == TEXT
    assert token_bytes(tokenizer, tokenizer.get_vocab_size())[tokenizer.token_to_id("<|end|>")] is None


def test_ids_without_a_token_are_in_no_answer():
    tokenizer = byte_level()
    size = tokenizer.get_vocab_size() + 40
    automaton = Cache().automaton(
        {"type": "string"}, tokenizer, size, [tokenizer.token_to_id("<|end|>")], mask_id=tokenizer.token_to_id("a")
    )
    assert not automaton.class_of[size - 40 :].any() and not automaton.class_of[tokenizer.token_to_id("a")]
    assert automaton.class_of[tokenizer.token_to_id("b")]


@pytest.mark.parametrize("special", [False, True])
def test_tags_may_be_special_tokens_or_plain_ones(special):
    tokenizer = byte_level(*(AddedToken(tag, special=special) for tag in TAGS))
    tools = {"tools": [{"name": "f", "parameters": closed(x={"type": "boolean"})}], "required": True}
    automaton = Cache().automaton(tools, tokenizer, tokenizer.get_vocab_size(), [tokenizer.token_to_id("<|end|>")])
    ids = tokenizer.encode('Hm.<tool_call>\n{"name": "f", "arguments": {"x": true}}\n</tool_call>').ids
    assert automaton.accepts(ids) and automaton.accepts([*ids, tokenizer.token_to_id("<|end|>")])
    assert not automaton.accepts(ids[:-1])
    for letter in "\xf8\xf9":
        assert not automaton.class_of[tokenizer.token_to_id(letter)]  # bytes of no text are no tags either
    inside = tokenizer.encode("<tool_call>").ids[0]
    assert not automaton.accepts([*ids[:-1], inside, ids[-1]])


def test_a_leading_blank_that_decoding_takes_away_is_free():
    tokenizer = sentence_piece()
    end, id_of = tokenizer.token_to_id("<|end|>"), tokenizer.token_to_id
    for choice, allowed in (("yes", {"yes", "▁yes"}), (" yes", {"▁▁yes"})):
        automaton = Cache().automaton({"choice": [choice]}, tokenizer, tokenizer.get_vocab_size(), [end])
        ways = {"yes": [id_of("yes")], "▁yes": [id_of("▁yes")], "▁▁yes": [id_of("▁▁"), id_of("yes")]}
        assert {way for way, ids in ways.items() if automaton.accepts(ids)} == allowed
        assert all(tokenizer.decode(ways[way]) == choice for way in allowed)


@pytest.mark.parametrize(
    "tokenizer",
    [
        Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1, "##b": 2}, unk_token="[UNK]")),
        Tokenizer(models.WordLevel({"a": 0}, unk_token="a")),
        object(),
    ],
)
def test_tokenizers_without_bytes_are_refused(tokenizer):
    with pytest.raises(ConstraintError) as caught:
        Cache().automaton({"type": "null"}, tokenizer, 3, [0])
    assert caught.value.code == "unsupported_tokenizer"


def test_token_automata_accept_what_their_bytes_spell():
    words = [b"a", b"b", b"c", b"ab", b"bc", b"ca", b"abc", None]
    stop = len(words) - 1
    counts = [0, 0]
    for seed in range(60):
        d = compile_expression(random_language(random.Random(seed))[0])
        automaton = TokenAutomaton(d, Vocabulary.of(words), [stop])
        shortest = None
        for length in range(5):
            for ids in itertools.product(range(stop), repeat=length):
                accepted = d.accepts(b"".join(words[i] for i in ids))
                assert automaton.accepts(ids) == automaton.accepts([*ids, stop, stop]) == accepted, (seed, ids)
                counts[accepted] += 1
                if accepted and shortest is None:
                    shortest = length
        if shortest is not None:
            assert automaton.shortest == shortest
        assert not automaton.accepts([0, stop, 0])
    assert min(counts) > 500


@pytest.mark.parametrize("name", ["call", "optional", "date"])
def test_texts_of_a_schema_are_accepted_however_they_are_cut(name):
    rng = random.Random(name)
    tokenizer = byte_level()
    automaton = Cache().automaton(SCHEMAS[name], tokenizer, tokenizer.get_vocab_size(), [tokenizer.token_to_id("<|end|>")])
    texts = Texts(compile_expression(language(SCHEMAS[name])), rng)
    for _ in range(30):
        text = texts.text()
        assert automaton.accepts(tokenizer.encode(text.decode()).ids)
        assert not automaton.accepts(tokenizer.encode(text.decode().rstrip()[:-1]).ids)


def test_the_cache_gives_the_same_automaton_and_stays_within_its_bytes():
    tokenizer = byte_level()
    size, stop = tokenizer.get_vocab_size(), [tokenizer.token_to_id("<|end|>")]
    cache = Cache(most=2 << 20)
    first = cache.automaton(SCHEMAS["call"], tokenizer, size, stop)
    assert cache.automaton(json.loads(json.dumps(SCHEMAS["call"])), tokenizer, size, stop) is first
    assert cache.automaton(SCHEMAS["call"], tokenizer, size, [0]) is not first
    for length in range(1, 60):
        cache.automaton({"type": "string", "maxLength": length}, tokenizer, size, stop)
        assert cache.nbytes <= cache.most
    assert (cache.hits, cache.misses) == (1, 61) and cache.seconds > 0


@pytest.mark.parametrize(
    "constraint, code",
    [
        ({"allOf": [{"type": "string"}, {"type": "null"}]}, "unsatisfiable_schema"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "unsatisfiable_schema"),
        ({"choice": ["é"]}, "unsatisfiable_schema"),
        ({"description": "x" * (1 << 20)}, "schema_too_large"),
        ("a string", "unsupported_schema"),
        ({"const": {1, 2}}, "unsupported_schema"),
    ],
)
def test_constraints_that_no_answer_meets_are_refused(constraint, code):
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters) if letter != "Ã"}, []))
    tokenizer.decoder = decoders.ByteLevel()
    with pytest.raises(ConstraintError) as caught:
        Cache().automaton(constraint, tokenizer, 256, [0])
    assert caught.value.code == code


def test_deeply_nested_constraints_are_refused():
    schema = {}
    for _ in range(10_000):
        schema = {"items": schema}
    with pytest.raises(ConstraintError) as caught:
        Cache().automaton(schema, byte_level(), 260, [0])
    assert caught.value.code == "schema_too_large"


def test_no_stop_id_is_refused():
    with pytest.raises(ConstraintError) as caught:
        Cache().automaton({"type": "null"}, byte_level(), 260, [])
    assert caught.value.code == "no_stop_id"


def test_a_table_with_more_cells_than_its_bound_is_refused(monkeypatch):
    monkeypatch.setattr("dllm_agents.decoding.constraints.tokens.MAX_CELLS", 8)
    with pytest.raises(ConstraintError, match="more than 8 cells") as refusal:
        TokenAutomaton(compile_expression(language({"regex": "[a-c]{9}"})), Vocabulary.of([b"a", b"b", b"c", None]), [3])
    assert refusal.value.code == "schema_too_large"
