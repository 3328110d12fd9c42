"""Grounding answers against the samples they belong to: scores per kind, the prior they must beat, the worst cases."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from processing_st4vla import Box, GroundingResult, Point, Trace
from processing_st4vla.spatial import RejectReason
from training_st4vla.data.errors import DataError, explain
from training_st4vla.data.grounding.schema import GroundingSample, MaskAnswer
from training_st4vla.evaluation.geometry import resample_by_arc_length
from training_st4vla.evaluation.grounding_results import GroundingScore, Resampling
from training_st4vla.evaluation.grounding_scores import Compat, score_boxes, score_points, score_traces
from training_st4vla.evaluation.table import ResultTable

MASK_THRESHOLD = 0.5
_PRIOR_POINTS = 10
_MISPLACED = frozenset({RejectReason.OUTSIDE, RejectReason.INVERTED_BOX, RejectReason.EMPTY_BOX})
_SHOWN = {
    "box": ("accuracy@0.5", "iou"),
    "point": ("point_accuracy",),
    "trace": ("rmse_diagonal", "frechet_diagonal", "hausdorff_diagonal", "end_error_diagonal", "rmse", "mae"),
}


@dataclass(frozen=True)
class KindScore:
    """The score of the questions of one kind.

    Args:
        score: See [`GroundingScore`].
        indices: Which of the samples were scored, in the order of `score.per_question`.
    """

    score: GroundingScore
    indices: tuple[int, ...]

    @property
    def headline_name(self) -> str:
        """Name of the first metric."""
        return self.score.metrics[0].name

    def worst(self, number: int) -> list[tuple[int, float]]:
        """Sample index and headline value of the worst questions, worst first."""
        values = self.score.per_question[self.headline_name]
        return [(self.indices[i], float(values[i])) for i in self.score.worst_questions(number)]


def score_grounding(
    results: Sequence[GroundingResult],
    samples: Sequence[GroundingSample],
    *,
    compat: Compat | None = None,
    region_source: Iterable[GroundingSample] = (),
    num_resamples: int = 10_000,
) -> dict[str, KindScore]:
    """Scores answers kind by kind, by the rules of `grounding_scores`: a failure to answer is a failure.

    Points and boxes that were read but lie outside the image, and boxes that enclose nothing, are answers that miss:
    they count like surplus ones. A trace that leaves the image is a failure; `embodied-r1` measures it as it is.

    A point is scored by the region in which it is right: the mask or the boxes of its own sample, or the boxes of a
    box sample with the same image and words. Point questions without any region, and answers in words, are not
    scored.

    Args:
        results: One per sample, in pixels of its image.
        samples: What was asked, and the truth.
        compat: Reproduce a published scorer where it has one for the kind: `robopoint` for points, `embodied-r1` for
            points and traces.
        region_source: Where to look for the boxes of points besides `samples`: the whole set, when `samples` are a
            part of it.
        num_resamples: Draws of the bootstrap; questions about frames of one episode are drawn together.

    Returns:
        Scores by kind (`box`, `point`, `trace`); a kind without questions is left out.

    Raises:
        ValueError: For lengths that differ.
        DataError: A mask cannot be read, or has another size than its image.
    """
    if len(results) != len(samples):
        raise ValueError(f"One result per sample is needed, found {len(results)} and {len(samples)}.")
    regions = _regions(samples, region_source)
    scores: dict[str, KindScore] = {}
    for kind in ("box", "point", "trace"):
        chosen = [i for i, sample in enumerate(samples) if sample.kind == kind and (kind != "point" or i in regions)]
        if not chosen:
            continue
        answers = [_answered(results[i], kind, compat) for i in chosen]
        truths = [samples[i] for i in chosen]
        drawn = Resampling(_groups(truths), num_resamples)
        if kind == "box":
            score = score_boxes(answers, [_held(truth.answer, "box") for truth in truths], resampling=drawn)
        elif kind == "point":
            score = _score_points(answers, [regions[i] for i in chosen], truths, compat, drawn)
        else:
            paths = [_held(truth.answer, "trace") for truth in truths]
            sizes = [truth.image_size for truth in truths]
            protocol = compat if compat == "embodied-r1" else None
            score = score_traces(answers, paths, sizes, compat=protocol, resampling=drawn)
        scores[kind] = KindScore(score, tuple(chosen))
    return scores


def score_roles(
    results: Sequence[GroundingResult],
    samples: Sequence[GroundingSample],
    *,
    compat: Compat | None = None,
    region_source: Iterable[GroundingSample] = (),
) -> dict[str, KindScore]:
    """`score_grounding` apart for each role and kind (`target box`, ...); nothing where no sample says its role."""
    groups = sorted({(sample.role, sample.kind) for sample in samples if sample.role})
    found: dict[str, KindScore] = {}
    for role, kind in groups:
        chosen = [i for i, sample in enumerate(samples) if (sample.role, sample.kind) == (role, kind)]
        scores = score_grounding(
            [results[i] for i in chosen], [samples[i] for i in chosen], compat=compat, region_source=region_source
        )
        if kind in scores:
            found[f"{role} {kind}"] = scores[kind]
    return found


def role_table(roles: Mapping[str, KindScore]) -> ResultTable:
    """The first metric of each role and kind."""
    rows = [
        [
            name,
            scored.headline_name,
            scored.score.num_questions,
            _cell(scored, scored.headline_name, scored.score.average),
        ]
        for name, scored in roles.items()
    ]
    return ResultTable(("asked for", "metric", "questions", "model"), rows, title="By what was asked for")


def headline_metrics(scores: Mapping[str, KindScore]) -> dict[str, float]:
    """One number per metric worth watching during training: `box_accuracy@0.5`, `point_parse_rate`, ..."""
    found: dict[str, float] = {}
    for kind, scored in scores.items():
        for name in _SHOWN[kind]:
            metric = next((metric for metric in scored.score.metrics if metric.name == name), None)
            if metric is not None:
                found[f"{kind}_{name}"] = metric.macro.estimate
        found[f"{kind}_parse_rate"] = scored.score.parse_rate.estimate
    return found


def comparison_table(columns: Mapping[str, Mapping[str, KindScore]], title: str = "") -> ResultTable:
    """Metrics in rows, answerers (the model, the model with shuffled instructions, the prior) in columns."""
    first = next(iter(columns.values()))
    rows: list[list[Any]] = []
    for kind, scored in first.items():
        names = [metric.name for metric in scored.score.metrics if metric.name in _SHOWN[kind]]
        for name in names:
            metric = scored.score[name]
            better = "higher" if metric.higher_is_better else "lower"
            cells = [_cell(scores.get(kind), name, scored.score.average) for scores in columns.values()]
            rows.append([kind, name, scored.score.num_questions, *cells, better])
        rates = [scores[kind].score.parse_rate if kind in scores else None for scores in columns.values()]
        rows.append([kind, "parse rate", scored.score.num_questions, *rates, "higher"])
    note = "95 % intervals. Failures to answer count as failures. Errors with `_diagonal` are shares of the diagonal."
    return ResultTable(("kind", "metric", "questions", *columns, "better"), rows, title=title, note=note)


def _cell(scored: KindScore | None, name: str, average: str) -> Any:
    if scored is None or name not in {metric.name for metric in scored.score.metrics}:
        return None
    return getattr(scored.score[name], average)


# --- The prior ------------------------------------------------------------------------------------------------------


def prior_results(
    samples: Sequence[GroundingSample], reference: Iterable[GroundingSample] | None = None
) -> list[GroundingResult]:
    """What somebody answers who sees neither image nor words: the mean box, point or trace of the reference set.

    Means are taken in shares of the image, per kind. A model that has learnt to look must beat this, and one whose
    instructions are shuffled must not.

    Args:
        samples: The questions to answer.
        reference: Where the means come from, such as the training set; the questions themselves by default.

    Returns:
        One result per sample; empty for a kind that the reference does not hold.
    """
    means = {kind: _mean_answer(kind, list(reference) if reference is not None else samples) for kind in _SHOWN}
    return [_placed(means.get(sample.kind), sample) for sample in samples]


def _mean_answer(kind: str, samples: Sequence[GroundingSample]) -> np.ndarray | None:
    rows = [row for sample in samples if sample.kind == kind for row in _relative(sample)]
    return np.mean(rows, axis=0) if rows else None


def _relative(sample: GroundingSample) -> list[np.ndarray]:
    """A sample's boxes `[2, 2]`, points `[1, 2]` or paths `[n, 2]`, as shares of the image."""
    size, answer = np.array(sample.image_size, dtype=np.float64), sample.answer
    if isinstance(answer, MaskAnswer):
        ys, xs = np.nonzero(_mask(answer, sample) > 127)
        return [np.array([[xs.mean() + 0.5, ys.mean() + 0.5]]) / size] if len(xs) else []
    if not isinstance(answer, GroundingResult):
        return []
    boxes = [np.reshape(box.xyxy, (2, 2)) / size for box in answer.boxes]
    if sample.kind == "box":
        return boxes
    if sample.kind == "trace":
        return [resample_by_arc_length(trace.points, _PRIOR_POINTS) / size for trace in answer.traces]
    points = [np.reshape(point.xy, (1, 2)) / size for point in answer.points]
    return points or [box.mean(axis=0, keepdims=True) for box in boxes]


