"""Learning from pairs and groups of trajectories: VRPO, agentic VRPO and JustGRPO.

A diffusion model has no exact likelihood; the ELBO stands for it. Its estimate is noisy, and a preference loss takes differences of
four of them, so what is shared between them decides whether the sign can be read: policy and reference are scored on the very same
masks (VRPO, arXiv 2505.19223, section 3.2: antithetic sampling).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn import functional

from dllm_agents.training import objectives
from dllm_agents.training.objectives import IGNORE, Batch, Example, Row, logits_of, token_losses

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM


def draw(
    example: Example,
    mask: int,
    end: int,
    block_length: int,
    samples: int,
    generator: torch.Generator,
    naive: bool = False,
    shift: bool = False,
    align: Literal["position", "turn"] = "position",
) -> Row:
    """A block-diffusion row of an example with `samples` draws of noise, for its ELBO. Draw once, score policy and reference on it.

    Each draw masks l of the L generated tokens, l uniform, weight L / l (LLaDA equation 6): as unbiased as independent draws, and of
    less variance. `naive` leaves tool responses visible that follow generated tokens in a block (VRPO without agentic noising).
    """
    return objectives.block_diffusion(
        example, mask, end, block_length, generator, "fixed_count", align, naive=naive, shift=shift, samples=samples
    )


def elbo(model: LlamaForCausalLM, batch: Batch, owner: Tensor, count: int) -> Tensor:
    """Monte Carlo ELBO [count] of trajectories, each the sum over its rows. `owner` [supervised] is the trajectory of each scored token;
    the weights of the rows must be 1 / p(masked)."""
    return -torch.zeros(count, device=owner.device).index_add(0, owner, token_losses(logits_of(model, batch), batch).float())


@dataclass
class PairBatch(Batch):
    """Pairs of trajectories, winner before loser, their draws shared by policy and reference. `owner` [scored tokens] and `lengths`
    [pairs, 2] are those of `elbo` and `vrpo_loss`."""

    owner: Tensor
    lengths: Tensor
    reference: LlamaForCausalLM
    beta: float
    normalise: bool

    @property
    def supervised(self) -> int:
        """Pairs: what the budget of preference training counts."""
        return len(self.lengths)

    def keep(self, count: int) -> None:
        """A pair is not cut."""

    def loss(self, model: LlamaForCausalLM) -> Tensor:
        """The preference loss against the frozen reference."""
        policy = elbo(model, self, self.owner, self.lengths.numel())
        with torch.no_grad():
            reference = elbo(self.reference, self, self.owner, self.lengths.numel())
        return vrpo_loss(policy.view(-1, 2), reference.view(-1, 2), self.beta, self.lengths if self.normalise else None)


def pair_batch(
    pairs: Sequence[Sequence[Sequence[Example]]],
    draw: Callable[[Example], Row],
    pad: int,
    reference: LlamaForCausalLM,
    beta: float,
    normalise: bool,
) -> PairBatch:
    """Pairs as one batch. Each is (winner, loser), a trajectory being its examples; `draw` makes the noise that both models see."""
    sides = [side for pair in pairs for side in pair]
    batch = objectives.collate([draw(example) for side in sides for example in side], "block_causal", pad)
    owner = torch.tensor([at for at, side in enumerate(sides) for _ in side])
    lengths = torch.tensor([float(generated(side)) for side in sides]).view(-1, 2)
    scored = owner.repeat_interleave((batch.targets != IGNORE).sum(1))
    return PairBatch(**vars(batch), owner=scored, lengths=lengths, reference=reference, beta=beta, normalise=normalise)


def generated(side: Sequence[Example]) -> int:
    """Generated tokens of a trajectory."""
    return sum(sum(example.generated) for example in side)


def vrpo_loss(policy: Tensor, reference: Tensor, beta: float, lengths: Tensor | None = None) -> Tensor:
    """The mean preference loss -log sigmoid(beta * ((policy - reference) of the winner - that of the loser)) (VRPO equation 5;
    DLLM-Searcher section 4.3 with the agentic ELBO).

    `policy` and `reference` [pairs, 2] are ELBO estimates of winner and loser on shared draws. `lengths` [pairs, 2], the generated
    tokens, divides each (an addition of DLLM-Searcher's code to VRPO).
    """
    advantage = policy - reference
    if lengths is not None:
        advantage = advantage / lengths
    return -functional.logsigmoid(beta * (advantage[:, 0] - advantage[:, 1])).mean()


def sequential_rows(example: Example, mask: int, end: int, block_length: int) -> list[Row]:
    """One block-diffusion row per generated token, with all before it revealed and all after it masked: summed, their losses are the
    exact log-likelihood of the tokens in left-to-right order (JustGRPO: AR order for the policy gradient, parallel decoding kept)."""
    ids, generated = torch.tensor(example.ids), torch.tensor(example.generated)
    rows = []
    for place in generated.nonzero().flatten().tolist():
        start = place // block_length * block_length
        stop = min(start + block_length, len(ids)) if not generated[-1] else start + block_length
        inside = torch.arange(start, stop)
        noisy = torch.where(inside < place, ids[inside.clamp(max=len(ids) - 1)], mask)
        clean = torch.arange(start)
        zeros = torch.zeros(start, dtype=torch.long)
        rows.append(
            Row(
                ids=torch.cat([ids[:start], noisy]),
                position=torch.cat([clean, inside]),
                block=torch.cat([clean, inside]) // block_length,
                copy=torch.cat([zeros, torch.ones(len(inside), dtype=torch.long)]),
                targets=torch.cat([zeros + IGNORE, torch.where(inside == place, ids[place], IGNORE)]),
                weights=torch.ones(stop),
            )
        )
    return rows


def grpo_loss(log_probs: Tensor, old_log_probs: Tensor, rewards: Tensor, owner: Tensor, clip: float = 0.2) -> Tensor:
    """GRPO over one group of rollouts: the clipped policy gradient with rewards normalised inside the group, averaged over each
    rollout's tokens, then over rollouts. `log_probs` and `old_log_probs` are [tokens], `owner` [tokens] the rollout of each, `rewards`
    [rollouts]. A group whose rewards are equal teaches nothing and costs nothing."""
    advantage = (rewards - rewards.mean()) / (rewards.std(unbiased=False) + 1e-6)
    ratio = (log_probs - old_log_probs).exp()
    gain = torch.minimum(ratio * advantage[owner], ratio.clamp(1 - clip, 1 + clip) * advantage[owner])
    tokens = torch.zeros(len(rewards)).index_add(0, owner, torch.ones(len(owner))).clamp(min=1)
    return -(torch.zeros(len(rewards)).index_add(0, owner, gain) / tokens).mean()
