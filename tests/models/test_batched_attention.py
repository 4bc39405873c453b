"""The attention call of a GPU, stood in for by what its kernel documents, gives what the plain loop over requests gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from random_checkpoints import llada, llama_like
from torch import Tensor

from dllm_agents.models import load
from dllm_agents.models.attention import Pool, Segment, Slot, forward


def flash(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_starts: Tensor,
    key_starts: Tensor,
    longest: int,
    most: int,
    *options: Any,
    seqused_k: Any,
) -> tuple[Tensor]:
    """FlashAttention's varlen form: lane i's queries are rows query_starts[i] .. query_starts[i + 1], its keys `seqused_k[i]` rows from
    key_starts[i]; under `causal` the last query sees the last key."""
    _, causal, _ = options
    assert query.dim() == key.dim() == 3 and query.shape[1] % key.shape[1] == 0
    assert query_starts.dtype == key_starts.dtype == seqused_k.dtype == torch.int32 and int(seqused_k.max()) <= most
    out = torch.full_like(query, torch.nan)
    group = query.shape[1] // key.shape[1]
    for lane in range(len(seqused_k)):
        first, last, start, keys = int(query_starts[lane]), int(query_starts[lane + 1]), int(key_starts[lane]), int(seqused_k[lane])
        assert 0 < last - first <= longest
        seen_keys = key[start : start + keys].repeat_interleave(group, 1)
        scores = torch.einsum("qhd,khd->hqk", query[first:last], seen_keys) / query.shape[-1] ** 0.5
        if causal:
            ends = keys - (last - first) + torch.arange(last - first)
            scores = scores.masked_fill(torch.arange(keys)[None] > ends[:, None], -torch.inf)
        out[first:last] = torch.einsum("hqk,khd->qhd", scores.softmax(-1), value[start : start + keys].repeat_interleave(group, 1))
    return (out,)


def segments(model: Any, pool: Pool) -> list[Segment]:
    """Requests of different length and progress, some of whose keys have been run before."""
    unit = 4 if model.attention == "block_causal" else 1
    shares = []
    for number, (start, length, limit) in enumerate([(0, 24, 24), (16, 4, 20), (8, 12, 20), (28, 8, 36)]):
        limit = 40 if model.attention == "full" else limit
        slot = Slot(model, 40, pool, 48 * number + 3)
        ids = torch.randint(0, 100, (40,), generator=torch.Generator().manual_seed(number))
        if start or model.attention == "full":
            first = Segment(ids[:limit], 0, limit, model.attention, model.block_length, torch.arange(0), slot)
            forward(model, [first])
        assert start % unit == 0
        rows = torch.arange(start, start + length, 3)
        shares.append(Segment(ids[start : start + length], start, limit, model.attention, model.block_length, rows, slot))
    return shares


@pytest.mark.parametrize("family", ["qwen3", "sdar", "llada"])
def test_one_call_for_all_requests_is_the_loop_over_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str) -> None:
    model = load(llada(tmp_path) if family == "llada" else llama_like(tmp_path, family))
    expected = forward(model, segments(model, Pool(model, 200)))
    shares = segments(model, Pool(model, 200))
    calls = []
    monkeypatch.setattr(torch.ops.aten, "_flash_attention_forward", lambda *a, **k: calls.append(1) or flash(*a, **k), raising=False)
    model.layers.fused = True
    logits = forward(model, shares)
    assert len(calls) == len(model.layers.layers)
    for one, other in zip(logits, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["qwen3", "sdar", "llada"])
def test_static_shapes_with_idle_lanes_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str) -> None:
    """The runner's buckets, filled again and again with other requests: as they are replayed on a GPU, run anew here."""
    from dllm_agents.engine.runner import Runner, _Graph

    model = load(llada(tmp_path) if family == "llada" else llama_like(tmp_path, family))
    unit = 4 if model.attention == "block_causal" else 1
    plain, static = Runner(model, 400), Runner(model, 400)
    monkeypatch.setattr(torch.ops.aten, "_flash_attention_forward", flash, raising=False)
    replays = []
    monkeypatch.setattr(_Graph, "replay", lambda self, batch, replay=_Graph.replay: replays.append(batch.lanes) or replay(self, batch))
    for pool in (plain.pool, static.pool):
        torch.manual_seed(0)
        pool.keys.normal_(), pool.values.normal_()
    for count, width, shift in ((3, unit, 0), (2, unit, 40), (3, 8 * unit, 0), (5, unit, 12), (1, 2 * unit, 0)):
        ids = torch.arange(60) % 100
        batches = []
        for runner in (plain, static):
            shares = []
            for number in range(count):
                start = 8 + 4 * number + shift
                slot = Slot(model, 110, runner.pool, 3 + 61 * number + shift)
                limit = start + width if model.attention != "full" else start + width + 9
                rows = torch.arange(start, start + width)
                shares.append(Segment(ids[:width], start, limit, model.attention, model.block_length, rows, slot))
            batches.append(shares)
        model.layers.fused, static.graphs = False, True
        expected = plain.logits(batches[0])
        model.layers.fused = True
        logits = static.logits(batches[1])
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    assert len(replays) == 5 and set(replays) <= {1, 2, 4, 8, 16, 24, 32}


def test_a_graph_that_cannot_be_captured_is_done_without_and_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    from dllm_agents.engine import runner as module

    def refuse(*_: Any) -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    model = load(llama_like(tmp_path, "qwen3"))
    runner = module.Runner(model, 100)
    runner.graphs = True
    monkeypatch.setattr(module, "_Graph", refuse)
    share = Segment(torch.tensor([5]), 0, 1, "causal", None, torch.tensor([0]), Slot(model, 10, runner.pool, 0))
    for _ in range(3):
        assert runner.logits([share]).shape == (1, model.vocab_size)
    assert [record.getMessage() for record in caplog.records] == [
        "no CUDA graph for 1 lanes of 1: operation not permitted when stream is capturing"
    ]


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "qwen3", "ministral3"])
def test_the_layers_are_those_of_transformers(tmp_path: Path, model_type: str) -> None:
    extra: dict[str, Any] = {}
    if model_type == "ministral3":
        scaling = {"rope_type": "default", "rope_theta": 1e6, "llama_4_scaling_beta": 0.5, "original_max_position_embeddings": 8}
        extra = {"rope_parameters": scaling, "rope_theta": None}
    model = load(llama_like(tmp_path, model_type, extra=extra), trainable=True)
    ids = torch.randint(0, 100, (40,), generator=torch.Generator().manual_seed(1))
    expected = model.network(input_ids=ids[None]).logits[0]  # type: ignore[operator]
    (logits,) = forward(model, [Segment(ids, 0, 40, "causal", None, torch.arange(40))])
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    again = model.network(input_ids=ids[None]).logits[0]  # type: ignore[operator]
    torch.testing.assert_close(again, expected, msg="its parameters are views of the merged ones")


@pytest.mark.parametrize(
    "dtype, supported, loaded", [(None, True, "bfloat16"), ("bfloat16", False, "float32"), ("float32", True, "float32")]
)
def test_a_gpu_takes_bfloat16_where_it_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, dtype: str | None, supported: bool, loaded: str
) -> None:
    from dllm_agents.models import loading

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: supported)
    monkeypatch.setattr(loading, "load", lambda directory, dtype, device: (dtype, device))
    assert loading.load_model(tmp_path, dtype) == (loaded, "cuda")
    assert ("no bfloat16" in capsys.readouterr().err) == (not supported)