def _placed(mean: np.ndarray | None, sample: GroundingSample) -> GroundingResult:
    width, height = sample.image_size
    if mean is None:
        return GroundingResult(image_size=sample.image_size)
    found = np.clip(mean, 0.0, 1.0) * [width, height]
    if sample.kind == "box":
        left, top, right, bottom = found.ravel().tolist()
        return GroundingResult(boxes=(Box((left, top, right, bottom)),), image_size=sample.image_size)
    if sample.kind == "point":
        return GroundingResult((Point(tuple(found[0])),), image_size=sample.image_size)
    return GroundingResult(traces=(Trace(tuple(map(tuple, found))),), image_size=sample.image_size)


# --- Pictures -------------------------------------------------------------------------------------------------------


def draw_answer(sample: GroundingSample, result: GroundingResult, max_side: int = 480) -> Image.Image:
    """The truth on the left, the answer on the right, on the same image."""
    image = sample.image.load()
    pair = [_draw_truth(sample, image), result.draw(image)]
    for picture in pair:
        picture.thumbnail((max_side, max_side))
    width, height = pair[0].size
    canvas = Image.new("RGB", (2 * width + 6, height), (128, 128, 128))
    canvas.paste(pair[0], (0, 0))
    canvas.paste(pair[1], (width + 6, 0))
    return canvas


