"""Intervals for scores, and the comparison of two models on the same episodes.

Every estimate comes with a 95 % interval, since the usual protocols are small: 17 successes in 24 episodes is
[51, 85] %. Proportions of independent trials get Wilson's score interval; means of anything else get a seeded
percentile bootstrap, over clusters (episodes) where samples within a cluster are alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
Groups = Sequence[Any] | NDArray[Any]

_BLOCK = 2_000_000  # draws held in memory at once


@dataclass(frozen=True, slots=True)
class Interval:
    """A point estimate with its interval.

    Args:
        estimate (`float`): The statistic on the data itself.
        low (`float`), high (`float`): Bounds; NaN where the data allow none (a single cluster).
        n (`int`): Number of independent units behind it: trials, samples, or clusters when grouped.
        method (`str`): `"wilson"`, `"bootstrap"`, `"cluster bootstrap"`, `"stratified bootstrap"`, or the test's name.
        level (`float`): Coverage, 0.95 unless asked otherwise.
    """

    estimate: float
    low: float
    high: float
    n: int
    method: str
    level: float = 0.95

    @property
    def has_bounds(self) -> bool:
        """Whether both bounds are numbers."""
        return not (math.isnan(self.low) or math.isnan(self.high))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields; NaN and infinities become None."""
        return {
            "estimate": finite_or_none(self.estimate),
            "low": finite_or_none(self.low),
            "high": finite_or_none(self.high),
            "level": self.level,
            "n": self.n,
            "method": self.method,
        }


