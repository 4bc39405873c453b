from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))

from plain_transformer import Plain
from random_checkpoints import VOCABULARY, llada, llama_like


@dataclass
class Pair:
    """A loaded model and the plain reference over the same weights."""

    model: Any
    plain: Plain


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pair]:
    """`pair(model_type)`: a small random checkpoint of that family, loaded and beside its plain reference."""
    from dllm_agents.models import load

    @cache
    def make(model_type: str) -> Pair:
        directory = tmp_path_factory.mktemp(model_type)
        if model_type == "llada":
            llada(directory)
        else:
            llama_like(directory, model_type)
        return Pair(load(directory), Plain.load(directory))

    return make


@pytest.fixture
def prompt() -> Callable[..., list[int]]:
    def draw(length: int, seed: int = 0) -> list[int]:
        return torch.randint(0, VOCABULARY - 3, (length,), generator=torch.Generator().manual_seed(seed)).tolist()

    return draw
