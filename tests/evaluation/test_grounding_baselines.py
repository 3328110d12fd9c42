"""Baselines by hand: the mean answer, a random labelled object, words that change nothing."""

from typing import Any

import numpy as np
import pytest
from grounding_toy import BOX, SIZE, picture
from PIL import Image

from processing_st4vla import Box, GroundingResult, Point, Trace
from training_st4vla.data.grounding import GroundingSample, MaskAnswer
from training_st4vla.data.grounding.images import DecodedImage
from training_st4vla.evaluation.grounding_baselines import changed_questions, prior_results, random_object_scores

LEFT, RIGHT, BIG = (0.0, 0.0, 10.0, 10.0), (40.0, 0.0, 50.0, 10.0), (40.0, 0.0, 60.0, 10.0)


def boxes(*xyxy: Any) -> GroundingResult:
    return GroundingResult(boxes=tuple(map(Box, xyxy)), image_size=SIZE)


def point_in(xy: Any, *regions: Any) -> GroundingResult:
    return GroundingResult((Point(xy),), tuple(map(Box, regions)), image_size=SIZE)


def trace(*xy: Any) -> GroundingResult:
    return GroundingResult(traces=(Trace(xy),), image_size=SIZE)


def sample(kind: Any, answer: Any, words: str = "it", shade: int = 0) -> GroundingSample:
    return GroundingSample(DecodedImage(picture(shade)), SIZE, words, kind, answer, "pixel", "toy")


def masked(words: str = "it", shade: int = 0) -> GroundingSample:
    mask = Image.new("RGB", SIZE)
    mask.paste((255, 255, 255), tuple(int(v) for v in BOX))
    return sample("point", MaskAnswer(DecodedImage(mask)), words, shade)


def exactly(value: Any) -> Any:
    return pytest.approx(value, abs=1e-9)


def test_the_prior() -> None:
    far = (40.0, 20.0, 60.0, 40.0)
    samples = [
        sample("box", boxes(BOX)),
        sample("box", boxes(far)),
        sample("point", boxes(BOX)),
        masked(),
        sample("trace", trace((0, 0), (10, 0))),
        sample("trace", trace((0, 20), (10, 20))),
    ]
    found = prior_results(samples)
    assert found[0].boxes[0].xyxy == exactly(np.mean([BOX, far], axis=0).tolist())
    assert found[1].boxes == found[0].boxes
    assert found[2].points[0].xy == exactly((20.0, 18.0))
    assert found[4].traces[0].points[0] == exactly((0.0, 10.0))
    assert len(found[4].traces[0].points) == 10
    other = prior_results(samples, [sample("box", boxes((0, 0, 64, 48)))])
    assert other[0].boxes[0].xyxy == (0, 0, 64, 48)
    assert other[2].is_empty


def test_a_random_box_is_an_expectation() -> None:
    """Two of three boxes of an image overlap by one half; the other image has one object, and says nothing."""
    samples = [
        sample("box", boxes(LEFT), "left"),
        sample("box", boxes(RIGHT), "right"),
        sample("box", boxes(RIGHT), "right again"),  # another name is no other object
        sample("box", boxes(BIG), "big"),
        sample("box", boxes(LEFT, RIGHT), "both"),
        sample("box", boxes(BOX), "alone", shade=1),
        sample("trace", trace((0, 0), (10, 0)), "path"),
    ]
    scored = random_object_scores(samples, num_resamples=100)["box"]
    assert scored.indices == (0, 1, 2, 3, 4)
    # Of left, right and big, `left` is found by one, the others by two: their IoU of 0.5 is enough.
    expected = [1 / 3, 2 / 3, 2 / 3, 2 / 3, (1 + 1 + 1) / 2 / 3]
    assert scored.score.per_question["accuracy@0.5"].tolist() == exactly(expected)
    assert scored.score.per_question["iou"].tolist() == exactly([1 / 3, 1 / 2, 1 / 2, 1 / 2, 2.5 / 2 / 3])
    assert scored.score["accuracy@0.5"].macro.estimate == exactly(np.mean(expected))
    assert scored.score["accuracy@0.5"].micro.estimate == exactly((sum(expected) + expected[-1]) / 6)
    assert (scored.score.num_questions, scored.score.parse_rate.estimate) == (5, 1.0)


@pytest.mark.parametrize("compat", [None, "robopoint", "embodied-r1"])
def test_a_random_point_is_the_point_of_an_object(compat: Any) -> None:
    samples = [
        sample("point", point_in((5, 5), LEFT), "left"),
        sample("point", point_in((9, 40)), "free space"),  # on no object, and in no region: neither asked nor answered
        sample("box", boxes(RIGHT), "right"),
    ]
    scored = random_object_scores(samples, compat=compat, num_resamples=100)["point"]
    assert scored.indices == (0,)
    assert scored.score.headline.estimate == exactly(1 / 2)
    # An object that only the rest of the set names counts as well.
    more = random_object_scores(samples, source=[sample("box", boxes(BOX), "green")], num_resamples=100)["point"]
    assert more.score.headline.estimate == exactly(1 / 3)


def test_no_random_object_without_others() -> None:
    assert random_object_scores([sample("box", boxes(BOX)), masked(shade=1)]) == {}


def test_words_that_change_nothing() -> None:
    samples = [
        sample("box", boxes(LEFT), "left"),
        sample("box", boxes(LEFT), "the first"),
        sample("box", boxes(RIGHT), "right"),
        sample("point", point_in((5, 5), LEFT), "left"),
        sample("point", point_in((6, 6), LEFT), "the first"),
        sample("trace", trace((0, 0), (10, 0)), "push"),
        masked("hole", shade=1),
    ]
    words = ["the first", "the first", "left", "the first", "right", "hole", "left"]
    assert changed_questions(samples, words) == [2, 4, 5, 6]
    part = [samples[2]]
    assert changed_questions(part, ["again"]) == [0]
    assert changed_questions(part, ["again"], [sample("box", boxes(RIGHT), "again")]) == []
    assert changed_questions(part, ["again"], [sample("box", boxes(RIGHT), "again", shade=1)]) == [0]
