"""Questions that share an image in one sequence have the states and losses that each has alone."""

from typing import Any

import pytest
import torch

from processing_st4vla import Box, GroundingResult, Point

QUESTIONS = [
    [
        (
            "the red block",
            "box",
            GroundingResult(boxes=(Box((10.0, 20.0, 50.0, 60.0), "block"),), image_size=(112, 112)),
        )
    ],
    [
        ("the plate", "point", GroundingResult(points=(Point((70.0, 80.0), "plate"),), image_size=(112, 112))),
        ("put the red block on the plate", "spatial", GroundingResult(image_size=(112, 112))),
        ("the small ball", "box", GroundingResult(boxes=(Box((1.0, 2.0, 30.0, 40.0), None),), image_size=(112, 112))),
    ],
]


@pytest.fixture
def images(draw_view: Any) -> list[Any]:
    return [draw_view(seed, 112, 112) for seed in (0, 1)]


@pytest.fixture
def together(processor: Any, images: list[Any]) -> Any:
    return processor.ground_turns(
        images=[[image] for image in images],
        text=[[words for words, _, _ in group] for group in QUESTIONS],
        kind=[[kind for _, kind, _ in group] for group in QUESTIONS],
        answers=[[answer for _, _, answer in group] for group in QUESTIONS],
    )


@pytest.fixture
def alone(processor: Any, images: list[Any]) -> list[Any]:
    found = []
    for image, group in zip(images, QUESTIONS, strict=True):
        found += [
            processor.ground(images=[[image]], text=[words], kind=kind, answers=[answer])
            for words, kind, answer in group
        ]
    return found


def planner_inputs(inputs: Any) -> dict[str, Any]:
    return {name: value for name, value in inputs.items() if name != "image_sizes"}


def test_tokens_and_labels_are_those_of_single_questions(together: Any, alone: list[Any]) -> None:
    rows = [(0, 1), (1, 1), (1, 2), (1, 3)]
    for (row, turn), single in zip(rows, alone, strict=True):
        turns, mask = together["turn_ids"][row], together["attention_mask"][row].bool()
        mine = mask & ((turns == 0) | (turns == turn))
        assert torch.equal(together["input_ids"][row][mine], single["input_ids"][0])
        assert torch.equal(together["labels"][row][mine], single["labels"][0])
        assert torch.equal(together["mm_token_type_ids"][row][mine], single["mm_token_type_ids"][0])


@pytest.mark.parametrize("attention", ["sdpa", "eager", "by_turns"])
def test_loss_and_gradients_are_those_of_single_questions(
    model: Any, together: Any, alone: list[Any], attention: str
) -> None:
    model.set_attn_implementation(attention)
    loss = model(grounding_inputs=planner_inputs(together), input_ids=alone[0]["input_ids"]).lm_loss
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    count = sum(int((single["labels"] != -100).sum()) for single in alone)
    total = 0.0
    for single in alone:
        part = model(**planner_inputs(single), num_items_in_batch=count).lm_loss
        part.backward()
        total += part.item()
    assert loss.item() == pytest.approx(total, rel=1e-6)
    for name, gradient in gradients.items():
        torch.testing.assert_close(model.get_parameter(name).grad, gradient, rtol=1e-3, atol=1e-6, msg=name)


def test_turns_are_for_training_on_answers_alone(model: Any, together: Any) -> None:
    inputs = planner_inputs(together)
    assert (
        model(**inputs).lm_loss.item() == model(grounding_inputs=inputs, input_ids=inputs["input_ids"]).lm_loss.item()
    )
    del inputs["labels"]
    with pytest.raises(ValueError, match="turn_ids"):
        model(**inputs)


def test_flash_attention_is_refused(model: Any, together: Any) -> None:
    from modeling_st4vla.turns_st4vla import separate_turns

    model.vlm.model.config._attn_implementation = "flash_attention_2"
    names = ("input_ids", "turn_ids", "attention_mask", "mm_token_type_ids", "image_grid_thw")
    with pytest.raises(ValueError, match="sdpa"):
        separate_turns(model.vlm.model, **{name: together[name] for name in names})
