"""Records that the serving probe and the training write for the report."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from dllm_agents.records import Record


class Probe(Record):
    """What the serving probe saw of a backbone."""

    backbone: str
    model: str
    engine: str
    healthy: bool
    canary: Literal["equal", "different", "no reference"] = "no reference"
    canary_prompt: str = ""
    canary_text: str = ""
    decoding: dict[str, Any] = Field(default_factory=dict)
    concurrency: list[dict[str, float]] = Field(
        default_factory=list, description="per level: concurrency, requests, tokens_per_second (kept tokens), p50_s, p95_s, nfe_per_token"
    )
    peak_memory_mb: float = 0.0
    parameters: int = Field(default=0, description="0 where the weights are not read here")
    forwards: list[dict[str, float]] = Field(
        default_factory=list, description="one forward without a cache, by its number of tokens: tokens, seconds (median), bytes, flops"
    )
    roof: dict[str, float] = Field(
        default_factory=dict, description="ceilings of the hardware as measured: bytes_per_second (copy), flops_per_second (matrix product)"
    )
    hardware: str = ""
    versions: dict[str, str] = Field(default_factory=dict)
    error: str | None = None


class TrainingReport(Record):
    """What a training run did; written beside the checkpoint as training.json."""

    backbone: str
    benchmark: str
    objective: str
    steps: int
    examples: int
    supervised_tokens: int = Field(description="tokens that carried loss over the run")
    parameters: int
    final_loss: float
    validation_loss: float | None = None
    best_validation_loss: float | None = None
    held_out_accuracy: float | None = Field(default=None, description="share of rare tokens predicted right in held-out replies")
    learnt: bool | None = Field(default=None, description="whether that reached `learnt` of the budget; None where nothing was asked for")
    loss_curve: list[tuple[int, float]] = Field(default_factory=list)
    validation_curve: list[tuple[int, float]] = Field(default_factory=list)
    seed: int
    base: str | None = Field(default=None, description="what training started from; None from scratch")
    settings: dict[str, Any] = Field(default_factory=dict)
    data_sha256: str = ""
    versions: dict[str, str] = Field(default_factory=dict)
    hardware: str = ""
    seconds: float = 0.0
    tokens_per_second: float = 0.0
    data_seconds: float = Field(default=0.0, description="seconds spent making batches")
