"""Asking where something is and reading the answer: the words, the supervision, pixels of the original image."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from processing_st4vla import Box, GroundingResult, Point

SIZE = (160, 120)  # of the drawn views, width and height; the planner sees 112 x 112


def answer(processor: Any, inputs: Any, *texts: str) -> torch.Tensor:
    """What `generate` would return for these answers: prompts, then tokens, padded on the right."""
    ids = processor.tokenizer([text + "<|im_end|>" for text in texts], padding=True, padding_side="right")
    return torch.cat([inputs["input_ids"], torch.tensor(ids["input_ids"])], dim=1)


def test_boxes_and_points_come_back_in_pixels_of_the_original(processor: Any, draw_view: Callable) -> None:
    inputs = processor.ground(images=[[draw_view(0)], [draw_view(1, 240, 320)]], text=["the cube", "the cube"])
    text = '[{"bbox_2d": [14, 28, 56, 112], "label": "cube"}, {"point_2d": [7, 28], "label": "tip"}]'
    first, second = processor.post_process_grounding(answer(processor, inputs, text, text), inputs)
    assert first.image_size == SIZE
    assert first.boxes[0].xyxy == pytest.approx((20, 30, 80, 120))
    assert first.boxes[0].label == "cube"
    assert first.points[0].xy == pytest.approx((10, 30))
    assert first.points[0].label == "tip"
    assert first.raw_text == text  # without the end token
    assert second.image_size == (320, 240)
    assert second.boxes[0].xyxy == pytest.approx((40, 60, 160, 240))


def test_each_sample_is_measured_by_its_own_first_image(processor: Any, draw_view: Callable) -> None:
    # The grids of all images stand one after the other: a sample's first image is not the batch's.
    samples = [[draw_view(0), draw_view(1, 64, 48)], [draw_view(2, 56, 112)], [draw_view(3, 240, 320)]]
    inputs = processor.ground(images=samples, text=["it"] * 3, image_size=None)
    assert inputs["image_grid_thw"][:, 1:].tolist() == [[8, 12], [4, 4], [4, 8], [18, 22]]
    whole = [f'{{"bbox_2d": [0, 0, {size}]}}' for size in ("168, 112", "112, 56", "308, 252")]
    results = processor.post_process_grounding(answer(processor, inputs, *whole), inputs)
    for result, size in zip(results, (SIZE, (112, 56), (320, 240)), strict=True):
        assert result.boxes[0].xyxy == pytest.approx((0, 0, *size))


@pytest.mark.parametrize(
    ("text", "reason"),
    [("no idea", None), ('{"point_2d": [500, 5]}', "outside"), ('{"bbox_2d": [9, 9, 9]}', None), ("", None)],
)
def test_answers_without_a_place_are_empty_and_say_why(
    processor: Any, draw_view: Callable, text: str, reason: str | None
) -> None:
    inputs = processor.ground(images=draw_view(0), text="it")
    (result,) = processor.post_process_grounding(answer(processor, inputs, text), inputs)
    assert result.is_empty
    assert result.raw_text == text
    if reason is not None:
        assert [reason in item.reason for item in result.rejected] == [True]


def test_a_box_that_reaches_out_is_clipped_and_listed(processor: Any, draw_view: Callable) -> None:
    inputs = processor.ground(images=draw_view(0), text="it")
    (result,) = processor.post_process_grounding(answer(processor, inputs, '{"bbox_2d": [56, 56, 168, 168]}'), inputs)
    assert result.boxes[0].xyxy == pytest.approx((80, 60, 160, 120))
    assert [item.reason for item in result.rejected] == ["clipped"]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("auto", "the RED cube"),
        ("point", 'the RED cube Output the point coordinates in JSON format, with the keys "point_2d" and'),
        (
            "box",
            'the RED cube Output the bounding box coordinates in JSON format, with the keys "bbox_2d" and "label".',
        ),
        (
            "trace",
            "Your task is to the RED cube. Figure out how to execute it, then locate the key object needed. "
            "Predict the trajectory that the end effector should take. ",
        ),
    ],
)
def test_questions_by_kind(processor: Any, draw_view: Callable, kind: str, words: str) -> None:
    inputs = processor.ground(images=draw_view(0), text="the RED cube", kind=kind)
    text = processor.tokenizer.decode(inputs["input_ids"][0])
    assert f"<|vision_end|>{words}" in text
    assert text.endswith("<|im_end|>\n<|im_start|>assistant\n")
    assert "vision_pixel_values" not in inputs


def test_kinds_are_checked_and_may_differ_by_sample(processor: Any, draw_view: Callable) -> None:
    views = [[draw_view(0)], [draw_view(1)]]
    inputs = processor.ground(images=views, text=["a", "b"], kind=["point", "box"])
    texts = processor.tokenizer.batch_decode(inputs["input_ids"])
    assert ["point_2d" in text for text in texts] == [True, False]
    with pytest.raises(ValueError, match=r"kind: expected one of \['auto', .*found 'mask'"):
        processor.ground(images=views, text=["a", "b"], kind="mask")


def test_spatial_questions_are_those_of_acting(processor: Any, draw_view: Callable) -> None:
    processor.spatial_prompt = "box"
    processor.lowercase_instruction = True
    asked = processor.ground(images=draw_view(0), text="GO left", kind="spatial")
    acting = processor(images=draw_view(0), text="GO left")
    assert torch.equal(asked["input_ids"], acting["input_ids"])
    assert torch.equal(asked["pixel_values"], acting["pixel_values"])


def test_answers_supervise_exactly_the_answer(processor: Any, draw_view: Callable) -> None:
    results = [
        GroundingResult(boxes=(Box((20, 30, 80, 120), "cube"),), image_size=SIZE),
        GroundingResult(points=(Point((10, 30), "a"), Point((40, 60), "b")), image_size=SIZE),
    ]
    views = [[draw_view(0)], [draw_view(1), draw_view(2)]]
    prompts = processor.ground(images=views, text=["one", "two"], kind=["box", "point"])
    inputs = processor.ground(images=views, text=["one", "two"], kind=["box", "point"], answers=results)
    width = prompts["input_ids"].shape[1]
    assert torch.equal(inputs["input_ids"][:, :width], prompts["input_ids"])  # what generation will be given
    shapes = {inputs[name].shape for name in ("input_ids", "attention_mask", "mm_token_type_ids", "labels")}
    assert len(shapes) == 1
    for row, result in enumerate(results):
        supervised = inputs["labels"][row] != -100
        assert not supervised[:width].any()
        assert torch.equal(inputs["labels"][row][supervised], inputs["input_ids"][row][supervised])
        assert torch.equal(supervised[width:], inputs["attention_mask"][row, width:] == 1)
        text = processor.tokenizer.decode(inputs["input_ids"][row][supervised])
        assert text == result.to_text(dialect="qwen2_5_vl", model_size=(112, 112)) + "<|im_end|>"
    # and reading back what was supervised gives the places, up to the whole pixels that the dialect writes
    read = processor.post_process_grounding(inputs["input_ids"], prompts)
    assert read[0].boxes[0].xyxy == pytest.approx((20, 30, 80, 120), abs=1)
    assert [point.label for point in read[1].points] == ["a", "b"]


def test_another_dialect_reads_other_numbers(processor: Any, draw_view: Callable) -> None:
    inputs = processor.ground(images=draw_view(0), text="it")
    ids = answer(processor, inputs, '{"bbox_2d": [0, 0, 500, 1000], "label": "x"}')
    (result,) = processor.post_process_grounding(ids, inputs, dialect="qwen3_vl")
    assert result.boxes[0].xyxy == pytest.approx((0, 0, 80, 120))
    with pytest.raises(ValueError, match="dialect"):
        processor.post_process_grounding(ids, inputs, dialect="klingon")
