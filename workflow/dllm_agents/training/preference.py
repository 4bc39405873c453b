"""Learning from pairs and groups of trajectories: VRPO, agentic VRPO and JustGRPO.

A diffusion model has no exact likelihood; the ELBO stands for it. Its estimate is noisy, and a preference loss takes differences of
four of them, so what is shared between them decides whether the sign can be read: policy and reference are scored on the very same
masks (VRPO, arXiv 2505.19223, section 3.2: antithetic sampling).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from dllm_agents.training import objectives
from dllm_agents.training.forward import logits_of
from dllm_agents.training.objectives import IGNORE, Batch, Example, Row, token_losses

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
) -> Row:
    """A block-diffusion row of an example with `samples` draws of noise, for its ELBO. Draw once, score policy and reference on it.

    Each draw masks l of the L generated tokens, l uniform, weight L / l (LLaDA equation 6): as unbiased as independent draws, and of
    less variance. `naive` leaves tool responses visible that follow generated tokens in a block (VRPO without agentic noising).
    """
    return objectives.block_diffusion(
        example, mask, end, block_length, generator, "fixed_count", "naive" if naive else "aligned", shift=shift, samples=samples
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
    batch, owner, sides = _collated(pairs, draw, pad)
    lengths = torch.tensor([float(generated(side)) for side in sides]).view(-1, 2)
    return PairBatch(**vars(batch), owner=owner, lengths=lengths, reference=reference, beta=beta, normalise=normalise)


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


def sequential(example: Example, mask: int, block_length: int, shift: bool = False) -> Row:
    """A block-diffusion row with one noisy copy per generated token, of its block, in which all before it is revealed and all after it
    masked: summed, their losses are the exact log-likelihood of the tokens in left-to-right order (JustGRPO, arXiv 2601.15165: AR order
    for the policy gradient, parallel decoding kept)."""
    ids, generated = torch.tensor(example.ids), torch.tensor(example.generated)
    place = torch.arange(len(ids))
    block = place // block_length
    scored = place[generated].tolist()
    clean = block < block[scored[-1]]
    zeros = torch.zeros_like(place[clean])
    parts = [Row(ids[clean], place[clean], block[clean], zeros, zeros + IGNORE, zeros.float())]
    for number, at in enumerate(scored, 1):
        inside = int(place[block == block[at]][0]) + torch.arange(block_length)
        shown = torch.where(inside < at, ids[inside.clamp(max=at)], mask)
        target = torch.where(inside == at, ids[at], IGNORE)
        parts.append(
            Row(shown, inside, torch.full_like(inside, int(block[at])), torch.full_like(inside, number), target, torch.ones(block_length))
        )
    row = Row(*(torch.cat([part[field] for part in parts]) for field in range(len(Row._fields))))
    return objectives.shifted(row) if shift else row


@dataclass
class GroupBatch(Batch):
    """Groups of rollouts of one query each, on the rows of `sequential`. `owner` [scored tokens] is the rollout of each token, `rewards`
    [groups, rollouts of a group] what each earned; `old` is the model that made the rollouts."""

    owner: Tensor
    rewards: Tensor
    old: LlamaForCausalLM

    @property
    def supervised(self) -> int:
        """Groups: what the budget of preference training counts."""
        return len(self.rewards)

    def keep(self, count: int) -> None:
        """A group is not cut."""

    def loss(self, model: LlamaForCausalLM) -> Tensor:
        """The clipped policy gradient against the model that made the rollouts."""
        with torch.no_grad():
            old = -token_losses(logits_of(self.old, self), self)
        return grpo_loss(-token_losses(logits_of(model, self), self), old, self.rewards, self.owner)


def group_batch(
    pairs: Sequence[Sequence[Sequence[Example]]], draw: Callable[[Example], Row], pad: int, old: LlamaForCausalLM
) -> GroupBatch:
    """Pairs as groups of two rollouts, of which the first earned 1 and the second 0. `draw` makes the rows of `sequential`."""
    batch, owner, sides = _collated(pairs, draw, pad)
    rewards = torch.tensor([1.0, 0.0]).expand(len(sides) // 2, 2).contiguous()
    return GroupBatch(**vars(batch), owner=owner, rewards=rewards, old=old)


def grpo_loss(log_probs: Tensor, old_log_probs: Tensor, rewards: Tensor, owner: Tensor, clip: float = 0.2) -> Tensor:
    """GRPO: the clipped policy gradient with rewards normalised inside each group, averaged over each rollout's tokens, then over
    rollouts. `log_probs` and `old_log_probs` are [tokens], `owner` [tokens] the rollout of each, `rewards` [groups, rollouts of a
    group]. A group whose rewards are equal teaches nothing and costs nothing."""
    centred = rewards - rewards.mean(1, keepdim=True)
    advantage = (centred / (rewards.std(1, keepdim=True, unbiased=False) + 1e-6)).flatten()
    ratio = (log_probs - old_log_probs).exp()
    gain = torch.minimum(ratio * advantage[owner], ratio.clamp(1 - clip, 1 + clip) * advantage[owner])
    nothing = torch.zeros_like(advantage)
    tokens = nothing.index_add(0, owner, torch.ones_like(log_probs)).clamp(min=1)
    return -(nothing.index_add(0, owner, gain) / tokens).mean()


def _collated(
    pairs: Sequence[Sequence[Sequence[Example]]], draw: Callable[[Example], Row], pad: int
) -> tuple[Batch, Tensor, list[Sequence[Example]]]:
    """The rows of pairs as one batch, the side that each scored token is of, and the sides, winner before loser."""
    sides = [side for pair in pairs for side in pair]
    batch = objectives.collate([draw(example) for side in sides for example in side], "block_causal", pad)
    owner = torch.tensor([at for at, side in enumerate(sides) for _ in side])
    return batch, owner.repeat_interleave((batch.targets != IGNORE).sum(1)), sides
