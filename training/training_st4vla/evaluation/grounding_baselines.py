"""What a score must beat: the mean answer, a random labelled object of the image, the words of another question."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from processing_st4vla import Box, GroundingResult, Point, Trace
from training_st4vla.data.grounding.schema import GroundingSample, MaskAnswer
from training_st4vla.evaluation.geometry import resample_by_arc_length
from training_st4vla.evaluation.grounding_evaluation import KindScore, score_grounding
from training_st4vla.evaluation.grounding_results import GroundingScore, Metric, Resampling
from training_st4vla.evaluation.grounding_scores import Compat
from training_st4vla.evaluation.grounding_truth import episode_groups, held, mask_array
from training_st4vla.evaluation.intervals import wilson_interval

_PRIOR_KINDS = ("box", "point", "trace")
_PRIOR_POINTS = 10


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
    means = {kind: _mean_answer(kind, list(reference) if reference is not None else samples) for kind in _PRIOR_KINDS}
    return [_placed(means.get(sample.kind), sample) for sample in samples]


def _mean_answer(kind: str, samples: Sequence[GroundingSample]) -> np.ndarray | None:
    rows = [row for sample in samples if sample.kind == kind for row in _relative(sample)]
    return np.mean(rows, axis=0) if rows else None


def _relative(sample: GroundingSample) -> list[np.ndarray]:
    """A sample's boxes `[2, 2]`, points `[1, 2]` or paths `[n, 2]`, as shares of the image."""
    size, answer = np.array(sample.image_size, dtype=np.float64), sample.answer
    if isinstance(answer, MaskAnswer):
        ys, xs = np.nonzero(mask_array(answer, sample) > 127)
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


# --- A random object ------------------------------------------------------------------------------------------------


def random_object_scores(
    samples: Sequence[GroundingSample],
    *,
    compat: Compat | None = None,
    source: Sequence[GroundingSample] = (),
    num_resamples: int = 10_000,
) -> dict[str, KindScore]:
    """What somebody scores who sees every object of the image and does not hear which one is meant.

    The answer is one of the image's labelled objects, each with the same chance: its box, or its labelled point (the
    centre of its box where it has none). Nothing is drawn: a question's score is the mean over the objects. An object
    is a box that a box question or a point question of the same image names, whatever it is called there. Questions
    of images with fewer than two objects are left out, and so are traces.

    Args:
        samples: The questions.
        compat: As for `score_grounding`.
        source: Further samples about the same images: the whole set, when `samples` are a part of it.
        num_resamples: Draws of the bootstrap.

    Returns:
        Scores by kind (`box`, `point`); a kind without such a question is left out.
    """
    known = [*samples, *source]
    objects = _labelled_objects(known)
    rows = [
        (i, answer) for i, sample in enumerate(samples) for answer in _choices(objects.get(sample.image.key), sample)
    ]
    if not rows:
        return {}
    owners, answers = [i for i, _ in rows], [answer for _, answer in rows]
    scores = score_grounding(
        answers, [samples[i] for i in owners], compat=compat, region_source=known, num_resamples=1
    )
    return {kind: _expected(scored, owners, samples, num_resamples) for kind, scored in scores.items()}


def _labelled_objects(samples: Iterable[GroundingSample]) -> dict[str, dict[Box, Point]]:
    """By image, the box of each labelled object and its point."""
    found: dict[str, dict[Box, Point]] = {}
    for sample in samples:
        answer = sample.answer
        if isinstance(answer, GroundingResult) and sample.kind in ("box", "point"):
            objects = found.setdefault(sample.image.key, {})
            for box in answer.boxes:
                x1, y1, x2, y2 = box.xyxy
                objects.setdefault(Box(box.xyxy), Point(((x1 + x2) / 2, (y1 + y2) / 2)))
            if len(answer.boxes) == len(answer.points) == 1:
                objects[Box(answer.boxes[0].xyxy)] = Point(answer.points[0].xy)
    return found


def _choices(objects: dict[Box, Point] | None, sample: GroundingSample) -> list[GroundingResult]:
    if objects is None or len(objects) < 2 or sample.kind not in ("box", "point"):
        return []
    if sample.kind == "box":
        return [GroundingResult(boxes=(box,), image_size=sample.image_size) for box in objects]
    return [GroundingResult((point,), image_size=sample.image_size) for point in objects.values()]


def _expected(
    scored: KindScore, owners: Sequence[int], samples: Sequence[GroundingSample], num_resamples: int
) -> KindScore:
    """The scores of single answers as the mean of each question's answers, and of those over the questions."""
    rows = np.array([owners[i] for i in scored.indices])
    questions, place, count = np.unique(rows, return_inverse=True, return_counts=True)
    truths = [samples[i] for i in questions]
    drawn = Resampling(episode_groups(truths), num_resamples)
    # A question counts in the micro mean as often as one answer is compared: once for each box it asks for.
    asked_for = [len(held(truth.answer, "box")) if truth.kind == "box" else 1 for truth in truths]
    weights = np.array(asked_for, dtype=np.float64)
    values = {name: np.bincount(place, weights=found) / count for name, found in scored.score.per_question.items()}
    metrics = tuple(
        Metric(
            metric.name,
            drawn.mean(values[metric.name]),
            drawn.pooled(values[metric.name] * weights, weights),
            metric.unit,
            metric.higher_is_better,
        )
        for metric in scored.score.metrics
    )
    score: GroundingScore = replace(
        scored.score,
        num_questions=len(questions),
        num_failed=0,
        num_scored=len(questions),
        parse_rate=wilson_interval(len(questions), len(questions)),
        metrics=metrics,
        per_question=values,
    )
    return KindScore(score, tuple(questions.tolist()))


# --- Other words ----------------------------------------------------------------------------------------------------


def changed_questions(
    samples: Sequence[GroundingSample], instructions: Sequence[str], source: Iterable[GroundingSample] = ()
) -> list[int]:
    """Which questions have another answer under other words, as far as the data say.

    A question is the same when its words are, or when the data ask the new words about the same image and give the
    same answer: two names of one object. To score such a question as if it had been given wrong words would mistake
    listening for guessing.

    Args:
        samples: The questions, and their own words.
        instructions: The new words, one per question.
        source: Further samples about the same images: the whole set, when `samples` are a part of it.

    Returns:
        Indices into `samples`, rising.
    """
    known: dict[tuple[str, str, str], list[object]] = {}
    for sample in itertools.chain(samples, source):
        known.setdefault((sample.image.key, sample.kind, sample.instruction), []).append(_meant(sample))
    return [
        i
        for i, (sample, words) in enumerate(zip(samples, instructions, strict=True))
        if words != sample.instruction and _meant(sample) not in known.get((sample.image.key, sample.kind, words), [])
    ]


def _meant(sample: GroundingSample) -> object:
    """What is the same for two questions with the same answer: the region of a point, else the coordinates."""
    if isinstance(sample.answer, MaskAnswer):
        return sample.answer.mask.key
    region = held(sample.answer, "box") if sample.kind == "point" else []
    return region or held(sample.answer, sample.kind)


__all__ = ["changed_questions", "prior_results", "random_object_scores"]
