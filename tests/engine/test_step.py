"""What a step does beside decoding right: how often it waits for the device, and whom a fault reaches."""

from __future__ import annotations

import queue
from pathlib import Path
from typing import Any

import pytest
import torch
from random_models import any_attention, full_attention
from torch import Tensor

from dllm_agents.decoding import Decoding, generate
from dllm_agents.engine.engine import Engine, Failed, Finished, Unmasked
from dllm_agents.errors import StageError

STRATEGIES: dict[str, list[dict[str, Any]]] = {
    "causal": [{"strategy": "ar"}, {"strategy": "ar", "temperature": 0.8, "top_p": 0.9}],
    "block_causal": [{"strategy": "sdar"}, {"strategy": "sdar", "remasking": "sequential"}, {"strategy": "sdar", "temperature": 1.0}],
    "full": [
        {"strategy": "fast_dllm", "cache": "dual", "threshold": 0.3, "block_length": 8},
        {"strategy": "fast_dllm", "factor": 1.0, "block_length": 8},
        {"strategy": "llada", "remasking": "random"},
        {"strategy": "dllm_var", "block_length": 8},
        {"strategy": "dream", "steps": 8},
    ],
}


def loaded(directory: Path, attention: str) -> Any:
    return full_attention(directory) if attention == "full" else any_attention(directory, attention)


@pytest.mark.parametrize("attention", STRATEGIES)
def test_a_step_of_all_requests_waits_for_the_device_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attention: str) -> None:
    """Whatever brings a number from a device tensor to the host is counted, `.cpu()` of the step's one result included."""
    model = loaded(tmp_path, attention)
    engine = Engine(model, positions=2000)
    waits: list[str] = []
    steps = 0
    for name in ("cpu", "item", "tolist", "nonzero", "__bool__", "__int__", "__float__", "__index__"):
        original = getattr(Tensor, name)
        monkeypatch.setattr(
            Tensor, name, lambda self, *args, name=name, original=original, **kw: waits.append(name) or original(self, *args, **kw)
        )
    run = engine._run_batch

    def counted(batch: Any) -> None:
        nonlocal steps
        waits.clear()
        run(batch)
        steps += 1
        assert waits in (["cpu"], []), waits  # none where a prompt's part was run alone

    monkeypatch.setattr(engine, "_run_batch", counted)
    events: queue.Queue[Any] = queue.Queue()
    plans = [Decoding(max_new_tokens=16, stop_ids=[], **settings) for settings in STRATEGIES[attention]] * 2
    for number, decoding in enumerate(plans):
        engine.submit(list(range(3, 20 + number)), decoding, events.put)
    ended = 0
    while ended < len(plans):
        event = events.get(timeout=30)
        assert isinstance(event, Unmasked | Finished), event
        ended += isinstance(event, Finished)
    engine.close()
    assert steps >= 16


@pytest.mark.parametrize("attention", STRATEGIES)
def test_not_a_number_in_one_request_fails_it_alone(tmp_path: Path, attention: str) -> None:
    model = loaded(tmp_path, attention)
    with torch.no_grad():
        model.network.model.embed_tokens.weight[42] = torch.nan
    engine = Engine(model, positions=2000)
    events: dict[int, queue.Queue[Any]] = {number: queue.Queue() for number in range(3)}
    decoding = Decoding(max_new_tokens=8, stop_ids=[], **STRATEGIES[attention][0])
    prompts = [[5, 6, 7, 8, 9], [5, 42, 7, 8, 9], [9, 8, 7]]
    for number, prompt in enumerate(prompts):
        engine.submit(prompt, decoding, events[number].put)
    for number, prompt in enumerate(prompts):
        while isinstance(event := events[number].get(timeout=30), Unmasked):
            pass
        if number == 1:
            assert isinstance(event, Failed) and "finite" in event.message and not event.settings
        else:
            assert isinstance(event, Finished) and event.generation.token_ids == generate(model, prompt, decoding).token_ids
    engine.close()


def test_a_request_larger_than_the_pool_is_refused_at_once_with_the_sizes(tmp_path: Path) -> None:
    engine = Engine(any_attention(tmp_path, "causal"), positions=40)
    events: queue.Queue[Any] = queue.Queue()
    engine.submit(list(range(3, 33)), Decoding(max_new_tokens=30), events.put)
    refusal = events.get(timeout=30)
    assert isinstance(refusal, Failed) and refusal.settings and "60 positions" in refusal.message and "40" in refusal.message
    engine.submit([5, 6], Decoding(max_new_tokens=4, stop_ids=[]), events.put)
    while isinstance(event := events.get(timeout=30), Unmasked):
        pass
    assert isinstance(event, Finished)
    engine.close()


def test_a_pool_without_room_for_anything_is_an_error_with_the_setting(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="utilisation"):
        Engine(any_attention(tmp_path, "causal"), positions=0)


def test_more_requests_than_fit_wait_their_turn(tmp_path: Path) -> None:
    model = any_attention(tmp_path, "causal")
    engine = Engine(model, positions=70)
    decoding = Decoding(max_new_tokens=10, stop_ids=[])
    events: list[queue.Queue[Any]] = [queue.Queue() for _ in range(8)]
    prompts = [list(range(3, 3 + 7 * (1 + number % 4))) for number in range(8)]
    for prompt, heard in zip(prompts, events, strict=True):
        engine.submit(prompt, decoding, heard.put)
    for prompt, heard in zip(prompts, events, strict=True):
        while isinstance(event := heard.get(timeout=30), Unmasked):
            pass
        assert isinstance(event, Finished) and event.generation.token_ids == generate(model, prompt, decoding).token_ids
    engine.close()


def test_live_requests_share_their_prompt(tmp_path: Path) -> None:
    """A request takes over what another that still runs has computed of the same system prompt."""
    model = any_attention(tmp_path, "causal")
    engine = Engine(model, positions=2000)
    system = list(range(3, 99))
    events: list[queue.Queue[Any]] = [queue.Queue(), queue.Queue()]
    engine.submit([*system, 5], Decoding(max_new_tokens=200, stop_ids=[]), events[0].put)
    events[0].get(timeout=30)
    decoding = Decoding(max_new_tokens=8, stop_ids=[])
    engine.submit([*system, 7, 8], decoding, events[1].put)
    while isinstance(event := events[1].get(timeout=30), Unmasked):
        pass
    assert event.generation.token_ids == generate(model, [*system, 7, 8], decoding).token_ids
    assert engine.stats().reused_tokens >= 96 and engine.stats().finished == 1
    engine.close()


def test_a_server_gives_keys_the_backbones_share_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from dllm_agents.config import Backbone
    from dllm_agents.engine import engine as module
    from dllm_agents.engine.pool import pool_positions
    from dllm_agents.serving.server import serve

    class Seen(Exception):
        pass

    def engine(model: Any, utilisation: float) -> Any:
        raise Seen(utilisation, pool_positions(model, utilisation))

    any_attention(tmp_path, "causal")
    monkeypatch.setattr(module, "Engine", engine)
    monkeypatch.setattr("dllm_agents.engine.pool._available_bytes", lambda: 1 << 30)
    for share in (0.5, 0.25):
        config: Any = SimpleNamespace(backbones={"m": Backbone(model=str(tmp_path), memory_share=share)})
        with pytest.raises(Seen) as seen:
            serve(config, "m", None, port=0)
        assert seen.value.args == (share, int((1 << 28) * share) // 512)
