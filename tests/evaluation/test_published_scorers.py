"""Published scorers written out, against `score_grounding`, from a model's words to the last digit."""

import re
from typing import Any

import numpy as np
import pytest
from grounding_toy import picture
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from processing_st4vla import Box, GroundingResult, Trace
from training_st4vla.data.grounding import GroundingSample, MaskAnswer
from training_st4vla.data.grounding.images import DecodedImage
from training_st4vla.evaluation.grounding_evaluation import score_grounding

WIDTH, HEIGHT = SIZE = (100, 50)
BOX = (20.0, 10.0, 60.0, 30.0)


def soft_mask() -> np.ndarray:
    """White inside, two grey levels at the edge, as JPEG leaves them."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    mask[10:30, 20:60], mask[15:25, 60:64], mask[15:25, 64:66] = 255, 120, 3
    return mask


def asked(kind: Any, answer: Any, number: int) -> GroundingSample:
    return GroundingSample(DecodedImage(picture(number, SIZE)), SIZE, f"it {number}", kind, answer, "pixel", "toy")


def masked(count: int) -> list[GroundingSample]:
    answer = MaskAnswer(DecodedImage(Image.fromarray(soft_mask()).convert("RGB")))
    return [asked("point", answer, number) for number in range(count)]


def read(text: str, kind: Any, dialect: str = "qwen2_5_vl") -> GroundingResult:
    return GroundingResult.from_text(text, dialect, image_size=SIZE, model_size=SIZE, kind=kind)


def scored(texts: list[str], samples: list[GroundingSample], dialect: str = "qwen2_5_vl", **arguments: Any) -> Any:
    kind = samples[0].kind
    results = [read(text, kind, dialect) for text in texts]
    return score_grounding(results, samples, num_resamples=10, **arguments)[kind].score


def exactly(value: float) -> Any:
    return pytest.approx(value, abs=1e-9)


# --- Written out from what their sources do -------------------------------------------------------------------------


def robopoint(texts: list[str], mask: np.ndarray) -> float:
    """Mean over questions of the mean mask value; four numbers are all pixels of a box; prose scores 0."""
    totals = []
    for text in texts:
        pixels: list[tuple[int, int]] = []
        for found in re.findall(r"\(([^()]*)\)", text):
            numbers = [float(number) for number in found.split(",")]
            ticks = [int(number * side) for number, side in zip(numbers, [WIDTH, HEIGHT] * 2, strict=False)]
            if len(numbers) == 2:
                pixels.append((ticks[0], ticks[1]))
            elif len(numbers) == 4:
                pixels += [(x, y) for y in range(ticks[1], ticks[3]) for x in range(ticks[0], ticks[2])]
        values = [mask[y, x] / 255.0 if 0 <= x < WIDTH and 0 <= y < HEIGHT else 0.0 for x, y in pixels]
        totals.append(sum(values) / len(values) if values else 0.0)
    return sum(totals) / len(totals)


def embodied_points(answers: list[list[tuple[float, float]]], mask: np.ndarray) -> float:
    """All hits over all points; a hit is any mask value above 0."""
    pixels = [(int(x), int(y)) for points in answers for x, y in points]
    hits = [0 <= x < WIDTH and 0 <= y < HEIGHT and bool(mask[y, x] > 0) for x, y in pixels]
    return sum(hits) / len(hits) if hits else 0.0


def embodied_traces(answers: list[Any], truths: list[Any]) -> tuple[float, float]:
    """RMSE and MAE of both paths on 0-999, the shorter resampled by index; fewer than two points are dropped."""
    rmse, mae = [], []
    for answer, truth in zip(answers, truths, strict=True):
        if len(answer) < 2:
            continue
        count = max(len(answer), len(truth))
        paths = []
        for path in (answer, truth):
            scaled = [(x / WIDTH * 999, y / HEIGHT * 999) for x, y in path]
            steps = [i * (len(path) - 1) / (count - 1) for i in range(count)]
            floors = [min(int(step), len(path) - 2) for step in steps]
            paths.append(
                [
                    [scaled[i][axis] * (1 - (step - i)) + scaled[i + 1][axis] * (step - i) for axis in (0, 1)]
                    for step, i in zip(steps, floors, strict=True)
                ]
            )
        gaps = [(a[0] - b[0], a[1] - b[1]) for a, b in zip(*paths, strict=True)]
        rmse.append((sum(dx**2 + dy**2 for dx, dy in gaps) / count) ** 0.5)
        mae.append(sum((abs(dx) + abs(dy)) / 2 for dx, dy in gaps) / count)
    return sum(rmse) / len(rmse), sum(mae) / len(mae)


# --- By hand --------------------------------------------------------------------------------------------------------


def test_robopoint_by_hand() -> None:
    texts = [
        "[(0.3, 0.4), (0.61, 0.4), (0.9, 0.9), (1.5, 0.4)]",  # 1, 120 / 255, 0, and one outside
        "I cannot see it.",
        "[]",
        "[(1.2, 0.5), (0.5, -0.1)]",  # wholly outside
        "[(0.1, 0.2, 0.3, 0.6)]",  # half of the box's pixels lie in the mask
    ]
    expected = ((1 + 120 / 255) / 4 + 0 + 0 + 0 + 1 / 2) / 5
    score = scored(texts, masked(5), "robopoint", compat="robopoint")
    assert score.headline.estimate == exactly(expected) == exactly(robopoint(texts, soft_mask()))
    assert (score.num_scored, score.average) == (5, "macro")


def test_embodied_r1_points_by_hand() -> None:
    texts = ["<point>[[30, 20], [65, 20], [90, 45], [300, 20]]</point>", "no", "<point>[[300, 20]]</point>"]
    score = scored(texts, masked(3), compat="embodied-r1")
    assert (score.average, score.headline.estimate) == ("micro", exactly(2 / 5))
    truth = GroundingResult(boxes=(Box(BOX),), image_size=SIZE)
    boxed = scored(texts, [asked("point", truth, number) for number in range(3)], compat="embodied-r1")
    assert boxed.headline.estimate == exactly(1 / 5)


def test_our_own_rules_by_hand() -> None:
    boxes = [asked("box", GroundingResult(boxes=(Box(BOX),), image_size=SIZE), n) for n in range(4)]
    texts = [
        '[{"bbox_2d": [20, 10, 60, 30]}, {"bbox_2d": [60, 30, 20, 10]}]',  # right, and one inverted
        '[{"bbox_2d": [20, 10, 60, 20]}]',  # its upper half
        '[{"bbox_2d": [120, 10, 160, 30]}]',  # outside
        "no",
    ]
    score = scored(texts, boxes)
    assert score["accuracy@0.5"].macro.estimate == exactly((1 / 2 + 1 + 0 + 0) / 4)
    assert score["iou"].micro.estimate == exactly((1 + 1 / 2 + 0 + 0) / 5)
    assert score.parse_rate.estimate == exactly(3 / 4)
    points = scored(["[[30, 20], [300, 20], [65, 20]]", "no", "[[300, 20]]"], masked(3))
    assert points.headline.estimate == exactly((1 / 3 + 0 + 0) / 3)
    path = Trace(((0.0, 0.0), (100.0, 0.0)))
    traces = [asked("trace", GroundingResult(traces=(path,), image_size=SIZE), n) for n in range(3)]
    moved = scored(["[[0, 10], [50, 10], [100, 10]]", "no", "[[0, 0], [101, 0]]"], traces)
    assert moved["rmse"].macro.estimate == exactly((10 + 2 * np.hypot(*SIZE)) / 3)
    assert moved["end_error_diagonal"].macro.estimate == exactly((10 / np.hypot(*SIZE) + 2) / 3)


# --- By the written-out rules ---------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_robopoint_equals_the_published_rule(data: st.DataObject) -> None:
    unit = st.integers(-200, 1200).map(lambda number: number / 1000)
    points = data.draw(st.lists(st.lists(st.tuples(unit, unit), max_size=4), min_size=1, max_size=4))
    texts = ["[" + ", ".join(f"({x:.3f}, {y:.3f})" for x, y in answer) + "]" for answer in points]
    score = scored(texts, masked(len(texts)), "robopoint", compat="robopoint")
    assert score.headline.estimate == exactly(robopoint(texts, soft_mask()))


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_embodied_r1_equals_the_published_rules(data: st.DataObject) -> None:
    place = st.tuples(st.integers(2, 120), st.integers(2, 60))
    points = data.draw(st.lists(st.lists(place, max_size=4), min_size=1, max_size=4))
    texts = [f"<point>{[list(xy) for xy in answer]}</point>" for answer in points]
    score = scored(texts, masked(len(texts)), compat="embodied-r1")
    assert score.headline.estimate == exactly(embodied_points(points, soft_mask()))

    inside = st.tuples(st.integers(0, WIDTH), st.integers(0, HEIGHT))
    truths = data.draw(st.lists(st.lists(inside, min_size=2, max_size=5), min_size=1, max_size=3))
    answers = [data.draw(st.lists(place, min_size=2 if n == 0 else 0, max_size=5)) for n in range(len(truths))]
    held = [GroundingResult(traces=(Trace(tuple(path)),), image_size=SIZE) for path in truths]
    texts = [f"<point>{[list(xy) for xy in answer]}</point>" for answer in answers]
    score = scored(texts, [asked("trace", one, n) for n, one in enumerate(held)], compat="embodied-r1")
    rmse, mae = embodied_traces(answers, truths)
    assert score["rmse"].macro.estimate == exactly(rmse)
    assert score["mae"].macro.estimate == exactly(mae)
