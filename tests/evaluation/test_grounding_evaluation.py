"""Answers against samples: every kind by hand, regions, failures, the prior, published protocols."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grounding_toy import BOX, SIZE, picture, save, schema_row, write_lines, write_schema_set
from PIL import Image

from processing_st4vla import Box, GroundingResult, Point, Trace
from processing_st4vla.spatial import Rejected, RejectReason
from training_st4vla.data.errors import DataError
from training_st4vla.data.grounding import GroundingSample, MaskAnswer, open_grounding_dataset
from training_st4vla.data.grounding.images import DecodedImage
from training_st4vla.evaluation.grounding_evaluation import (
    comparison_table,
    draw_answer,
    headline_metrics,
    score_grounding,
)

EMPTY = GroundingResult(image_size=SIZE)
UNREAD = GroundingResult(image_size=SIZE, rejected=(Rejected("?", RejectReason.NO_COORDINATES),))


def boxes(*xyxy: Any) -> GroundingResult:
    return GroundingResult(boxes=tuple(map(Box, xyxy)), image_size=SIZE)


def points(*xy: Any) -> GroundingResult:
    return GroundingResult(tuple(map(Point, xy)), image_size=SIZE)


def trace(*xy: Any) -> GroundingResult:
    return GroundingResult(traces=(Trace(xy),), image_size=SIZE)


def sample(kind: Any, answer: Any, words: str = "it", shade: int = 0) -> GroundingSample:
    return GroundingSample(DecodedImage(picture(shade)), SIZE, words, kind, answer, "pixel", "toy")


def masked(words: str = "it", shade: int = 0, level: int = 255, area: Any = BOX) -> GroundingSample:
    mask = Image.new("L", SIZE)
    mask.paste(level, tuple(int(v) for v in area))
    return sample("point", MaskAnswer(DecodedImage(mask.convert("RGB"))), words, shade)


def exactly(value: float) -> Any:
    return pytest.approx(value, abs=1e-9)


def test_scores_by_kind() -> None:
    path = ((0.0, 0.0), (30.0, 40.0))
    samples = [
        sample("box", boxes(BOX)),
        sample("trace", trace(*path), shade=1),
        sample("box", boxes(BOX), shade=2),
        sample("point", boxes(BOX), shade=3),
        sample("point", points((1, 1)), "nowhere", shade=4),  # no region: cannot be scored
    ]
    results = [boxes((10, 8, 30, 18)), trace((0, 10), (30, 48)), UNREAD, points((20, 18), (50, 40)), points((1, 1))]
    scores = score_grounding(results, samples, num_resamples=100)
    assert {kind: scored.indices for kind, scored in scores.items()} == {"box": (0, 2), "trace": (1,), "point": (3,)}
    found = headline_metrics(scores)
    assert found["box_accuracy@0.5"] == exactly(0.5)
    assert found["box_iou"] == exactly(0.25)
    assert found["box_parse_rate"] == exactly(0.5)
    assert found["point_point_accuracy"] == exactly(0.5)
    assert found["trace_rmse_diagonal"] == exactly(scores["trace"].score["rmse"].macro.estimate / np.hypot(*SIZE))
    assert scores["box"].worst(1) == [(2, 0.0)]


def test_a_point_is_right_in_the_box_of_the_same_words() -> None:
    samples = [sample("box", boxes(BOX), "cup"), sample("point", points((20, 18)), "cup")]
    scores = score_grounding([boxes(BOX), points((12, 10))], samples, num_resamples=100)
    assert scores["point"].score.headline.estimate == exactly(1.0)
    part = score_grounding([points((12, 10))], samples[1:], num_resamples=100, region_source=samples)
    assert part["point"].score.headline.estimate == exactly(1.0)
    assert score_grounding([points((12, 10))], samples[1:]) == {}


def test_masks_and_their_protocols() -> None:
    samples = [masked("a", 1, level=128), masked("b", 2), masked("c", 3), masked("d", 4)]
    results = [points((20, 18)), points((20, 18), (50, 40), (51, 41)), UNREAD, EMPTY]
    ours = score_grounding(results, samples, num_resamples=100)["point"].score
    assert ours.headline.estimate == exactly((1 + 1 / 3 + 0 + 0) / 4)
    robopoint = score_grounding(results, samples, compat="robopoint", num_resamples=100)["point"].score
    assert robopoint.headline.estimate == exactly((128 / 255 + 1 / 3 + 0 + 0) / 4)  # prose has no points: 0
    embodied = score_grounding(results, samples, compat="embodied-r1", num_resamples=100)["point"].score
    assert (embodied.average, embodied.headline.estimate) == ("micro", exactly(2 / 4))


def read(text: str, kind: Any = "auto", dialect: str = "qwen2_5_vl") -> GroundingResult:
    """A model's words, with coordinates of an image of the same size as the original."""
    return GroundingResult.from_text(text, dialect, image_size=SIZE, model_size=SIZE, kind=kind)


def test_points_outside_the_image_are_misses() -> None:
    spread = read(str([[20, 18], *[[100 + n, 10] for n in range(9)]]), "point")
    assert (len(spread.points), len(spread.rejected)) == (1, 9)
    for region in (sample("point", boxes(BOX)), masked()):
        score = score_grounding([spread], [region], num_resamples=100)["point"].score
        assert score.headline.estimate == exactly(0.1)
    score = score_grounding([spread], [masked()], compat="embodied-r1", num_resamples=100)["point"].score
    assert score.headline.estimate == exactly(0.1)


