"""A sample's result depends on nothing but the sample: not on padding, batch mates, or padded views."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from by_hand import draw

VIEWS = (1, 2, 1)


@pytest.fixture(params=["float32 sdpa", "float32 eager"])
def judged(request: pytest.FixtureRequest, build_model: Callable) -> Any:
    model = build_model(state_dim=4)
    model.set_attn_implementation(request.param.split()[1])
    return model


def test_batch_mates_and_padding_change_nothing(judged: Any, make_inputs: Callable, relative_error: Callable) -> None:
    state, actions, noise = draw(3, 4), draw(3, 5, 3), draw(3, 2, 5, 3, seed=1)
    timestep = torch.tensor([[0, 37], [62, 99], [5, 50]])
    pad = torch.tensor([[False] * 5, [False, True, True, True, True], [False] * 5])
    together = make_inputs(*VIEWS)
    assert (together["attention_mask"].sum(dim=1) < together["input_ids"].shape[1]).sum() == 2  # two rows are padded
    assert (together["attention_mask"][:, -1] == 1).all()  # on the left
    with torch.no_grad():
        losses = judged(
            **together, state=state, actions=actions, noise=noise, timestep=timestep, action_is_pad=pad
        ).action_losses
        sampled = judged.sample_actions(**together, state=state, noise=noise[:, 0])
        for row, views in enumerate(VIEWS):
            alone, one = make_inputs(views, first=row), slice(row, row + 1)
            loss = judged(
                **alone,
                state=state[one],
                actions=actions[one],
                noise=noise[one],
                timestep=timestep[one],
                action_is_pad=pad[one],
            ).action_loss
            assert loss.item() == pytest.approx(losses[row].item(), rel=1e-5)
            assert (
                relative_error(judged.sample_actions(**alone, state=state[one], noise=noise[one, 0]), sampled[one])
                < 1e-5
            )


def test_extra_left_padding_changes_nothing(model: Any, make_inputs: Callable, relative_error: Callable) -> None:
    inputs, noise = make_inputs(2), draw(1, 5, 3)
    padded = dict(inputs)
    for name, value in (("input_ids", 0), ("attention_mask", 0), ("mm_token_type_ids", 0)):
        padded[name] = torch.nn.functional.pad(inputs[name], (23, 0), value=value)
    found, expected = (model.sample_actions(**given, noise=noise) for given in (padded, inputs))
    assert relative_error(found, expected) < 1e-5
    labels = inputs["input_ids"].clone()  # the first token is not predicted: padding before it must not try
    with torch.no_grad():
        expected = model(**inputs, labels=labels).lm_loss
        found = model(**padded, labels=torch.nn.functional.pad(labels, (23, 0), value=-100)).lm_loss
        assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_padded_view_is_no_view(model: Any, make_inputs: Callable, relative_error: Callable) -> None:
    inputs, noise = make_inputs(1), draw(1, 5, 3)
    expected = model.sample_actions(**inputs, noise=noise)
    padded = dict(inputs)
    padded["vision_pixel_values"] = torch.cat([inputs["vision_pixel_values"], draw(1, 2, 3, 112, 112)], dim=1)
    padded["view_mask"] = torch.tensor([[True, False, False]])
    assert relative_error(model.sample_actions(**padded, noise=noise), expected) < 1e-5
    seen = model.sample_actions(**{**padded, "view_mask": None}, noise=noise)
    assert relative_error(seen, expected) > 1e-2


@pytest.mark.parametrize("part", ["front", "wrist", "words", "state", "planner only", "encoder only"])
def test_every_input_reaches_the_actions(
    build_model: Callable, make_inputs: Callable, relative_error: Callable, part: str
) -> None:
    # The counterpart of the tests above: they would also pass for a model that ignores its inputs.
    model, inputs, other = build_model(state_dim=4), make_inputs(2), make_inputs(2, first=5)
    state, noise = draw(1, 4), draw(1, 5, 3)
    expected = model.sample_actions(**inputs, state=state, noise=noise)
    changed = dict(inputs)
    if part in ("front", "wrist"):
        slot = 0 if part == "front" else 1
        for name, rows in (("pixel_values", slice(64 * slot, 64 * (slot + 1))), ("vision_pixel_values", (0, slot))):
            changed[name] = inputs[name].clone()
            changed[name][rows] = other[name][rows]
    elif part == "words":
        changed["input_ids"] = inputs["input_ids"].clone()
        changed["input_ids"][0, -12] = 700
    elif part == "planner only":
        changed["pixel_values"] = other["pixel_values"]
    elif part == "encoder only":
        changed["vision_pixel_values"] = other["vision_pixel_values"]
    new_state = draw(1, 4, seed=9) if part == "state" else state
    assert relative_error(model.sample_actions(**changed, state=new_state, noise=noise), expected) > 1e-3
