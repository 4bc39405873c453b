"""Small random models of each attention, for the engine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))

from random_checkpoints import llada, llama_like


def full_attention(directory: Path) -> Any:
    from dllm_agents.models import load

    return load(llada(directory))


def any_attention(directory: Path, attention: str) -> Any:
    from dllm_agents.models import load

    return load(llama_like(directory, "qwen3" if attention == "causal" else "sdar"))
