"""Muon on the matrices, AdamW on the rest, under one schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

NEWTON_SCHULZ = 3.4445, -4.7750, 2.0315
ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised by five Newton-Schulz iterations (Jordan et al. 2024; the coefficients are theirs).

    torch.optim.Muon iterates in bfloat16, matrix by matrix; a CPU without bfloat16 units emulates that, and the optimiser then costs
    more than the model. Here matrices of one shape go together, in their own precision.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.1) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in shapes.items():
                momenta = []
                for parameter in parameters:
                    assert parameter.grad is not None
                    momentum = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                    momentum.lerp_(parameter.grad, 1 - group["momentum"])
                    momenta.append(parameter.grad.lerp(momentum, group["momentum"]))
                rate = group["lr"] * math.sqrt(max(1, shape[0] / shape[1]))
                for parameter, update in zip(parameters, orthogonalise(torch.stack(momenta)), strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update, alpha=rate)


def orthogonalise(matrices: Tensor) -> Tensor:
    """Approximately the nearest semi-orthogonal matrices to `matrices` [count, rows, columns]: singular values in about [0.7, 1.2].

    An iteration is x <- q(g) x with g = x x^T and q(g) = a + b g + c g^2. Where x is wide, g alone is iterated (q and g commute, so that
    g <- g q^2) and the product of the q is applied to x: fewer products, and in single precision the same numbers but for rounding. Half
    precision loses the small singular values, whose squares g holds, so there x itself is iterated.
    """
    transposed = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if transposed else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    rows, columns = x.shape[1:]
    wide = 2 * columns > 3 * rows  # products cost 20 rows^2 columns + 10 rows^3 on x, 8 rows^2 columns + 28 rows^3 on g
    x = _by_gram(x) if wide and x.dtype == torch.float32 else newton_schulz(x)
    return x.mT if transposed else x


def newton_schulz(x: Tensor) -> Tensor:
    """Muon's iterations as published, on `x` [count, rows, columns] of norm 1 and at least as many columns as rows."""
    a, b, c = NEWTON_SCHULZ
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def _by_gram(x: Tensor) -> Tensor:
    # In two parts: the product of all q is so large where x is small (a^5 = 485) that its rounding would spoil the rest.
    for iterations in (3, ITERATIONS - 3):
        x = _product(x @ x.mT, iterations) @ x
    return x


def _product(gram: Tensor, iterations: int) -> Tensor:
    """The product of q over so many iterations."""
    total = q = _q(gram)
    for _ in range(iterations - 1):
        gram = gram @ q @ q
        q = _q(gram)
        total = q @ total
    return total


def _q(gram: Tensor) -> Tensor:
    a, b, c = NEWTON_SCHULZ
    q = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
    q.diagonal(dim1=1, dim2=2).add_(a)
    return q


def make_optimisers(model: nn.Module, learning_rate: float, muon_learning_rate: float | None) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers where it has a rate, AdamW for everything else."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    matrices = [parameter for name, parameter in named if muon_learning_rate and parameter.ndim == 2 and ".layers." in name]
    chosen = {id(parameter) for parameter in matrices}
    rest = [parameter for _, parameter in named if id(parameter) not in chosen]
    optimisers: list[torch.optim.Optimizer] = [torch.optim.AdamW(rest, lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.0)]
    if matrices and muon_learning_rate:
        optimisers.append(Muon(matrices, lr=muon_learning_rate))
    return optimisers


def rate_fraction(progress: float, warmup: float) -> float:
    """Linear warm-up over the share `warmup` of the supervised-token budget, then cosine decay to zero as `progress` goes to 1."""
    if progress < warmup:
        return (progress + 0.01) / (warmup + 0.01)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - warmup) / (1 - warmup))))


def held_rate(tokens: float, decay: float, end: float, warm: float) -> float:
    """Linear warm-up over `warm` tokens, then the full rate, and from `decay` on a cosine to zero at `end`."""
    if tokens < decay:
        return min(1.0, (tokens + 0.1 * warm) / (1.1 * warm)) if warm else 1.0
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (tokens - decay) / max(1.0, end - decay))))
