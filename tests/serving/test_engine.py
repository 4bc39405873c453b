"""The engine gives token for token what `generate` gives, frees cancelled requests, and outlives bad ones."""

from __future__ import annotations

import math
import queue
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dllm_agents.decoding.settings import Decoding
from dllm_agents.engine.engine import Busy, Engine, Failed, Finished, Unmasked

DIFFUSION = Decoding(strategy="fast_dllm", threshold=0.9, max_new_tokens=24, block_length=8)


@pytest.fixture(scope="module")
def model(diffusion_checkpoint: Path) -> Any:
    from dllm_agents.models import load

    return load(diffusion_checkpoint)


@pytest.fixture
def engine(model: Any) -> Iterator[Engine]:
    running = Engine(model, max_waiting=8)
    yield running
    running.close()


def listen(engine: Engine, prompt: list[int], decoding: Decoding) -> list[Any]:
    events: queue.Queue[Any] = queue.Queue()
    engine.submit(prompt, decoding, events.put)
    heard = [events.get(timeout=30)]
    while isinstance(heard[-1], Unmasked):
        heard.append(events.get(timeout=30))
    return heard


def same(one: Any, other: Any) -> bool:
    """Equal but for the last bits of a confidence, which a batched matrix product rounds differently."""
    return (one.token_ids, one.nfe, one.reveal_step, one.finish_reason) == (
        other.token_ids,
        other.nfe,
        other.reveal_step,
        other.finish_reason,
    ) and one.confidence == pytest.approx(other.confidence, rel=1e-4)


def test_the_engine_gives_what_generate_gives(engine: Engine, model: Any) -> None:
    from dllm_agents.decoding import generate

    for seed in range(3):
        decoding = DIFFUSION.model_copy(update={"seed": seed, "temperature": 0.5 * seed})
        prompt = [5 + seed, 6, 7]
        expected = generate(model, prompt, decoding)
        *settled, last = listen(engine, prompt, decoding)
        assert isinstance(last, Finished) and same(last.generation, expected)
        tokens = {position: token for event in settled for position, token in zip(event.positions, event.token_ids, strict=True)}
        assert [tokens[position] for position in range(len(expected.token_ids))] == expected.token_ids


@pytest.mark.parametrize("strategy", ["llada", "fast_dllm", "ar"])
def test_tokens_are_scored_at_the_forward_that_unmasked_them(strategy: str, request: Any) -> None:
    """Greedy, where the mask is never the best, a token's log-probability is that of its confidence."""
    from dllm_agents.models import load

    model = load(request.getfixturevalue("ar_checkpoint" if strategy == "ar" else "diffusion_checkpoint"))
    engine = Engine(model)
    decoding = Decoding(strategy=strategy, max_new_tokens=16, **({} if strategy == "ar" else {"block_length": 8}))
    events: queue.Queue[Any] = queue.Queue()
    engine.submit([5, 6, 7], decoding, events.put, top=3)
    event = events.get(timeout=30)
    while isinstance(event, Unmasked):
        event = events.get(timeout=30)
    engine.close()
    generation, scores = event.generation, event.scores
    assert len(scores) == len(generation.token_ids) > 0
    for token, confidence, (logprob, top) in zip(generation.token_ids, generation.confidence, scores, strict=True):
        assert logprob == pytest.approx(math.log(confidence), abs=1e-4)
        assert top[token] == logprob and 3 <= len(top) <= 4 and max(top.values()) >= logprob


def test_settings_that_do_not_fit_are_the_requests_fault(engine: Engine) -> None:
    (event,) = listen(engine, [5], Decoding(strategy="ar"))
    assert isinstance(event, Failed) and event.settings and "diffusion" in event.message or "causal" in event.message


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_logits_that_are_not_finite_fail_the_request_and_the_engine_lives(engine: Engine, model: Any, temperature: float) -> None:
    import torch

    weight = model.network.lm_head.weight
    kept = weight.clone()
    with torch.no_grad():
        weight[:] = float("nan")
        (event,) = listen(engine, [5, 6], DIFFUSION.model_copy(update={"temperature": temperature}))
        weight[:] = kept
    assert isinstance(event, Failed) and not event.settings and "finite" in event.message
    assert isinstance(listen(engine, [5, 6], DIFFUSION)[-1], Finished)


def test_a_cancelled_request_frees_the_engine_at_the_next_forward(engine: Engine) -> None:
    events: queue.Queue[Any] = queue.Queue()
    long = DIFFUSION.model_copy(update={"threshold": None, "max_new_tokens": 400, "block_length": 400})
    handle = engine.submit([5], long, events.put)
    events.get(timeout=30)
    handle.cancel()
    assert isinstance(listen(engine, [5], DIFFUSION)[-1], Finished)
    assert engine.stats().cancelled == 1 and engine.stats().finished == 1


