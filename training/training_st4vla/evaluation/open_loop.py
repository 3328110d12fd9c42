"""Open-loop action evaluation: predicted against recorded chunks, beside two trivial baselines.

A small error means nothing by itself: on slow robots, repeating the last action is hard to beat. So every error stands
beside the same error of two predictors that look at nothing:

- **repeat**: the recorded action executed just before the chunk, for all its steps. The first frame of an episode has
  none; such frames are left out of this baseline and counted (`num_without_previous`), never filled with zeros.
- **mean**: the mean action of the training data, for all steps.

Definitions. Errors are computed per action dimension over all valid (frame, step) pairs of the chunks, each pair with
the same weight: MAE = mean |e|, RMSE = sqrt(mean e^2). "Mean" errors are means over the dimensions; in environment
units that mixes metres, radians and gripper levels, so the headline is the normalised one. The ratio to the better
baseline divides the model's mean error by the smaller of the two baselines' mean errors, all three on the frames where
both baselines exist. Below 1, the model beats them.

Intervals: percentile bootstrap over whole episodes (frames of one episode are alike); in the ratio, the better
baseline is chosen anew in each draw. One episode alone allows no interval: its bounds are NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .intervals import Groups, Interval, bootstrap_sums, cluster_sums, finite_or_none
from .table import ResultTable

FloatArray = NDArray[np.float64]
PREDICTORS = ("model", "repeat", "mean")


@dataclass(frozen=True, slots=True)
class ActionArrays:
    """What is compared, in one system of units.

    Args:
        predicted (`ArrayLike` of shape `[N, T, A]`): The model's chunks.
        recorded (`ArrayLike` of shape `[N, T, A]`): The recorded chunks; padded steps may hold anything.
        previous (`ArrayLike` of shape `[N, A]`): The recorded action executed just before each chunk. Rows of frames
            that have none are NaN; nothing else may be.
        mean (`ArrayLike` of shape `[A]`): Mean action of the training data.
    """

    predicted: ArrayLike
    recorded: ArrayLike
    previous: ArrayLike
    mean: ArrayLike


@dataclass(frozen=True, slots=True)
class Errors:
    """Errors of one predictor.

    Args:
        mae (`tuple[Interval, ...]`), rmse (`tuple[Interval, ...]`): Per action dimension, length A.
        mean_mae (`Interval`), mean_rmse (`Interval`): Means over the dimensions.
        mae_by_step (`np.ndarray` of shape `[T]`): MAE, mean over dimensions, at each step of the chunk; NaN where no
            chunk has a valid step.
    """

    mae: tuple[Interval, ...]
    rmse: tuple[Interval, ...]
    mean_mae: Interval
    mean_rmse: Interval
    mae_by_step: FloatArray

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields."""
        return {
            "mae": [interval.to_dict() for interval in self.mae],
            "rmse": [interval.to_dict() for interval in self.rmse],
            "mean_mae": self.mean_mae.to_dict(),
            "mean_rmse": self.mean_rmse.to_dict(),
            "mae_by_step": [finite_or_none(value) for value in self.mae_by_step],
        }


@dataclass(frozen=True, slots=True)
class UnitErrors:
    """Errors of the model and both baselines in one system of units.

    Args:
        model (`Errors`), mean (`Errors`): Over all frames.
        repeat (`Errors` or None): Over the frames that have a previous action; None where no frame has one.
        mae_ratio (`Interval`), rmse_ratio (`Interval`): Mean error of the model over that of the better baseline, on
            the frames where both baselines exist (all frames where `repeat` is None).
        mae_ratio_by_dimension (`tuple[Interval, ...]`): The same per dimension, length A. Infinite or NaN where a
            dimension is constant, so that a baseline makes no error.
        better_baseline (`str`): `"repeat"` or `"mean"`, by `mae_ratio`.
    """

    model: Errors
    repeat: Errors | None
    mean: Errors
    mae_ratio: Interval
    rmse_ratio: Interval
    mae_ratio_by_dimension: tuple[Interval, ...]
    better_baseline: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields."""
        return {
            "model": self.model.to_dict(),
            "repeat": None if self.repeat is None else self.repeat.to_dict(),
            "mean": self.mean.to_dict(),
            "mae_ratio": self.mae_ratio.to_dict(),
            "rmse_ratio": self.rmse_ratio.to_dict(),
            "mae_ratio_by_dimension": [interval.to_dict() for interval in self.mae_ratio_by_dimension],
            "better_baseline": self.better_baseline,
        }


@dataclass(frozen=True, slots=True)
class EpisodeErrors:
    """Normalised MAE of one episode, mean over dimensions.

    Args:
        episode (`Any`): Its name as given.
        num_frames (`int`): Frames evaluated.
        num_steps (`int`): Valid (frame, step) pairs.
        model (`float`), mean (`float`): MAE over these pairs.
        repeat (`float`): MAE over the frames that have a previous action; NaN where there is none.
    """

    episode: Any
    num_frames: int
    num_steps: int
    model: float
    repeat: float
    mean: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields."""
        episode = self.episode if isinstance(self.episode, (int, float, str)) else str(self.episode)
        numbers = {name: finite_or_none(getattr(self, name)) for name in PREDICTORS}
        return {"episode": episode, "num_frames": self.num_frames, "num_steps": self.num_steps, **numbers}


