"""Intervals and paired tests over tasks. Rates and differences are fractions in [0, 1] here; percentages are made where tables are."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

CONFIDENCE = 0.95
RESAMPLES = 2000
FEW_DISTINCT = 1000
DRAWS_AT_ONCE = 2_000_000  # bounds the memory of a bootstrap, whatever the number of tasks
Floats = npt.NDArray[np.float64]


class Interval(NamedTuple):
    low: float
    high: float


class McNemar(NamedTuple):
    """Exact McNemar test: `gained` tasks only the first agent solved, `lost` tasks only the second; two-sided `p`."""

    gained: int
    lost: int
    p: float


class Equivalence(NamedTuple):
    """Two one-sided tests by a bootstrap interval of twice the significance level: `holds` when it lies within the margin."""

    difference: float
    low: float
    high: float
    holds: bool


def wilson_interval(successes: float, n: int, confidence: float = CONFIDENCE) -> Interval:
    """Wilson score interval of a rate (Wilson 1927, without continuity correction); of a sum of shares a wide one, since no n shares vary
    more than as many outcomes. Raises ValueError when n < 1 or counts do not fit."""
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"{successes} successes of {n} is no rate")
    from scipy.special import ndtri

    z = float(ndtri(0.5 + confidence / 2))
    rate = successes / n
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    # At the ends the interval touches 0 or 1 exactly; rounding must not put the rate outside of it.
    return Interval(max(0.0, min(rate, float(centre - half))), min(1.0, max(rate, float(centre + half))))


def bootstrap_interval(
    values: Sequence[float] | Floats,
    clusters: Sequence[Hashable] | None = None,
    *,
    seed: int,
    training_seeds: Sequence[Hashable] | None = None,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
) -> Interval:
    """Percentile bootstrap interval of a mean. With `clusters` whole clusters are drawn too, so that tasks of one level or one set of ids
    move together (Davison & Hinkley 1997, section 3.8), with `training_seeds` all values of one trained model, and the hull of the
    intervals is given: a handful of clusters alone can look more certain than their tasks are. Raises ValueError for no values or values
    that are not finite."""
    intervals = [
        percentile_interval(bootstrap_means(values, way, seed=seed, resamples=resamples), confidence)
        for way in [None, *(way for way in (clusters, training_seeds) if way is not None)]
    ]
    return Interval(min(interval.low for interval in intervals), max(interval.high for interval in intervals))


def bootstrap_means(
    values: Sequence[float] | Floats, clusters: Sequence[Hashable] | None = None, *, seed: int, resamples: int = RESAMPLES
) -> Floats:
    """The bootstrap distribution of a mean, shape [resamples]; means of independent sets may be combined draw by draw."""
    return _bootstrap_means(_finite(values), clusters, seed, resamples)


def share_interval(draws: Floats, n: int) -> Interval:
    """The central interval of a bootstrap distribution of a mean of shares in [0, 1]. Where all of the n outcomes are 0, or all are 1, no
    draw differs and the bootstrap knows nothing of what n tasks did not show: then the Wilson interval of n equal outcomes stands."""
    interval = percentile_interval(draws)
    if interval.low == interval.high and interval.low in (0.0, 1.0):
        return wilson_interval(round(interval.low * n), n)
    return interval


def percentile_interval(draws: Floats, confidence: float = CONFIDENCE) -> Interval:
    """The central interval of a bootstrap distribution."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Interval(float(low), float(high))


