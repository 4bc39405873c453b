"""Benchmarks by name. Importing this package imports no simulator."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from dllm_agents.benchmarks.base import Benchmark, Environment, Step, Verdict
from dllm_agents.config import BENCHMARKS, Benchmarks, Config
from dllm_agents.config import load as load_config
from dllm_agents.errors import StageError

__all__ = ["Benchmark", "Environment", "Step", "Verdict", "load", "names"]


def names() -> list[str]:
    """The benchmarks this package has, sorted."""
    return list(BENCHMARKS)


def load(name: str, config: Config | Mapping[str, Any] | str | Path | None = None) -> Benchmark:
    """The benchmark `name`, set up by `config`: a checked Config, the path of a scale's YAML, the benchmark's own section
    as a mapping, or None for the defaults. Raises StageError for an unknown name or a section that does not fit."""
    if name not in BENCHMARKS:
        raise StageError(f"unknown benchmark {name!r}; allowed: {', '.join(names())}")
    seed = 42
    if isinstance(config, (str, Path)):
        config = load_config([config])
    if isinstance(config, Config):
        seed = config.seed
        options = config.benchmark_options(name)
    else:
        section = {key: value for key, value in (config or {}).items() if key != "seed"}
        seed = (config or {}).get("seed", seed)
        options = getattr(Benchmarks.from_mapping({name: section}, "benchmarks"), name)
    module = import_module(f"dllm_agents.benchmarks.{name}")
    benchmark: Benchmark = module.BENCHMARK(options, seed)
    return benchmark
