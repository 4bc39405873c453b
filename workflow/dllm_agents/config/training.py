"""How a backbone is trained."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from dllm_agents.config.section import NOTHING, Section


class Preference(Section):
    """How a backbone learns from pairs of its own rollouts (VRPO, arXiv 2505.19223; DLLM-Searcher section 4.3). For just_grpo a pair is
    a group of two; what speaks of an ELBO is VRPO's alone."""

    queries: int = Field(default=200, ge=1, description="training tasks of each benchmark, at even distances, each rolled out twice")
    seeds: tuple[int, int] = Field(default=(1, 2), description="seeds of the two rollouts")
    temperature: float = Field(default=1.0, gt=0, description="temperature of the rollouts")
    acting: Literal["react", "p_react"] = Field(default="react", description="how search tasks are rolled out")
    min_pairs: int = Field(default=8, ge=1, description="with fewer pairs the backbone is not run, and every table says so")
    epochs: int = Field(default=5, ge=1, description="passes over the pairs")
    batch_size: int = Field(default=4, ge=1, description="pairs per optimiser step")
    beta: float = Field(default=0.1, gt=0, description="strength of the pull towards the reference")
    samples: int = Field(default=2, ge=1, description="Monte Carlo samples of each ELBO, shared by policy and reference")
    length_normalised: bool = Field(default=False, description="divide each ELBO by its generated tokens (DLLM-Searcher's code)")


MIXTURE = "mixture"
"""Stands for a benchmark where a checkpoint is trained on several."""
PREFERENCE = ("vrpo", "agentic_vrpo", "just_grpo")


class Lora(Section):
    """Low-rank adapters in place of full fine-tuning."""

    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=32.0, gt=0)
    save: Literal["merged", "adapter"] = Field(
        default="merged",
        description="what the checkpoint directory holds: whole weights, or the adapters alone",
    )
    start: str | None = Field(
        default=None, description="adapter of the same base, rank and layers that training goes on from: the package's, or a directory"
    )
    target_modules: list[str] = Field(
        default=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"], description="layers that get an adapter"
    )


