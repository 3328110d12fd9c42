"""What a grounding evaluation returns: metrics with intervals, the parse rate, and the single scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .intervals import Groups, Interval, bootstrap_ratio, bootstrap_sums, finite_or_none, mean_interval
from .table import ResultTable

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Resampling:
    """How intervals are computed: clusters of questions, number of draws, seed, coverage (see `intervals`)."""

    groups: Groups | None = None
    num_resamples: int = 10_000
    seed: int = 0
    level: float = 0.95

    def restrict(self, kept: NDArray[np.bool_]) -> Resampling:
        """The same for the questions that a protocol keeps."""
        if self.groups is None or kept.all():
            return self
        return Resampling(np.asarray(self.groups)[kept], self.num_resamples, self.seed, self.level)

    def mean(self, values: FloatArray) -> Interval:
        """Mean of one value per question."""
        return mean_interval(
            values, groups=self.groups, num_resamples=self.num_resamples, seed=self.seed, level=self.level
        )

    def pooled(self, totals: FloatArray, weights: FloatArray) -> Interval:
        """Sum of totals over sum of weights; 0 without bounds where nothing has a weight, as published scorers say."""
        if (weights == 1.0).all():
            return self.mean(totals)
        if not weights.any():
            return Interval(0.0, float("nan"), float("nan"), weights.size, "bootstrap", self.level)
        return bootstrap_ratio(
            totals, weights, groups=self.groups, num_resamples=self.num_resamples, seed=self.seed, level=self.level
        )

    def statistics(self, columns: FloatArray, statistic: Callable[[FloatArray], FloatArray]) -> list[Interval]:
        """Any statistics of column sums, all from the same draws; see `intervals.bootstrap_sums`."""
        return bootstrap_sums(
            columns,
            statistic,
            groups=self.groups,
            num_resamples=self.num_resamples,
            seed=self.seed,
            level=self.level,
        )


@dataclass(frozen=True, slots=True)
class Metric:
    """One score over all questions.

    Args:
        name (`str`): Such as `"iou"`, `"accuracy@0.5"`, `"point_accuracy"`, `"frechet_diagonal"`.
        macro (`Interval`): Mean over questions.
        micro (`Interval`): Pooled over items.
        unit (`str`): `"fraction"`, `"px"`, `"diagonal"` (fractions of the image diagonal) or `"0-999"`.
        higher_is_better (`bool`): False for errors.
    """

    name: str
    macro: Interval
    micro: Interval
    unit: str
    higher_is_better: bool

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields."""
        return {
            "name": self.name,
            "macro": self.macro.to_dict(),
            "micro": self.micro.to_dict(),
            "unit": self.unit,
            "higher_is_better": self.higher_is_better,
        }


@dataclass(frozen=True, slots=True)
class GroundingScore:
    """Scores of one model on one set of questions of one kind.

    Args:
        kind (`str`): `"box"`, `"point"` or `"trace"`.
        protocol (`str`): `"st4vla"`, or the `compat` that was asked for.
        num_questions (`int`): Questions given, failures included.
        num_failed (`int`): Answers that were None or empty.
        num_scored (`int`): Questions in the macro means; fewer than given only in a `compat` protocol.
        parse_rate (`Interval`): Share of answers in which at least one item of the kind was read, wherever it lies,
            Wilson.
        metrics (`tuple[Metric, ...]`): The headline metric first.
        average (`str`): Which average is the protocol's headline, `"macro"` or `"micro"`.
        per_question (`dict[str, np.ndarray]`): Each metric per question, shape `[num_questions]`; NaN where a `compat`
            protocol drops the question. What paired comparisons and galleries of the worst cases need.
    """

    kind: str
    protocol: str
    num_questions: int
    num_failed: int
    num_scored: int
    parse_rate: Interval
    metrics: tuple[Metric, ...]
    average: str = "macro"
    per_question: dict[str, FloatArray] = field(default_factory=dict)

    @property
    def headline(self) -> Interval:
        """The first metric in the protocol's own average."""
        return getattr(self.metrics[0], self.average)

    def __getitem__(self, name: str) -> Metric:
        """The metric of that name; `KeyError` names those there are."""
        found = {metric.name: metric for metric in self.metrics}
        if name not in found:
            raise KeyError(f"No metric {name!r}; there are {', '.join(found)}.")
        return found[name]

    def worst_questions(self, k: int = 12) -> list[int]:
        """Indices of the k worst questions by the headline metric, worst first; dropped questions are left out."""
        first = self.metrics[0]
        values = self.per_question[first.name] * (1.0 if first.higher_is_better else -1.0)
        order = np.argsort(np.where(np.isnan(values), np.inf, values), kind="stable")
        return [int(i) for i in order[:k] if not np.isnan(values[i])]

    def to_dict(self, *, per_question: bool = False) -> dict[str, Any]:
        """JSON-ready fields; `per_question=True` adds the single scores."""
        result: dict[str, Any] = {
            "kind": self.kind,
            "protocol": self.protocol,
            "headline": {"metric": self.metrics[0].name, "average": self.average, **self.headline.to_dict()},
            "num_questions": self.num_questions,
            "num_failed": self.num_failed,
            "num_scored": self.num_scored,
            "parse_rate": self.parse_rate.to_dict(),
            "metrics": [metric.to_dict() for metric in self.metrics],
        }
        if per_question:
            result["per_question"] = {k: [finite_or_none(x) for x in v] for k, v in self.per_question.items()}
        return result

    def table(self) -> ResultTable:
        """Scores with 95 % intervals, and the parse rate as the last row."""
        rows = [[m.name, m.macro, m.micro, m.unit, "higher" if m.higher_is_better else "lower"] for m in self.metrics]
        rows.append(["parse rate", self.parse_rate, None, "fraction", "higher"])
        level = f"{100 * self.parse_rate.level:g} %"
        dropped = self.num_questions - self.num_scored
        counted = f"{dropped} questions dropped by this protocol" if dropped else "failures counted as failures"
        return ResultTable(
            headers=("metric", f"macro [{level}]", f"micro [{level}]", "unit", "better"),
            rows=rows,
            title=f"{self.kind} grounding ({self.protocol})",
            note=f"{self.num_questions} questions, {self.num_failed} not parsed or empty; {counted}. "
            f"Headline: {self.metrics[0].name}, {self.average}.",
        )
