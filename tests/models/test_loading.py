"""Checkpoints in every published layout give the logits of a plainly written transformer; what is wrong with one is said in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from plain_transformer import Plain
from random_checkpoints import MASK, STOP, VOCABULARY, llada, llama_like
from safetensors.torch import load_file, save_file

from dllm_agents.errors import StageError
from dllm_agents.models import load
from dllm_agents.models.attention import Segment, Slot, forward


def write(directory: Path, model_type: str, **options: Any) -> Path:
    return llada(directory, **options) if model_type == "llada" else llama_like(directory, model_type, **options)


def logits(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Every row's logits under the model's own attention."""
    n = len(tokens)
    return forward(model, [Segment(tokens, 0, n, model.attention, model.block_length, torch.arange(n))])[0]


@pytest.mark.parametrize("model_type", ["llada", "Dream", "Fast_dLLM_Qwen", "sdar", "PanguEmbedded", "llama", "qwen2", "qwen3"])
def test_logits_equal_the_plain_reference(tmp_path: Path, model_type: str) -> None:
    model, plain = load(write(tmp_path, model_type)), Plain.load(tmp_path)
    tokens = torch.randint(0, VOCABULARY, (41,), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(logits(model, tokens), by_hand(plain, model, tokens), rtol=1e-4, atol=1e-4)


def by_hand(plain: Plain, model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Every row's logits by the plain reference under the model's own attention."""
    if model.attention == "full":
        return plain.full(tokens)
    return plain.block_causal(tokens, (model.attention == "block_causal" and model.block_length) or 1)


@pytest.mark.parametrize(
    "model_type, facts",
    [
        ("llada", ("full", False, MASK, None, "llada")),
        ("Dream", ("full", True, MASK, None, "dream")),
        ("Fast_dLLM_Qwen", ("block_causal", True, MASK, 32, "fast_dllm_v2")),
        ("sdar", ("block_causal", False, MASK, 4, "sdar")),
        ("PanguEmbedded", ("context_causal", True, MASK, 32, "context_causal")),
        ("qwen3", ("causal", True, None, None, "ar")),
    ],
)
def test_the_table_says_what_each_family_is(tmp_path: Path, model_type: str, facts: tuple[Any, ...]) -> None:
    model = load(write(tmp_path, model_type))
    assert (model.attention, model.shift, model.mask_id, model.block_length, model.strategy) == facts
    assert model.stop_ids == (STOP,) and model.context_length == 4096 and model.vocab_size == VOCABULARY


def test_published_ids_stand_in_where_the_files_are_silent() -> None:
    from dllm_agents.models.families import FAMILIES

    assert (FAMILIES["panguembedded"].mask_id, FAMILIES["panguembedded"].stop_ids) == (45830, (45892,))
    assert (FAMILIES["llada"].mask_id, FAMILIES["llada"].stop_ids) == (126336, (126081, 126348))
    assert (FAMILIES["dream"].mask_id, FAMILIES["fast_dllm_qwen"].mask_id, FAMILIES["sdar"].mask_id) == (151666, 151665, 151669)


def test_stop_ids_come_from_the_generation_config(tmp_path: Path) -> None:
    (llama_like(tmp_path, "sdar") / "generation_config.json").write_text(json.dumps({"eos_token_id": [3, 4]}))
    assert load(tmp_path).stop_ids == (3, 4)


@pytest.mark.parametrize(
    "own, attention, shift",
    [
        ({"attention": "full", "mask_token_id": 5, "logit_shift": False, "block_length": None}, "full", False),
        ({"attention": "block_causal", "mask_token_id": 5, "logit_shift": False, "block_length": 8}, "block_causal", False),
        ({"attention": "causal", "mask_token_id": None, "logit_shift": True, "block_length": None}, "causal", True),
    ],
)
def test_checkpoints_trained_here_say_what_they_are(tmp_path: Path, own: dict[str, Any], attention: str, shift: bool) -> None:
    model = load(llama_like(tmp_path, "llama", extra={"dllm": own}))
    assert (model.attention, model.shift, model.mask_id, model.block_length) == (
        attention,
        shift,
        own["mask_token_id"],
        own["block_length"],
    )
    tokens = torch.arange(20)
    plain = Plain.load(tmp_path)
    block = model.block_length if model.attention == "block_causal" else 1
    expected = plain.full(tokens) if model.attention == "full" else plain.block_causal(tokens, block)
    torch.testing.assert_close(logits(model, tokens), expected, rtol=1e-4, atol=1e-4)


def test_ministral_reads_the_text_part_of_a_multimodal_checkpoint(tmp_path: Path) -> None:
    inner = llama_like(tmp_path / "plain", "ministral3")
    alone = load(inner)
    text = json.loads((inner / "config.json").read_text())
    directory = tmp_path / "wrapped"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({"model_type": "mistral3", "text_config": text, "vision_config": {}}))
    tensors = {f"language_model.{name}": value for name, value in load_file(inner / "model.safetensors").items()}
    save_file({**tensors, "vision_tower.patch.weight": torch.zeros(2)}, directory / "model.safetensors")
    tokens = torch.arange(10)
    assert torch.equal(logits(load(directory), tokens), logits(alone, tokens))


@pytest.mark.parametrize("model_type", ["ministral3", "llama", "qwen2", "qwen3"])
def test_ar_logits_equal_transformers_own(tmp_path: Path, model_type: str) -> None:
    import transformers

    yarn = {
        "rope_type": "yarn",
        "rope_theta": 1e4,
        "factor": 4.0,
        "original_max_position_embeddings": 16,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
    }
    extra = (
        {"rope_parameters": {**yarn, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1}}
        if model_type == "ministral3"
        else {}
    )
    model = load(llama_like(tmp_path, model_type, extra=extra))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    tokens = torch.randint(0, VOCABULARY, (50,), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(logits(model, tokens), theirs(tokens[None]).logits[0], rtol=1e-4, atol=1e-4)


def rope(kind: str, **fields: float) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 1e4, "factor": 4.0, **fields}, "max_position_embeddings": 64}


ODD: dict[str, dict[str, Any]] = {
    "one key head": {"num_key_value_heads": 1},
    "as many key heads": {"num_key_value_heads": 4},
    "wide heads": {"head_dim": 32},
    "narrow heads": {"head_dim": 8},
    "biases": {"attention_bias": True},
    "biases everywhere": {"attention_bias": True, "mlp_bias": True},
    "a large epsilon": {"rms_norm_eps": 1e-2},
    "tied": {"tie_word_embeddings": True},
    "a theta of its own": {"rope_parameters": {"rope_type": "default", "rope_theta": 123.0}},
    "llama3 rope": rope("llama3", low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16),
    "yarn": rope("yarn", original_max_position_embeddings=16),
    "linear rope": rope("linear"),
    "dynamic rope": rope("dynamic", original_max_position_embeddings=16),
    "half of a head turned": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
    "a window": {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0},
    "a window that is off": {"use_sliding_window": False, "sliding_window": 4},
    "another activation": {"hidden_act": "gelu"},
    "an odd vocabulary": {"vocab_size": 101},
    "one layer": {"num_hidden_layers": 1},
}
# Everything else is read; these are refused by name, or read as transformers does.
MAY_BE_REFUSED = ("dynamic rope", "a window", "a window that is off", "another activation")


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Qwen3", "Ministral3"])
def test_odd_configurations_are_read_as_transformers_reads_them_or_refused(tmp_path: Path, family: str, odd: str) -> None:
    import transformers

    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    settings = {**sizes, "vocab_size": 128, "initializer_range": 0.3, "tie_word_embeddings": False, "eos_token_id": 2, **ODD[odd]}
    if family == "Ministral3" and "rope_parameters" in settings:
        own = {"llama_4_scaling_beta": 0.1, "original_max_position_embeddings": 16}
        settings["rope_parameters"] = own | settings["rope_parameters"]
    config = getattr(transformers, f"{family}Config")(**settings)
    theirs = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    for name, parameter in theirs.named_parameters():
        if name.endswith("bias") or "norm" in name:
            torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.3)
    theirs.save_pretrained(tmp_path)
    tokens = torch.randint(0, settings["vocab_size"], (50,), generator=torch.Generator().manual_seed(0))
    try:
        ours = logits(load(tmp_path), tokens)
    except StageError as refusal:
        assert odd in MAY_BE_REFUSED and "\n" not in str(refusal) and "config.json" in str(refusal), refusal
        return
    with torch.no_grad():
        torch.testing.assert_close(ours, theirs(tokens[None]).logits[0], rtol=1e-4, atol=1e-4)


ODD_LLADA: dict[str, dict[str, Any]] = {
    "one key head": {"n_kv_heads": 1},
    "keys of one head by their other name": {"n_kv_heads": None, "multi_query_attention": True},
    "as many key heads": {"n_kv_heads": None},
    "narrow heads": {"n_heads": 8},
    "odd heads": {"n_heads": 32, "n_kv_heads": 16},
    "a large epsilon": {"rms_norm_eps": 1e-2},
    "tied": {"weight_tying": True},
    "a theta of its own": {"rope_theta": 123.0},
    "an inner size by its ratio": {"mlp_hidden_size": None, "mlp_ratio": 2},
    "more embeddings than words": {"vocab_size": 101, "mask_token_id": 100, "eos_token_id": 99},
    "an odd vocabulary": {"vocab_size": 101, "embedding_size": None, "mask_token_id": 100, "eos_token_id": 99},
    "one layer": {"n_layers": 1},
    "biases": {"include_bias": True},
    "biases of keys": {"include_qkv_bias": True},
    "another activation": {"activation_type": "swiglu"},
}
ODD_DIFFUSION = ODD | {
    "one odd key head": {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 14},
    "an odd vocabulary": {"vocab_size": 101, "mask_token_id": 100, "eos_token_id": 99},
    "linear rope, spelled as it was": {"rope_scaling": {"type": "linear", "factor": 3.0}},
    "no scaling, spelled out": {"rope_scaling": None, "sliding_window": None},
    "no bias": {"bias": False},
}
# What these read is refused by name; a key that a family's own code does not read changes nothing.
REFUSED = {"dynamic rope", "a window", "another activation", "biases everywhere", "biases", "biases of keys"}


@pytest.mark.parametrize(
    ("model_type", "odd"),
    [(family, odd) for family in ("Dream", "Fast_dLLM_Qwen", "sdar", "PanguEmbedded") for odd in ODD_DIFFUSION]
    + [("llada", odd) for odd in ODD_LLADA],
)
def test_odd_configurations_of_diffusion_families_give_the_plain_reference_s_logits_or_are_refused(
    tmp_path: Path, model_type: str, odd: str
) -> None:
    settings = (ODD_LLADA if model_type == "llada" else ODD_DIFFUSION)[odd]
    if model_type == "PanguEmbedded" and odd.startswith("biases"):
        settings = {"bias": True}
    write(tmp_path, model_type, extra=settings)
    if odd == "tied":
        file = tmp_path / "model.safetensors"
        heads = ("lm_head.weight", "model.transformer.ff_out.weight")
        save_file({name: value for name, value in load_file(file).items() if name not in heads}, file)
    try:
        model = load(tmp_path)
    except StageError as refusal:
        assert odd in REFUSED and "\n" not in str(refusal), refusal
        return
    assert odd not in ("dynamic rope", "another activation") and (odd != "a window" or model_type == "PanguEmbedded")
    if odd == "tied":
        assert model.network.lm_head.weight is model.network.model.embed_tokens.weight
    tokens = torch.randint(0, min(model.vocab_size, VOCABULARY), (50,), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(logits(model, tokens), by_hand(Plain.load(tmp_path), model, tokens), rtol=1e-4, atol=1e-3)


SENSELESS: list[dict[str, Any]] = [
    *({"rms_norm_eps": value} for value in ("1e-6", None, -1.0, 0, float("nan"))),
    *({"rope_theta": value} for value in ("1e6", 0, -5.0, float("inf"))),
    {"tie_word_embeddings": "false"},
    {"weight_tying": "false"},
]


@pytest.mark.parametrize("model_type", ["llada", "Dream", "sdar", "qwen3"])
def test_numbers_and_flags_that_make_no_sense_are_named_with_their_file(tmp_path: Path, model_type: str) -> None:
    for settings in SENSELESS:
        write(tmp_path, model_type, extra=settings)
        with pytest.raises(StageError, match=rf"config.json: {next(iter(settings))} is .*; it must be (a number above 0|true or false)"):
            load(tmp_path)


@pytest.mark.parametrize("model_type", ["llada", "Dream", "Fast_dLLM_Qwen", "sdar", "PanguEmbedded"])
@pytest.mark.parametrize("named", ["config", "list", "generation", "tokenizer", "nowhere", "outside"])
def test_end_tokens_of_diffusion_families_wherever_they_are_named(tmp_path: Path, model_type: str, named: str) -> None:
    values: dict[str, Any] = {"list": [5, 6], "generation": None, "tokenizer": None, "nowhere": None, "outside": [10**6, -1]}
    write(tmp_path, model_type, extra={"eos_token_id": values.get(named, 5)})
    if named == "generation":
        (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 6]}))
    if named == "tokenizer":
        entry = {"eos_token": {"content": "<end>"}, "added_tokens_decoder": {"5": {"content": "<end>"}, "6": {"content": "<other>"}}}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(entry))
    expected = {"config": (5,), "list": (5, 6), "generation": (5, 6), "tokenizer": (5,)}.get(named, ())
    assert load(tmp_path).stop_ids == expected


def test_a_prompt_in_parts_gives_the_keys_of_the_whole(tmp_path: Path) -> None:
    model = load(llama_like(tmp_path, "sdar"))
    tokens = torch.randint(0, VOCABULARY, (24,), generator=torch.Generator().manual_seed(1))
    whole, parts = Slot(model, 24), Slot(model, 24)
    none = torch.empty(0, dtype=torch.int64)
    forward(model, [Segment(tokens, 0, 24, "block_causal", 4, none, whole)])
    for start in range(0, 24, 8):
        forward(model, [Segment(tokens[start : start + 8], start, start + 8, "block_causal", 4, none, parts)])
    torch.testing.assert_close(parts.pool.keys, whole.pool.keys)
    torch.testing.assert_close(parts.pool.values, whole.pool.values)


def test_requests_in_one_forward_do_not_see_each_other(tmp_path: Path) -> None:
    model = load(llada(tmp_path))
    first, second = torch.arange(12), torch.arange(40, 70)
    segments = [Segment(tokens, 0, len(tokens), "full", None, torch.arange(len(tokens))) for tokens in (first, second)]
    for together, alone in zip(forward(model, segments), (logits(model, first), logits(model, second)), strict=True):
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_shards_dtype_and_tied_embeddings(tmp_path: Path) -> None:
    llama_like(tmp_path, "llama", extra={"tie_word_embeddings": True, "torch_dtype": "bfloat16"})
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    reference = load(tmp_path, dtype="float32")
    names = sorted(tensors)
    (tmp_path / "model.safetensors").unlink()
    index = {}
    for number, part in enumerate((names[::2], names[1::2])):
        save_file({name: tensors[name] for name in part}, tmp_path / f"model-{number}.safetensors")
        index |= dict.fromkeys(part, f"model-{number}.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    tokens = torch.arange(9)
    assert torch.equal(logits(load(tmp_path, dtype="float32"), tokens), logits(reference, tokens))
    assert load(tmp_path).dtype == torch.bfloat16
    assert reference.network.lm_head.weight is reference.network.model.embed_tokens.weight
    (tmp_path / "model-1.safetensors").unlink()
    with pytest.raises(StageError, match="missing shard"):
        load(tmp_path)


def edit(directory: Path, **changes: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def drop(directory: Path, key: str) -> None:
    tensors = load_file(directory / "model.safetensors")
    save_file({name: value for name, value in tensors.items() if name != key}, directory / "model.safetensors")


def add(directory: Path, key: str) -> None:
    tensors = load_file(directory / "model.safetensors")
    save_file({**tensors, key: torch.zeros(3)}, directory / "model.safetensors")


def truncate(directory: Path) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])


@pytest.mark.parametrize(
    "damage, named",
    [
        (lambda d: drop(d, "model.transformer.blocks.1.ff_proj.weight"), "missing keys .*blocks.1.ff_proj.weight"),
        (lambda d: add(d, "model.transformer.blocks.1.extra.weight"), "unknown keys .*blocks.1.extra.weight"),
        (lambda d: (d / "model.safetensors").unlink(), "no weights"),
        (truncate, "truncated"),
        (lambda d: (d / "config.json").write_text("{"), "config.json: not JSON"),
        (lambda d: (d / "config.json").write_text("[]"), "config.json: a config is a mapping"),
        (lambda d: (d / "config.json").unlink(), "config.json: No such file"),
        (lambda d: edit(d, d_model=-4), "hidden_size is -4"),
        (lambda d: edit(d, n_layers=10**9), "num_hidden_layers is 1000000000"),
        (lambda d: edit(d, n_layers=3), "weights have 2 layers, config.json says 3"),
        (lambda d: edit(d, mlp_hidden_size=97), "shape"),
        (lambda d: edit(d, n_heads=5), "not a multiple"),
        (lambda d: edit(d, alibi=True), "alibi"),
        (lambda d: edit(d, model_type="gpt9"), "model_type 'gpt9' is not supported"),
        (lambda d: edit(d, vocab_size="many", embedding_size=None), "vocab_size is 'many'"),
        (lambda d: edit(d, dllm={"attention": "sideways"}), "dllm.attention"),
        (lambda d: (d / "config.json").write_text('{"a":' + "[" * 100_000), "config.json: not JSON"),
        (lambda d: (d / "generation_config.json").write_text("[" * 100_000), "generation_config.json: not JSON"),
        (lambda d: (d / "model.safetensors.index.json").write_text("{" * 100_000), "index.json: not JSON"),
        (lambda d: (d / "model.safetensors.index.json").write_text('{"weight_map": {"a": "%s"}}' % ("x" * 5000)), "missing shard"),
        (lambda d: ((d / "config.json").unlink(), (d / "config.json").symlink_to("/dev/zero")), "config.json: not a file of at most"),
        (lambda d: add(d, f"model.layers.{'9' * 5000}.weight"), "unknown keys"),
        (
            lambda d: edit(d, model_type="qwen3", rope_scaling={"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}),
            "config",
        ),
    ],
)
def test_what_is_wrong_with_a_checkpoint_is_said_in_one_line(tmp_path: Path, damage: Any, named: str) -> None:
    directory = llada(tmp_path)
    damage(directory)
    with pytest.raises(StageError, match=named) as error:
        load(directory)
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_label_tables_are_not_built(tmp_path: Path) -> None:
    directory = llama_like(tmp_path, "qwen3")
    edit(directory, num_labels=10**9)
    assert load(directory).config["num_labels"] == 10**9  # within the test's seconds


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("stored", ["another head", "the same head", "head alone", "embeddings alone"])
def test_a_tied_flag_and_stored_heads_are_read_as_transformers_reads_them(tmp_path: Path, model_type: str, stored: str) -> None:
    import transformers

    llama_like(tmp_path, model_type, extra={"tie_word_embeddings": True})
    tensors = load_file(tmp_path / "model.safetensors")
    if stored == "the same head":
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    elif stored == "head alone":
        del tensors["model.embed_tokens.weight"]
    elif stored == "embeddings alone":
        del tensors["lm_head.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    model, tokens = load(tmp_path), torch.arange(20)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    with torch.no_grad():
        torch.testing.assert_close(logits(model, tokens), theirs(tokens[None]).logits[0], rtol=1e-4, atol=1e-4)
    assert (model.network.lm_head.weight is model.network.model.embed_tokens.weight) == (stored != "another head")


def test_llada_takes_the_flag_s_word_as_its_own_code_does(tmp_path: Path) -> None:
    directory = llada(tmp_path)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "weight_tying": True}))
    model = load(directory)
    assert model.network.lm_head.weight is model.network.model.embed_tokens.weight


@pytest.mark.parametrize("beside", ["consolidated", "adapter_model", "optimizer", "zz"])
def test_what_lies_beside_the_weights_is_not_read(tmp_path: Path, beside: str) -> None:
    tokens = torch.arange(9)
    alone = logits(load(llama_like(tmp_path, "qwen3")), tokens)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({"model.norm.weight": tensors["model.norm.weight"] * 100}, tmp_path / f"{beside}.safetensors")
    assert torch.equal(logits(load(tmp_path), tokens), alone)


def test_a_key_in_two_shards_or_an_adapter_alone_is_refused(tmp_path: Path) -> None:
    llama_like(tmp_path, "qwen3")
    weights = tmp_path / "model.safetensors"
    save_file({"model.norm.weight": load_file(weights)["model.norm.weight"]}, tmp_path / "model-00002-of-00002.safetensors")
    weights.rename(tmp_path / "model-00001-of-00002.safetensors")
    with pytest.raises(StageError, match=r"model\.norm\.weight stands in model-00001-of-00002\.safetensors too"):
        load(tmp_path)
    (tmp_path / "model-00001-of-00002.safetensors").unlink()
    (tmp_path / "model-00002-of-00002.safetensors").rename(tmp_path / "adapter_model.safetensors")
    with pytest.raises(StageError, match="holds an adapter"):
        load(tmp_path)


def test_the_tokenizer_s_end_token_is_a_stop_id(tmp_path: Path) -> None:
    llama_like(tmp_path, "qwen3")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<end>"}))
    assert load(tmp_path).stop_ids == (STOP,)
    added = [{"id": 7, "content": "<end>"}, {"id": 8, "content": "x"}]
    (tmp_path / "tokenizer.json").write_text(json.dumps({"added_tokens": added}))
    assert load(tmp_path).stop_ids == (STOP, 7)
    decoder = {"9": {"content": "<end>"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "<end>"}, "added_tokens_decoder": decoder}))
    assert load(tmp_path).stop_ids == (STOP, 9)


def test_symlinks_are_followed(tmp_path: Path) -> None:
    """As the hub's cache lays a checkpoint out."""
    stored, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    llama_like(stored, "qwen3")
    snapshot.mkdir()
    for file in stored.iterdir():
        (snapshot / file.name).symlink_to(file)
    assert torch.equal(logits(load(snapshot), torch.arange(9)), logits(load(stored), torch.arange(9)))


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "qwen3", "sdar", "Dream"])
def test_a_directory_without_tokenizer_files_has_no_tokenizer(tmp_path: Path, model_type: str) -> None:
    with pytest.raises(StageError, match="no readable tokenizer"):
        _ = load(llama_like(tmp_path, model_type)).tokenizer