def paired_interval(
    first: Sequence[float] | Floats,
    second: Sequence[float] | Floats,
    clusters: Sequence[Hashable] | None = None,
    *,
    unit: float = 1.0,
    seed: int,
    training_seeds: Sequence[Hashable] | None = None,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Interval of the mean of first - second, both given task by task in the same order: the hull of the percentile bootstrap and of an
    adjusted Wald interval (Bonett & Price 2012), which adds one pair that differs by `unit` in each direction: 1 for outcomes; for amounts
    that cannot be negative the mean of the second, by which the first can be less at most. Where few pairs differ, the bootstrap
    alone knows nothing of what n tasks did not show; where none does, the exact bound on a share that was never seen is given."""
    from scipy.special import ndtri

    differences = _differences(first, second)
    drawn = bootstrap_interval(differences, clusters, seed=seed, training_seeds=training_seeds, confidence=confidence)
    tail, n, most = (1 - confidence) / 2, len(differences), max(unit, float(np.abs(differences).max()))
    more = np.append(differences, [unit, -unit])
    mean, half = float(more.mean()), float(ndtri(1 - tail) * more.std() / np.sqrt(len(more)))
    unseen = unit * (1 - tail ** (1 / n)) if differences.min() == differences.max() else 0.0
    return Interval(max(-most, min(drawn.low - unseen, mean - half)), min(most, max(drawn.high + unseen, mean + half)))


def calibration_error(right: Sequence[bool], confidence: Sequence[float], width: float = 20.0) -> float:
    """In percent, how far stated confidences (0 to 100) are from the share that is right, over bins of a width weighted by their size; a
    confidence of 100 belongs to the last bin (BrowseComp-ZH's scorer)."""
    if not len(right):
        return 0.0
    last = int(100 / width) - 1
    bins = [min(int(sure // width), last) for sure in confidence]
    gaps = 0.0
    for place in set(bins):
        members = [index for index, other in enumerate(bins) if other == place]
        gaps += abs(sum(100.0 * right[index] - confidence[index] for index in members))
    return gaps / len(right)


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> McNemar:
    """Exact two-sided McNemar test on the same tasks (binomial test of the discordant pairs; p = 1 when there is none)."""
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} outcomes cannot be paired")
    a, b = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    gained, lost = int(np.sum(a & ~b)), int(np.sum(~a & b))
    from scipy.special import bdtr

    # The binomial test at 1/2 is symmetric, so the two-sided p is twice the smaller tail.
    p = 1.0 if gained + lost == 0 else min(1.0, 2 * float(bdtr(min(gained, lost), gained + lost, 0.5)))
    return McNemar(gained, lost, p)


def equivalence(
    first: Sequence[float] | Floats,
    second: Sequence[float] | Floats,
    margin: float,
    clusters: Sequence[Hashable] | None = None,
    *,
    seed: int,
    training_seeds: Sequence[Hashable] | None = None,
    significance: float = 0.05,
) -> Equivalence:
    """Whether the mean of first - second, both outcomes, lies within +-margin, by two one-sided tests (Schuirmann 1987)."""
    confidence = 1 - 2 * significance
    low, high = paired_interval(first, second, clusters, seed=seed, training_seeds=training_seeds, confidence=confidence)
    return Equivalence(float(_differences(first, second).mean()), low, high, -margin < low and high < margin)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p values, in the order given (Holm 1979)."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [1.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def cohens_h(first: float, second: float) -> float:
    """Effect size of two rates: difference of their arcsine transforms (Cohen 1988, chapter 6)."""
    return float(2 * np.arcsin(np.sqrt(first)) - 2 * np.arcsin(np.sqrt(second)))


def ratio_interval(numerator: Sequence[float] | Floats, denominator: Sequence[float] | Floats, *, seed: int) -> Interval:
    """Bootstrap interval of sum(numerator) / sum(denominator), pairs drawn together (tokens per second, NFE per token)."""
    top, bottom = _finite(numerator), _finite(denominator)
    generator = np.random.default_rng(seed)
    batch = max(1, DRAWS_AT_ONCE // len(top))
    ratios = []
    for start in range(0, RESAMPLES, batch):
        draws = generator.integers(0, len(top), (min(batch, RESAMPLES - start), len(top)))
        below = bottom[draws].sum(1)
        ratios.append(top[draws].sum(1)[below > 0] / below[below > 0])
    return percentile_interval(np.concatenate(ratios))


def _bootstrap_means(values: Floats, clusters: Sequence[Hashable] | None, seed: int, resamples: int) -> Floats:
    """Means of `resamples` draws with replacement, of values or of whole clusters; shape [resamples]."""
    generator = np.random.default_rng(seed)
    sums, sizes = values, np.ones(len(values))
    if clusters is None:
        # Draws with replacement are multinomial counts of the distinct values: of outcomes as cheap for 100,000 tasks as for 100.
        distinct, counts = np.unique(values, return_counts=True)
        if len(distinct) <= FEW_DISTINCT:
            drawn = generator.multinomial(len(values), counts / len(values), size=resamples)
            return np.asarray(drawn @ distinct / len(values), dtype=np.float64)
    else:
        if len(clusters) != len(values):
            raise ValueError(f"{len(clusters)} clusters for {len(values)} values")
        names = {name: index for index, name in enumerate(dict.fromkeys(clusters))}
        member = np.fromiter((names[name] for name in clusters), dtype=np.int64, count=len(values))
        sums, sizes = np.bincount(member, weights=values).astype(np.float64), np.bincount(member).astype(np.float64)
    means = np.empty(resamples)
    batch = max(1, DRAWS_AT_ONCE // len(sums))
    for start in range(0, resamples, batch):
        draws = generator.integers(0, len(sums), (min(batch, resamples - start), len(sums)))
        means[start : start + batch] = sums[draws].sum(1) / sizes[draws].sum(1)
    return means


def _differences(first: Sequence[float] | Floats, second: Sequence[float] | Floats) -> Floats:
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} values cannot be paired")
    return _finite(first) - _finite(second)


def _finite(values: Sequence[float] | Floats) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise ValueError("no values")
    if not np.isfinite(array).all():
        raise ValueError("values that are not finite")
    return array
