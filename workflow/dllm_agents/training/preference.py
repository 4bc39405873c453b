"""Learning from pairs and groups of trajectories: VRPO, agentic VRPO and JustGRPO.

A diffusion model has no exact likelihood; the ELBO stands for it. Its estimate is noisy, and a preference loss takes differences of
four of them, so what is shared between them decides whether the sign can be read: policy and reference are scored on the very same
masks (VRPO, arXiv 2505.19223, section 3.2: antithetic sampling).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from dllm_agents.training import objectives
from dllm_agents.training.objectives import IGNORE, Example, Row, logits_of, token_losses

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM


def elbo(model: LlamaForCausalLM, rows: Sequence[Sequence[Row]], attention: objectives.Attention, pad: int) -> Tensor:
    """Monte Carlo ELBO of each example [examples], the mean over its `rows` (one a draw). The rows' weights must be 1 / p(masked)."""
    batch = objectives.collate([row for draws in rows for row in draws], attention, pad)
    owner = torch.tensor([at for at, draws in enumerate(rows) for _ in draws]).repeat_interleave((batch.targets != IGNORE).sum(1))
    counts = torch.tensor([float(len(draws)) for draws in rows])
    return -torch.zeros(len(rows)).index_add(0, owner, token_losses(logits_of(model, batch), batch)) / counts


def draw(
    examples: Sequence[Example], mask: int, end: int, block_length: int, samples: int, generator: torch.Generator, naive: bool = False
) -> list[list[Row]]:
    """`samples` block-diffusion rows of each example with agentic noising, for `elbo`. Draw once, score policy and reference on it."""
    return [
        [objectives.block_diffusion(example, mask, end, block_length, generator, "independent", naive=naive) for _ in range(samples)]
        for example in examples
    ]


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
