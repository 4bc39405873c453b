"""Every strategy decides what its slow, plainly written reference decides: same tokens, same forwards, same order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import slow
import torch
from random_checkpoints import MASK

from dllm_agents.decoding import Decoding, Generation, generate

NEW = 32
LENGTHS = (9, 16, 19)


PUBLISHED = {"stop_early": False, "merge_stores": False}


def same(model: Any, ids: list[int], decoding: Decoding, reference: slow.Slow, count: int = NEW) -> None:
    """The published loop decides what the reference decides, when it does; the faster one decides the same tokens in the same order."""
    tokens = reference.tokens[reference.start : reference.start + count].tolist()
    stops = decoding.resolved(model).stop_ids
    kept = next((n for n, token in enumerate(tokens) if token in stops), len(tokens))
    published = generate(model, ids, decoding.model_copy(update=PUBLISHED))
    assert published.token_ids == tokens[:kept]
    assert published.nfe == published.published_nfe == reference.nfe
    assert published.reveal_step == reference.reveal(kept)
    assert published.finish_reason == ("stop" if kept < len(tokens) else "length")
    out = generate(model, ids, decoding)
    assert (out.token_ids, out.finish_reason) == (published.token_ids, published.finish_reason)
    assert out.nfe <= reference.nfe and out.published_nfe in (None, reference.nfe)
    assert ranks(out.reveal_step) == ranks(published.reveal_step)


def ranks(steps: list[int]) -> list[int]:
    return [sorted(set(steps)).index(step) for step in steps]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("steps", [NEW, 8])
def test_llada_settles_the_surest_tokens_block_by_block(pair: Any, prompt: Any, length: int, steps: int) -> None:
    models, ids = pair("llada"), prompt(length)
    reference = slow.begin(models.plain, ids, NEW, MASK)
    slow.llada(reference, steps, 16)
    same(models.model, ids, Decoding(strategy="llada", max_new_tokens=NEW, block_length=16, steps=steps), reference)


def test_the_remainder_goes_to_a_blocks_first_steps(pair: Any, prompt: Any) -> None:
    out = generate(pair("llada").model, prompt(9), Decoding(strategy="llada", max_new_tokens=10, block_length=10, steps=4, stop_ids=[]))
    assert [out.reveal_step.count(step) for step in range(4)] == [3, 3, 2, 2]


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
@pytest.mark.parametrize("rule", [{"threshold": 0.35}, {"threshold": 0.05}, {"factor": 1.0}, {"steps": 8}])
def test_fast_dllm_accepts_by_threshold_factor_or_schedule(pair: Any, prompt: Any, cache: Any, rule: dict[str, Any]) -> None:
    models, ids = pair("llada"), prompt(19)
    reference = slow.begin(models.plain, ids, NEW, MASK)
    slow.fast_dllm(reference, 16, cache, **rule)
    same(models.model, ids, Decoding(strategy="fast_dllm", max_new_tokens=NEW, block_length=16, cache=cache, **rule), reference)


@pytest.mark.parametrize("cache", ["prefix", "dual"])
@pytest.mark.parametrize("every", [1, 2, 3])
def test_the_prompt_may_be_refreshed_in_some_blocks_only(pair: Any, prompt: Any, cache: Any, every: int) -> None:
    models, ids = pair("llada"), prompt(19)
    reference = slow.begin(models.plain, ids, NEW, MASK)
    slow.fast_dllm(reference, 8, cache, threshold=0.2, refresh=every)
    base = Decoding(strategy="fast_dllm", max_new_tokens=NEW, block_length=8, cache=cache, threshold=0.2, refresh_prompt=every)
    same(models.model, ids, base, reference)


def test_a_full_call_that_decides_the_whole_block_is_its_only_one(pair: Any, prompt: Any) -> None:
    decoding = Decoding(strategy="fast_dllm", max_new_tokens=NEW, block_length=16, cache="dual", threshold=0.0)
    assert generate(pair("llada").model, prompt(5), decoding).nfe == 2


@pytest.mark.parametrize("order", ["maskgit_plus", "topk_margin", "entropy"])
@pytest.mark.parametrize("steps", [NEW, 8])
def test_dream_follows_the_noise_schedule_in_each_order(pair: Any, prompt: Any, order: Any, steps: int) -> None:
    models, ids = pair("Dream"), prompt(9)
    reference = slow.begin(models.plain, ids, NEW, MASK)
    slow.dream(reference, steps, order)
    same(models.model, ids, Decoding(strategy="dream", max_new_tokens=NEW, order=order, steps=steps), reference)


def test_dreams_origin_order_is_random_seeded_and_greedy_in_its_tokens(pair: Any, prompt: Any) -> None:
    decoding = Decoding(strategy="dream", max_new_tokens=NEW, order="origin", steps=8, stop_ids=[])
    first, again, other = (generate(pair("Dream").model, prompt(9), decoding.model_copy(update={"seed": seed})) for seed in (1, 1, 2))
    assert first == again and first.reveal_step != other.reveal_step
    assert first.nfe == 8


@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_cached_dream_fills_a_blocks_first_position_in_its_full_call(pair: Any, prompt: Any, cache: Any) -> None:
    decoding = Decoding(strategy="fast_dllm", max_new_tokens=NEW, block_length=16, cache=cache, threshold=0.05, stop_ids=[])
    out = generate(pair("Dream").model, prompt(9), decoding)
    assert out.reveal_step.count(0) == 1 and out.reveal_step[0] == 0
    assert out.reveal_step.count(out.reveal_step[16]) == 1


def test_uncached_dream_offers_its_share_and_what_was_left_over(pair: Any, prompt: Any) -> None:
    base = {"strategy": "dream", "max_new_tokens": NEW, "order": "confidence_threshold", "steps": 4, "stop_ids": []}
    all_pass = generate(pair("Dream").model, prompt(9), Decoding(threshold=0.0, **base))
    assert [all_pass.reveal_step.count(step) for step in range(4)] == [8, 8, 8, 8]
    none_pass = generate(pair("Dream").model, prompt(9), Decoding(threshold=1.0, **base))
    assert none_pass.nfe == NEW


@pytest.mark.parametrize("length", [*LENGTHS, 3])
@pytest.mark.parametrize("rule", ["sequential", "low_confidence_static", "low_confidence_dynamic"])
def test_sdar_decodes_blocks_aligned_to_position_zero(pair: Any, prompt: Any, length: int, rule: Any) -> None:
    models, ids = pair("sdar"), prompt(length)
    for block, steps in ((4, 4), (8, 3)):
        total = -(-(length + NEW) // block) * block
        reference = slow.begin(models.plain, ids, total - length, MASK)
        slow.sdar(reference, block, steps, rule, 0.3, models.model.stop_ids)
        decoding = Decoding(
            strategy="sdar", max_new_tokens=NEW, block_length=block, steps=steps * (NEW // block), remasking=rule, threshold=0.3
        )
        same(models.model, ids, decoding, reference)


@pytest.mark.parametrize("length", [9, 32, 40, 63])
@pytest.mark.parametrize("threshold", [0.2, 0.9])
def test_fast_dllm_v2_takes_a_blocks_first_token_from_the_clean_block_before(pair: Any, prompt: Any, length: int, threshold: float) -> None:
    models, ids = pair("Fast_dLLM_Qwen"), prompt(length)
    total = -(-(length + NEW) // 32) * 32
    reference = slow.begin(models.plain, ids, total - length, MASK)
    slow.fast_dllm_v2(reference, 32, 8, threshold, models.model.stop_ids)
    same(models.model, ids, Decoding(strategy="fast_dllm_v2", max_new_tokens=NEW, threshold=threshold), reference)


@pytest.mark.parametrize("part", [32, 8, 4])
@pytest.mark.parametrize("length", [1, 31, 32, 33, 100])
def test_context_causal_blocks_begin_at_the_end_of_the_prompt(pair: Any, prompt: Any, length: int, part: int) -> None:
    models, ids = pair("PanguEmbedded"), prompt(length)
    assert models.model.attention == "context_causal" and "model.layers.0.self_attn.o_proj.bias" in models.plain.tensors
    for threshold in (0.0, 0.4, 0.9):
        reference = slow.begin(models.plain, ids, 64, models.model.mask_id)
        slow.context_causal(reference, 32, part, threshold, models.model.stop_ids)
        same(
            models.model,
            ids,
            Decoding(strategy="context_causal", max_new_tokens=64, sub_block_length=part, threshold=threshold),
            reference,
            64,
        )


@pytest.mark.parametrize("order", ["entropy", "topk_margin"])
def test_context_causal_takes_one_token_a_forward_by_entropy_or_margin(pair: Any, prompt: Any, order: Any) -> None:
    models, ids = pair("PanguEmbedded"), prompt(33)
    reference = slow.begin(models.plain, ids, 32, models.model.mask_id)
    slow.context_causal(reference, 16, 8, 0.9, models.model.stop_ids, order)
    settings = {"block_length": 16, "sub_block_length": 8, "order": order}
    same(models.model, ids, Decoding(strategy="context_causal", max_new_tokens=32, **settings), reference)


def test_context_causal_ends_at_a_stop_inside_a_block(pair: Any, prompt: Any) -> None:
    models, ids = pair("PanguEmbedded"), prompt(33)
    free = generate(models.model, ids, Decoding(max_new_tokens=32, threshold=0.2, stop_ids=[]))
    stop = next(token for token in free.token_ids[3:] if token not in free.token_ids[:3])
    reference = slow.begin(models.plain, ids, 32, models.model.mask_id)
    slow.context_causal(reference, 32, 8, 0.2, (stop,))
    decoding = Decoding(max_new_tokens=32, threshold=0.2, sub_block_length=8, stop_ids=[stop])
    same(models.model, ids, decoding, reference)


def test_context_causal_weights_are_decoded_left_to_right_too(pair: Any, prompt: Any) -> None:
    models, ids = pair("PanguEmbedded"), prompt(33)
    tokens = torch.tensor(ids)
    for _ in range(20):
        row = models.plain.block_causal(tokens, 1)[-1]
        row[models.model.mask_id] = -torch.inf
        tokens = torch.cat([tokens, row.argmax()[None]])
    settings = {"strategy": "ar", "max_new_tokens": 20, "stop_ids": []}
    assert generate(models.model, ids, Decoding(**settings)).token_ids == tokens[33:].tolist()
    by_one = Decoding(strategy="context_causal", max_new_tokens=20, block_length=2, stop_ids=[])
    assert generate(models.model, ids, by_one).token_ids[0] == int(tokens[33]), "the first token is the causal pass's"


def test_the_sub_block_cache_is_exact_where_a_sub_block_is_the_block(pair: Any, prompt: Any) -> None:
    """With one sub-block per block the cached call replaces every key of the block, so nothing is stale."""
    settings = {"strategy": "fast_dllm_v2", "max_new_tokens": NEW, "sub_block_length": 32, "threshold": 0.2}
    model = pair("Fast_dLLM_Qwen").model
    plain, cached = (generate(model, prompt(40), Decoding(cache=cache, **settings)) for cache in ("none", "dual"))
    assert (cached.token_ids, cached.nfe, cached.reveal_step) == (plain.token_ids, plain.nfe, plain.reveal_step)


@pytest.mark.parametrize("threshold", [0.2, 0.9])
@pytest.mark.parametrize("length", [9, 16])
def test_dllm_var_grows_block_by_block_until_a_stop_id(pair: Any, prompt: Any, threshold: float, length: int) -> None:
    models, ids = pair("llada"), prompt(length)
    for stops in (models.model.stop_ids, (7, 11, 16, 21)):
        reference = slow.begin(models.plain, ids, 48, MASK)
        slow.dllm_var(reference, 16, threshold, stops)
        settings = Decoding(strategy="dllm_var", max_new_tokens=48, block_length=16, threshold=threshold, stop_ids=list(stops))
        same(models.model, ids, settings, reference, 48)


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "qwen3"])
def test_ar_with_its_cache_is_exact(pair: Any, prompt: Any, model_type: str) -> None:
    models, ids = pair(model_type), prompt(9)
    tokens = torch.tensor(ids)
    for _ in range(12):
        tokens = torch.cat([tokens, models.plain.block_causal(tokens, 1)[-1:].argmax(-1)])
    out = generate(models.model, ids, Decoding(strategy="ar", max_new_tokens=12, stop_ids=[]))
    assert out.token_ids == tokens[9:].tolist() and out.nfe == 12 and out.reveal_step == list(range(12))


def test_ar_stops_at_the_stop_id_and_counts_its_forward(pair: Any, prompt: Any) -> None:
    free = generate(pair("llama").model, prompt(9), Decoding(strategy="ar", max_new_tokens=8, stop_ids=[]))
    stop = free.token_ids[4]
    cut = free.token_ids.index(stop)
    out = generate(pair("llama").model, prompt(9), Decoding(strategy="ar", max_new_tokens=8, stop_ids=[stop]))
    assert (out.token_ids, out.nfe, out.finish_reason) == (free.token_ids[:cut], cut + 1, "stop")


@pytest.mark.parametrize(
    "model_type, strategy",
    [("llada", "llada"), ("llada", "fast_dllm"), ("llada", "dllm_var"), ("Dream", "dream"), ("Dream", "fast_dllm"), ("sdar", "sdar")]
    + [("Fast_dLLM_Qwen", "fast_dllm_v2"), ("sdar", "llada")],
)
def test_left_to_right_decoding_on_any_diffusion_model(pair: Any, prompt: Any, model_type: str, strategy: Any) -> None:
    out = generate(pair(model_type).model, prompt(9), Decoding(strategy=strategy, max_new_tokens=12, remasking="sequential", stop_ids=[]))
    assert out.reveal_step == sorted(out.reveal_step) and len(set(out.reveal_step)) == 12


def test_the_mask_id_is_never_predicted(pair: Any, prompt: Any, monkeypatch: Any) -> None:
    """A model whose best prediction is the mask token everywhere: the published loops never end there."""
    model = pair("llada").model
    bias = torch.zeros(model.vocab_size)
    bias[MASK] = 100
    hook = model.network.lm_head.register_forward_hook(lambda module, inputs, output: output + bias)
    try:
        for decoding in (Decoding(strategy="llada"), Decoding(strategy="fast_dllm"), Decoding(strategy="llada", temperature=1.0)):
            out = generate(model, prompt(5), decoding.model_copy(update={"max_new_tokens": 8, "stop_ids": []}))
            assert len(out.token_ids) == 8 and MASK not in out.token_ids
    finally:
        hook.remove()


def test_random_remasking_is_seeded(pair: Any, prompt: Any) -> None:
    decoding = Decoding(strategy="llada", max_new_tokens=16, remasking="random", stop_ids=[])
    first, again, other = (generate(pair("llada").model, prompt(5), decoding.model_copy(update={"seed": seed})) for seed in (3, 3, 4))
    assert first == again and first.reveal_step != other.reveal_step


@pytest.mark.parametrize("model_type, strategy", [("llada", "llada"), ("Dream", "dream"), ("sdar", "sdar"), ("llama", "ar")])
def test_sampling_is_seeded(pair: Any, prompt: Any, model_type: str, strategy: Any) -> None:
    decoding = Decoding(strategy=strategy, max_new_tokens=16, temperature=1.0, top_p=0.95, stop_ids=[])
    draw: Callable[[int], Generation] = lambda seed: generate(pair(model_type).model, prompt(5), decoding.model_copy(update={"seed": seed}))  # noqa: E731
    assert draw(1) == draw(1) and draw(1).token_ids != draw(2).token_ids


def test_what_settles_is_heard_once_and_adds_up(pair: Any, prompt: Any) -> None:
    heard: dict[int, tuple[int, int]] = {}

    def listen(positions: Any, token_ids: Any, step: int) -> None:
        for position, token in zip(positions, token_ids, strict=True):
            assert position not in heard
            heard[position] = (token, step)

    out = generate(pair("sdar").model, prompt(9), Decoding(strategy="sdar", max_new_tokens=16, stop_ids=[]), on_unmasked=listen)
    assert [heard[p][0] for p in range(16)] == out.token_ids and [heard[p][1] for p in range(16)] == out.reveal_step


@pytest.mark.parametrize(
    "model_type, settings, named",
    [
        ("llada", {"strategy": "ar"}, "causal"),
        ("llama", {"strategy": "llada"}, "full"),
        ("llada", {"strategy": "sdar"}, "block-causal"),
        ("llada", {"strategy": "llada", "cache": "dual"}, "cache"),
        ("llada", {"strategy": "llada", "order": "entropy"}, "order"),
        ("llada", {"strategy": "llada", "remasking": "low_confidence_static"}, "remasking"),
        ("llada", {"strategy": "llada", "mask_id": 9999}, "mask_id"),
        ("llada", {"strategy": "fast_dllm", "cache": "none", "refresh_prompt": 2}, "refresh_prompt"),
        ("llada", {"strategy": "llada", "tool_prefill": {"open_id": 1, "close_id": 2}, "block_length": 32}, "tool_prefill"),
    ],
)
def test_settings_that_cannot_be_carried_out_are_named(
    pair: Any, prompt: Any, model_type: str, settings: dict[str, Any], named: str
) -> None:
    from dllm_agents.decoding.settings import DecodingError

    with pytest.raises(DecodingError, match=named) as error:
        generate(pair(model_type).model, prompt(5), Decoding(**settings))
    assert "\n" not in str(error.value)


def test_prompts_outside_the_vocabulary_are_refused(pair: Any) -> None:
    from dllm_agents.decoding.settings import DecodingError

    for ids in ([], [-1], [10**6]):
        with pytest.raises(DecodingError, match="prompt"):
            generate(pair("llada").model, ids, Decoding(strategy="llada"))


def test_a_prompt_is_a_list_or_a_tensor(pair: Any, prompt: Any) -> None:
    from dllm_agents.decoding.settings import DecodingError

    model, decoding = pair("llada").model, Decoding(strategy="llada", max_new_tokens=4)
    expected = generate(model, prompt(5), decoding)
    for ids in (tuple(prompt(5)), torch.tensor(prompt(5)), torch.tensor([prompt(5)])):
        assert generate(model, ids, decoding) == expected
    for wrong in (torch.ones(2, 3, dtype=torch.int64), torch.ones(3)):
        with pytest.raises(DecodingError, match="prompt"):
            generate(model, wrong, decoding)


@pytest.mark.parametrize(
    "model_type, strategy",
    [("llama", "ar"), ("llada", "fast_dllm"), ("llada", "dllm_var"), ("sdar", "sdar"), ("Fast_dLLM_Qwen", "fast_dllm_v2")],
)
def test_a_stop_id_in_the_prompt_stops_nothing(pair: Any, prompt: Any, model_type: str, strategy: Any) -> None:
    free = generate(pair(model_type).model, prompt(9), Decoding(strategy=strategy, max_new_tokens=8, stop_ids=[]))
    unused = next(token for token in prompt(9) if token not in free.token_ids)
    out = generate(pair(model_type).model, prompt(9), Decoding(strategy=strategy, max_new_tokens=8, stop_ids=[unused]))
    assert out.token_ids == free.token_ids and out.finish_reason == "length"


@pytest.mark.parametrize(
    "model_type, settings",
    [
        ("llada", {"strategy": "llada", "steps": 24, "block_length": 12}),
        ("llada", {"strategy": "llada", "remasking": "random", "block_length": 12}),
        ("llada", {"strategy": "llada", "temperature": 0.7, "block_length": 12, "seed": 4}),
        ("llada", {"strategy": "fast_dllm", "cache": "dual", "block_length": 12, "threshold": 0.2}),
        ("llada", {"strategy": "fast_dllm", "cache": "prefix", "block_length": 12, "factor": 1.0}),
        ("llada", {"strategy": "fast_dllm", "cache": "none", "block_length": 12, "steps": 24}),
        ("Dream", {"strategy": "dream", "steps": 24}),
        ("Dream", {"strategy": "dream", "order": "origin", "steps": 24}),
        ("Dream", {"strategy": "dream", "remasking": "sequential"}),
        ("Dream", {"strategy": "fast_dllm", "cache": "dual", "block_length": 12, "threshold": 0.2}),
        ("Dream", {"strategy": "fast_dllm", "threshold": 0.2}),
    ],
)
def test_a_request_ends_once_everything_before_a_stop_token_is_decided(pair: Any, prompt: Any, model_type: str, settings: Any) -> None:
    """What is kept is the same; forwards that could only change what is cut off are not run."""
    model, saved = pair(model_type).model, 0
    for seed in range(6):
        ids = prompt(9 + seed, seed)
        base = Decoding(max_new_tokens=48, stop_ids=[], **settings)
        free = generate(model, ids, base)
        stopping = base.model_copy(update={"stop_ids": [free.token_ids[6 + seed]]})
        published = generate(model, ids, stopping.model_copy(update=PUBLISHED))
        out = generate(model, ids, stopping)
        kept = ("token_ids", "reveal_step", "confidence", "finish_reason")
        assert [getattr(out, name) for name in kept] == [getattr(published, name) for name in kept]
        assert out.published_nfe in (None, published.nfe)
        if settings["strategy"] == "llada" or settings == {"strategy": "dream", "steps": 24}:
            assert out.published_nfe == published.nfe
        saved += published.nfe - out.nfe
    assert saved > 0


def test_merged_stores_save_a_forward_a_block(pair: Any, prompt: Any) -> None:
    decoding = Decoding(strategy="sdar", max_new_tokens=32, block_length=4, threshold=0.0, stop_ids=[])
    published = generate(pair("sdar").model, prompt(12), decoding.model_copy(update=PUBLISHED))
    out = generate(pair("sdar").model, prompt(12), decoding)
    assert out.token_ids == published.token_ids
    assert (out.nfe, out.published_nfe, published.nfe) == (8, 17, 17)
