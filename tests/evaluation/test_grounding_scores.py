"""Grounding scores by hand, to 1e-9, with failures counted and with the published protocols reproduced."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training_st4vla.evaluation.grounding_results import Resampling
from training_st4vla.evaluation.grounding_scores import (
    TRACE_ERRORS,
    score_boxes,
    score_points,
    score_traces,
    trace_errors,
)
from training_st4vla.evaluation.intervals import wilson_interval

FAST = Resampling(num_resamples=200)
BOX = [0, 0, 10, 10]


def exactly(value: float) -> object:
    return pytest.approx(value, abs=1e-9)


# Boxes


def test_boxes_by_hand() -> None:
    score = score_boxes([[BOX], [[5, 5, 15, 15]], None], [[BOX], [BOX], [BOX]], thresholds=(0.1, 0.5), resampling=FAST)
    assert score["accuracy@0.1"].macro.estimate == exactly(2 / 3)
    assert score["accuracy@0.5"].macro.estimate == exactly(1 / 3)
    assert score["iou"].macro.estimate == exactly((1 + 25 / 175) / 3)
    assert score["iou"].micro.estimate == exactly((1 + 25 / 175) / 3)
    assert score["accuracy@0.5"].macro.low == wilson_interval(1, 3).low
    assert score.parse_rate.estimate == exactly(2 / 3)
    assert (score.num_questions, score.num_failed, score.num_scored) == (3, 1, 3)
    assert score.headline is score["accuracy@0.1"].macro
    assert score.worst_questions(2) == [2, 0]


def test_surplus_and_missing_boxes_cost_the_same() -> None:
    far, other = [50, 50, 60, 60], [20, 20, 30, 30]
    surplus = score_boxes([[BOX, far, other]], [[BOX]], resampling=FAST)
    missing = score_boxes([[BOX]], [[BOX, far, other]], resampling=FAST)
    assert surplus["iou"].macro.estimate == missing["iou"].macro.estimate == exactly(1 / 3)


def test_one_box_cannot_serve_two_references() -> None:
    score = score_boxes([[BOX, BOX]], [[BOX, [0, 0, 10, 8]]], thresholds=(0.5,), resampling=FAST)
    assert score["iou"].macro.estimate == exactly((1 + 0.8) / 2)
    single = score_boxes([[BOX]], [[BOX, [0, 0, 10, 8]]], resampling=FAST)
    assert single["iou"].macro.estimate == exactly(0.5)


def test_micro_weighs_boxes_and_macro_weighs_questions() -> None:
    four = [[10 * i, 0, 10 * i + 5, 5] for i in range(4)]
    score = score_boxes([[BOX], None], [[BOX], four], resampling=FAST)
    assert score["iou"].macro.estimate == exactly(1 / 2)
    assert score["iou"].micro.estimate == exactly(1 / 5)


def test_first_box_only() -> None:
    score = score_boxes([[BOX, [50, 50, 60, 60]]], [[BOX]], matching="first", resampling=FAST)
    assert score["iou"].macro.estimate == exactly(1.0)
    with pytest.raises(ValueError, match="allows one box"):
        score_boxes([[BOX]], [[BOX, BOX]], matching="first")
    with pytest.raises(ValueError, match="matching"):
        score_boxes([[BOX]], [[BOX]], matching="best")  # type: ignore[arg-type]


@pytest.mark.parametrize("reference", [[], [[3, 3, 3, 8]], [[8, 8, 2, 2]]])
def test_references_need_an_area(reference: list) -> None:
    with pytest.raises(ValueError, match="area"):
        score_boxes([[BOX]], [reference])


def test_box_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="per question"):
        score_boxes([[BOX]], [])
    with pytest.raises(ValueError, match="thresholds"):
        score_boxes([[BOX]], [[BOX]], thresholds=(0.0,))


# Points


def test_points_in_boxes_macro_and_micro() -> None:
    """The example of UX.md: one point right, and one in ten; and a failure, which both averages count."""
    ten = [[1.0, 1.0]] + [[99.0, 99.0]] * 9
    score = score_points([[[5, 5]], ten, None, []], boxes=[[BOX]] * 4, resampling=FAST)
    assert score["point_accuracy"].macro.estimate == exactly((1 + 0.1 + 0 + 0) / 4)
    assert score["point_accuracy"].micro.estimate == exactly(2 / 13)
    assert score.parse_rate.estimate == exactly(0.5)
    assert score.per_question["point_accuracy"].tolist() == exactly([1.0, 0.1, 0.0, 0.0])


def test_points_in_masks_with_a_threshold_or_soft() -> None:
    mask = np.zeros((4, 4), dtype=np.uint8)
    mask[1, 2], mask[3, 3] = 255, 100
    points = [[[2.5, 1.5], [3, 3], [0, 0], [9, 9]]]
    hard = score_points(points, masks=[mask], mask_threshold=0.5, resampling=FAST)
    soft = score_points(points, masks=[mask], mask_threshold="soft", resampling=FAST)
    assert hard.headline.estimate == exactly(1 / 4)
    assert soft.headline.estimate == exactly((1 + 100 / 255) / 4)


def test_the_mask_threshold_is_explicit() -> None:
    mask = np.ones((2, 2), dtype=bool)
    for threshold in (None, 1.0, -0.1, "hard"):
        with pytest.raises(ValueError, match="mask_threshold"):
            score_points([[[0, 0]]], masks=[mask], mask_threshold=threshold)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="leave `mask_threshold` out"):
        score_points([[[0, 0]]], masks=[mask], mask_threshold=0.5, compat="robopoint")
    with pytest.raises(ValueError, match="either"):
        score_points([[[0, 0]]])
    with pytest.raises(ValueError, match="mask 0: "):
        score_points([[[0, 0]]], masks=[np.zeros((2, 2), dtype=bool)], mask_threshold=0.5)
    with pytest.raises(ValueError, match="region 0"):
        score_points([[[0, 0]]], boxes=[[]])


def robopoint_published(answers: list, masks: list) -> float:
    """The published rule, written out: soft values, integer pixels, unparsed answers skipped, mean over questions."""
    accuracy = []
    for points, mask in zip(answers, masks, strict=True):
        if points is None:
            continue
        values = []
        for x, y in points:
            inside = 0 <= int(x) < mask.shape[1] and 0 <= int(y) < mask.shape[0]
            values.append(mask[int(y), int(x)] / 255.0 if inside else 0.0)
        accuracy.append(sum(values) / len(values) if values else 0.0)
    return sum(accuracy) / len(accuracy)


def embodied_published(answers: list, masks: list) -> float:
    hits = total = 0
    for points, mask in zip(answers, masks, strict=True):
        for x, y in points or []:
            total += 1
            inside = 0 <= int(x) < mask.shape[1] and 0 <= int(y) < mask.shape[0]
            hits += bool(inside and mask[int(y), int(x)] > 0)
    return hits / total


def test_compat_protocols_by_hand() -> None:
    mask = np.zeros((10, 10), dtype=np.uint8)
    mask[:5], mask[5] = 255, 51
    answers = [[[1, 1], [1, 5]], None, [], [[1, 9]] * 8]
    masks = [mask] * 4
    robopoint = score_points(answers, masks=masks, compat="robopoint", resampling=FAST)
    assert robopoint.headline.estimate == exactly((0.6 + 0 + 0) / 3) == exactly(robopoint_published(answers, masks))
    assert (robopoint.num_scored, robopoint.num_failed, robopoint.average) == (3, 2, "macro")
    assert math.isnan(robopoint.per_question["point_accuracy"][1])
    embodied = score_points(answers, masks=masks, compat="embodied-r1", resampling=FAST)
    assert embodied.headline.estimate == exactly(2 / 10) == exactly(embodied_published(answers, masks))
    ours = score_points(answers, masks=masks, mask_threshold="soft", resampling=FAST)
    assert ours.headline.estimate == exactly(0.6 / 4)


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_compat_protocols_equal_the_published_rules(data: st.DataObject) -> None:
    point = st.tuples(st.floats(-3, 9), st.floats(-3, 9))
    answers = data.draw(st.lists(st.none() | st.lists(point, max_size=4), min_size=2, max_size=6))
    rng = np.random.default_rng(data.draw(st.integers(0, 100)))
    masks = [rng.choice(np.array([0, 40, 255], dtype=np.uint8), size=(6, 7)) for _ in answers]
    for mask in masks:
        mask[0, 0] = 255
    few = Resampling(num_resamples=5)
    if any(answer is not None for answer in answers):
        found = score_points(answers, masks=masks, compat="robopoint", resampling=few)
        assert found.headline.estimate == exactly(robopoint_published(answers, masks))
    if any(answers):
        found = score_points(answers, masks=masks, compat="embodied-r1", resampling=few)
        assert found.headline.estimate == exactly(embodied_published(answers, masks))


def test_compat_with_nothing_parsed() -> None:
    with pytest.raises(ValueError, match="no answer was parsed"):
        score_points([None], boxes=[[BOX]], compat="robopoint")
    empty = score_points([None, []], boxes=[[BOX]] * 2, compat="embodied-r1", resampling=FAST)
    assert empty.headline.estimate == 0.0
    with pytest.raises(ValueError, match="compat"):
        score_points([None], boxes=[[BOX]], compat="molmo")  # type: ignore[arg-type]


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.none() | st.lists(st.tuples(st.floats(0, 20), st.floats(0, 20)), max_size=5), min_size=1, max_size=8)
)
def test_a_failure_never_helps(answers: list) -> None:
    few = Resampling(num_resamples=5)
    boxes = [[BOX]] * len(answers)
    whole = score_points(answers, boxes=boxes, resampling=few)
    for i in range(len(answers)):
        worse = [*answers[:i], None, *answers[i + 1 :]]
        score = score_points(worse, boxes=boxes, resampling=few)
        assert score.headline.estimate <= whole.headline.estimate + 1e-12
        assert score.parse_rate.estimate <= whole.parse_rate.estimate


# Traces


def test_trace_errors_of_a_shifted_line() -> None:
    errors = trace_errors([[0, 30], [100, 30]], [[0, 0], [10, 0], [100, 0]])
    assert errors == {name: exactly(15.0 if name == "mae" else 30.0) for name in TRACE_ERRORS}


def test_trace_errors_of_a_reversed_line() -> None:
    """Evenly spaced u_k in [0, 1]: mean (1 - 2 u)^2 = (n + 1) / (3 (n - 1)), mean |1 - 2 u| = n / (2 (n - 1))."""
    errors = trace_errors([[100, 0], [0, 0]], [[0, 0], [100, 0]], num_points=100)
    assert errors["rmse"] == exactly(100 * math.sqrt(101 / 297))
    assert errors["mae"] == exactly(100 * (100 / (2 * 99)) / 2)
    assert errors["start_error"] == errors["end_error"] == exactly(100.0)
    assert errors["frechet"] == exactly(100.0)
    assert errors["hausdorff"] == exactly(0.0)


def test_the_same_path_with_other_vertices_has_no_error() -> None:
    """UX.md finding 6: resampling by index gives hundreds of pixels here."""
    reference = [[0, 0], [999, 0]]
    answer = [[i, 0] for i in range(10)] + [[999, 0]]
    score = score_traces([answer], [reference], (1000, 1000), resampling=FAST)
    published = score_traces([answer], [reference], (1000, 1000), compat="embodied-r1", resampling=FAST)
    assert score["rmse"].macro.estimate == exactly(0.0)
    assert published["rmse"].macro.estimate > 400


def test_failed_traces_have_the_diagonal_as_error() -> None:
    score = score_traces(
        [[[0, 30], [100, 30]], None, []], [[[0, 0], [100, 0]]] * 3, [(300, 400)] * 2 + [(30, 40)], resampling=FAST
    )
    for name in TRACE_ERRORS:
        error = 15.0 if name == "mae" else 30.0
        assert score[name].macro.estimate == exactly((error + 500 + 50) / 3)
        assert score[f"{name}_diagonal"].macro.estimate == exactly((error / 500 + 1 + 1) / 3)
    assert score["rmse"].micro.estimate == exactly(math.sqrt((30**2 + 500**2 + 50**2) / 3))
    assert score["frechet"].micro == score["frechet"].macro
    assert score.metrics[0].name == "rmse_diagonal"
    assert score.worst_questions(1) == [1]
    assert score.parse_rate.estimate == exactly(1 / 3)


def test_an_answer_is_never_worse_than_a_failure() -> None:
    score = score_traces([[[1e6, 1e6]]], [[[0, 0], [10, 0]]], (30, 40), resampling=FAST)
    assert all(score[f"{name}_diagonal"].macro.estimate == exactly(1.0) for name in TRACE_ERRORS)


def test_compat_traces_by_hand() -> None:
    """Scaled to 0-999 per axis; (0, 0), (499.5, 0), (999, 0) against (0, 0), (499.5, 0), (999, 999)."""
    predictions = [[[0, 0], [1000, 0]], [[7, 7]], None]
    references = [[[0, 0], [500, 0], [1000, 500]], [[0, 0], [9, 9]], [[0, 0], [9, 9]]]
    score = score_traces(predictions, references, (1000, 500), compat="embodied-r1", resampling=FAST)
    assert score["rmse"].macro.estimate == exactly(math.sqrt(999**2 / 3))
    assert score["mae"].macro.estimate == exactly(999 / 2 / 3)
    assert (score.num_scored, score.num_failed) == (1, 1)
    assert score.to_dict(per_question=True)["per_question"]["rmse"][1:] == [None, None]


def test_trace_arguments_are_checked() -> None:
    line = [[0, 0], [1, 1]]
    with pytest.raises(ValueError, match="image_sizes"):
        score_traces([line], [line], (0, 10))
    with pytest.raises(ValueError, match="embodied-r1"):
        score_traces([line], [line], (9, 9), compat="robopoint")
    with pytest.raises(ValueError, match="none is left"):
        score_traces([None], [line], (9, 9), compat="embodied-r1")
    with pytest.raises(ValueError, match="at least one point"):
        score_traces([line], [[]], (9, 9))


def test_many_traces_are_scored_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    answers = [None if i % 5 == 0 else rng.uniform(0, 90, size=(rng.integers(1, 6), 2)) for i in range(23)]
    references = [rng.uniform(0, 90, size=(rng.integers(1, 6), 2)) for _ in range(23)]
    whole = score_traces(answers, references, (90, 90), resampling=FAST)
    monkeypatch.setattr("training_st4vla.evaluation.grounding_scores._CHUNK", 4)
    assert score_traces(answers, references, (90, 90), resampling=FAST).to_dict() == whole.to_dict()
    for i in (1, 2, 22):
        single = trace_errors(answers[i], references[i])
        assert {name: whole.per_question[name][i] for name in TRACE_ERRORS} == pytest.approx(single)


# What comes back


def test_scores_are_json_and_tables() -> None:
    score = score_points([[[5, 5]], None], boxes=[[BOX]] * 2, resampling=FAST)
    loaded = json.loads(json.dumps(score.to_dict(per_question=True), allow_nan=False))
    assert loaded["headline"]["estimate"] == 0.5
    assert loaded["headline"]["metric"] == "point_accuracy"
    text = score.table().to_text()
    assert "point_accuracy" in text
    assert "parse rate" in text
    assert "failures counted as failures" in text
    with pytest.raises(KeyError, match="point_accuracy"):
        score["iou"]


def test_clusters_reach_the_intervals() -> None:
    groups = ["a"] * 5 + ["b"] * 5 + ["c"] * 5
    answers = [[[5, 5]]] * 5 + [[[50, 50]]] * 5 + [None] * 5
    score = score_points(answers, boxes=[[BOX]] * 15, resampling=Resampling(groups=groups, num_resamples=300))
    assert score.headline.n == 3
    assert score.headline.method == "cluster bootstrap"
    dropped = score_points(
        answers, boxes=[[BOX]] * 15, compat="robopoint", resampling=Resampling(groups=groups, num_resamples=300)
    )
    assert dropped.headline.n == 2
