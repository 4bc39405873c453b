"""Likelihoods: an AR model's by the plain forward; a diffusion model's bound by enumerating every set of masks."""

from __future__ import annotations

import math
from functools import partial
from itertools import combinations
from typing import Any

import pytest
import torch
from random_checkpoints import MASK

from dllm_agents.decoding.likelihood import likelihood
from dllm_agents.models.attention import forward


def bound(logits: Any, ids: torch.Tensor, first: int, stop: int, shift: bool) -> list[float]:
    """Each token's share of the exact bound: the mean over the number of masks, and over all sets of so many, of (L / l) log p."""
    count = stop - first
    shares = [0.0] * count
    for masks in range(1, count + 1):
        sets = list(combinations(range(first, stop), masks))
        for chosen in sets:
            tokens = ids.clone()
            tokens[list(chosen)] = MASK
            logprobs = logits(tokens).log_softmax(-1)
            for place in chosen:
                shares[place - first] += float(logprobs[place - shift, ids[place]]) * count / masks / len(sets) / count
    return shares


def score(model: Any, ids: list[int], **options: Any) -> Any:
    return likelihood(model, ids, partial(forward, model), **options)


@pytest.mark.parametrize("model_type", ["qwen3", "llama"])
def test_an_ar_model_by_the_plain_forward(pair: Any, prompt: Any, model_type: str) -> None:
    two = pair(model_type)
    ids = prompt(20)
    logprobs = two.plain.block_causal(torch.tensor(ids), 1).log_softmax(-1)
    (first, nothing), *rest = score(two.model, ids, top=2)
    assert first is None and nothing == {}
    for place, (value, top) in enumerate(rest, 1):
        assert value == pytest.approx(float(logprobs[place - 1, ids[place]]), abs=1e-3)
        assert top[ids[place]] == pytest.approx(value) and max(top.values()) == pytest.approx(float(logprobs[place - 1].max()), abs=1e-3)
    assert [value for value, _ in score(two.model, ids, context=5)] == [None] * 5 + [value for value, _ in rest[4:]]


@pytest.mark.parametrize(("model_type", "shift"), [("llada", False), ("Dream", True)])
def test_a_full_attention_model_by_all_sets_of_masks(pair: Any, prompt: Any, model_type: str, shift: bool) -> None:
    two, ids, context = pair(model_type), prompt(6), 2
    exact = bound(two.plain.full, torch.tensor(ids), context, 6, shift)
    scores = score(two.model, ids, context=context, draws=3000, top=1)
    assert [value for value, _ in scores[:context]] == [None, None]
    # The bound is far from 0 in random weights; 3,000 draws come within a few per cent.
    assert sum(value for value, _ in scores[context:]) == pytest.approx(sum(exact), rel=0.05)
    assert all(value == pytest.approx(share, rel=0.2, abs=0.3) for (value, _), share in zip(scores[context:], exact, strict=True))
    assert all(token in top and math.isfinite(value) for (value, top), token in zip(scores[context:], ids[context:], strict=True))
    assert score(two.model, ids, draws=4, seed=1) == score(two.model, ids, draws=4, seed=1) != score(two.model, ids, draws=4, seed=2)


def test_block_diffusion_by_all_sets_of_masks_in_a_block(pair: Any, prompt: Any) -> None:
    two, ids = pair("sdar"), prompt(7)
    length = two.model.block_length
    exact: list[float] = []
    for start in range(0, len(ids), length):
        stop = min(start + length, len(ids))
        tail = torch.tensor(ids[:stop])
        exact += bound(lambda tokens: two.plain.block_causal(tokens, length), tail, start, stop, two.model.shift)
    scores = [value for value, _ in score(two.model, ids, draws=2000)]
    assert sum(scores) == pytest.approx(sum(exact), rel=0.05)
    assert all(value == pytest.approx(share, rel=0.2, abs=0.3) for value, share in zip(scores, exact, strict=True))
