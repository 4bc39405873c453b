"""`add: {mine: {model: DIR}}` is all it takes: a checkpoint of any family plays and has a row in Table 1."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from dllm_agents import benchmarks, preflight
from dllm_agents.agents.rollout import Shard, rollout
from dllm_agents.analysis.stage import score_file
from dllm_agents.config import load
from dllm_agents.files import read_jsonl, write_jsonl
from dllm_agents.prompts import PROMPTS
from dllm_agents.records import Episode
from dllm_agents.reporting.tables import tabulate

FAMILIES = {
    "llada": ("diffusion", "llada"),
    "Dream": ("diffusion", "dream"),
    "Fast_dLLM_Qwen": ("diffusion", "fast_dllm_v2"),
    "sdar": ("diffusion", "sdar"),
    "qwen3": ("ar", "ar"),
    "llama": ("diffusion", "llada"),  # with `dllm` in its config, as trained here
}


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Write a small random checkpoint in a family's published layout, with a tokenizer."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "models"))
    import random_checkpoints
    from small_checkpoints import make_tokenizer

    # Learnt from the prompts, which it then writes in few tokens.
    tokenizer = make_tokenizer([path.read_text() for path in sorted((PROMPTS / "react").glob("*.j2"))], 1024)
    monkeypatch.setattr(random_checkpoints, "VOCABULARY", len(tokenizer))
    monkeypatch.setattr(random_checkpoints, "MASK", tokenizer.mask_token_id)
    monkeypatch.setattr(random_checkpoints, "STOP", tokenizer.eos_token_id)

    def write(family: str) -> Path:
        if family == "llada":
            directory = random_checkpoints.llada(tmp_path / "weights")
        else:
            here = {"dllm": {"attention": "full", "mask_token_id": tokenizer.mask_token_id}} if family == "llama" else {}
            directory = random_checkpoints.llama_like(tmp_path / "weights", family, extra=here)
        tokenizer.save_pretrained(directory)
        return directory

    return write


@pytest.mark.parametrize("family", FAMILIES)
def test_a_directory_plays_and_has_its_row(checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str) -> None:
    directory = checkpoint(family)
    monkeypatch.chdir(tmp_path)
    Path("few.yaml").write_text("benchmarks: {babyai: {levels: [GoToObj], seeds: [1], max_steps: 1}}\nrun: {benchmarks: [babyai]}\n")
    Path("mine.yaml").write_text(f"extends: few.yaml\nadd: {{mine: {{model: {directory}}}}}\n")
    config = load(["mine.yaml"], None, (preflight.check,))
    assert config.backbones["mine"].paradigm == FAMILIES[family][0]

    results = Path(config.results)
    tasks, episodes = results / "tasks/babyai.jsonl", results / "episodes/babyai/mine.jsonl"
    write_jsonl(tasks, benchmarks.load("babyai", config).tasks("test"))
    rollout(config, "mine", Shard(tasks, episodes))
    played = read_jsonl(episodes, Episode)
    assert [episode.error for episode in played] == [None]
    assert all(episode.usage["policy"].completion_tokens for episode in played)
    decoded = [episode.decoding["policy"] for episode in played]
    assert {item["strategy"] for item in decoded} == {FAMILIES[family][1]}
    # What is recorded has every default filled in, as the server decoded it.
    assert all(item["stop_ids"] and (item.get("block_length") is None) == (family in ("Dream", "qwen3")) for item in decoded)

    score_file(config, episodes, tasks, results / "scores/babyai/mine.parquet")
    tabulate("diffuagent_table1", config, results, results / "tables/diffuagent_table1")
    with open(results / "tables/diffuagent_table1.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["agent"] == "mine" and row["metric"] == "success_rate"]
    assert {row["benchmark"]: row["n"] for row in rows}["babyai"] == "1"