@dataclass(frozen=True, slots=True)
class PairedComparison:
    """Two models on the same seeds: who wins, by how much, and could it be chance.

    Args:
        difference (`Interval`): Mean of `second - first`, paired bootstrap.
        mean_first (`float`), mean_second (`float`): The two means.
        first_better (`int`), second_better (`int`), ties (`int`): Pairs by sign of the difference.
        p_value (`float`): Two-sided, exact.
        test (`str`): `"mcnemar exact"` for binary outcomes, else `"sign"`.
    """

    difference: Interval
    mean_first: float
    mean_second: float
    first_better: int
    second_better: int
    ties: int
    p_value: float
    test: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields."""
        return {
            "mean_first": self.mean_first,
            "mean_second": self.mean_second,
            "difference": self.difference.to_dict(),
            "first_better": self.first_better,
            "second_better": self.second_better,
            "ties": self.ties,
            "p_value": self.p_value,
            "test": self.test,
        }


def finite_or_none(value: float) -> float | None:
    """The number itself, or None where JSON has no word for it (NaN, infinity)."""
    return float(value) if math.isfinite(value) else None


# ---------------------------------------------------------------------------------------------------------------------
# Proportions
# ---------------------------------------------------------------------------------------------------------------------


def wilson_interval(successes: int, n: int, *, level: float = 0.95) -> Interval:
    r"""Wilson's score interval for `successes` in `n` independent trials.

    With \\(\hat p = s / n\\) and \\(z = \Phi^{-1}((1 + level) / 2)\\), the bounds are
    \\( \frac{1}{1 + z^2/n} \left( \hat p + \frac{z^2}{2n} \pm z \sqrt{\frac{\hat p (1 - \hat p)}{n} +
    \frac{z^2}{4 n^2}} \right) \\), without continuity correction.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927)
    209-212; recommended for small n by Brown, Cai, DasGupta, Statistical Science 16 (2001) 101-133.

    Args:
        successes (`int`): Number of successes, 0 to `n`.
        n (`int`): Number of trials. Zero trials give NaN with bounds 0 and 1: nothing is known.
        level (`float`): Coverage in (0, 1).

    Returns:
        `Interval`: as fractions, not per cent.

    Raises:
        ValueError: for counts that are negative or out of order, or a level outside (0, 1).
    """
    _check_level(level)
    if n < 0 or not 0 <= successes <= n:
        raise ValueError(f"Expected 0 <= successes <= n, found successes={successes}, n={n}.")
    if n == 0:
        return Interval(math.nan, 0.0, 1.0, 0, "wilson", level)
    z = NormalDist().inv_cdf((1.0 + level) / 2.0)
    p = successes / n
    centre = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1.0 + z * z / n
    # At the ends one bound is exactly the estimate; rounding must not move it.
    low = 0.0 if successes == 0 else max(0.0, (centre - half) / scale)
    high = 1.0 if successes == n else min(1.0, (centre + half) / scale)
    return Interval(p, low, high, n, "wilson", level)


def mean_interval(
    values: ArrayLike, *, groups: Groups | None = None, num_resamples: int = 10_000, seed: int = 0, level: float = 0.95
) -> Interval:
    """The fitting interval for a mean: Wilson for ungrouped outcomes that are all 0 or 1, else the bootstrap.

    The percentile bootstrap of a proportion collapses to a point at 0 % and at 100 %; Wilson's does not.

    Args:
        values (`ArrayLike` of shape `[n]`): One finite number per sample, n >= 1.
        groups, num_resamples, seed, level: As for [`bootstrap_mean`].
    """
    array = _vector(values, "values")
    if groups is None and bool(np.isin(array, (0.0, 1.0)).all()):
        return wilson_interval(int(array.sum()), array.size, level=level)
    return bootstrap_mean(array, groups=groups, num_resamples=num_resamples, seed=seed, level=level)


# ---------------------------------------------------------------------------------------------------------------------
# Bootstrap
# ---------------------------------------------------------------------------------------------------------------------


def bootstrap_sums(
    columns: ArrayLike,
    statistic: Callable[[FloatArray], FloatArray],
    *,
    groups: Groups | None = None,
    num_resamples: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> list[Interval]:
    """Percentile bootstrap of any statistic that is a function of column sums: means, ratios, RMSE, their quotients.

    Samples (whole clusters, where `groups` is given) are drawn with replacement, as many as there are; the statistic
    is computed from the sums over each draw; the bounds are its quantiles at (1 - level) / 2 and (1 + level) / 2,
    linearly interpolated.

    Source: B. Efron, R. Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13.3 (percentile interval);
    clusters: A. C. Davison, D. V. Hinkley, "Bootstrap Methods and their Application" (1997), section 3.8, strategy 1.

    Args:
        columns (`ArrayLike` of shape `[n, k]`): Finite numbers, one row per sample.
        statistic (`Callable`): Maps sums `[..., k]` to statistics `[..., m]`, vectorised over the leading axes.
        groups (`Sequence` of length n, *optional*): Cluster of each row (an episode, an image).
        num_resamples (`int`): Number of draws.
        seed (`int`): Seed of the draws: same data and seed, same bounds.
        level (`float`): Coverage in (0, 1).

    Returns:
        `list[Interval]`: one per statistic, length m. Bounds are NaN with a single cluster, or where a draw makes the
        statistic undefined (0 / 0).
    """
    _check_level(level)
    _check_resamples(num_resamples)
    rows = _matrix(columns)
    sums = rows if groups is None else cluster_sums(rows, groups)
    estimates = statistic(rows.sum(axis=0))
    rng = np.random.default_rng(seed)
    draws = [counts @ sums for counts in _resample_counts(rng, len(sums), num_resamples)]
    low, high = _bounds(statistic(np.concatenate(draws)), level, len(sums))
    method = "bootstrap" if groups is None else "cluster bootstrap"
    return [
        Interval(float(e), float(lo), float(hi), len(sums), method, level)
        for e, lo, hi in zip(np.atleast_1d(estimates), np.atleast_1d(low), np.atleast_1d(high), strict=True)
    ]


def bootstrap_mean(
    values: ArrayLike, *, groups: Groups | None = None, num_resamples: int = 10_000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Percentile bootstrap of the mean of `values`, every value with the same weight.

    Args:
        values (`ArrayLike` of shape `[n]`): Finite numbers, n >= 1.
        groups (`Sequence` of length n, *optional*): Clusters, drawn whole; the statistic stays the mean over values.
        num_resamples, seed, level: As for [`bootstrap_sums`].

    Raises:
        ValueError: for no values, a value that is not finite, or groups of another length.
    """
    array = _vector(values, "values")
    columns = np.stack([array, np.ones_like(array)], axis=1)
    return bootstrap_sums(
        columns, _first_over_second, groups=groups, num_resamples=num_resamples, seed=seed, level=level
    )[0]


