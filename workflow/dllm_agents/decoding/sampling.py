"""From logits to a token and its confidence, row by row: greedy at temperature 0, else seeded sampling from the nucleus."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dllm_agents.errors import StageError

NOT_FINITE = "the model's logits are not finite (NaN or inf); the checkpoint is damaged or overflows in this dtype"


@dataclass
class Predictions:
    """Per row: the token [k] and its probability [k], drawn from `exps / total`: [k, vocabulary] over [k]."""

    token_ids: Tensor
    confidence: Tensor
    exps: Tensor
    total: Tensor

    @property
    def probabilities(self) -> Tensor:
        """The distribution the tokens were drawn from [k, vocabulary]."""
        return self.exps / self.total[:, None]


class Sampler:
    """Draws a request's tokens. Its randomness comes from `seed` alone, so a request's tokens do not depend on its batch mates."""

    def __init__(self, mask_id: int | None, temperature: float = 0.0, top_p: float | None = None, seed: int = 0) -> None:
        self.mask_id = mask_id
        self.temperature = temperature
        self.top_p = top_p
        self.generator = torch.Generator().manual_seed(seed)

    def predict(self, logits: Tensor, dtype: torch.dtype = torch.float32, untempered: bool = False) -> Predictions:
        """Predictions for `logits` [k, vocabulary], softmax in `dtype`.

        `untempered` takes the confidence from the plain softmax (LLaDA, Fast-dLLM v1) instead of the tempered one (the others). The
        mask id is never predicted. Raises StageError when the logits are not finite.
        """
        logits, best, token_ids = self._without_mask(logits)
        # A softmax without its last pass: of 32,000 columns and more mostly one is wanted.
        exps = logits.to(dtype).sub(best[:, None]).exp_()
        total = exps.sum(dim=-1)
        if not torch.isfinite(total).all():
            raise StageError(NOT_FINITE)
        if self.temperature == 0:
            return Predictions(token_ids, total.reciprocal(), exps, total)
        drawn_from = nucleus(torch.softmax(logits.to(dtype) / self.temperature, dim=-1), self.top_p)
        token_ids = self._draw(drawn_from)
        plain = exps if untempered else drawn_from
        confidence = plain.gather(-1, token_ids[:, None])[:, 0]
        return Predictions(token_ids, confidence / total if untempered else confidence, drawn_from, torch.ones_like(total))

    def greedy(self, logits: Tensor) -> Tensor:
        """The best token [k] of each row but the mask id, at any temperature. Raises StageError when the logits are not finite."""
        _, best, token_ids = self._without_mask(logits)
        if not torch.isfinite(best).all():
            raise StageError(NOT_FINITE)
        return token_ids

    def uniform(self, count: int) -> Tensor:
        """`count` numbers from U(0, 1)."""
        return torch.rand(count, generator=self.generator, dtype=torch.float64)

    def _without_mask(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits under which the mask id cannot be chosen, each row's highest [k] and its token [k].

        Greedy rows are touched only where the mask id is the best prediction: the published decoders never end there, everywhere else
        they keep the mask's share of the softmax, and so do we.
        """
        best, token_ids = logits.max(dim=-1)
        if self.mask_id is None:
            return logits, best, token_ids
        rows = token_ids == self.mask_id if self.temperature == 0 else torch.ones_like(token_ids, dtype=torch.bool)
        if bool(rows.any()):
            logits = logits.clone()
            logits[rows, self.mask_id] = -torch.inf
            best, token_ids = logits.max(dim=-1)
        return logits, best, token_ids

    def _draw(self, probabilities: Tensor) -> Tensor:
        cumulative = probabilities.double().cumsum(dim=-1)
        point = self.uniform(len(probabilities)).to(probabilities.device) * cumulative[:, -1]
        return torch.searchsorted(cumulative, point[:, None], right=True).squeeze(-1).clamp(max=probabilities.shape[-1] - 1)


def nucleus(probabilities: Tensor, top_p: float | None) -> Tensor:
    """The smallest set of tokens whose mass reaches `top_p`, renormalised (Holtzman et al. 2020, section 3.1); the best always stays."""
    if top_p is None or top_p >= 1:
        return probabilities
    ordered, order = probabilities.sort(dim=-1, descending=True)
    beyond = ordered.cumsum(dim=-1) - ordered > top_p
    kept = probabilities.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), 0)
    return kept / kept.sum(dim=-1, keepdim=True)
