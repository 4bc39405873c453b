"""Intervals and tests, against scipy and against textbook values."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dllm_agents.analysis import statistics


@given(n=st.integers(1, 400), share=st.floats(0, 1))
def test_wilson_agrees_with_scipy(n, share):
    successes = round(share * n)
    expected = stats.binomtest(successes, n).proportion_ci(0.95, method="wilson")
    assert statistics.wilson_interval(successes, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize(("successes", "n"), [(1, 0), (3, 2), (-1, 2)])
def test_wilson_refuses_what_is_no_rate(successes, n):
    with pytest.raises(ValueError, match="no rate"):
        statistics.wilson_interval(successes, n)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=60))
def test_mcnemar_agrees_with_the_binomial_test(pairs):
    result = statistics.mcnemar([a for a, _ in pairs], [b for _, b in pairs])
    discordant = result.gained + result.lost
    expected = stats.binomtest(result.gained, discordant).pvalue if discordant else 1.0
    assert result.p == pytest.approx(expected, rel=1e-9)


def test_mcnemar_of_the_measured_recipe_is_far_below_the_bound():
    first, second = [True] * 168 + [False] * 24, [True] * 92 + [False] * 100
    assert statistics.mcnemar(first, second).p < 1e-17


def test_bootstrap_covers_the_mean_and_repeats():
    values = np.random.default_rng(0).normal(0.3, 1, 300)
    interval = statistics.bootstrap_interval(values, seed=1)
    assert interval.low < values.mean() < interval.high
    assert interval == statistics.bootstrap_interval(values, seed=1)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * values.std() / np.sqrt(300), rel=0.1)


def test_many_values_are_drawn_in_batches_that_change_nothing(monkeypatch):
    values = np.random.default_rng(0).normal(size=1500)
    clusters = [index // 3 for index in range(1500)]
    whole = [statistics.bootstrap_means(values, way, seed=1, resamples=50) for way in (None, clusters)]
    monkeypatch.setattr(statistics, "DRAWS_AT_ONCE", 4000)
    for way, found in zip((None, clusters), whole, strict=True):
        assert np.array_equal(statistics.bootstrap_means(values, way, seed=1, resamples=50), found)
    assert whole[0].std() == pytest.approx(1 / np.sqrt(1500), rel=0.3)


def test_clusters_that_move_together_widen_the_interval():
    values = [1.0] * 20 + [0.0] * 20
    alone = statistics.bootstrap_interval(values, seed=1)
    together = statistics.bootstrap_interval(values, [0] * 10 + [1] * 10 + [2] * 10 + [3] * 10, seed=1)
    assert together.high - together.low > 2 * (alone.high - alone.low)


def test_models_of_one_seed_move_together_and_the_interval_holds_both_ways_of_drawing():
    values = [1.0] * 30 + [0.0] * 30 + [0.5] * 30
    tasks = [*range(30)] * 3
    by_task = statistics.bootstrap_interval(values, tasks, seed=1)
    by_both = statistics.bootstrap_interval(values, tasks, seed=1, training_seeds=[42] * 30 + [43] * 30 + [44] * 30)
    assert by_both.low < by_task.low and by_both.high > by_task.high
    assert (by_both.low, by_both.high) == (0.0, 1.0)  # three seeds drawn alike
    assert statistics.bootstrap_interval(values, tasks, seed=1, training_seeds=[42] * 90) == by_task


def test_paired_intervals_use_the_pairs():
    first, second = np.arange(100.0), np.arange(100.0) - 1
    paired, apart = (statistics.paired_interval(first, other, seed=1) for other in (second, second[::-1]))
    assert paired.low < 1.0 <= paired.high and paired.high - paired.low < 0.2 < apart.high - apart.low
    with pytest.raises(ValueError, match="cannot be paired"):
        statistics.paired_interval([1.0], [1.0, 2.0], seed=1)


@pytest.mark.parametrize(("gained", "lost", "n"), [(1, 0, 32), (0, 3, 100), (5, 2, 40), (30, 0, 40)])
def test_a_paired_interval_is_the_hull_of_the_bootstrap_and_bonett_and_prices(gained, lost, n):
    """Their formula in counts: p = (f + 1) / (n + 2) of either kind of discordant pairs."""
    first, second = np.zeros(n), np.zeros(n)
    first[:gained], second[gained : gained + lost] = 1, 1
    more, less = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    half = 1.959964 * np.sqrt((more + less - (more - less) ** 2) / (n + 2))
    drawn = statistics.bootstrap_interval(first - second, seed=1)
    expected = min(drawn.low, more - less - half), min(1.0, max(drawn.high, more - less + half))
    assert statistics.paired_interval(first, second, seed=1) == pytest.approx(expected, abs=1e-6)


def test_no_difference_is_bounded_by_the_number_of_tasks():
    """Of a share of 5 % none is seen in 72 tasks once in forty times; amounts can be less by no more than there is."""
    for n, inside in ((71, False), (72, True)):
        low, high = statistics.paired_interval(np.ones(n), np.ones(n), seed=1)
        assert (high < 0.05) == inside and low == -high and (1 - high) ** n == pytest.approx(0.025)
    assert statistics.paired_interval(np.full(72, 7.0), np.full(72, 7.0), unit=7.0, seed=1).high == pytest.approx(7 * 0.0499, abs=1e-3)


@pytest.mark.parametrize(("more", "less"), [(0.05, 0.0), (0.02, 0.02), (0.1, 0.05), (0.3, 0.3)])
def test_paired_intervals_hold_the_truth_about_as_often_as_they_say(more, less):
    generator, inside = np.random.default_rng(7), 0
    for run in range(200):
        pairs = generator.choice([1.0, -1.0, 0.0], 80, p=[more, less, 1 - more - less])
        low, high = statistics.paired_interval(np.maximum(pairs, 0), np.maximum(-pairs, 0), seed=run)
        inside += low <= more - less <= high
    assert inside >= 184  # 95 % are 190, and three deviations less than that 181


@pytest.mark.parametrize("values", [[], [float("nan")], [float("inf"), 1.0]])
def test_bootstrap_refuses_no_values_and_values_not_finite(values):
    with pytest.raises(ValueError):
        statistics.bootstrap_interval(values, seed=1)


def test_equivalence_needs_the_whole_interval_inside_the_margin():
    generator = np.random.default_rng(3)
    first = (generator.random(4000) < 0.5).astype(float)
    assert statistics.equivalence(first, first[::-1], 0.05, seed=1).holds
    few = statistics.equivalence(first[:20], first[20:40], 0.05, seed=1)
    assert not few.holds
    assert not statistics.equivalence(np.ones(4000), np.zeros(4000), 0.05, seed=1).holds


def test_no_difference_on_few_tasks_is_no_proof_of_equivalence():
    assert not statistics.equivalence([1.0] * 10, [1.0] * 10, 0.05, seed=1).holds
    assert statistics.equivalence([1.0] * 100, [1.0] * 100, 0.05, seed=1).holds


def test_holm_is_the_step_down_correction():
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([]) == []
    assert statistics.holm([0.9, 0.8]) == [1.0, 1.0]


def test_cohens_h():
    assert statistics.cohens_h(0.5, 0.5) == 0
    assert statistics.cohens_h(1.0, 0.0) == pytest.approx(np.pi)


def test_ratio_interval_holds_the_ratio_of_totals():
    top, bottom = np.arange(1.0, 101), np.full(100, 2.0)
    low, high = statistics.ratio_interval(top, bottom, seed=1)
    assert low < top.sum() / bottom.sum() < high