@pytest.mark.parametrize(("compat", "expected"), [("robopoint", 1 / 2), ("embodied-r1", 1 / 3), (None, 1 / 2)])
def test_an_answer_wholly_outside_stays_in_the_mean(compat: Any, expected: float) -> None:
    results = [read("[[20, 18]]", "point"), read("[[90, 10], [20, 99]]", "point")]
    score = score_grounding(results, [masked("a", 1), masked("b", 2)], compat=compat, num_resamples=100)["point"].score
    assert score.headline.estimate == exactly(expected)
    assert (score.num_scored, score.num_failed) == (2, 0)


@pytest.mark.parametrize("surplus", [[90, 10, 99, 20], [30, 28, 10, 8], [30, 8, 10, 28], [10, 8, 10, 28]])
def test_boxes_outside_inverted_or_empty_are_surplus(surplus: list[int]) -> None:
    result = read(f'[{{"bbox_2d": {list(BOX)}}}, {{"bbox_2d": {surplus}}}]')
    assert len(result.boxes) == 1
    score = score_grounding([result], [sample("box", boxes(BOX))], num_resamples=100)["box"].score
    assert (score["accuracy@0.5"].macro.estimate, score["iou"].macro.estimate) == (exactly(0.5), exactly(0.5))


def test_a_trace_that_leaves_the_image() -> None:
    truth, result = sample("trace", trace((0, 0), (64, 0))), read('[{"trace_2d": [[0, 0], [96, 0]]}]', "trace")
    ours = score_grounding([result], [truth], num_resamples=100)["trace"].score
    assert (ours.headline.estimate, ours.num_failed) == (exactly(1.0), 1)
    published = score_grounding([result], [truth], compat="embodied-r1", num_resamples=100)["trace"].score
    assert published["mae"].macro.estimate == exactly(999 * 0.5 / 2 / 2)


def test_boxes_and_masks_together() -> None:
    samples = [masked("a", 1), sample("point", boxes((40, 30, 60, 44)), "b", 2)]
    score = score_grounding([points((20, 18)), points((50, 36))], samples, num_resamples=100)["point"].score
    assert score.headline.estimate == exactly(1.0)


def test_a_mask_of_another_size_is_refused() -> None:
    wrong = sample("point", MaskAnswer(DecodedImage(Image.new("RGB", (10, 10)))))
    with pytest.raises(DataError, match=r"mask has another size.*64 x 48.*10 x 10"):
        score_grounding([points((1, 1))], [wrong])


def test_traces_by_index() -> None:
    samples = [sample("trace", trace((0, 0), (64, 48))), sample("trace", trace((0, 0), (64, 48)), shade=1)]
    results = [trace((0, 0), (64, 48)), UNREAD]
    score = score_grounding(results, samples, compat="embodied-r1", num_resamples=100)["trace"].score
    assert (score.protocol, score.num_scored, score["rmse"].macro.estimate) == ("embodied-r1", 1, exactly(0.0))
    ours = score_grounding(results, samples, num_resamples=100)["trace"].score
    assert ours["rmse_diagonal"].macro.estimate == exactly(0.5)


def test_questions_of_one_episode_are_drawn_together(tmp_path: Path) -> None:
    dataset = open_grounding_dataset(write_schema_set(tmp_path, count=3))
    kept = [one for one in dataset.samples() if one.kind == "box"]
    score = score_grounding([boxes(BOX)] * 3, kept, num_resamples=100)["box"].score
    assert score.metrics[0].macro.method == "wilson"
    same = [kept[0]] * 3
    score = score_grounding([boxes(BOX)] * 3, same, num_resamples=100)["box"].score
    assert not score.metrics[0].macro.has_bounds  # three questions about one image are no sample


def test_the_table_puts_answerers_side_by_side() -> None:
    samples = [sample("box", boxes(BOX))]
    model, prior = (score_grounding([result], samples, num_resamples=100) for result in (boxes(BOX), EMPTY))
    text = comparison_table({"model": model, "prior": prior}, "toy").to_text()
    line = next(line for line in text.splitlines() if "accuracy@0.5" in line)
    assert line.split()[:3] == ["box", "accuracy@0.5", "1"]
    assert line.index(" 1.00 [") < line.index(" 0.000 [")


def test_pictures(tmp_path: Path) -> None:
    save(tmp_path / "0.png", picture())
    one = open_grounding_dataset(write_lines(tmp_path / "rows.jsonl", [schema_row()])).sample(0)
    drawn = draw_answer(one, boxes((40, 30, 60, 44)))
    assert drawn.size == (2 * 480 + 6, 360)
    left, right = np.asarray(drawn)[:, :480], np.asarray(drawn)[:, 486:]
    assert (left != right).any()
    tinted = np.asarray(draw_answer(masked(area=(40, 30, 60, 44)), EMPTY))
    assert tinted.shape == (360, 966, 3)
    assert tinted[277, 375].tolist() != tinted[277, 375 + 486].tolist()


def test_lengths() -> None:
    with pytest.raises(ValueError, match="One result per sample"):
        score_grounding([], [sample("box", boxes(BOX))])
