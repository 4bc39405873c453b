"""Which of the masked positions a step commits: one rule with three numbers for all strategies, for many requests at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Score = Literal["confidence", "margin", "entropy", "position"]
ALL = 1 << 40


@dataclass(frozen=True, slots=True)
class Rule:
    """The `at_least` positions of highest score always; others while among the `at_most` highest and with a score of at least `threshold`.

    A score is the confidence of a prediction, the margin between the best two, the negative entropy, or (strict left to right) minus the
    position. With `factor` the number committed follows Fast-dLLM's Theorem 1 (`factor_count`).
    """

    at_least: int = 1
    threshold: float = math.inf
    at_most: int = ALL
    by: Score = "confidence"
    factor: float | None = None

    @property
    def by_count(self) -> bool:
        """Whether the number committed does not depend on what the model says."""
        return self.threshold == math.inf and self.factor is None


def top(count: int, by: Score = "confidence") -> Rule:
    """The `count` best."""
    return Rule(count, by=by)


def leftmost(count: int = 1) -> Rule:
    """The first `count`, left to right."""
    return Rule(count, by="position")


def above(threshold: float) -> Rule:
    """Everything with confidence >= threshold, and the best one always (Fast-dLLM, Algorithm 1)."""
    return Rule(1, threshold)


def strictly_above(threshold: float, at_least: int = 1) -> Rule:
    """Everything with confidence > threshold, and the `at_least` best always."""
    return Rule(at_least, math.nextafter(threshold, math.inf))


def by_factor(factor: float) -> Rule:
    """As many of the best as Fast-dLLM's factor allows."""
    return Rule(1, factor=factor)


def select(scores: Sequence[npt.NDArray[np.float64]], rules: Sequence[Rule]) -> list[npt.NDArray[np.bool_]]:
    """For each request's `scores` [k], what its rule commits [k]. Of equal scores the leftmost goes first."""
    if not scores:
        return []
    longest = max(len(row) for row in scores)
    table = np.full((len(scores), longest), -np.inf)
    for number, row in enumerate(scores):
        table[number, : len(row)] = row
    place = np.argsort(np.argsort(-table, axis=1, kind="stable"), axis=1, kind="stable")
    numbers = np.array([_numbers(rule, row) for rule, row in zip(rules, scores, strict=True)])
    at_least, threshold, at_most = numbers[:, 0:1], numbers[:, 1:2], numbers[:, 2:3]
    chosen = (place < at_least) | ((place < at_most) & (table >= threshold))
    return [chosen[number, : len(row)] for number, row in enumerate(scores)]


def _numbers(rule: Rule, scores: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    at_least = rule.at_least if rule.factor is None else factor_count(np.sort(scores)[::-1], rule.factor)
    return at_least, rule.threshold, rule.at_most


def factor_count(ordered: Any, factor: float) -> int:
    """The length of the longest run of the most confident candidates whose n-th has confidence >= 1 - factor / (n + 1), at least one.

    Theorem 1's bound turned into a rule (Wu et al. 2025, section 3.3); as in the published code a run broken only by its last candidate
    takes that one too. `ordered` [k] falls.
    """
    passes = ordered >= 1 - factor / (np.arange(1, len(ordered) + 1) + 1)
    passes[0] = True
    run = len(ordered) if passes.all() else int(passes.argmin())
    return len(ordered) if run == len(ordered) - 1 else run