@dataclass(frozen=True, slots=True)
class OpenLoopResult:
    """Open-loop errors of one model on recorded episodes.

    Args:
        names (`tuple[str, ...]`), units (`tuple[str, ...]`): Of the action dimensions, length A.
        num_frames (`int`), num_steps (`int`), num_episodes (`int`): What was evaluated; steps are valid
            (frame, step) pairs.
        num_without_previous (`int`): Frames left out of the repeat baseline.
        environment (`UnitErrors`), normalized (`UnitErrors`): Errors in both systems of units.
        episodes (`tuple[EpisodeErrors, ...]`): One row per episode, in sorted order.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    num_frames: int
    num_steps: int
    num_episodes: int
    num_without_previous: int
    environment: UnitErrors
    normalized: UnitErrors
    episodes: tuple[EpisodeErrors, ...]

    @property
    def mixed_units(self) -> bool:
        """Whether a mean over dimensions in environment units adds different quantities."""
        return len(set(self.units)) > 1

    def worst_episodes(self, k: int = 5) -> list[EpisodeErrors]:
        """The k episodes with the largest normalised MAE of the model, worst first."""
        return sorted(self.episodes, key=lambda row: -row.model)[:k]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields."""
        return {
            "names": list(self.names),
            "units": list(self.units),
            "num_frames": self.num_frames,
            "num_steps": self.num_steps,
            "num_episodes": self.num_episodes,
            "num_without_previous": self.num_without_previous,
            "mixed_units": self.mixed_units,
            "environment": self.environment.to_dict(),
            "normalized": self.normalized.to_dict(),
            "episodes": [row.to_dict() for row in self.episodes],
        }

    def summary_table(self) -> ResultTable:
        """Normalised mean errors of the model and the baselines, and the ratio."""
        errors = self.normalized
        rows: list[list[Any]] = [["model", errors.model.mean_mae, errors.model.mean_rmse]]
        if errors.repeat is not None:
            rows.append(["repeat last action", errors.repeat.mean_mae, errors.repeat.mean_rmse])
        rows.append(["mean action", errors.mean.mean_mae, errors.mean.mean_rmse])
        rows.append(["model / better baseline", errors.mae_ratio, errors.rmse_ratio])
        left_out = self.num_without_previous
        level = f"{100 * errors.mae_ratio.level:g} %"
        return ResultTable(
            headers=("predictor", f"MAE [{level}]", f"RMSE [{level}]"),
            rows=rows,
            title="Open-loop error, normalised units, mean over dimensions",
            note=f"{self.num_episodes} episodes, {self.num_frames} frames, {self.num_steps} steps. "
            f"{left_out} frames have no previous action and are left out of the repeat baseline. "
            + ("" if self.num_episodes > 1 else "One episode allows no interval. ")
            + "Ratio below 1: better than both baselines.",
        )

    def dimension_table(self) -> ResultTable:
        """MAE per dimension in environment units, and the ratio to the better baseline."""
        errors = self.environment
        repeat = [None] * len(self.names) if errors.repeat is None else list(errors.repeat.mae)
        labels = zip(self.names, self.units, strict=True)
        cells = zip(labels, errors.model.mae, repeat, errors.mean.mae, errors.mae_ratio_by_dimension, strict=True)
        level = f"{100 * errors.mae_ratio.level:g} %"
        return ResultTable(
            headers=("dimension", "unit", f"model MAE [{level}]", "repeat MAE", "mean-action MAE", f"ratio [{level}]"),
            rows=[
                [name, unit, model, None if rep is None else rep.estimate, mean.estimate, ratio]
                for (name, unit), model, rep, mean, ratio in cells
            ],
            title="Open-loop error per dimension, environment units",
        )

    def episode_table(self, k: int | None = None) -> ResultTable:
        """Normalised MAE per episode, worst first; all episodes, or the k worst."""
        rows = self.worst_episodes(len(self.episodes) if k is None else k)
        return ResultTable(
            headers=("episode", "frames", "model MAE", "repeat MAE", "mean-action MAE"),
            rows=[[str(row.episode), row.num_frames, row.model, row.repeat, row.mean] for row in rows],
            title="Normalised MAE per episode, worst first",
        )


