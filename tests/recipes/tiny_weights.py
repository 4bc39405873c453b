"""The recipes of the three papers with random weights in place of the published ones: the same agents, roles and rules under the same keys
of the configuration, on a task or two. BrowseComp-ZH is left out: its questions and its search lie on the web."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

from dllm_agents.config import Backbone, load
from dllm_agents.prompts import PROMPTS

ROOT = Path(__file__).parents[2]
RECIPES = ("diffuagent", "dllm_searcher", "dllm_agent")
FAMILIES = {
    "Qwen3": "qwen3",
    "Qwen-2.5": "qwen2",
    "SearchR1": "qwen2",
    "WebSailor": "qwen2",
    "Ministral": "ministral3",
    "LLaDA": "llada",
    "dLLM-Var": "llada",
    "Dream": "Dream",
    "Fast_dLLM": "Fast_dLLM_Qwen",
    "SDAR": "sdar",
    "openPangu": "PanguEmbedded",
}
"""What a published checkpoint's name begins with -> the layout it is written in."""
TAGS = ["<think>", "</think>", "<answer>", "</answer>", "<tool_response>", "</tool_response>"]
TOKENS = 16  # that a model writes at most where no block asks for more
BENCHMARKS: dict[str, dict[str, Any]] = {
    "babyai": {"levels": ["GoToObj"], "seeds": [1234], "max_steps": 2},
    "alfworld": {"tasks": 1, "max_steps": 2},
    "scienceworld": {"tasks": 1, "max_steps": 2},
    "bfcl": {"categories": ["simple", "multi_turn_base"], "per_category": 1, "max_steps": 2},
    "multihop_qa": {
        "tasks": 2,
        "train_tasks": 24,
        "hops": [2],
        "max_steps": 3,  # as many as the teacher needs
        "training": {"supervised_tokens": 800, "batch_size": 2, "max_prompt_tokens": 4000},
    },
}


def write(recipe: str, folder: Path) -> Path:
    """A configuration file beside its checkpoints that extends a recipe."""
    config = load([ROOT / "config" / f"{recipe}.yaml"])
    benchmarks = [name for name in config.run.benchmarks if name in BENCHMARKS]
    weights = _Weights(folder / "weights")
    backbones = {name: _tiny(config.backbones[name], benchmarks, weights) for name in config.used_backbones()}
    path = folder / f"{recipe}.yaml"
    settings = {
        "extends": str(ROOT / "config" / f"{recipe}.yaml"),
        "scale": f"tiny-{recipe}",
        "benchmarks": {name: BENCHMARKS[name] for name in benchmarks},
        "backbones": backbones,
        "run": {"benchmarks": benchmarks, "shards": 1, "probe_concurrency": [1], "probe_requests": 1},
        "resources": {"rollout": {"cpus": 1}, "train": {"cpus": 1}},
    }
    path.write_text(yaml.safe_dump(settings))
    return path


def _tiny(backbone: Backbone, benchmarks: list[str], weights: _Weights) -> dict[str, Any]:
    """What is changed of a backbone: its weights, where they run, and how much is written."""
    changed: dict[str, Any] = {"engine": "native", "dtype": "float32", "gpus": 0, "training_gpus": 0, "url": None}
    changed |= {"decoding": _few(backbone.decoding.model_dump(exclude_unset=True))}
    settings = {name: entry.model_dump(exclude_unset=True) for name, entry in backbone.benchmark_decoding.items() if name in benchmarks}
    changed["benchmark_decoding"] = {name: _few(entry) for name, entry in settings.items()}
    if backbone.model is not None:
        return changed | {"model": str(weights.of(backbone.model))}
    assert backbone.training is not None
    training: dict[str, Any] = {"launch": None, "accumulate": 1}
    if backbone.training.base is not None and "/" in backbone.training.base:
        training["base"] = str(weights.of(backbone.training.base))
    if backbone.training.preference is not None:
        training["preference"] = {"queries": 2, "epochs": 1, "batch_size": 1, "min_pairs": 1}
    return changed | {"training": training}


def _few(decoding: dict[str, Any]) -> dict[str, Any]:
    """The same decoding of fewer tokens: whole blocks where tags have their places in them."""
    block = decoding.get("block_length") or TOKENS
    tokens = block if decoding.get("fill_prompt") else min(block, TOKENS)
    few = {"max_new_tokens": tokens}
    if decoding.get("steps"):
        few["steps"] = tokens
    if decoding.get("steps_per_block"):
        few["steps_per_block"] = 8
    return few


class _Weights:
    """Random checkpoints in the layouts of the published families, one of each, with a tokenizer that writes the prompts in few tokens."""

    def __init__(self, folder: Path) -> None:
        sys.path[:0] = [str(ROOT / "tests" / "models"), str(ROOT / "tests" / "serving")]
        import random_checkpoints
        from small_checkpoints import make_tokenizer

        self.folder, self.layouts = folder, random_checkpoints
        self.tokenizer = make_tokenizer([path.read_text() for path in sorted((PROMPTS / "react").rglob("*.j2"))], 1024)
        self.tokenizer.add_tokens(TAGS)
        self.tokenizer.chat_template += "{% if enable_thinking %}<think>{% endif %}"
        random_checkpoints.VOCABULARY = len(self.tokenizer)
        random_checkpoints.MASK, random_checkpoints.STOP = self.tokenizer.mask_token_id, self.tokenizer.eos_token_id

    def of(self, published: str) -> Path:
        """The checkpoint that stands for a published one."""
        name = published.rpartition("/")[2]
        family = next(layout for beginning, layout in FAMILIES.items() if name.startswith(beginning))
        directory = self.folder / name
        if not directory.is_dir():
            extra = {"max_position_embeddings": 40960}
            if family == "llada":
                self.layouts.llada(directory)
            else:
                self.layouts.llama_like(directory, family, extra=extra)
            self.tokenizer.save_pretrained(directory)
        return directory