def test_pickled_weights_are_not_opened(tmp_path: Path) -> None:
    directory = llada(tmp_path)
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    with pytest.raises(StageError, match="pickled"):
        load(directory)


def test_a_checkpoint_trained_here_is_read_without_the_code_that_trains(tmp_path: Path) -> None:
    """Which is most of what a server's start would take."""
    from dllm_agents.training import tokenizer

    own = {"attention": "full", "mask_token_id": 5, "logit_shift": False, "block_length": None}
    llama_like(tmp_path, "llama", extra={"dllm": own})
    tokenizer.build(["one two three"], [], 300).save_pretrained(tmp_path)
    script = f"""
import sys
from dllm_agents import models
from dllm_agents.decoding import Decoding, generate
model = models.load({str(tmp_path)!r})
assert model.tokenizer.encode("two three")
generate(model, [7, 8], Decoding(strategy="llada", max_new_tokens=4, block_length=4, steps=4))
print(*(name for name in ("transformers.modeling_utils", "torch._dynamo", "sympy", "scipy") if name in sys.modules))
"""
    assert subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.split() == []


def test_a_directory_without_tokenizer_says_so_when_it_is_needed(tmp_path: Path) -> None:
    model = load(llada(tmp_path))
    with pytest.raises(StageError, match="no readable tokenizer"):
        _ = model.tokenizer