def previous_actions(actions: ArrayLike, episodes: Groups) -> FloatArray:
    """The action executed just before each frame: the row above within the same episode, NaN at its first frame.

    Args:
        actions (`ArrayLike` of shape `[N, A]`): The recorded action of **every** frame of each episode, in order.
            Select frames afterwards: the row above a frame of a subset is not the action executed before.
        episodes (`Sequence` of length N): Episode of each frame; the frames of an episode are adjacent.

    Returns:
        `np.ndarray` of shape `[N, A]`.

    Raises:
        ValueError: for another shape, or an episode whose frames are not adjacent.
    """
    array, names = np.asarray(actions, dtype=np.float64), np.asarray(episodes)
    if array.ndim != 2 or names.shape != array.shape[:1] or len(array) == 0:
        raise ValueError(f"Expected actions [N, A] and episodes [N], found {array.shape} and {names.shape}.")
    first = np.concatenate([[True], names[1:] != names[:-1]])
    if first.sum() != len(np.unique(names)):
        raise ValueError("The frames of each episode must be adjacent.")
    return np.where(first[:, None], np.nan, np.roll(array, 1, axis=0))


def evaluate_open_loop(
    *,
    environment: ActionArrays,
    normalized: ActionArrays,
    episodes: Groups,
    action_is_pad: ArrayLike | None = None,
    names: Sequence[str] | None = None,
    units: Sequence[str] | None = None,
    num_resamples: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> OpenLoopResult:
    """Errors of predicted chunks in environment and in normalised units, with baselines and intervals.

    Args:
        environment (`ActionArrays`), normalized (`ActionArrays`): The same chunks in both systems of units.
        episodes (`Sequence` of length N): Episode of each frame; the clusters of the bootstrap.
        action_is_pad (`ArrayLike` of shape `[N, T]`, *optional*): True where a step lies beyond the episode's end.
        names (`Sequence[str]`, *optional*), units (`Sequence[str]`, *optional*): Of the A dimensions.
        num_resamples, seed, level: As for `intervals.bootstrap_sums`.

    Returns:
        `OpenLoopResult`

    Raises:
        ValueError: for shapes that disagree, numbers that are not finite where they count, a previous action that is
            only partly given or given in one system of units only, or no valid step at all.
    """
    environment_arrays, normalized_arrays = _Arrays.check(environment), _Arrays.check(normalized)
    shape = environment_arrays.predicted.shape
    if normalized_arrays.predicted.shape != shape:
        raise ValueError(f"Both systems of units need the same shape, found {shape} and {normalized_arrays.shape}.")
    valid = _valid_steps(action_is_pad, shape)
    has_previous = environment_arrays.has_previous()
    if not np.array_equal(has_previous, normalized_arrays.has_previous()):
        raise ValueError("A frame has a previous action in one system of units but not in the other.")
    names = _labels(names, shape[2], "names", "action")
    units = _labels(units, shape[2], "units", "")
    bootstrap = {"groups": episodes, "num_resamples": num_resamples, "seed": seed, "level": level}
    if np.shape(episodes) != shape[:1]:
        raise ValueError(f"`episodes` names one episode per frame: expected {shape[0]}, found {np.shape(episodes)}.")
    return OpenLoopResult(
        names=names,
        units=units,
        num_frames=shape[0],
        num_steps=int(valid.sum()),
        num_episodes=len(np.unique(np.asarray(episodes))),
        num_without_previous=int((~has_previous).sum()),
        environment=_unit_errors(environment_arrays, valid, has_previous, bootstrap),
        normalized=_unit_errors(normalized_arrays, valid, has_previous, bootstrap),
        episodes=_episode_errors(normalized_arrays, valid, has_previous, episodes),
    )


# ---------------------------------------------------------------------------------------------------------------------
# Sums per frame, and what is made of them
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Arrays:
    """`ActionArrays` in float64, with shapes checked."""

    predicted: FloatArray
    recorded: FloatArray
    previous: FloatArray
    mean: FloatArray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.predicted.shape

    @classmethod
    def check(cls, arrays: ActionArrays) -> _Arrays:
        predicted, recorded, previous, mean = (
            np.asarray(values, dtype=np.float64)
            for values in (arrays.predicted, arrays.recorded, arrays.previous, arrays.mean)
        )
        if predicted.ndim != 3 or 0 in predicted.shape:
            raise ValueError(f"`predicted` has shape [N, T, A], each at least 1; found {list(predicted.shape)}.")
        n, t, a = predicted.shape
        for name, array, expected in (
            ("recorded", recorded, (n, t, a)),
            ("previous", previous, (n, a)),
            ("mean", mean, (a,)),
        ):
            if array.shape != expected:
                raise ValueError(f"`{name}` must have shape {list(expected)}, found {list(array.shape)}.")
        if not np.isfinite(mean).all():
            raise ValueError("`mean` must be finite.")
        return cls(predicted, recorded, previous, mean)

    def has_previous(self) -> NDArray[np.bool_]:
        missing = np.isnan(self.previous)
        if (missing.any(axis=1) != missing.all(axis=1)).any() or np.isinf(self.previous).any():
            raise ValueError("A row of `previous` is either finite or all NaN (no previous action).")
        return np.asarray(~missing.all(axis=1))

    def error(self, predictor: str, valid: NDArray[np.bool_]) -> FloatArray:
        """Prediction minus recording `[N, T, A]`; 0 at padded steps, which the counts leave out."""
        prediction = {
            "model": self.predicted,
            "repeat": self.previous[:, None],
            "mean": self.mean[None, None],
        }[predictor]
        with np.errstate(invalid="ignore"):
            error = np.where(valid[..., None], prediction - self.recorded, 0.0)
        bad = ~np.isfinite(error)
        if bad.any():
            frame, step, dim = (int(i) for i in np.argwhere(bad)[0])
            raise ValueError(f"{predictor}: the action at frame {frame}, step {step}, dimension {dim} is not finite.")
        return error

    def rows(self, kept: NDArray[np.bool_]) -> _Arrays:
        return _Arrays(self.predicted[kept], self.recorded[kept], self.previous[kept], self.mean)


def _unit_errors(
    arrays: _Arrays, valid: NDArray[np.bool_], has_previous: NDArray[np.bool_], bootstrap: dict[str, Any]
) -> UnitErrors:
    repeats = bool((valid & has_previous[:, None]).any())
    common = has_previous if repeats else np.ones_like(has_previous)
    inside = {**bootstrap, "groups": np.asarray(bootstrap["groups"])[common]}
    shared, shared_valid = arrays.rows(common), valid[common]
    columns, dims = _ratio_columns(shared, shared_valid, repeats), arrays.shape[2]
    ratios = bootstrap_sums(columns, lambda sums: _ratios(sums, dims), **inside)
    sums = columns.sum(axis=0)[1:].reshape(3, 2, dims)[:, 0].mean(axis=-1)
    return UnitErrors(
        model=_errors(arrays, "model", valid, bootstrap),
        repeat=_errors(shared, "repeat", shared_valid, inside) if repeats else None,
        mean=_errors(arrays, "mean", valid, bootstrap),
        mae_ratio=ratios[0],
        rmse_ratio=ratios[1],
        mae_ratio_by_dimension=tuple(ratios[2:]),
        better_baseline="repeat" if repeats and sums[1] < sums[2] else "mean",
    )


def _errors(arrays: _Arrays, predictor: str, valid: NDArray[np.bool_], bootstrap: dict[str, Any]) -> Errors:
    error = arrays.error(predictor, valid)
    dims = error.shape[-1]
    columns = np.concatenate([valid.sum(axis=1)[:, None], _absolute_and_square(error)], axis=1)
    found = bootstrap_sums(columns, lambda sums: _error_statistics(sums, dims), **bootstrap)
    counts = valid.sum(axis=0)
    by_step = np.divide(
        np.abs(error).mean(axis=-1).sum(axis=0), counts, out=np.full(counts.shape, np.nan), where=counts > 0
    )
    return Errors(tuple(found[:dims]), tuple(found[dims : 2 * dims]), found[2 * dims], found[2 * dims + 1], by_step)


def _absolute_and_square(error: FloatArray) -> FloatArray:
    """Sums over the steps of each frame: `[N, T, A]` to `[N, 2 A]`."""
    return np.concatenate([np.abs(error).sum(axis=1), (error**2).sum(axis=1)], axis=1)


def _mae_and_rmse(sums: FloatArray, dims: int) -> tuple[FloatArray, FloatArray]:
    """From `[..., 1 + 2 A]` (count, absolute, square) to two arrays `[..., A]`."""
    with np.errstate(divide="ignore", invalid="ignore"):
        means = sums[..., 1:] / sums[..., :1]
    return means[..., :dims], np.sqrt(means[..., dims : 2 * dims])


def _error_statistics(sums: FloatArray, dims: int) -> FloatArray:
    mae, rmse = _mae_and_rmse(sums, dims)
    return np.concatenate([mae, rmse, mae.mean(axis=-1, keepdims=True), rmse.mean(axis=-1, keepdims=True)], axis=-1)


def _ratio_columns(arrays: _Arrays, valid: NDArray[np.bool_], repeats: bool) -> FloatArray:
    """Count, then absolute and square sums of the model and both baselines; the mean twice where none repeats."""
    columns = [valid.sum(axis=1)[:, None].astype(np.float64)]
    for predictor in ("model", "repeat" if repeats else "mean", "mean"):
        columns.append(_absolute_and_square(arrays.error(predictor, valid)))
    return np.concatenate(columns, axis=1)


def _ratios(sums: FloatArray, dims: int) -> FloatArray:
    """MAE ratio, RMSE ratio, then the MAE ratio of each dimension: `[..., 1 + 6 A]` to `[..., 2 + A]`."""
    count, rest = sums[..., :1], sums[..., 1:]
    errors = [
        _mae_and_rmse(np.concatenate([count, rest[..., 2 * dims * i : 2 * dims * (i + 1)]], axis=-1), dims)
        for i in range(3)
    ]
    with np.errstate(divide="ignore", invalid="ignore"):
        means = [[e.mean(axis=-1, keepdims=True) for e in pair] for pair in errors]
        mae, rmse = (means[0][k] / np.minimum(means[1][k], means[2][k]) for k in (0, 1))
        per_dimension = errors[0][0] / np.minimum(errors[1][0], errors[2][0])
    return np.concatenate([mae, rmse, per_dimension], axis=-1)


def _episode_errors(
    arrays: _Arrays, valid: NDArray[np.bool_], has_previous: NDArray[np.bool_], episodes: Groups
) -> tuple[EpisodeErrors, ...]:
    filled = replace(arrays, previous=np.where(has_previous[:, None], arrays.previous, 0.0))
    steps, with_previous = valid.sum(axis=1), (valid & has_previous[:, None]).sum(axis=1)
    absolute = [np.abs(filled.error(name, valid)).mean(axis=-1).sum(axis=1) for name in PREDICTORS]
    absolute[1] = np.where(has_previous, absolute[1], 0.0)
    sums = cluster_sums(np.stack([np.ones_like(steps), steps, with_previous, *absolute], axis=1), episodes)
    names = np.unique(np.asarray(episodes)).tolist()
    with np.errstate(divide="ignore", invalid="ignore"):
        model, repeat, mean = sums[:, 3] / sums[:, 1], sums[:, 4] / sums[:, 2], sums[:, 5] / sums[:, 1]
    return tuple(
        EpisodeErrors(name, int(row[0]), int(row[1]), float(model[i]), float(repeat[i]), float(mean[i]))
        for i, (name, row) in enumerate(zip(names, sums, strict=True))
    )


def _valid_steps(action_is_pad: ArrayLike | None, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    valid = np.ones(shape[:2], dtype=np.bool_) if action_is_pad is None else ~np.asarray(action_is_pad, dtype=np.bool_)
    if valid.shape != shape[:2]:
        raise ValueError(f"`action_is_pad` must have shape {list(shape[:2])}, found {list(valid.shape)}.")
    if not valid.any():
        raise ValueError("Every step is padding: there is nothing to evaluate.")
    return valid


def _labels(labels: Sequence[str] | None, count: int, what: str, default: str) -> tuple[str, ...]:
    if labels is None:
        return tuple(f"{default}[{i}]" if default else "" for i in range(count))
    if len(labels) != count:
        raise ValueError(f"`{what}` must name {count} dimensions, found {len(labels)}.")
    return tuple(str(label) for label in labels)
