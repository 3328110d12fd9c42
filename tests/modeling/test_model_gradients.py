"""What flows back from the losses, the gradient decay above all, and the text loss."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from by_hand import draw
from torch import nn

from modeling_st4vla.query_transformer_st4vla import decay_gradient


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize("decay", [0.5, 0.25, 0.3, 0.0])
def test_gradient_decay_scales_what_reaches_the_planner(
    build_model: Callable, make_inputs: Callable, decay: float
) -> None:
    inputs, actions = make_inputs(1, 2), draw(2, 5, 3)
    noise, timestep = draw(2, 2, 5, 3, seed=1), torch.tensor([[0, 37], [62, 99]])
    found, losses = [], []
    for factor in (1.0, decay):
        model = build_model(gradient_decay=factor)
        loss = model(**inputs, actions=actions, noise=noise, timestep=timestep).loss
        loss.backward()
        found.append(gradients(model))
        losses.append(loss.item())
    assert losses[0] == losses[1]  # identity in the forward pass
    whole, decayed = found
    planner = [name for name in whole if name.startswith("vlm.")]
    assert {"vlm.model.visual.patch_embed.proj.weight", "vlm.model.language_model.embed_tokens.weight"} <= set(planner)
    assert all(whole[name].abs().sum() > 0 for name in ("vlm.model.language_model.layers.1.mlp.up_proj.weight",))
    for name in planner:
        if decay in (0.5, 0.25, 0.0):  # powers of two scale floats exactly
            assert torch.equal(decayed[name], whole[name] * decay), name
        else:
            torch.testing.assert_close(decayed[name], whole[name] * decay, rtol=1e-4, atol=1e-7)
    for name in set(whole) - set(planner):  # query transformer, DINOv2, projector, expert
        assert torch.equal(decayed[name], whole[name]), name
    assert {"query_transformer.query_tokens", "query_transformer.input_proj.weight"} <= set(whole) - set(planner)


def test_decay_gradient_is_bit_exact_forward() -> None:
    states = draw(4, 7) * 1e3
    states.requires_grad_()
    decayed = decay_gradient(states, 0.3)
    assert torch.equal(decayed, states)
    decayed.sum().backward()
    assert torch.equal(states.grad, torch.full_like(states, 0.3))


def test_one_backward_reaches_every_part(build_model: Callable, make_inputs: Callable) -> None:
    model = build_model(state_dim=4).train()
    inputs = make_inputs(1, 2)
    model(**inputs, state=draw(2, 4), actions=draw(2, 5, 3), labels=inputs["input_ids"]).loss.backward()
    untouched = [name for name, p in model.named_parameters() if p.grad is None]
    # DINOv2's mask token is for its own pre-training; nothing else may be left out (two processes would wait for it).
    assert untouched == ["vision_encoder.embeddings.mask_token"]


def test_text_loss_is_next_token_cross_entropy(model: Any, make_inputs: Callable) -> None:
    inputs = make_inputs(1, 1)
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    labels[:, : labels.shape[1] - 9] = -100
    with torch.no_grad():
        plain = model(**inputs)
        assert plain.loss is None
        logits = plain.logits
        assert logits.shape == (*inputs["input_ids"].shape, 1024)
        output = model(**inputs, labels=labels)
        expected = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        torch.testing.assert_close(output.lm_loss, expected, rtol=1e-5, atol=1e-6)
        assert output.logits is None
        assert output.action_loss is None
        divided = model(**inputs, labels=labels, num_items_in_batch=torch.tensor(40))
    torch.testing.assert_close(divided.lm_loss, expected * 18 / 40, rtol=1e-5, atol=1e-6)


def test_grounding_batch_adds_its_own_text_loss(model: Any, processor: Any, make_inputs: Callable, draw_view) -> None:
    from processing_st4vla import Box, GroundingResult, Point

    answers = [
        GroundingResult(boxes=(Box((10, 20, 90, 100), "cube"),), image_size=(160, 120)),
        GroundingResult(points=(Point((5, 5), "a"), Point((50, 60), "b")), image_size=(160, 120)),
    ]
    grounding = processor.ground(
        images=[[draw_view(1)], [draw_view(2)]],
        text=["the cube", "the points"],
        kind=["box", "point"],
        answers=answers,
    )
    inputs, actions = make_inputs(1), draw(1, 5, 3)
    fixed = {"actions": actions, "noise": draw(1, 5, 3, seed=1), "timestep": torch.tensor([5])}
    with torch.no_grad():
        text_loss = model(**grounding).lm_loss
        action_loss = model(**inputs, **fixed).action_loss
        both = model(**inputs, **fixed, grounding_inputs=dict(grounding))
        divided = model(**inputs, **fixed, grounding_inputs=dict(grounding), num_items_in_batch=1000)
        only_text = model(**inputs, grounding_inputs=dict(grounding))
        own_labels = model(**inputs, labels=inputs["input_ids"])
        summed = model(**inputs, labels=inputs["input_ids"], grounding_inputs=dict(grounding))
    torch.testing.assert_close(both.lm_loss, text_loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(both.action_loss, action_loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(both.loss, text_loss + action_loss, rtol=1e-6, atol=0)
    supervised = (grounding["labels"] != -100).sum()
    torch.testing.assert_close(divided.lm_loss, text_loss * supervised / 1000, rtol=1e-5, atol=0)
    assert only_text.action_loss is None
    assert only_text.loss == only_text.lm_loss
    torch.testing.assert_close(summed.lm_loss, own_labels.lm_loss + text_loss, rtol=1e-6, atol=0)
    with pytest.raises(ValueError, match=r"grounding_inputs.*labels"):
        model(**inputs, grounding_inputs={k: v for k, v in grounding.items() if k != "labels"})


def test_gradient_decay_leaves_the_text_loss_alone(build_model: Callable, make_inputs: Callable) -> None:
    inputs, found = make_inputs(1), []
    for factor in (1.0, 0.1):
        model = build_model(gradient_decay=factor)
        model(**inputs, labels=inputs["input_ids"]).loss.backward()
        found.append(gradients(model))
    assert set(found[0]) == set(found[1])
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
