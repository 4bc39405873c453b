"""From logits to a token and its confidence, row by row: greedy at temperature 0, else seeded sampling from the nucleus."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dllm_agents.errors import StageError

NOT_FINITE = "the model's logits are not finite (NaN or inf); the checkpoint is damaged or overflows in this dtype"


@dataclass
class Predictions:
    """Per row: the token [k] and its probability [k]; `probabilities` [k, vocabulary] is the distribution it was drawn from."""

    token_ids: Tensor
    confidence: Tensor
    probabilities: Tensor


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
        logits = self._without_mask(logits).to(dtype)
        plain = torch.softmax(logits, dim=-1)
        if not torch.isfinite(plain.sum()):
            raise StageError(NOT_FINITE)
        if self.temperature == 0:
            token_ids = logits.argmax(dim=-1)
            drawn_from = plain
        else:
            drawn_from = nucleus(torch.softmax(logits / self.temperature, dim=-1), self.top_p)
            token_ids = self._draw(drawn_from)
        confidence = (plain if untempered else drawn_from).gather(-1, token_ids[:, None]).squeeze(-1)
        return Predictions(token_ids, confidence, drawn_from)

    def greedy(self, logits: Tensor) -> Tensor:
        """The best token [k] of each row but the mask id, at any temperature. Raises StageError when the logits are not finite."""
        best = self._without_mask(logits).argmax(dim=-1)
        if not torch.isfinite(logits.gather(-1, best[:, None])).all():
            raise StageError(NOT_FINITE)
        return best

    def uniform(self, count: int) -> Tensor:
        """`count` numbers from U(0, 1)."""
        return torch.rand(count, generator=self.generator, dtype=torch.float64)

    def _without_mask(self, logits: Tensor) -> Tensor:
        """Logits under which the mask id cannot be chosen.

        Greedy rows are touched only where the mask id is the best prediction: the published decoders never end there, everywhere else
        they keep the mask's share of the softmax, and so do we.
        """
        if self.mask_id is None:
            return logits
        if self.temperature > 0:
            logits = logits.clone()
            logits[:, self.mask_id] = -torch.inf
            return logits
        best = logits.argmax(dim=-1) == self.mask_id
        if best.any():
            logits = logits.clone()
            logits[best, self.mask_id] = -torch.inf
        return logits

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