def bootstrap_ratio(
    numerators: ArrayLike,
    denominators: ArrayLike,
    *,
    groups: Groups | None = None,
    num_resamples: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Percentile bootstrap of `sum(numerators) / sum(denominators)`: a micro average whose samples differ in weight.

    Args:
        numerators (`ArrayLike` of shape `[n]`), denominators (`ArrayLike` of shape `[n]`): Finite numbers per sample.
        groups, num_resamples, seed, level: As for [`bootstrap_sums`].
    """
    top, bottom = _vector(numerators, "numerators"), _vector(denominators, "denominators")
    _check_same_length(top, bottom)
    columns = np.stack([top, bottom], axis=1)
    return bootstrap_sums(
        columns, _first_over_second, groups=groups, num_resamples=num_resamples, seed=seed, level=level
    )[0]


def bootstrap_macro_mean(
    values: ArrayLike,
    groups: Groups,
    *,
    resample: str = "groups",
    num_resamples: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Percentile bootstrap of the mean of group means, every group with the same weight.

    Args:
        values (`ArrayLike` of shape `[n]`): Finite numbers.
        groups (`Sequence` of length n): Group of each value.
        resample (`str`): What another run would change. `"groups"`: the groups are themselves a sample (questions,
            images), so groups are drawn whole. `"within"`: the groups are fixed (the four tasks of a benchmark), so
            values are drawn inside each group (stratified bootstrap); a group of one value then adds no spread.
        num_resamples, seed, level: As for [`bootstrap_sums`].

    Raises:
        ValueError: for another `resample`, or data that [`bootstrap_mean`] refuses.
    """
    if resample not in ("groups", "within"):
        raise ValueError(f'`resample` must be "groups" or "within", found {resample!r}.')
    array = _vector(values, "values")
    names, index = _group_index(groups, array.size)
    means = np.bincount(index, weights=array) / np.bincount(index)
    if resample == "groups":
        found = bootstrap_mean(means, num_resamples=num_resamples, seed=seed, level=level)
        return Interval(found.estimate, found.low, found.high, found.n, "cluster bootstrap", level)
    _check_level(level)
    _check_resamples(num_resamples)
    rng = np.random.default_rng(seed)
    total = np.zeros(num_resamples)
    for group in range(len(names)):
        inside = array[index == group]
        total += np.concatenate([c @ inside for c in _resample_counts(rng, inside.size, num_resamples)]) / inside.size
    low, high = _bounds(total / len(names), level, array.size)
    return Interval(float(means.mean()), float(low), float(high), array.size, "stratified bootstrap", level)


def cluster_sums(rows: ArrayLike, groups: Groups) -> FloatArray:
    """Column sums within each cluster.

    Args:
        rows (`ArrayLike` of shape `[n, k]`): Finite numbers.
        groups (`Sequence` of length n): Cluster of each row.

    Returns:
        `np.ndarray` of shape `[g, k]`, in the sorted order of the cluster names.
    """
    matrix = _matrix(rows)
    names, index = _group_index(groups, len(matrix))
    sums = np.zeros((len(names), matrix.shape[1]))
    np.add.at(sums, index, matrix)
    return sums


# ---------------------------------------------------------------------------------------------------------------------
# Two models on the same seeds
# ---------------------------------------------------------------------------------------------------------------------


def sign_test(first_better: int, second_better: int) -> float:
    r"""Two-sided exact sign test; for binary outcomes this is McNemar's exact test.

    Ties carry no information and are left out: under the null hypothesis the smaller count of
    \\(m = first + second\\) decided pairs is Binomial(m, 1/2), and
    \\(p = \min(1, 2 \sum_{i \le \min} \binom{m}{i} 2^{-m})\\), summed in exact integers.

    Source: Q. McNemar, Psychometrika 12 (1947) 153-157, exact form; W. J. Conover, "Practical Nonparametric
    Statistics", 3rd edition (1999), section 3.4.

    Args:
        first_better (`int`), second_better (`int`): Number of decided pairs on each side.

    Returns:
        `float`: the p-value; 1.0 where no pair is decided.
    """
    if first_better < 0 or second_better < 0:
        raise ValueError(f"Counts must not be negative, found {first_better} and {second_better}.")
    decided = first_better + second_better
    term, tail = 1, 1
    for i in range(1, min(first_better, second_better) + 1):
        term = term * (decided - i + 1) // i
        tail += term
    return min(1.0, 2 * tail / 2**decided)


def compare_paired(
    first: ArrayLike,
    second: ArrayLike,
    *,
    groups: Groups | None = None,
    num_resamples: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> PairedComparison:
    """Compares two models run on the same seeds, in the same order.

    The difference `second - first` gets a paired bootstrap interval (pairs, or clusters of pairs, are drawn together);
    the p-value is McNemar's exact test where every outcome is 0 or 1, else the sign test. Greater counts as better;
    negate errors before the call. The tests treat pairs as independent: with `groups`, trust the interval.

    Args:
        first (`ArrayLike` of shape `[n]`), second (`ArrayLike` of shape `[n]`): Outcome of each model per seed.
        groups, num_resamples, seed, level: As for [`bootstrap_sums`].

    Raises:
        ValueError: where the lengths differ, no pair is given, or a value is not finite.
    """
    a, b = _vector(first, "first"), _vector(second, "second")
    _check_same_length(a, b)
    difference = bootstrap_mean(b - a, groups=groups, num_resamples=num_resamples, seed=seed, level=level)
    first_better, second_better = int((a > b).sum()), int((b > a).sum())
    binary = bool(np.isin(a, (0.0, 1.0)).all() and np.isin(b, (0.0, 1.0)).all())
    return PairedComparison(
        difference=difference,
        mean_first=float(a.mean()),
        mean_second=float(b.mean()),
        first_better=first_better,
        second_better=second_better,
        ties=a.size - first_better - second_better,
        p_value=sign_test(first_better, second_better),
        test="mcnemar exact" if binary else "sign",
    )


# ---------------------------------------------------------------------------------------------------------------------
# Helpers
# ---------------------------------------------------------------------------------------------------------------------


def _first_over_second(sums: FloatArray) -> FloatArray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return sums[..., :1] / sums[..., 1:2]


def _resample_counts(rng: np.random.Generator, n: int, num_resamples: int) -> Iterator[FloatArray]:
    """How often each of n units is drawn, for blocks of resamples: arrays `[block, n]` that sum to n in each row."""
    block = max(1, min(num_resamples, _BLOCK // n))
    for start in range(0, num_resamples, block):
        size = min(block, num_resamples - start)
        drawn = rng.integers(0, n, size=(size, n))
        drawn += n * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)


def _bounds(draws: FloatArray, level: float, units: int) -> tuple[FloatArray, FloatArray]:
    """Quantiles over axis 0; NaN with a single unit, or where a draw is not a number."""
    undefined = np.full(draws.shape[1:], units < 2) | np.isnan(draws).any(axis=0)
    with np.errstate(invalid="ignore"):
        low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return np.where(undefined, np.nan, low), np.where(undefined, np.nan, high)


def _vector(values: ArrayLike, name: str) -> FloatArray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"`{name}` must hold at least one number in one dimension, found shape {list(array.shape)}.")
    if not np.isfinite(array).all():
        raise ValueError(f"`{name}` must be finite; {int((~np.isfinite(array)).sum())} of {array.size} are not.")
    return array


def _matrix(columns: ArrayLike) -> FloatArray:
    array = np.asarray(columns, dtype=np.float64)
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"Expected rows of shape [n, k] with n, k >= 1, found shape {list(array.shape)}.")
    if not np.isfinite(array).all():
        raise ValueError("Every number to be resampled must be finite.")
    return array


def _group_index(groups: Groups, n: int) -> tuple[NDArray[Any], NDArray[np.intp]]:
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    if index.shape != (n,):
        raise ValueError(f"`groups` must name one group per value: expected {n}, found shape {list(index.shape)}.")
    return names, index


def _check_same_length(first: FloatArray, second: FloatArray) -> None:
    if first.size != second.size:
        raise ValueError(f"Both sides must have one value per pair, found {first.size} and {second.size}.")


def _check_level(level: float) -> None:
    if not 0.0 < level < 1.0:
        raise ValueError(f"`level` is a coverage between 0 and 1, such as 0.95; found {level}.")


def _check_resamples(num_resamples: int) -> None:
    if num_resamples < 1:
        raise ValueError(f"`num_resamples` must be at least 1, found {num_resamples}.")
