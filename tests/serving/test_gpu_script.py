"""`benchmarks/gpu.py` runs end to end on a small shape, without pydantic or a server's packages, and counts what a forward must do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SECTIONS = ("attention", "syncs", "dual", "end_to_end", "ar", "sdar", "sdar_end_to_end", "ar_end_to_end", "before", "compiled")
# A bare GPU machine: the packages are there, and cannot be imported.
BARE = """
import importlib.abc, runpy, sys
class Bare(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("pydantic", "fastapi", "uvicorn", "starlette"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Bare())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_every_section_runs_on_a_bare_machine(tmp_path: Path) -> None:
    script, results = str(BENCHMARKS / "gpu.py"), tmp_path / "gpu.json"
    command = [sys.executable, "-c", BARE, script, "--tiny", "--sections", ",".join(SECTIONS), "--json", str(results)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr[-2000:]
    record = json.loads(results.read_text())
    assert record["failed"] == []
    rows = {row["name"]: row for row in record["rows"]}
    assert rows["attention, causal, 32 queries, ragged: relative error"]["value"] < 1e-5
    assert rows["SDAR end to end, 4 requests: tokens/s, prompts included"]["value"] > 0
    assert all(row["value"] >= 0 for row in record["rows"])


def test_bytes_and_operations_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from gpu import work_of
    from shapes import random_model

    shape = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 32}
    work = work_of(random_model(shape, "full", dtype=torch.bfloat16), batch=3, tokens=4, rows=2, length=10)
    layers = 2 * (4 * 8 * 8 + 3 * 8 * 16 + 2 * 8)  # four projections, three of the MLP, two norms
    cell = 2 * 2 * 8  # keys and values of a position, over two layers
    assert work.bytes == 2 * (layers + 32 * 8 + 3 * cell * (10 + 4))
    assert work.operations == 3 * (2 * layers * 4 + 2 * 32 * 8 * 2 + 4 * 2 * 8 * 4 * 10)
