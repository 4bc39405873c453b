"""What a reply notes of its forwards is what a plain recomputation from their logits gives, and satisfies the identities of DLLM Agent's
Figures 4 and 6."""

from __future__ import annotations

import queue
from itertools import groupby
from typing import Any

import pytest
import torch

from dllm_agents.decoding import Decoding, generate, session
from dllm_agents.engine.engine import Engine, Finished

CASES = [
    ("PanguEmbedded", {"strategy": "context_causal", "threshold": 0.3}),
    ("PanguEmbedded", {"strategy": "context_causal", "threshold": 0.3, "sub_block_length": 8}),
    ("PanguEmbedded", {"strategy": "context_causal", "order": "entropy", "block_length": 16}),
    ("Fast_dLLM_Qwen", {"strategy": "fast_dllm_v2", "threshold": 0.2}),
    ("sdar", {"strategy": "sdar", "threshold": 0.3, "block_length": 8}),
    ("llada", {"strategy": "llada", "block_length": 16, "steps": 16}),
    ("llada", {"strategy": "fast_dllm", "block_length": 16, "threshold": 0.2, "cache": "dual"}),
    ("Dream", {"strategy": "dream", "steps": 16}),
]
WHOLE = {"max_new_tokens": 64, "stop_ids": [], "dynamics": True}


@pytest.mark.parametrize(("family", "settings"), CASES, ids=lambda value: value if isinstance(value, str) else value["strategy"])
def test_every_strategy_satisfies_the_identities(pair: Any, prompt: Any, family: str, settings: dict[str, Any]) -> None:
    model, ids = pair(family).model, prompt(19)
    out = generate(model, ids, Decoding(**WHOLE, **settings))
    seen = out.dynamics
    assert seen is not None and len(seen.block) == len(seen.masks) == len(seen.entropy) <= out.nfe
    assert seen.block == sorted(seen.block)
    assert all(accepted <= shown for shown, accepted in zip(seen.shown, seen.accepted, strict=True))
    settled = sum(
        sum(before - after for before, after in zip(masks, [*masks[1:], 0], strict=True))
        for masks in ([m for _, m in part] for _, part in groupby(zip(seen.block, seen.masks, strict=True), key=lambda pair: pair[0]))
    )
    assert settled == sum(seen.accepted)
    rates = [accepted / shown if shown else 0.0 for shown, accepted in zip(seen.shown, seen.accepted, strict=True)]
    assert sum(rate * shown for rate, shown in zip(rates, seen.shown, strict=True)) == pytest.approx(settled)
    assert generate(model, ids, Decoding(**WHOLE | {"dynamics": False}, **settings)).token_ids == out.token_ids


@pytest.mark.parametrize(("part", "length"), [(32, 19), (8, 32), (4, 33)])
def test_a_context_causal_reply_is_what_its_logits_say(
    pair: Any, prompt: Any, monkeypatch: pytest.MonkeyPatch, part: int, length: int
) -> None:
    """All by hand: softmax, entropy, bins; a block begins with its first token there, so one mask short of its length."""
    model, ids = pair("PanguEmbedded").model, prompt(length)
    calls = []
    predictions = session.predictions

    def watched(requests: Any, logits: Any) -> Any:
        results = predictions(requests, logits)
        ((state, call),) = requests
        calls.append((call, state.canvas.is_masked.copy(), logits.clone(), results[0].chosen))
        return results

    monkeypatch.setattr(session, "predictions", watched)
    out = generate(model, ids, Decoding(strategy="context_causal", threshold=0.3, sub_block_length=part, **WHOLE))
    masks, entropy, shown, accepted = [], [], [0] * 10, [0] * 10
    for call, masked, logits, chosen in calls:
        if call.attention != "full":
            continue
        chances = torch.softmax(logits.double(), dim=-1)
        masks.append(sum(masked[call.start : call.stop].tolist()))
        entropy.append(float(-(chances * chances.log()).sum(dim=-1).mean()))
        for row, taken in zip(chances, chosen.tolist(), strict=True):
            others = torch.cat([row[: model.mask_id], row[model.mask_id + 1 :]]).max()
            best = others if row[model.mask_id] < others else others / (1 - row[model.mask_id])
            place = min(int(float(best) * 10), 9)
            shown[place] += 1
            accepted[place] += taken
    seen = out.dynamics
    assert seen is not None and (seen.masks, seen.shown, seen.accepted) == (masks, shown, accepted)
    assert seen.entropy == pytest.approx(entropy, abs=1e-3)
    starts = [next(part)[1] for _, part in groupby(zip(seen.block, seen.masks, strict=True), key=lambda pair: pair[0])]
    assert starts == [31, 31] and sum(accepted) == 62 and out.nfe == len(masks) + 2


@pytest.mark.parametrize(("family", "settings"), CASES[1:4], ids=["context_causal", "entropy", "fast_dllm_v2"])
def test_the_engine_notes_the_same_whoever_decodes_beside(pair: Any, prompt: Any, family: str, settings: dict[str, Any]) -> None:
    model = pair(family).model
    decoding, others = Decoding(**WHOLE, **settings), Decoding(max_new_tokens=48, stop_ids=[])
    engine = Engine(model, positions=4000)
    events: queue.Queue[Any] = queue.Queue()
    for number in range(3):
        engine.submit(prompt(9 + number, number), others, lambda event: None)
    engine.submit(prompt(19), decoding, events.put)
    while not isinstance(event := events.get(timeout=60), Finished):
        pass
    engine.close()
    ours, alone = event.generation.dynamics, generate(model, prompt(19), decoding).dynamics
    assert ours is not None and alone is not None
    assert (ours.block, ours.masks, ours.shown, ours.accepted) == (alone.block, alone.masks, alone.shown, alone.accepted)
    assert ours.entropy == pytest.approx(alone.entropy, abs=1e-3)


def test_autoregressive_decoding_has_no_denoising_forwards(pair: Any, prompt: Any) -> None:
    seen = generate(pair("PanguEmbedded").model, prompt(9), Decoding(strategy="ar", **WHOLE)).dynamics
    assert seen is not None and seen.block == [] and sum(seen.shown) == 0
