"""Intervals against published formulas, hand computation and naive re-implementations."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training_st4vla.evaluation.intervals import (
    bootstrap_macro_mean,
    bootstrap_mean,
    bootstrap_ratio,
    bootstrap_sums,
    cluster_sums,
    compare_paired,
    mean_interval,
    sign_test,
    wilson_interval,
)

Z = 1.959963984540054


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(7, 10, 0.40, 0.89), (17, 24, 0.51, 0.85), (68, 96, 0.61, 0.79), (490, 500, 0.964, 0.989)],
)
def test_wilson_of_usual_protocols(successes: int, n: int, low: float, high: float) -> None:
    """The figures of UX.md section 4."""
    interval = wilson_interval(successes, n)
    assert interval.estimate == successes / n
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=0.005)
    assert interval.method == "wilson"


def test_wilson_at_the_ends_in_closed_form() -> None:
    none, all_of_them = wilson_interval(0, 10), wilson_interval(10, 10)
    assert (none.low, none.high) == (0.0, pytest.approx(Z**2 / (10 + Z**2), abs=1e-12))
    assert (all_of_them.low, all_of_them.high) == (pytest.approx(10 / (10 + Z**2), abs=1e-12), 1.0)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_bounds_solve_the_score_equation(case: tuple[int, int]) -> None:
    successes, n = case
    interval = wilson_interval(successes, n)
    assert 0.0 <= interval.low <= interval.estimate <= interval.high <= 1.0
    for bound in (interval.low, interval.high):
        residual = (interval.estimate - bound) ** 2 - Z**2 * bound * (1 - bound) / n
        assert abs(residual) < 1e-9
    mirrored = wilson_interval(n - successes, n)
    assert mirrored.low == pytest.approx(1 - interval.high, abs=1e-12)


def test_wilson_without_trials_knows_nothing() -> None:
    interval = wilson_interval(0, 0)
    assert math.isnan(interval.estimate)
    assert (interval.low, interval.high) == (0.0, 1.0)


@pytest.mark.parametrize("bad", [(-1, 3), (4, 3), (0, -1)])
def test_wilson_refuses_impossible_counts(bad: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="successes"):
        wilson_interval(*bad)


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0])
def test_levels_are_fractions(level: float) -> None:
    with pytest.raises(ValueError, match="coverage"):
        wilson_interval(1, 2, level=level)
    with pytest.raises(ValueError, match="coverage"):
        bootstrap_mean([1.0, 2.0], level=level)


def test_bootstrap_mean_equals_a_naive_loop() -> None:
    values = np.array([0.1, 0.9, 0.4, 0.4, 1.7])
    drawn = np.random.default_rng(3).integers(0, 5, size=(400, 5))
    means = [np.mean(values[row]) for row in drawn]
    found = bootstrap_mean(values, num_resamples=400, seed=3)
    assert found.estimate == pytest.approx(values.mean(), abs=1e-12)
    assert found.low == pytest.approx(np.quantile(means, 0.025), abs=1e-12)
    assert found.high == pytest.approx(np.quantile(means, 0.975), abs=1e-12)


def test_bootstrap_does_not_depend_on_the_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=50)
    whole = bootstrap_mean(values, num_resamples=300)
    monkeypatch.setattr("training_st4vla.evaluation.intervals._BLOCK", 170)
    blocks = bootstrap_mean(values, num_resamples=300)
    assert (blocks.low, blocks.high) == pytest.approx((whole.low, whole.high), abs=1e-12)


def test_clusters_are_drawn_whole() -> None:
    """Four copies of each value in a cluster: the interval is that of the values, not of four times as many."""
    values = np.array([0.0, 1.0, 3.0, 7.0, 2.0, 2.5])
    plain = bootstrap_mean(values, num_resamples=500, seed=1)
    grouped = bootstrap_mean(np.repeat(values, 4), groups=np.repeat(list("abcdef"), 4), num_resamples=500, seed=1)
    assert (grouped.low, grouped.high) == pytest.approx((plain.low, plain.high), abs=1e-12)
    assert (grouped.n, grouped.method) == (6, "cluster bootstrap")
    naive = bootstrap_mean(np.repeat(values, 4), num_resamples=500, seed=1)
    assert naive.high - naive.low < 0.7 * (grouped.high - grouped.low)


def test_one_cluster_has_no_bounds() -> None:
    interval = bootstrap_mean([1.0, 2.0, 6.0], groups=["only"] * 3)
    assert interval.estimate == 3.0
    assert not interval.has_bounds
    assert interval.to_dict()["low"] is None


def test_bootstrap_covers() -> None:
    rng = np.random.default_rng(5)
    hits = 0
    for trial in range(300):
        interval = bootstrap_mean(rng.normal(size=40), num_resamples=400, seed=trial)
        hits += interval.low <= 0.0 <= interval.high
    assert 0.90 <= hits / 300 <= 0.98


def test_ratio_pools_items() -> None:
    interval = bootstrap_ratio([1, 0, 3], [1, 0, 9], num_resamples=200)
    assert interval.estimate == pytest.approx(0.4)
    with pytest.raises(ValueError, match="one value per pair"):
        bootstrap_ratio([1.0], [1.0, 2.0])


def test_macro_mean_weighs_groups_alike() -> None:
    values, groups = [1.0, 1.0, 1.0, 0.0], ["a", "a", "a", "b"]
    for resample in ("groups", "within"):
        assert bootstrap_macro_mean(values, groups, resample=resample).estimate == 0.5
    with pytest.raises(ValueError, match="resample"):
        bootstrap_macro_mean(values, groups, resample="both")


def test_macro_within_fixed_groups_equals_a_naive_loop() -> None:
    a, b = np.array([0.0, 1.0, 1.0]), np.array([2.0, 5.0])
    found = bootstrap_macro_mean(
        np.concatenate([b, a]), ["b", "b", "a", "a", "a"], resample="within", num_resamples=200, seed=9
    )
    rng = np.random.default_rng(9)
    first = a[rng.integers(0, 3, size=(200, 3))].mean(axis=1)
    second = b[rng.integers(0, 2, size=(200, 2))].mean(axis=1)
    low, high = np.quantile((first + second) / 2, [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-12)


def test_mean_interval_uses_wilson_for_outcomes() -> None:
    outcomes = [1.0, 1.0, 1.0, 1.0]
    assert mean_interval(outcomes) == wilson_interval(4, 4)
    assert mean_interval(outcomes, groups=[0, 0, 1, 1]).method == "cluster bootstrap"
    assert mean_interval([0.5, 1.0]).method == "bootstrap"


def test_cluster_sums() -> None:
    sums = cluster_sums([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], ["b", "a", "b"])
    np.testing.assert_array_equal(sums, [[3.0, 4.0], [6.0, 8.0]])


@pytest.mark.parametrize(
    ("first", "second", "p"),
    [(1, 8, 20 / 512), (0, 5, 2 / 32), (5, 5, 1.0), (0, 0, 1.0), (3, 9, 2 * 299 / 4096)],
)
def test_sign_test_by_hand(first: int, second: int, p: float) -> None:
    assert sign_test(first, second) == pytest.approx(p, abs=1e-15)
    assert sign_test(second, first) == sign_test(first, second)


def test_sign_test_with_many_pairs() -> None:
    assert 0.0 <= sign_test(4000, 6000) < 1e-80
    with pytest.raises(ValueError, match="negative"):
        sign_test(-1, 2)


def test_compare_paired_binary_is_mcnemar() -> None:
    first = np.array([1] * 10 + [0] * 8 + [1] + [0] * 5)
    second = np.array([1] * 10 + [1] * 8 + [0] + [0] * 5)
    found = compare_paired(first, second, num_resamples=500)
    assert (found.first_better, found.second_better, found.ties) == (1, 8, 15)
    assert found.p_value == pytest.approx(20 / 512)
    assert found.test == "mcnemar exact"
    assert found.difference.estimate == pytest.approx(7 / 24)
    assert found.to_dict()["difference"]["n"] == 24


def test_pairing_removes_the_spread_between_seeds() -> None:
    hard = np.random.default_rng(0).normal(scale=10.0, size=60)
    found = compare_paired(hard, hard + 1.0, num_resamples=300)
    assert found.test == "sign"
    assert (found.difference.low, found.difference.high) == pytest.approx((1.0, 1.0))


@pytest.mark.parametrize("values", [[], [np.nan, 1.0], [[1.0]]])
def test_values_must_be_numbers(values: list) -> None:
    with pytest.raises(ValueError, match="values"):
        bootstrap_mean(values)


def test_groups_and_resamples_are_checked() -> None:
    with pytest.raises(ValueError, match="groups"):
        bootstrap_mean([1.0, 2.0], groups=["a"])
    with pytest.raises(ValueError, match="num_resamples"):
        bootstrap_mean([1.0, 2.0], num_resamples=0)
    with pytest.raises(ValueError, match="shape"):
        bootstrap_sums([1.0], lambda sums: sums)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=30), st.integers(0, 5))
def test_bounds_stay_within_the_data(values: list[float], seed: int) -> None:
    interval = bootstrap_mean(values, num_resamples=50, seed=seed)
    slack = 1e-9 * (1 + max(map(abs, values)))
    assert min(values) - slack <= interval.low <= interval.high <= max(values) + slack
    assert bootstrap_mean(values, num_resamples=50, seed=seed) == interval