def test_requests_that_come_and_go_leave_the_others_alone(engine: Engine, model: Any) -> None:
    """A small soak: every third client hangs up after its first tokens; the others get what they get alone."""
    from dllm_agents.decoding import generate

    generator = random.Random(3)
    plans = [
        ([generator.randrange(5, 200) for _ in range(generator.randint(1, 30))], DIFFUSION.model_copy(update={"max_new_tokens": size}))
        # Those that hang up are long, so that they cannot have ended before.
        for size in (generator.choice([4, 9, 16]) if number % 3 else 256 for number in range(18))
    ]
    heard: list[queue.Queue[Any]] = []
    for number, (prompt, decoding) in enumerate(plans):
        while engine.stats().waiting >= 8:
            time.sleep(0.01)
        events: queue.Queue[Any] = queue.Queue()
        handle = engine.submit(prompt, decoding, events.put)
        if number % 3 == 0:
            events.get(timeout=30)
            handle.cancel()
        heard.append(events)
    for number, (prompt, decoding) in enumerate(plans):
        if number % 3:
            last = heard[number].get(timeout=30)
            while isinstance(last, Unmasked):
                last = heard[number].get(timeout=30)
            assert same(last.generation, generate(model, prompt, decoding))
    for _ in range(100):
        stats = engine.stats()
        if stats.cancelled == 6:
            break
        time.sleep(0.05)
    assert (stats.finished, stats.cancelled, stats.failed, stats.waiting) == (12, 6, 0, 0)


def test_the_queue_is_bounded(model: Any) -> None:
    engine = Engine(model, max_waiting=0)
    with pytest.raises(Busy):
        engine.submit([5], DIFFUSION, lambda event: None)
    engine.close()


def test_requests_of_every_strategy_run_together(tmp_path: Path) -> None:
    """One full-attention model, five strategies, prompts of different length, a row budget that forces them apart again and again."""
    from random_models import full_attention

    from dllm_agents.decoding import generate

    model = full_attention(tmp_path)
    settings = [
        Decoding(strategy="llada", max_new_tokens=16, steps=8),
        Decoding(strategy="fast_dllm", max_new_tokens=24, block_length=8, cache="dual", threshold=0.3),
        Decoding(strategy="fast_dllm", max_new_tokens=24, block_length=8, cache="prefix", steps=12),
        Decoding(strategy="dllm_var", max_new_tokens=24, block_length=8, threshold=0.3),
        Decoding(strategy="llada", max_new_tokens=16, temperature=1.0, seed=7, remasking="random"),
    ]
    plans = [(list(range(1, 4 + 7 * number)), decoding) for number, decoding in enumerate(settings * 2)]
    engine = Engine(model, batch_tokens=64)
    heard: list[queue.Queue[Any]] = [queue.Queue() for _ in plans]
    for (ids, decoding), events in zip(plans, heard, strict=True):
        engine.submit(ids, decoding, events.put)
    for (ids, decoding), events in zip(plans, heard, strict=True):
        while isinstance(event := events.get(timeout=30), Unmasked):
            pass
        assert isinstance(event, Finished) and same(event.generation, generate(model, ids, decoding))
    assert engine.stats().batches < engine.stats().forwards
    engine.close()


@pytest.mark.parametrize("attention", ["causal", "block_causal"])
def test_a_prompt_that_extends_an_earlier_one_is_not_run_again(tmp_path: Path, attention: str) -> None:
    from random_models import any_attention

    from dllm_agents.decoding import generate

    model = any_attention(tmp_path, attention)
    decoding = Decoding(strategy="ar" if attention == "causal" else "sdar", max_new_tokens=12, stop_ids=[])
    engine = Engine(model, batch_tokens=16)
    first = list(range(5, 55))
    answer = listen(engine, first, decoding)[-1].generation
    assert same(answer, generate(model, first, decoding)) and engine.stats().reused_tokens == 0
    second = first + answer.token_ids + [9, 8, 7]
    assert same(listen(engine, second, decoding)[-1].generation, generate(model, second, decoding))
    reused = engine.stats().reused_tokens
    assert len(first) + 8 <= reused <= len(second)
    other = [3, *first]
    assert same(listen(engine, other, decoding)[-1].generation, generate(model, other, decoding))
    assert engine.stats().reused_tokens == reused
    engine.close()


def test_a_listener_that_fails_cancels_its_request_alone(engine: Engine) -> None:
    def broken(event: Any) -> None:
        raise OSError("the client hung up")

    engine.submit([5], DIFFUSION, broken)
    assert isinstance(listen(engine, [5], DIFFUSION)[-1], Finished)
    assert engine.stats().cancelled == 1
