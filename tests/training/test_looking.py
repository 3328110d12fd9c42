"""Where a planner is asked to look while it writes a box, and what it costs not to."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from modeling_st4vla.turn_attention_st4vla import Looking, attention_by_turns, blocks_of_turns
from processing_st4vla import Box, GroundingResult, Point, Trace

SIZE = (112, 112)  # four by four cells of 28 pixels


def answer(**parts: Any) -> GroundingResult:
    return GroundingResult(image_size=SIZE, **parts)


@pytest.fixture
def inputs(processor: Any, draw_view: Any) -> Any:
    box, other = Box((30.0, 60.0, 50.0, 80.0), "block"), Box((90.0, 2.0, 110.0, 20.0), "plate")
    path = Trace(((40.0, 70.0), (100.0, 10.0)), "gripper")
    turns = [
        ("block", "box", answer(boxes=(box,))),
        ("plate", "point", answer(points=(Point((100.0, 11.0), "plate"),))),
        ("put it there", "trace", answer(boxes=(box, other), points=(Point((2.0, 2.0), "end"),), traces=(path,))),
        ("nothing", "box", answer()),
    ]
    words, kinds, answers = zip(*turns, strict=True)
    one = processor.ground_turns([[draw_view(0, 112, 112)]], [list(words)], [list(kinds)], [list(answers)])
    del one["image_sizes"]
    return dict(one)


def test_the_cell_of_the_box_is_looked_at_while_its_numbers_are_written(processor: Any, inputs: Any) -> None:
    from training_st4vla.looking import cells_looked_at

    columns = cells_looked_at(processor, inputs)[0]
    first = int(inputs["mm_token_type_ids"][0].nonzero()[0])
    expected = {1: [first + 2 * 4 + 1], 2: [first + 3], 3: [first + 2 * 4 + 1, first + 3], 4: []}
    said = {1: ["30, 60, 50, 80"], 2: ["100, 11"], 3: ["30, 60, 50, 80", "90, 2, 110, 20"], 4: []}
    for turn, cells in expected.items():
        # A token says where to look for the next one.
        here = (inputs["turn_ids"][0] == turn).nonzero()[:, 0]
        words = dict.fromkeys(cells, "")
        for place in here.tolist():
            if columns[place] >= 0:
                words[int(columns[place])] += processor.tokenizer.decode([int(inputs["input_ids"][0, place + 1])])
        assert [words[cell].strip("[] ,") for cell in cells] == said[turn]
    assert (columns[: int((inputs["turn_ids"][0] == 0).sum())] == -1).all()


def test_the_loss_is_the_attention_that_is_missing() -> None:
    turn_ids = torch.tensor([[0, 0, 0, 1, 1, 2, 2, 2]])
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 2, 8, 4, generator=generator, requires_grad=True) for _ in range(3))
    columns = torch.full((1, 8), -1)
    columns[0, 4], columns[0, 6] = 2, 0
    module: Any = torch.nn.Identity()
    module.layer_idx = 3
    blocks = blocks_of_turns(turn_ids, torch.ones_like(turn_ids))

    def attend(looking: Looking) -> None:
        attention_by_turns(module, query, key, value, None, 0.5, turn_blocks=blocks, looking=looking)

    elsewhere, looking = Looking(columns, (2,)), Looking(columns, (3,))
    attend(elsewhere)
    assert elsewhere.mean().item() == 0
    attend(looking)
    scores = query[0, 0] @ key[0, 0].T * 0.5
    paid = [scores[4, [0, 1, 2, 3, 4]].softmax(0)[2], scores[6, [0, 1, 2, 5, 6]].softmax(0)[0]]
    torch.testing.assert_close(looking.mean(), -(paid[0].log() + paid[1].log()) / 2)
    looking.mean().backward()
    assert query.grad is not None
    assert not query.grad[:, 1].any(), "the other head is free"
    assert query.grad[0, 0].any(dim=-1).tolist() == [place in (4, 6) for place in range(8)]


@pytest.fixture
def trainer(tmp_path: Path, model: Any, processor: Any, grounding_samples: list) -> Any:
    from training_st4vla.grounding_config import SpatialGroundingConfig
    from training_st4vla.grounding_trainer import SpatialGroundingTrainer

    image = grounding_samples[0]["image"]
    group: Any = {"questions": [{**sample, "image": image} for sample in grounding_samples[:4]]}

    def build(samples: Any = None, attention: str = "by_turns", **settings: Any) -> Any:
        own = copy.deepcopy(model)
        own.set_attn_implementation(attention)
        values = {"max_steps": 12, "per_device_train_batch_size": 2, "learning_rate": 3e-3, "logging_steps": 1}
        values |= {"bf16": False, "disable_tqdm": True, "save_strategy": "no", "look_weight": 0.3}
        values |= {"train_sampling_strategy": "sequential"}
        args = SpatialGroundingConfig(output_dir=str(tmp_path / "run"), **{**values, **settings})
        chosen: Any = samples or [group] * 4
        return SpatialGroundingTrainer(own, args, chosen, processor)

    return build


@pytest.mark.parametrize("accumulated", [1, 2])
def test_looking_is_learnt_beside_the_words(trainer: Any, accumulated: int) -> None:
    run = trainer(gradient_accumulation_steps=accumulated, per_device_train_batch_size=2 // accumulated)
    run.train()
    curve = [entry["look_loss"] for entry in run.state.log_history if "look_loss" in entry]
    assert len(curve) == 12
    assert curve[-1] < 0.7 * curve[0]


def test_accumulated_batches_weigh_as_one_batch(trainer: Any) -> None:
    runs = [trainer(max_steps=1), trainer(max_steps=1, gradient_accumulation_steps=2, per_device_train_batch_size=1)]
    for run in runs:
        run.train()
    for (name, one), (_, two) in zip(*(run.model.named_parameters() for run in runs), strict=True):
        assert torch.allclose(one, two, atol=2e-4), name


def test_without_weight_nothing_is_logged(trainer: Any) -> None:
    run = trainer(max_steps=1, look_weight=0.0)
    run.train()
    assert not any("look_loss" in entry for entry in run.state.log_history)


def test_what_cannot_be_followed_is_refused(
    trainer: Any, grounding_samples: list, processor: Any, monkeypatch: Any
) -> None:
    with pytest.raises(ValueError, match=r"look_weight: expected attn_implementation 'by_turns', found 'sdpa'"):
        trainer(attention="sdpa")
    with pytest.raises(ValueError, match="look_weight: expected 0 or more, found -1"):
        trainer(look_weight=-1.0)
    with pytest.raises(ValueError, match="gradient_checkpointing"):
        trainer(gradient_checkpointing=True)
    with pytest.raises(ValueError, match=r"look_weight: expected several questions per image"):
        trainer(samples=grounding_samples[:4], max_steps=1).train()
    monkeypatch.setattr(processor, "grounding_dialect", "robopoint")
    with pytest.raises(ValueError, match=r"look_weight: expected answers in one of the dialects .* found 'robopoint'"):
        trainer()
