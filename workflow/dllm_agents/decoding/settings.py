"""Decoding settings: the same fields in YAML, in the API and in code. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from dllm_agents.errors import StageError

Strategy = Literal["ar", "llada", "dream", "fast_dllm", "fast_dllm_v2", "dllm_var", "sdar"]


class DecodingError(StageError, ValueError):
    """The settings themselves cannot be carried out. The message is one line that names the field."""


class ToolPrefill(BaseModel):
    """P-ReAct (DLLM-Searcher, equations 6 and 7): boundary tags set at a block's first step, and a confidence bias between them."""

    model_config = ConfigDict(extra="forbid")

    open: int = Field(default=63, ge=0, description="position in the block of the opening tag")
    close: int = Field(default=126, ge=1, description="position in the block of the closing tag")
    bias: float = Field(default=0.5, ge=0, description="added to the confidence of undecided positions in the span")
    span: Literal["between", "after_open"] = Field(
        default="between", description="biased positions: between the tags (paper), or everything after the first (released code)"
    )
    rule: Literal["always", "predicted"] = Field(
        default="always",
        description="tool-call turns: every turn, or those where a first look at the bare block predicts the opening tag (one forward)",
    )
    open_id: int | None = Field(default=None, description="token id of the opening tag; default: the checkpoint's <tool_call>")
    close_id: int | None = Field(default=None, description="token id of the closing tag; default: the checkpoint's </tool_call>")


class Decoding(BaseModel):
    """How a backbone turns a prompt into tokens."""

    model_config = ConfigDict(extra="forbid")

    strategy: Strategy = "ar"
    max_new_tokens: int = Field(default=128, ge=1, le=131072)
    steps: int | None = Field(default=None, ge=1, description="denoising steps over all new tokens; default: one token a step")
    block_length: int | None = Field(default=None, ge=1, description="tokens per block; default: the strategy's published value")
    sub_block_length: int | None = Field(default=None, ge=1)
    threshold: float | None = Field(default=None, ge=0, le=1)
    factor: float | None = Field(default=None, gt=0)
    remasking: Literal["low_confidence", "random", "sequential", "low_confidence_static", "low_confidence_dynamic"] | None = Field(
        default=None, description="which masked positions are settled first; `sequential` is strict left to right"
    )
    order: Literal["origin", "maskgit_plus", "topk_margin", "entropy", "confidence_threshold"] | None = Field(
        default=None, description="Dream's orders"
    )
    cache: Literal["none", "prefix", "dual"] | None = Field(default=None, description="approximate caches of Fast-dLLM")
    approximate_prefix: bool = Field(
        default=False,
        description="served full-attention models with a cache: take an earlier request's keys for the prompt they share instead of "
        "running it at every refresh; the tokens may change",
    )
    temperature: float = Field(default=0.0, ge=0)
    top_p: float | None = Field(default=None, gt=0, le=1)
    mask_id: int | None = Field(default=None, ge=0, description="default: the checkpoint's")
    stop_ids: list[int] | None = Field(default=None, description="default: the checkpoint's")
    seed: int = 0
    tool_prefill: ToolPrefill | None = None
