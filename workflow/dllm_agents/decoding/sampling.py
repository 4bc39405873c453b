"""From logits to a token and its confidence, row by row and for many requests at once: greedy, or seeded sampling from the nucleus.

Nothing here waits for the device: what a row needs is known before, what it gives comes back in one tensor.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Rows of `predict`'s result.
TOKEN, CONFIDENCE, ENTROPY, MARGIN = range(4)


@dataclass(frozen=True)
class Draws:
    """Rows that are drawn, not taken greedily: their indices [d], and for each its temperature, nucleus mass, number from U(0, 1), and
    whether its confidence is that of the plain softmax (LLaDA, Fast-dLLM, dLLM-Var) instead of the tempered one."""

    rows: Tensor
    temperature: Tensor
    top_p: Tensor
    points: Tensor
    untempered: Tensor

    @staticmethod
    def of(table: Tensor) -> Draws:
        """From [5, d] numbers, in the order of the fields."""
        return Draws(table[0].long(), table[1].float(), table[2].float(), table[3], table[4].bool())


def predict(logits: Tensor, mask_ids: Tensor | None = None, draws: Draws | None = None, scored: bool = False) -> Tensor:
    """Per row of `logits` [k, vocabulary]: token, confidence and, when `scored`, negative entropy and margin: [2 or 4, k] in float64.

    `mask_ids` [k] are never predicted. Where one is the best prediction its share of the softmax goes too: the published decoders never
    end there, everywhere else they keep it, and so do we. Rows whose logits are not finite have a confidence that is not.
    """
    logits = logits.float()
    share: Tensor | None = None
    if mask_ids is not None:
        at = mask_ids[:, None]
        share = logits.gather(1, at)[:, 0]
        logits = logits.scatter(1, at, -torch.inf)
    best, token_ids = logits.max(dim=-1)
    exps = logits.sub(best[:, None]).exp_()
    if share is not None:
        share = torch.where(share > best, 0.0, (share - best).exp())
    # What is left beside the best: 1 / (1 + rest) tells confidences near 1 apart as only double precision would in the sum itself.
    rest = exps.scatter(1, token_ids[:, None], 0.0).sum(dim=-1)
    rest = rest if share is None else rest + share
    confidence = (1 + rest.double()).reciprocal()
    probabilities = None
    if scored:
        whole = exps if mask_ids is None or share is None else exps.scatter(1, mask_ids[:, None], share[:, None])
        probabilities = whole / (1 + rest)[:, None]
    if draws is not None:
        token_ids, confidence, probabilities = _drawn(logits, exps, token_ids, confidence, probabilities, draws)
    columns = [token_ids.double(), confidence]
    if probabilities is not None:
        two = probabilities.topk(2, dim=-1).values
        columns += [(probabilities * torch.log(probabilities + 1e-10)).sum(dim=-1).double(), (two[:, 0] - two[:, 1]).double()]
    return torch.stack(columns)


def _drawn(
    logits: Tensor, exps: Tensor, token_ids: Tensor, confidence: Tensor, probabilities: Tensor | None, draws: Draws
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The same with the rows of `draws` sampled. A row that is not finite draws token 0 and stays not finite."""
    tempered = torch.softmax(logits[draws.rows] / draws.temperature[:, None], dim=-1)
    tempered = nucleus(tempered, draws.top_p)
    cumulative = tempered.double().cumsum(dim=-1)
    point = draws.points * cumulative[:, -1]
    drawn = torch.searchsorted(cumulative, point[:, None], right=True).clamp(max=logits.shape[-1] - 1)
    plain = exps[draws.rows]
    plain_confidence = (plain.gather(-1, drawn)[:, 0] / plain.sum(dim=-1)).double()
    sure = torch.where(draws.untempered, plain_confidence, tempered.gather(-1, drawn)[:, 0].double())
    sure = torch.where(confidence[draws.rows].isfinite(), sure, torch.nan)
    if probabilities is not None:
        probabilities = probabilities.index_copy(0, draws.rows, tempered)
    return token_ids.index_copy(0, draws.rows, drawn[:, 0]), confidence.index_copy(0, draws.rows, sure), probabilities


def nucleus(probabilities: Tensor, top_p: Tensor) -> Tensor:
    """The smallest set of tokens whose mass reaches `top_p` [k], renormalised (Holtzman et al. 2020, section 3.1); the best always stays.

    Rows with a `top_p` of 1 or more are left as they are.
    """
    ordered, order = probabilities.sort(dim=-1, descending=True)
    beyond = (ordered.cumsum(dim=-1) - ordered > top_p[:, None]) & (top_p[:, None] < 1)
    kept = probabilities.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), 0)
    return torch.where(top_p[:, None] < 1, kept / kept.sum(dim=-1, keepdim=True), probabilities)
