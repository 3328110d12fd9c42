"""Grounding answers against the samples they belong to: scores per kind, tables, the worst cases."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw

from processing_st4vla import Box, GroundingResult
from processing_st4vla.spatial import RejectReason
from training_st4vla.data.grounding.schema import GroundingSample, MaskAnswer
from training_st4vla.evaluation.grounding_results import GroundingScore, Resampling
from training_st4vla.evaluation.grounding_scores import Compat, score_boxes, score_points, score_traces
from training_st4vla.evaluation.grounding_truth import (
    episode_groups,
    filled,
    held,
    mask_array,
    regions_of_points,
)
from training_st4vla.evaluation.table import ResultTable

MASK_THRESHOLD = 0.5
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
    regions = regions_of_points(samples, region_source)
    scores: dict[str, KindScore] = {}
    for kind in ("box", "point", "trace"):
        chosen = [i for i, sample in enumerate(samples) if sample.kind == kind and (kind != "point" or i in regions)]
        if not chosen:
            continue
        answers = [_answered(results[i], kind, compat) for i in chosen]
        truths = [samples[i] for i in chosen]
        drawn = Resampling(episode_groups(truths), num_resamples)
        if kind == "box":
            score = score_boxes(answers, [held(truth.answer, "box") for truth in truths], resampling=drawn)
        elif kind == "point":
            score = _score_points(answers, [regions[i] for i in chosen], truths, compat, drawn)
        else:
            paths = [held(truth.answer, "trace") for truth in truths]
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
        mask = Image.fromarray(mask_array(sample.answer, sample)).point([value // 2 for value in range(256)])
        picture.paste((0, 158, 115), mask=mask)
    return GroundingResult(image_size=sample.image_size).draw(picture)  # as large as the answer beside it


# --- Parts ----------------------------------------------------------------------------------------------------------


def _answered(result: GroundingResult, kind: str, compat: Compat | None) -> list[Any]:
    """What an answer says of a kind, as in `held`, with what was rejected for where it lies."""
    given, misplaced = held(result, kind), [e.coordinates for e in result.rejected if e.reason in _MISPLACED]
    if kind == "trace":
        paths = [flat for flat in misplaced if len(flat) >= 4] if compat == "embodied-r1" else []
        return given if given or not paths else list(zip(paths[0][::2], paths[0][1::2], strict=True))
    if kind == "point" and compat == "robopoint":
        given = given + [pixel for box in result.boxes for pixel in _pixels(box)]
    return given + [flat for flat in misplaced if len(flat) == {"box": 4, "point": 2}[kind]]


def _pixels(box: Box) -> list[tuple[int, int]]:
    """All pixels of a box: what RoboPoint's scorer makes of four numbers."""
    x1, y1, x2, y2 = map(int, box.xyxy)
    return list(itertools.product(range(x1, x2), range(y1, y2)))


def _score_points(
    answers: list[Any], regions: list[Any], truths: list[GroundingSample], compat: Compat | None, drawn: Resampling
) -> GroundingScore:
    if not any(isinstance(region, MaskAnswer) for region in regions):
        return score_points(answers, boxes=regions, compat=compat, resampling=drawn)
    masks = [
        mask_array(region, truth) if isinstance(region, MaskAnswer) else filled(region, truth.image_size)
        for region, truth in zip(regions, truths, strict=True)
    ]
    threshold = MASK_THRESHOLD if compat is None else None
    return score_points(answers, masks=masks, mask_threshold=threshold, compat=compat, resampling=drawn)


__all__ = [
    "KindScore",
    "answer_sheet",
    "comparison_table",
    "draw_answer",
    "headline_metrics",
    "role_table",
    "score_grounding",
    "score_roles",
]
