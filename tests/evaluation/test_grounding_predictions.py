"""Asking a model: batches, kinds and modes; exchanging words between questions."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from grounding_toy import picture

from processing_st4vla import GroundingResult
from training_st4vla.evaluation.grounding_predictions import predict_grounding, shuffled_instructions


class Parrot(torch.nn.Module):
    """Generates given answers, in the order of the questions."""

    device = torch.device("cpu")

    def __init__(self, processor: Any, answers: list[str]) -> None:
        super().__init__()
        self.tokenizer, self.answers, self.prompts = processor.tokenizer, list(answers), []
        self.modes: list[bool] = []

    def generate(self, input_ids: torch.Tensor, **_: Any) -> torch.Tensor:
        self.modes.append(self.training or torch.is_grad_enabled())
        self.prompts += self.tokenizer.batch_decode(input_ids)
        texts = [self.answers.pop(0) for _ in range(len(input_ids))]
        new = self.tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")["input_ids"]
        return torch.cat([input_ids, new], dim=1)


def questions(kinds: list[str]) -> list[dict[str, Any]]:
    return [
        {"image": picture(n, (64, 48 + 8 * n)), "instruction": f"thing {n}", "kind": kind, "answer_kind": kind}
        for n, kind in enumerate(kinds)
    ]


def test_answers_come_back_in_pixels_of_each_image(processor: Any) -> None:
    asked = questions(["box", "point", "trace"])
    truths = [
        '[{"bbox_2d": [28, 28, 56, 84]}]',  # of the 112 x 112 image that the model sees
        "no idea",
        '[{"trace_2d": [[0, 0], [112, 112]]}]',
    ]
    model, seen = Parrot(processor, truths).train(), []
    results = predict_grounding(model, processor, iter(asked), batch_size=2, progress=seen.append)
    assert seen == [2, 1]
    assert model.training
    assert not any(model.modes)
    np.testing.assert_allclose(results[0].boxes[0].xyxy, (16, 12, 32, 36))
    assert results[1].is_empty
    assert results[1].rejected[0].reason == "no coordinates found"
    np.testing.assert_allclose(results[2].traces[0].points, ((0, 0), (64, 64)))
    assert [result.raw_text for result in results] == truths


def test_a_list_of_points_is_read_as_what_was_asked(processor: Any) -> None:
    text = "[[0, 0], [56, 56]]"
    results = predict_grounding(Parrot(processor, [text] * 2), processor, questions(["point", "trace"]))
    assert (len(results[0].points), len(results[0].traces)) == (2, 0)
    assert (len(results[1].points), len(results[1].traces)) == (0, 1)


def test_spatial_questions_are_those_of_acting(processor: Any) -> None:
    model = Parrot(processor, ["[]"])
    predict_grounding(model, processor, questions(["spatial"]))
    acting = processor(images=[[picture()]], text=["thing 0"])
    assert model.prompts == processor.tokenizer.batch_decode(acting["input_ids"])
    assert "Your task is to thing 0." in model.prompts[0]


def test_a_real_model(model: Any, processor: Any) -> None:
    model.train()
    first = predict_grounding(model, processor, questions(["box", "point", "auto"]), max_new_tokens=4, batch_size=3)
    alone = predict_grounding(model, processor, questions(["box", "point", "auto"]), max_new_tokens=4, batch_size=1)
    assert model.training
    assert all(isinstance(result, GroundingResult) for result in first)
    assert [result.raw_text for result in first] == [result.raw_text for result in alone]


def test_refused(model: Any, processor: Any) -> None:
    with pytest.raises(ValueError, match="batch_size, max_new_tokens"):
        predict_grounding(model, processor, [], batch_size=0)
    assert predict_grounding(model, processor, []) == []


def test_shuffled_instructions() -> None:
    words = ["a"] * 5 + ["b"] * 4 + ["c", "d", "e"] + ["x", "y"]
    groups = ["box"] * 12 + ["point"] * 2
    shuffled = shuffled_instructions(words, groups, seed=1)
    assert Counter(shuffled[:12]) == Counter(words[:12])
    assert shuffled[12:] == ["y", "x"]
    assert not any(a == b for a, b in zip(words, shuffled, strict=True))
    assert shuffled == shuffled_instructions(words, groups, seed=1)
    assert shuffled_instructions(["a", "a"], [1, 1]) == ["a", "a"]
