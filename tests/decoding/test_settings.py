"""What settings mean: resolved once for a checkpoint, the published ones pinned, contradictions one line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from dllm_agents.decoding import Decoding, generate
from dllm_agents.decoding.settings import DecodingError
from dllm_agents.models.families import FAMILIES

ROOT = Path(__file__).parents[2]
NAMES = ("ar", "dllm_var", "dream", "fast_dllm", "fast_dllm_v2", "llada", "sdar")


@dataclass
class Card:
    """What settings need to know of a checkpoint."""

    attention: str
    shift: bool
    strategy: str
    block_length: int | None = None
    mask_id: int | None = 9
    stop_ids: tuple[int, ...] = (7,)
    vocab_size: int = 200_000


def card(family: str) -> Card:
    row = FAMILIES[family]
    shift = row.logit_shift or row.attention == "causal"
    return Card(row.attention, shift, row.strategy, row.block_length, row.mask_id)


# Backbone of config/backbones.yaml -> its family, and per benchmark ("" elsewhere): block, steps a block, threshold.
PUBLISHED = {
    "llada-8b": ("llada", {"": (32, 32, 0.9), "bfcl": (32, 32, 0.9)}),
    "dream-7b": ("dream", {"": (32, 32, 0.9), "bfcl": (32, 32, 0.9)}),
    "fdllm-7b": ("fast_dllm_qwen", {"": (32, 32, 0.9), "bfcl": (32, 32, 0.9)}),
    "dvar-8b": ("llada", {"": (32, 32, 0.9), "bfcl": (32, 32, 0.9)}),
    "sdar-8b": ("sdar", {"": (128, 128, None)}),
    "sdar-8b-sft": ("sdar", {"": (128, 128, None)}),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_settings_mean_what_the_papers_say(name: str) -> None:
    """At most one step a token, so that a step commits one token at least; a threshold, where there is one, commits more."""
    backbone = yaml.safe_load((ROOT / "config/backbones.yaml").read_text())["backbones"][name]
    family, meant = PUBLISHED[name]
    for benchmark, numbers in meant.items():
        settings = backbone.get("benchmark_decoding", {}).get(benchmark, backbone["decoding"])
        decoding = Decoding(**settings).resolved(card(family))  # type: ignore[arg-type]
        assert (decoding.block_length, decoding.steps_per_block, decoding.threshold) == numbers
        assert decoding.steps == decoding.max_new_tokens


def test_the_tiny_models_commit_two_tokens_a_step() -> None:
    backbone = yaml.safe_load((ROOT / "config/backbones.yaml").read_text())["backbones"]["tiny-full"]
    for settings in (backbone["decoding"], *backbone["benchmark_decoding"].values()):
        decoding = Decoding(**settings).resolved(Card("full", False, "llada"))  # type: ignore[arg-type]
        assert decoding.block_length == 2 * decoding.steps_per_block


@pytest.mark.parametrize("name", NAMES)
def test_resolved_settings_resolve_to_themselves(name: str) -> None:
    for family in FAMILIES:
        for changes in ({}, {"steps": 20}, {"threshold": 0.5}, {"remasking": "sequential"}, {"cache": "dual"}, {"factor": 1.0}):
            decoding = Decoding(strategy=name, max_new_tokens=100, **changes)  # type: ignore[arg-type]
            try:
                once = decoding.resolved(card(family))  # type: ignore[arg-type]
            except DecodingError:
                continue
            assert once.resolved(card(family)) == once  # type: ignore[arg-type]
            assert once.strategy == name and once.stop_ids == [7]


def test_without_a_strategy_it_is_the_checkpoints_own() -> None:
    for family, row in FAMILIES.items():
        assert Decoding().resolved(card(family)).strategy == row.strategy  # type: ignore[arg-type]


def test_steps_are_given_over_all_tokens_or_per_block() -> None:
    model: Any = card("llada")
    settings = {"strategy": "llada", "max_new_tokens": 64, "block_length": 16}
    per_block = Decoding(steps_per_block=4, **settings).resolved(model)
    assert per_block == Decoding(steps=16, **settings).resolved(model) == Decoding(steps=16, steps_per_block=4, **settings).resolved(model)
    with pytest.raises(DecodingError, match="steps: 32 over 4 blocks are 8 a block, steps_per_block says 4"):
        Decoding(steps=32, steps_per_block=4, **settings).resolved(model)
    with pytest.raises(DecodingError, match="steps_per_block"):
        Decoding(strategy="ar", steps_per_block=4).resolved(card("llama"))  # type: ignore[arg-type]


@pytest.mark.parametrize("strategy", NAMES)
@pytest.mark.parametrize("attention, shift", [("causal", True), *((a, s) for a in ("full", "block_causal") for s in (False, True))])
def test_every_strategy_on_every_kind_of_checkpoint_decodes_or_says_why_not(strategy: str, attention: str, shift: bool) -> None:
    model: Any = Card(attention, shift, "the_own", 4 if attention == "block_causal" else None)
    suits = {
        "ar": attention == "causal",
        "llada": attention != "causal",
        "dream": attention != "causal",
        "fast_dllm": attention != "causal",
        "dllm_var": attention == "full" and not shift,
        "sdar": attention == "block_causal" and not shift,
        "fast_dllm_v2": attention == "block_causal" and shift,
    }[strategy]
    caches = {"fast_dllm": ("none", "prefix", "dual"), "fast_dllm_v2": ("none", "dual")}.get(strategy, ("none",))
    for cache in (None, "none", "prefix", "dual"):
        decoding = Decoding(strategy=strategy, cache=cache)  # type: ignore[arg-type]
        if suits and (cache is None or cache in caches):
            assert decoding.resolved(model).strategy == strategy
        else:
            with pytest.raises(DecodingError) as error:
                decoding.resolved(model)
            assert "\n" not in str(error.value) and str(error.value).startswith(("strategy:", "cache:"))


def test_a_new_strategy_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pair: Any, prompt: Any) -> None:
    from dllm_agents.decoding import strategies

    (tmp_path / "backwards.py").write_text(
        "from dllm_agents.decoding.selection import Rule\n"
        "from dllm_agents.decoding.strategies import Strategy\n"
        "def decode(state):\n"
        "    canvas = state.canvas\n"
        "    for place in reversed(range(canvas.prompt_length, canvas.length)):\n"
        "        yield from state.unmask(state.whole(canvas.masked(place, place + 1)), Rule())\n"
        "STRATEGY = Strategy(decode, attention=('full',))\n"
    )
    monkeypatch.setattr(strategies, "__path__", [*strategies.__path__, str(tmp_path)])
    decoding = Decoding(max_new_tokens=6, stop_ids=[]).model_copy(update={"strategy": "backwards"})
    assert generate(pair("llada").model, prompt(5), decoding).reveal_step == [5, 4, 3, 2, 1, 0]


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-45, 1e-10, 1e10, 1e300, 1.7e308])
def test_extreme_temperatures_stay_finite(pair: Any, prompt: Any, temperature: float) -> None:
    model = pair("qwen3").model
    ids = prompt(7)
    out = generate(model, ids, Decoding(temperature=temperature, max_new_tokens=6, seed=3))
    assert out.token_ids and all(0 <= value <= 1 for value in out.confidence)
    if temperature < 1:
        assert out.token_ids == generate(model, ids, Decoding(max_new_tokens=6)).token_ids