def answer_sheet(samples: Sequence[GroundingSample], results: Sequence[GroundingResult]) -> Image.Image:
    """Truth and answer of several questions, one above the other, each under its words."""
    rows = [
        (sample.instruction, draw_answer(sample, result)) for sample, result in zip(samples, results, strict=False)
    ]
    if not rows:
        raise ValueError("samples: expected at least one, found none.")
    line = 18
    sheet = Image.new("RGB", (max(p.width for _, p in rows), sum(p.height + line for _, p in rows)), (255, 255, 255))
    top, pen = 0, ImageDraw.Draw(sheet)
    for words, picture in rows:
        pen.text((4, top + 3), words[:90], fill=(0, 0, 0))
        sheet.paste(picture, (0, top + line))
        top += picture.height + line
    return sheet


def _draw_truth(sample: GroundingSample, image: Image.Image) -> Image.Image:
    if isinstance(sample.answer, GroundingResult):
        return sample.answer.draw(image)
    picture = image.copy()
    if isinstance(sample.answer, MaskAnswer):
        mask = Image.fromarray(_mask(sample.answer, sample)).point([value // 2 for value in range(256)])
        picture.paste((0, 158, 115), mask=mask)
    return GroundingResult(image_size=sample.image_size).draw(picture)  # as large as the answer beside it


# --- Parts ----------------------------------------------------------------------------------------------------------


def _held(result: Any, kind: str) -> list[Any]:
    """What a result holds of a kind: boxes `[n, 4]`, points `[n, 2]`, the first path `[n, 2]`."""
    if not isinstance(result, GroundingResult):
        return []
    if kind == "box":
        return [box.xyxy for box in result.boxes]
    if kind == "point":
        return [point.xy for point in result.points]
    return list(result.traces[0].points) if result.traces else []


def _answered(result: GroundingResult, kind: str, compat: Compat | None) -> list[Any]:
    """What an answer says of a kind, as in `_held`, with what was rejected for where it lies."""
    held, misplaced = _held(result, kind), [e.coordinates for e in result.rejected if e.reason in _MISPLACED]
    if kind == "trace":
        paths = [flat for flat in misplaced if len(flat) >= 4] if compat == "embodied-r1" else []
        return held if held or not paths else list(zip(paths[0][::2], paths[0][1::2], strict=True))
    if kind == "point" and compat == "robopoint":
        held = held + [pixel for box in result.boxes for pixel in _pixels(box)]
    return held + [flat for flat in misplaced if len(flat) == {"box": 4, "point": 2}[kind]]


def _pixels(box: Box) -> list[tuple[int, int]]:
    """All pixels of a box: what RoboPoint's scorer makes of four numbers."""
    x1, y1, x2, y2 = map(int, box.xyxy)
    return list(itertools.product(range(x1, x2), range(y1, y2)))


def _regions(samples: Sequence[GroundingSample], source: Iterable[GroundingSample]) -> dict[int, Any]:
    """For each point sample, the boxes `[n, 4]` or the `MaskAnswer` in which its point is right."""
    wanted = {(sample.image.key, sample.instruction) for sample in samples if sample.kind == "point"}
    named = {
        (sample.image.key, sample.instruction): _held(sample.answer, "box")
        for sample in (itertools.chain(samples, source) if wanted else ())
        if sample.kind == "box" and (sample.image.key, sample.instruction) in wanted
    }
    regions: dict[int, Any] = {}
    for index, sample in enumerate(samples):
        if sample.kind == "point":
            own = sample.answer if isinstance(sample.answer, MaskAnswer) else _held(sample.answer, "box")
            region = own or named.get((sample.image.key, sample.instruction))
            if region:
                regions[index] = region
    return regions


def _score_points(
    answers: list[Any], regions: list[Any], truths: list[GroundingSample], compat: Compat | None, drawn: Resampling
) -> GroundingScore:
    if not any(isinstance(region, MaskAnswer) for region in regions):
        return score_points(answers, boxes=regions, compat=compat, resampling=drawn)
    masks = [
        _mask(region, truth) if isinstance(region, MaskAnswer) else _filled(region, truth.image_size)
        for region, truth in zip(regions, truths, strict=True)
    ]
    threshold = MASK_THRESHOLD if compat is None else None
    return score_points(answers, masks=masks, mask_threshold=threshold, compat=compat, resampling=drawn)


def _mask(answer: MaskAnswer, sample: GroundingSample) -> np.ndarray:
    """A sample's mask, uint8 `[H, W]`."""
    mask = answer.mask.load().convert("L")
    if mask.size != sample.image_size:
        raise DataError(
            explain(
                "A mask has another size than its image",
                where=sample.where,
                expected="{} x {} pixels".format(*sample.image_size),
                found="{} x {}".format(*mask.size),
                remedy="Image and mask belong to different versions of the benchmark: download both again.",
            )
        )
    return np.asarray(mask)


def _filled(boxes: Any, size: tuple[int, int]) -> np.ndarray:
    mask = np.zeros((size[1], size[0]), dtype=np.uint8)
    for x1, y1, x2, y2 in np.round(boxes).astype(int):
        mask[y1:y2, x1:x2] = 255
    return mask


def _groups(samples: Sequence[GroundingSample]) -> list[str] | None:
    """What questions are drawn with in the bootstrap (a single group allows no interval); None where all differ."""
    groups = [sample.image.group for sample in samples]
    return groups if len(set(groups)) < len(groups) else None


__all__ = [
    "KindScore",
    "answer_sheet",
    "comparison_table",
    "draw_answer",
    "headline_metrics",
    "prior_results",
    "role_table",
    "score_grounding",
    "score_roles",
]
