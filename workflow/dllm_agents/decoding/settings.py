"""Decoding settings: the same fields in YAML, in the API and in code. Imports no torch."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from dllm_agents.errors import StageError

if TYPE_CHECKING:
    from dllm_agents.models import Model

    Strategy = str
else:
    # One file each.
    Strategy = Literal[tuple(sorted(file.stem for file in (Path(__file__).parent / "strategies").glob("[!_]*.py")))]


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
    rule: Literal["always", "predicted", "tool_then_answer"] = Field(
        default="always",
        description="turns with the tags of a call: every one but a search agent's last; those where a first look at the bare block "
        "predicts the opening tag (one forward); or a search agent's first `tool_turns`, and the tags of an answer later (public code)",
    )
    tool_turns: int = Field(default=3, ge=1, description="turns with the tags of a call (tool_then_answer)")
    tags: Literal["tool_call", "answer"] = Field(default="tool_call", description="which tags: those of a call, or of an answer")
    open_id: int | None = Field(default=None, description="token id of the opening tag; default: the checkpoint's for `tags`")
    close_id: int | None = Field(default=None, description="token id of the closing tag; default: that of the same kind")

    def on_turn(self, turn: int, last: int) -> ToolPrefill | None:
        """What is set on a search agent's turn, counted from 0 to `last`; None for nothing."""
        if self.rule != "tool_then_answer":
            return None if turn == last else self
        if turn < self.tool_turns:
            return self.model_copy(update={"rule": "always"})
        return self.model_copy(update={"rule": "always", "tags": "answer", "open_id": None, "close_id": None})


class Decoding(BaseModel):
    """How a backbone turns a prompt into tokens."""

    model_config = ConfigDict(extra="forbid")

    strategy: Strategy | None = Field(default=None, description="default: the checkpoint's own")
    max_new_tokens: int = Field(default=128, ge=1, le=131072)
    steps: int | None = Field(default=None, ge=1, description="denoising steps over all new tokens; default: one token a step")
    steps_per_block: int | None = Field(default=None, ge=1, description="denoising steps of one block, in place of `steps`")
    block_length: int | None = Field(default=None, ge=1, description="tokens per block; default: the strategy's published value")
    sub_block_length: int | None = Field(default=None, ge=1)
    fill_prompt: bool = Field(
        default=False,
        description="fill the prompt up on the left to whole blocks, so that the answer begins with a block (sdar, fast_dllm_v2)",
    )
    threshold: float | None = Field(default=None, ge=0, le=1)
    factor: float | None = Field(default=None, gt=0)
    remasking: Literal["low_confidence", "random", "sequential", "low_confidence_static", "low_confidence_dynamic"] | None = Field(
        default=None, description="which masked positions are unmasked first; `sequential` is strict left to right"
    )
    order: Literal["origin", "maskgit_plus", "topk_margin", "entropy", "confidence_threshold"] | None = Field(
        default=None, description="Dream's orders"
    )
    cache: Literal["none", "prefix", "dual"] | None = Field(default=None, description="approximate caches of Fast-dLLM")
    refresh_prompt: int | None = Field(
        default=None,
        ge=1,
        description="approximate, with a prefix or dual cache: run the prompt again in every n-th block only; the tokens may change",
    )
    stop_early: bool = Field(
        default=True, description="end a request once everything before a stop token is decided; the published full-attention loops run on"
    )
    merge_stores: bool = Field(
        default=True,
        description="where the tokens are the same, store a block's keys in the next block's first call instead of one of its own",
    )
    temperature: float = Field(default=0.0, ge=0)
    top_p: float | None = Field(default=None, gt=0, le=1)
    mask_id: int | None = Field(default=None, ge=0, description="default: the checkpoint's")
    stop_ids: list[int] | None = Field(default=None, description="default: the checkpoint's")
    seed: int = 0
    dynamics: bool = Field(
        default=False, description="with the trace: masks and entropy of every denoising forward, and how many predictions were accepted"
    )
    tool_prefill: ToolPrefill | None = None
    constraint: dict[str, Any] | None = Field(
        default=None,
        description='what the whole answer must match: a JSON Schema, {"regex": ...}, {"choice": [...]}, or calls of {"tools": [...]}',
    )
    constraint_rule: Literal["mask", "map", "posterior"] | None = Field(
        default=None,
        description="mask (default): only what may not stand where it is predicted is changed; map: the most probable answer of a step; "
        "posterior: each token's best by its probability among answers that match",
    )

    def resolved(self, model: Model) -> Decoding:
        """These settings as they are carried out on `model`, with every default filled in: block and sub-block length, steps, threshold,
        mask and stop ids. Raises DecodingError where they do not fit the model or each other."""
        resolve = import_module("dllm_agents.decoding.resolve")  # by name: configuration is read without torch
        return resolve.resolved(self, model)  # type: ignore[no-any-return]
