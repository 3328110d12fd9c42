"""Grounding scores that can be compared: boxes, points and traces.

The rules, the same for every kind:

- An answer that could not be parsed (None), or that holds nothing of the kind asked for, is a failure and stays in
  every mean: IoU 0, points 0, trace errors equal to the image diagonal. The parse rate is reported beside the scores.
- **macro** is the mean over questions, each with the same weight; it is the headline. **micro** pools the items of
  all questions (boxes, points, trace points), so that a question with more items weighs more.
- Every score has a 95 % interval over questions: Wilson where each question scores 0 or 1, else a percentile
  bootstrap; over clusters (images, episodes) where `groups` is given.

`compat` reproduces two published scorers, whose numbers cannot be compared with each other or with the above:

- `"robopoint"` (RoboPoint, `robopoint/eval/summarize_vqa.py`): a point scores the value of the soft mask (0 to 1);
  the mean is over questions; an answer whose parser raised (None) is dropped from the mean, while an answer without
  points (an empty list, which is what its parser makes of prose) stays and scores 0.
- `"embodied-r1"` (Embodied-R1, `eval/hf_inference_where2place.py`, `..._vabench_point.py`,
  `..._vabench_visual_trace.py`): a point is a hit where the mask is above 0, or in the box with its edges; hits are
  pooled over all points (micro), so that failures weigh nothing. Traces are scaled to 0-999 on each axis, the shorter
  one is resampled by index to the length of the longer; questions with fewer than two points on either side are
  dropped; RMSE and MAE are averaged over the remaining questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .geometry import (
    as_rows,
    box_area,
    box_iou,
    discrete_frechet,
    hausdorff,
    mask_to_float,
    mask_values,
    match_boxes,
    points_in_boxes,
    resample_by_arc_length,
    resample_by_index,
)
from .grounding_results import GroundingScore, Metric, Resampling
from .intervals import Interval, wilson_interval

FloatArray = NDArray[np.float64]
Predictions = Sequence[ArrayLike | None]
Compat = Literal["robopoint", "embodied-r1"]
TRACE_ERRORS = ("frechet", "hausdorff", "rmse", "mae", "start_error", "end_error")

_CHUNK = 128  # traces whose 100 x 100 distance tables are held at once


# ---------------------------------------------------------------------------------------------------------------------
# Boxes
# ---------------------------------------------------------------------------------------------------------------------


def score_boxes(
    predictions: Predictions,
    references: Sequence[ArrayLike],
    *,
    thresholds: Sequence[float] = (0.5,),
    matching: Literal["one_to_one", "first"] = "one_to_one",
    resampling: Resampling | None = None,
) -> GroundingScore:
    """Box IoU and accuracy at IoU thresholds.

    `"one_to_one"`: predictions and references are matched greedily by falling IoU, each box at most once. A question's
    IoU is the sum over matched pairs divided by max(number of predictions, number of references); its accuracy at t is
    the number of pairs with IoU >= t over the same number. A missing box and a surplus box cost the same, so that
    answering with many boxes does not pay. With one reference and one answer this is the usual IoU >= t.
    `"first"`: only the first predicted box counts, as RefCOCO-style scripts do; questions must have one reference.

    Args:
        predictions (`Sequence` of `[n, 4]` or None): Predicted boxes `x1, y1, x2, y2` per question, pixels; None or
            empty is a failure.
        references (`Sequence` of `[m, 4]`): True boxes per question, m >= 1, each with an area.
        thresholds (`Sequence[float]`): IoU thresholds in (0, 1].
        matching (`str`): See above.
        resampling (`Resampling`, *optional*): Clusters, draws, seed.

    Returns:
        `GroundingScore` with the metrics `accuracy@t` for each threshold, and `iou`.

    Raises:
        ValueError: for no questions, lengths that differ, malformed boxes, or a question without a reference box.
    """
    _check_questions(predictions, references)
    if not thresholds or not all(0.0 < t <= 1.0 for t in thresholds):
        raise ValueError(f"`thresholds` must be numbers in (0, 1], found {list(thresholds)}.")
    pairs = [_matched_iou(i, p, r, matching) for i, (p, r) in enumerate(zip(predictions, references, strict=True))]
    weights = np.array([weight for _, weight in pairs], dtype=np.float64)
    sums = {f"accuracy@{t:g}": np.array([float((iou >= t).sum()) for iou, _ in pairs]) for t in thresholds}
    sums["iou"] = np.array([iou.sum() for iou, _ in pairs])
    failed = [_is_empty(prediction) for prediction in predictions]
    return _ratio_score("box", "st4vla", sums, weights, weights, np.array(failed), resampling or Resampling())


def _matched_iou(
    index: int, prediction: ArrayLike | None, reference: ArrayLike, matching: str
) -> tuple[FloatArray, int]:
    """IoU of the matched pairs, and the number of boxes that the question counts."""
    truth = as_rows(reference, 4, f"reference {index}")
    if len(truth) == 0 or (box_area(truth) <= 0).any():
        raise ValueError(f"reference {index}: at least one box is needed, and each must have an area.")
    boxes = np.zeros((0, 4)) if prediction is None else as_rows(prediction, 4, f"prediction {index}")
    if matching == "first":
        if len(truth) > 1:
            raise ValueError(f'reference {index}: matching "first" allows one box, found {len(truth)}.')
        boxes = boxes[:1]
    elif matching != "one_to_one":
        raise ValueError(f'`matching` must be "one_to_one" or "first", found {matching!r}.')
    iou = box_iou(boxes, truth)
    matched = np.array([iou[pair] for pair in match_boxes(iou)], dtype=np.float64)
    return matched, max(len(boxes), len(truth))


# ---------------------------------------------------------------------------------------------------------------------
# Points
# ---------------------------------------------------------------------------------------------------------------------


def score_points(
    predictions: Predictions,
    *,
    boxes: Sequence[ArrayLike] | None = None,
    masks: Sequence[ArrayLike] | None = None,
    mask_threshold: float | Literal["soft"] | None = None,
    compat: Compat | None = None,
    resampling: Resampling | None = None,
) -> GroundingScore:
    """Share of predicted points that lie in the true region, given as boxes or as masks.

    A question scores the mean over its points; a failure scores 0, and is one missed point in the micro average.

    Args:
        predictions (`Sequence` of `[n, 2]` or None): Predicted points per question, pixels of the original image; None
            or empty is a failure.
        boxes (`Sequence` of `[m, 4]`, *optional*): Regions as boxes, m >= 1; edges belong to the box.
        masks (`Sequence` of `[H, W]`, *optional*): Regions as masks of the image's size: bool, uint8 (0 to 255) or
            float (0 to 1). Published masks are JPEG and soft at the edges.
        mask_threshold (`float` or `"soft"`): With `masks`, and without `compat`, it must be given: a point is a hit
            where the mask in [0, 1] is **above** it (0.5 is the natural choice); `"soft"` scores the mask value.
        compat (`str`, *optional*): `"robopoint"` (soft values, None dropped) or `"embodied-r1"` (above 0, micro); see
            the module's text.
        resampling (`Resampling`, *optional*): Clusters, draws, seed.

    Returns:
        `GroundingScore` with the metric `point_accuracy`.

    Raises:
        ValueError: unless exactly one of `boxes` and `masks` is given; for lengths that differ, malformed arrays,
            empty regions, or a threshold that is missing or contradicts `compat`.
    """
    if (boxes is None) == (masks is None):
        raise ValueError("Give the regions either as `boxes` or as `masks`.")
    regions: Sequence[ArrayLike] = boxes if boxes is not None else masks if masks is not None else ()
    _check_questions(predictions, regions)
    threshold = _mask_rule(mask_threshold, masks is not None, compat)
    hits, counts = np.zeros(len(predictions)), np.zeros(len(predictions))
    for i, (prediction, region) in enumerate(zip(predictions, regions, strict=True)):
        if boxes is not None:
            area = as_rows(region, 4, f"region {i}")
            if len(area) == 0:
                raise ValueError(f"region {i}: at least one box is needed.")
        if _is_empty(prediction) or prediction is None:
            continue
        points = as_rows(prediction, 2, f"prediction {i}")
        if boxes is not None:
            values = points_in_boxes(points, region).astype(np.float64)
        else:
            values = _mask_hits(points, region, threshold, compat, i)
        hits[i], counts[i] = values.sum(), len(points)
    return _point_score(predictions, hits, counts, compat, resampling or Resampling())


def _mask_rule(threshold: float | str | None, with_masks: bool, compat: Compat | None) -> float | None:
    """The threshold to use, None for soft values."""
    if compat is not None:
        if compat not in ("robopoint", "embodied-r1"):
            raise ValueError(f'`compat` must be "robopoint" or "embodied-r1", found {compat!r}.')
        if threshold is not None:
            raise ValueError(f'compat="{compat}" fixes how masks are read; leave `mask_threshold` out.')
        return None if compat == "robopoint" else 0.0
    if not with_masks:
        return None
    if threshold == "soft":
        return None
    if not isinstance(threshold, (int, float)) or not 0.0 <= threshold < 1.0:
        raise ValueError(f'With `masks`, give `mask_threshold` as a number in [0, 1) or "soft"; found {threshold!r}.')
    return float(threshold)


def _mask_hits(points: FloatArray, mask: ArrayLike, threshold: float | None, compat: str | None, i: int) -> FloatArray:
    try:
        soft = mask_to_float(mask)
    except ValueError as error:
        raise ValueError(f"mask {i}: {error}") from error
    values = mask_values(points, soft, truncate=compat is not None)
    return values if threshold is None else (values > threshold).astype(np.float64)


def _point_score(
    predictions: Predictions, hits: FloatArray, counts: FloatArray, compat: str | None, resampling: Resampling
) -> GroundingScore:
    """Averages by protocol: what a failure weighs in the macro and in the micro mean."""
    unparsed = np.array([prediction is None for prediction in predictions])
    failed = counts == 0
    macro_weights, micro_weights = np.maximum(counts, 1.0), np.maximum(counts, 1.0)
    if compat == "robopoint":
        macro_weights, micro_weights = np.where(unparsed, 0.0, macro_weights), counts
    elif compat == "embodied-r1":
        micro_weights = counts
    score = _ratio_score(
        "point", compat or "st4vla", {"point_accuracy": hits}, macro_weights, micro_weights, failed, resampling
    )
    return score if compat != "embodied-r1" else replace(score, average="micro")


# ---------------------------------------------------------------------------------------------------------------------
# Traces
# ---------------------------------------------------------------------------------------------------------------------


def trace_errors(prediction: ArrayLike, reference: ArrayLike, *, num_points: int = 100) -> dict[str, float]:
    """Distances between two ordered curves, both resampled to equal steps of arc length.

    With resampled points p_i and q_i: `rmse` is sqrt(mean |p_i - q_i|^2); `mae` is the mean over points and both
    coordinates of the absolute difference; `start_error` and `end_error` are |p_1 - q_1| and |p_n - q_n|; `frechet` is
    the discrete Fréchet and `hausdorff` the symmetric Hausdorff distance of the resampled points.

    Args:
        prediction (`ArrayLike` of shape `[n, 2]`), reference (`ArrayLike` of shape `[m, 2]`): Vertices in order, n,
            m >= 1; one vertex stands still.
        num_points (`int`): Points per curve after resampling.

    Returns:
        `dict[str, float]`: The six errors of `TRACE_ERRORS`, in the unit of the coordinates.
    """
    p, q = (resample_by_arc_length(curve, num_points)[None] for curve in (prediction, reference))
    return {name: float(values[0]) for name, values in _curve_errors(p, q).items()}


def score_traces(
    predictions: Predictions,
    references: Sequence[ArrayLike],
    image_sizes: ArrayLike,
    *,
    num_points: int = 100,
    compat: Compat | None = None,
    resampling: Resampling | None = None,
) -> GroundingScore:
    """Trace errors in pixels and in fractions of the image diagonal; the headline is `rmse_diagonal`.

    Each curve is resampled to equal steps of arc length (see [`trace_errors`]). A failure has every error equal to the
    diagonal of its image; an answer that runs outside the image is never worse than that (errors are capped there).
    All questions have the same number of points, so that micro equals macro for all but RMSE, whose micro average is
    the root of the mean squared error over all points.

    Args:
        predictions (`Sequence` of `[n, 2]` or None): One predicted trace per question, pixels; None or empty fails.
        references (`Sequence` of `[m, 2]`): True traces, m >= 1.
        image_sizes (`ArrayLike` of shape `[questions, 2]` or `[2]`): Width and height in pixels.
        num_points (`int`): Points per curve after resampling.
        compat (`str`, *optional*): `"embodied-r1"`: `rmse` and `mae` on the 0-999 scale by index; see above.
        resampling (`Resampling`, *optional*): Clusters, draws, seed.

    Raises:
        ValueError: for lengths that differ, malformed or empty references, image sizes that are not positive, `compat`
            without a published trace score, or a `compat` protocol that leaves no question.
    """
    _check_questions(predictions, references)
    sizes = np.asarray(image_sizes, dtype=np.float64)
    if sizes.shape not in ((2,), (len(predictions), 2)) or not (np.isfinite(sizes) & (sizes > 0)).all():
        raise ValueError(
            f"`image_sizes` must be positive (width, height) per question, found shape {list(sizes.shape)}."
        )
    sizes = np.broadcast_to(sizes, (len(predictions), 2))
    if compat == "embodied-r1":
        return _score_traces_by_index(predictions, references, sizes, resampling or Resampling())
    if compat is not None:
        raise ValueError(f'Traces have the compat protocol "embodied-r1" only, found {compat!r}.')

    curves = [resample_by_arc_length(reference, num_points) for reference in references]
    failed = np.array([_is_empty(prediction) for prediction in predictions])
    diagonal = np.hypot(sizes[:, 0], sizes[:, 1])
    errors = {name: diagonal.copy() for name in TRACE_ERRORS}
    answered = np.flatnonzero(~failed)
    for start in range(0, len(answered), _CHUNK):
        chosen = answered[start : start + _CHUNK]
        p = np.stack([resample_by_arc_length(_given(predictions[i]), num_points) for i in chosen])
        for name, values in _curve_errors(p, np.stack([curves[i] for i in chosen])).items():
            errors[name][chosen] = np.minimum(values, diagonal[chosen])
    return _trace_score(errors, diagonal, failed, resampling or Resampling())


def _curve_errors(p: FloatArray, q: FloatArray) -> dict[str, FloatArray]:
    """Errors of curves `[b, n, 2]` with the same number of points, each `[b]`."""
    gap = np.linalg.norm(p - q, axis=-1)
    return {
        "frechet": discrete_frechet(p, q),
        "hausdorff": hausdorff(p, q),
        "rmse": np.sqrt((gap**2).mean(axis=-1)),
        "mae": np.abs(p - q).mean(axis=(-2, -1)),
        "start_error": gap[:, 0],
        "end_error": gap[:, -1],
    }


def _trace_score(
    errors: dict[str, FloatArray], diagonal: FloatArray, failed: NDArray[np.bool_], resampling: Resampling
) -> GroundingScore:
    scaled = {f"{name}_diagonal": values / diagonal for name, values in errors.items()}
    values = {"rmse_diagonal": scaled.pop("rmse_diagonal"), **scaled, **errors}
    intervals = _trace_means(values, np.ones_like(diagonal), resampling)
    metrics = tuple(
        Metric(name, *intervals[name], "diagonal" if name.endswith("_diagonal") else "px", False) for name in values
    )
    return GroundingScore(
        kind="trace",
        protocol="st4vla",
        num_questions=failed.size,
        num_failed=int(failed.sum()),
        num_scored=failed.size,
        parse_rate=wilson_interval(int((~failed).sum()), failed.size, level=resampling.level),
        metrics=metrics,
        per_question=values,
    )


def _trace_means(
    errors: dict[str, FloatArray], weights: FloatArray, resampling: Resampling
) -> dict[str, tuple[Interval, Interval]]:
    """Macro and micro mean of each error, `weights` points per question; the micro RMSE is a root of mean squares."""
    squared = np.array([name.startswith("rmse") for name in errors])
    values = np.stack(list(errors.values()), axis=1)
    pooled = np.where(squared, values**2, values) * weights[:, None]
    columns = np.concatenate([np.ones_like(weights)[:, None], values, weights[:, None], pooled], axis=1)
    count = len(errors)

    def means(sums: FloatArray) -> FloatArray:
        macro = sums[..., 1 : count + 1] / sums[..., :1]
        micro = sums[..., count + 2 :] / sums[..., count + 1 : count + 2]
        return np.concatenate([macro, np.where(squared, np.sqrt(micro), micro)], axis=-1)

    found = resampling.statistics(columns, means)
    return {name: (found[i], found[count + i]) for i, name in enumerate(errors)}


def _score_traces_by_index(
    predictions: Predictions, references: Sequence[ArrayLike], sizes: FloatArray, resampling: Resampling
) -> GroundingScore:
    """Embodied-R1's trace scorer."""
    rmse, mae, counts = (np.full(len(predictions), np.nan) for _ in range(3))
    for i, (prediction, reference) in enumerate(zip(predictions, references, strict=True)):
        truth = as_rows(reference, 2, f"reference {i}")
        answer = np.zeros((0, 2)) if prediction is None else as_rows(prediction, 2, f"prediction {i}")
        if len(answer) < 2 or len(truth) < 2:
            continue
        counts[i] = max(len(answer), len(truth))
        p, q = (resample_by_index(curve / sizes[i] * 999.0, int(counts[i])) for curve in (answer, truth))
        rmse[i] = np.sqrt(((p - q) ** 2).sum(axis=1).mean())
        mae[i] = np.abs(p - q).mean()
    kept = ~np.isnan(counts)
    if not kept.any():
        raise ValueError('compat="embodied-r1" drops traces with fewer than two points, and none is left.')
    intervals = _trace_means({"rmse": rmse[kept], "mae": mae[kept]}, counts[kept], resampling.restrict(kept))
    metrics = tuple(Metric(name, *intervals[name], "0-999", False) for name in ("rmse", "mae"))
    failed = np.array([_is_empty(prediction) for prediction in predictions])
    return GroundingScore(
        kind="trace",
        protocol="embodied-r1",
        num_questions=failed.size,
        num_failed=int(failed.sum()),
        num_scored=int(kept.sum()),
        parse_rate=wilson_interval(int((~failed).sum()), failed.size, level=resampling.level),
        metrics=metrics,
        per_question={"rmse": rmse, "mae": mae},
    )


