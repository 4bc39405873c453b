"""What the probe counts of a forward, against counts by hand."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from random_models import any_attention

from dllm_agents.serving import roofline


def test_bytes_and_operations_are_those_of_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "TOKENS", (1, 4))
    model = any_attention(tmp_path, "block_causal")
    network = model.network
    matrices = {name: parameter for name, parameter in network.named_parameters() if parameter.ndim == 2}
    tied = network.config.tie_word_embeddings
    multiplied = sum(parameter.numel() for name, parameter in matrices.items() if tied or "embed_tokens" not in name)
    one, four = roofline.measure(model)
    assert (one["tokens"], four["tokens"]) == (1, 4) and one["seconds"] > 0
    layers, channels = network.config.num_hidden_layers, network.config.num_attention_heads * network.config.head_dim
    assert four["flops"] == 2 * 4 * multiplied + 4 * 16 * layers * channels
    keys = 2 * 4 * layers * network.config.num_key_value_heads * network.config.head_dim * 4
    assert four["bytes"] == 4 * multiplied + keys


def test_ceilings_are_positive_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "COPY_BYTES", 1 << 20)
    monkeypatch.setattr(roofline, "MATRIX", 64)
    found = roofline.ceilings(torch.float32, torch.device("cpu"))
    assert set(found) == {"bytes_per_second", "flops_per_second"} and all(value > 0 for value in found.values())


def test_a_stall_of_the_machine_is_no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    stalls = iter([0.2, *[0.03] * 5])  # the first run, which sets things up, and five more

    def work() -> None:
        now[0] += next(stalls, 0.001)

    monkeypatch.setattr(roofline, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    assert roofline._timed(work, torch.device("cpu")) == pytest.approx(0.001)