class Training(Section):
    """How a tiny or small backbone is trained on the accepted trajectories."""

    FORMER: ClassVar = {"align": "is gone: blocks are counted from position 0; write fill_prompt: true where they begin with each reply"}

    objective: Literal["ar", "full_diffusion", "block_diffusion", "context_causal", "vrpo", "agentic_vrpo", "just_grpo"] = Field(
        description="supervised fine-tuning of a paradigm; or preference optimisation of the `base` on pairs of its own rollouts, with "
        "tool responses masked where a decoder does not have them yet (agentic_vrpo) or left visible (vrpo), or by the policy gradient of "
        "groups of two rollouts in left-to-right order (just_grpo)"
    )
    base: str | None = Field(
        default=None, description="checkpoint directory, or backbone trained here, to start from; null trains from scratch"
    )
    hidden_size: int = Field(default=128, ge=8)
    layers: int = Field(default=4, ge=1)
    heads: int = Field(default=4, ge=1)
    mixture: list[str] = Field(
        default=[], description="benchmarks on whose trajectories together one checkpoint is trained; empty trains one for each benchmark"
    )
    mask_token: str | None = Field(
        default=None, description="token of the base that stands for a mask; null takes the base's own, or adds one to the vocabulary"
    )
    block_length: int = Field(default=8, ge=1, description="tokens per block (block diffusion)")
    ar_weight: float = Field(
        default=0.5, ge=0, description="weight of the next-token loss on the clean copy beside the diffusion loss (context_causal)"
    )
    noise: Literal["anchored", "independent", "middle", "complementary", "end_masked", "fixed_count"] = Field(
        default="anchored",
        description="how copies are noised: one at t ~ U(0, 1) beside one fully masked, unweighted; LLaDA's 1/t; "
        "the same at t in 0.1-0.9 (DLLM-Searcher); Fast-dLLM v2's "
        "complementary pair; dLLM-Var's masked end tokens; LLaDA's l of L",
    )
    fill_prompt: bool = Field(
        default=False,
        description="fill prompts up on the left to whole blocks, as `decoding.fill_prompt` does, and let the tool response behind a reply "
        "take the rest of its block (block diffusion, layout exchange)",
    )
    context_mask: Literal["aligned", "edges", "naive"] = Field(
        default="aligned",
        description="tool responses that share a block with the call before them: masked, not attended by it, or left visible (ablation)",
    )
    context_noise: Literal["clean", "noisy"] = Field(
        default="clean", description="whether noise leaves context alone, or hits it in the blocks of replies too (ablation)"
    )
    logit_shift: bool = Field(default=False, description="a token is predicted where the token before it stands (Fast-dLLM v2)")
    call_weight: float = Field(
        default=1.0, ge=0, description="weight of search calls in the loss; 0 trains on thoughts and answers alone (ablation)"
    )
    layout: Literal["exchange", "trajectory"] = Field(
        default="exchange",
        description="an example is one reply, or a whole trajectory with tool responses in between (prompts with turns)",
    )
    prompt_gradient: bool = Field(
        default=True,
        description="false runs prompts without gradients (ar, context_causal): the loss is the same, a CPU takes two thirds of the time",
    )
    packed_length: int | None = Field(default=None, ge=16, description="pack examples into rows of this length, unseen by one another")
    learning_rate: float = Field(default=5e-3, gt=0)
    muon_learning_rate: float | None = Field(default=0.02, description="rate for matrices with Muon; null uses AdamW throughout")
    max_seconds: float | None = Field(
        default=None, gt=0, description="wall time after which training ends, its schedule with it, though tokens of the budget are left"
    )
    data_workers: int = Field(default=0, ge=0, description="processes that make batches ahead of a GPU; 0 makes them between steps")
    warmup: float = Field(default=0.1, ge=0, lt=1, description="share of the budget over which the rates rise")
    clip: float = Field(default=1.0, gt=0)
    validation_share: float = Field(default=0.02, ge=0, lt=1)
    budget_factor: float = Field(default=1.0, gt=0, description="times the benchmark's supervised tokens, to match compute not tokens")
    accumulate: int = Field(default=1, ge=1, description="batches per optimiser step and process")
    keep: Literal["last", "best"] = Field(default="last", description="weights to save: the last, or those of the lowest validation loss")
    lora: Lora | None = Field(default=None, description="train low-rank adapters; null trains every weight")
    launch: Literal["ddp", "fsdp2"] | None = Field(
        default=None, description="how processes share a training (config/accelerate/<name>.yaml); null for one process"
    )
    nodes: int = Field(
        default=1,
        ge=1,
        description="machines of a launched training, each with `training_gpus` processes",
        json_schema_extra=NOTHING,
    )
    seed: int | None = Field(default=None, description="null takes the run's seed")
    preference: Preference | None = Field(
        default=None, description="settings of vrpo, agentic_vrpo and just_grpo; null takes their defaults"
    )

    @model_validator(mode="after")
    def _preference_has_a_base(self) -> Training:
        if self.packed_length is not None and self.objective == "block_diffusion" and self.packed_length % self.block_length:
            raise ValueError(f"block_length {self.block_length} does not divide packed_length {self.packed_length}")
        if self.objective == "context_causal" and self.block_length < 2:
            raise ValueError("context_causal needs a block_length of 2 or more: the pass before a block decides its first token")
        if not self.prompt_gradient and (self.objective not in ("ar", "context_causal") or self.packed_length is not None):
            raise ValueError("prompt_gradient: false needs objective ar or context_causal, without packed_length")
        if not self.prompt_gradient and self.launch == "fsdp2":
            raise ValueError("prompt_gradient: false does not go with launch: fsdp2, which runs layers again in backward")
        if (self.context_mask, self.context_noise) != ("aligned", "clean") and self.objective != "block_diffusion":
            raise ValueError("context_mask and context_noise need objective block_diffusion: no other has context in a reply's blocks")
        if self.fill_prompt and (self.layout == "trajectory" or self.objective not in ("block_diffusion", *PREFERENCE)):
            raise ValueError("fill_prompt needs layout exchange, and block diffusion")
        if self.mixture and self.objective in PREFERENCE:
            raise ValueError("mixture needs a supervised objective")
        if self.call_weight != 1 and (self.layout == "trajectory" or self.objective in PREFERENCE):
            raise ValueError("call_weight needs layout exchange and a supervised objective")
        if self.objective in PREFERENCE:
            if self.base is None:
                raise ValueError(f"objective {self.objective} needs `base`, the backbone whose rollouts it learns from")
            self.preference = self.preference or Preference()
            if self.objective == "just_grpo" and self.preference.acting == "p_react":
                raise ValueError("objective just_grpo rolls out from left to right, and so not with preference.acting p_react")
        return self