# ---------------------------------------------------------------------------------------------------------------------
# Averages
# ---------------------------------------------------------------------------------------------------------------------


def _ratio_score(
    kind: str,
    protocol: str,
    sums: dict[str, FloatArray],
    macro_weights: FloatArray,
    micro_weights: FloatArray,
    failed: NDArray[np.bool_],
    resampling: Resampling,
) -> GroundingScore:
    """Scores that are shares of items: per question `sums / weights`; a macro weight of 0 drops the question."""
    kept = macro_weights > 0
    if not kept.any():
        raise ValueError(f"The protocol {protocol!r} drops every question: no answer was parsed.")
    inside = resampling.restrict(kept)
    values = {
        name: np.divide(total, macro_weights, out=np.full_like(total, np.nan), where=kept)
        for name, total in sums.items()
    }
    metrics = tuple(
        Metric(name, inside.mean(values[name][kept]), resampling.pooled(total, micro_weights), "fraction", True)
        for name, total in sums.items()
    )
    return GroundingScore(
        kind=kind,
        protocol=protocol,
        num_questions=failed.size,
        num_failed=int(failed.sum()),
        num_scored=int(kept.sum()),
        parse_rate=wilson_interval(int((~failed).sum()), failed.size, level=resampling.level),
        metrics=metrics,
        per_question=values,
    )


def _is_empty(prediction: ArrayLike | None) -> bool:
    return prediction is None or np.asarray(prediction).size == 0


def _given(prediction: ArrayLike | None) -> ArrayLike:
    return () if prediction is None else prediction


def _check_questions(predictions: Sequence[Any], references: Sequence[Any]) -> None:
    if len(predictions) == 0 or len(predictions) != len(references):
        raise ValueError(
            f"One answer and one reference per question are needed, found {len(predictions)} and {len(references)}."
        )
