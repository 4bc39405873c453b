"""`benchmarks/gpu.py` runs end to end on a small shape, and counts what a forward must do."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_the_script_runs_on_a_cpu() -> None:
    ended = subprocess.run(
        [sys.executable, str(BENCHMARKS / "gpu.py"), "--tiny", "--repeats", "2"], capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert len(re.findall(r"^(?:AR|DualCache), batch (?:1|8|32): % of the roofline bound", ended.stdout, re.MULTILINE)) == 6
    assert "AR: 32 concurrent, times batch 1" in ended.stdout
    off = [float(value) for value in re.findall(r"logits off by (\S+)", ended.stdout)]
    assert len(off) == 2 and max(off) < 0.05


def test_bytes_and_operations_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from decoding import random_model
    from gpu import work_of

    shape = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 32}
    work = work_of(random_model(shape, "full", dtype=torch.bfloat16), batch=3, tokens=4, rows=2, length=10)
    layers = 2 * (4 * 8 * 8 + 3 * 8 * 16 + 2 * 8)  # four projections, three of the MLP, two norms
    cell = 2 * 2 * 8  # keys and values of a position, over two layers
    assert work.bytes == 2 * (layers + 32 * 8 + 3 * cell * (10 + 4))
    assert work.operations == 3 * (2 * layers * 4 + 2 * 32 * 8 * 2 + 4 * 2 * 8 * 4 * 10)
