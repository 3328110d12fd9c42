"""The action loss: what it is, what counts in it, and what flows back from it."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from modeling_st4vla.noise_schedule_st4vla import sample_timesteps
from modeling_st4vla.query_transformer_st4vla import decay_gradient

FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000}


def squared_cosine_alphas(steps: int = 100) -> np.ndarray:
    """Cumulative products of alpha of the squared-cosine schedule (Nichol and Dhariwal, 2021), from its definition."""

    def level(share: float) -> float:
        return math.cos((share + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [min(1 - level((step + 1) / steps) / level(step / steps), 0.999) for step in range(steps)]
    return np.cumprod(1 - np.array(betas))


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def predict(model: Any, noisy: torch.Tensor, timestep: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
    expert = model.action_expert
    return expert(noisy, expert.timestep_embedder(timestep), expert.condition_embedder(condition))


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def test_loss_is_the_mean_over_valid_steps_dimensions_and_copies(model: Any, make_inputs: Callable) -> None:
    inputs, actions, noise = make_inputs(1, 2), draw(2, 5, 3), draw(2, 2, 5, 3, seed=1)
    timestep = torch.tensor([[0, 37], [62, 99]])
    pad = torch.tensor([[False] * 5, [False, False, False, True, True]])
    dims = torch.tensor([[1, 1, 1], [1, 0, 1]])
    actions = actions.masked_fill(pad[..., None], 0) * dims[:, None]  # what does not count is also nothing to read
    with torch.no_grad():
        output = model(
            **inputs, actions=actions, noise=noise, timestep=timestep, action_is_pad=pad, action_dim_mask=dims
        )
        latent = output.latent_planning_tokens
        # By hand: noised actions of each copy, the expert's prediction, squared errors where they count.
        alphas = torch.from_numpy(squared_cosine_alphas()).float()[timestep][..., None, None]
        noisy = alphas.sqrt() * actions[:, None] + (1 - alphas).sqrt() * noise
        error = torch.stack(
            [(predict(model, noisy[:, k], timestep[:, k], latent) - noise[:, k]).square() for k in range(2)]
        ).mean(0)
    first = error[0].mean()
    second = error[1, :3][:, [0, 2]].mean()
    torch.testing.assert_close(output.action_losses, torch.stack([first, second]), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(output.action_loss, (first + second) / 2, rtol=1e-5, atol=1e-6)
    assert output.loss == output.action_loss
    assert output.lm_loss is None
    assert output.logits is None
    assert latent.shape == (2, 6, 32)


def test_flow_matching_trains_the_velocity(build_model: Callable, make_inputs: Callable) -> None:
    model, inputs = build_model(scheduler=FLOW), make_inputs(1, 1)
    actions, noise, timestep = draw(2, 5, 3), draw(2, 5, 3, seed=1), torch.tensor([250.0, 1000.0])
    with torch.no_grad():
        output = model(**inputs, actions=actions, noise=noise, timestep=timestep)
        sigma = (timestep / 1000)[:, None, None]
        noisy = sigma * noise + (1 - sigma) * actions
        error = predict(model, noisy, timestep, output.latent_planning_tokens) - (noise - actions)
    torch.testing.assert_close(output.action_losses, error.square().mean(dim=(1, 2)), rtol=1e-5, atol=1e-6)
    model.train()
    loss = model(**inputs, actions=actions).loss  # with its own noise and timesteps
    loss.backward()
    assert torch.isfinite(loss)
    assert model.action_expert.output_proj.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", ["sample", "v_prediction"])
def test_other_prediction_types_have_their_targets(build_model: Callable, make_inputs: Callable, kind: str) -> None:
    scheduler = {"_class_name": "DDIMScheduler", "num_train_timesteps": 100, "beta_schedule": "squaredcos_cap_v2"}
    model, inputs = build_model(scheduler={**scheduler, "prediction_type": kind}), make_inputs(1)
    actions, noise, timestep = draw(1, 5, 3), draw(1, 5, 3, seed=1), torch.tensor([37])
    alpha = float(squared_cosine_alphas()[37])
    with torch.no_grad():
        output = model(**inputs, actions=actions, noise=noise, timestep=timestep)
        noisy = alpha**0.5 * actions + (1 - alpha) ** 0.5 * noise
        target = {"sample": actions, "v_prediction": alpha**0.5 * noise - (1 - alpha) ** 0.5 * actions}[kind]
        error = predict(model, noisy, timestep, output.latent_planning_tokens) - target
    torch.testing.assert_close(output.action_loss, error.square().mean(), rtol=1e-4, atol=1e-6)


def test_values_of_padded_steps_do_not_change_the_loss(model: Any, make_inputs: Callable) -> None:
    inputs, noise, timestep = make_inputs(1), draw(1, 5, 3, seed=1), torch.tensor([20])
    pad = torch.tensor([[False, False, False, True, True]])
    actions = draw(1, 5, 3)
    other = actions.clone()
    other[:, 3:] = 7.0
    losses = [
        model(**inputs, actions=values, action_is_pad=pad, noise=noise, timestep=timestep).loss.item()
        for values in (actions, other)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    changed = model(**inputs, actions=actions + 1, action_is_pad=pad, noise=noise, timestep=timestep).loss.item()
    assert changed != pytest.approx(losses[0], rel=1e-3)


def test_values_of_masked_dimensions_do_not_change_the_loss(model: Any, make_inputs: Callable) -> None:
    inputs, noise, timestep = make_inputs(1), draw(1, 5, 3, seed=1), torch.tensor([20])
    actions = draw(1, 5, 3)
    other = actions.clone()
    other[..., 1] = 7.0
    mask = torch.tensor([[1, 0, 1]])
    losses = [
        model(**inputs, actions=values, action_dim_mask=mask, noise=noise, timestep=timestep).loss.item()
        for values in (actions, other)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_a_wholly_padded_sample_costs_nothing(model: Any, make_inputs: Callable) -> None:
    pad = torch.tensor([[True] * 5, [False] * 5])
    losses = model(**make_inputs(1, 1), actions=draw(2, 5, 3), action_is_pad=pad).action_losses
    assert losses[0] == 0
    assert losses[1] > 0


def test_several_noisy_copies_are_the_mean_of_single_ones(model: Any, make_inputs: Callable) -> None:
    inputs, actions, noise = make_inputs(1, 1), draw(2, 5, 3), draw(2, 3, 5, 3, seed=1)
    timestep = torch.tensor([[3, 50, 90], [11, 12, 70]])
    with torch.no_grad():
        together = model(**inputs, actions=actions, noise=noise, timestep=timestep).action_losses
        single = [
            model(**inputs, actions=actions, noise=noise[:, k], timestep=timestep[:, k]).action_losses for k in range(3)
        ]
    torch.testing.assert_close(together, torch.stack(single).mean(0), rtol=1e-5, atol=1e-6)


def test_drawn_noise_follows_the_seed_and_the_configured_copies(
    model: Any, make_inputs: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, actions, seen = make_inputs(1, 1), draw(2, 5, 3), []
    forward = model.action_expert.forward
    monkeypatch.setattr(model.action_expert, "forward", lambda *args: seen.append(args[0]) or forward(*args))
    losses = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        losses.append(model(**inputs, actions=actions).loss.item())
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]
    assert seen[0].shape == (2 * 2, 5, 3)  # num_noise_samples = 2
    assert not torch.equal(seen[0][0], seen[0][1])


def test_drawn_timesteps_are_uniform_over_the_schedule(build_model: Callable, model: Any) -> None:
    torch.manual_seed(0)
    steps = sample_timesteps(model.noise_scheduler, (20_000,), torch.device("cpu"))
    counts = torch.bincount(steps, minlength=100)
    assert counts.shape == (100,)
    assert 120 < counts.min() <= counts.max() < 290  # 200 expected, six standard deviations
    flow = sample_timesteps(build_model(scheduler=FLOW).noise_scheduler, (20_000,), torch.device("cpu"))
    assert 0 < flow.min() <= flow.max() <= 1000
    assert flow.mean() == pytest.approx(500, abs=15)


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


def test_gradient_decay_leaves_the_text_loss_alone(build_model: Callable, make_inputs: Callable) -> None:
    inputs, found = make_inputs(1), []
    for factor in (1.0, 0.1):
        model = build_model(gradient_decay=factor)
        model(**inputs, labels=inputs["input_ids"]).loss.backward()
        found.append(gradients(model))
    assert set(found[0]) == set(found[1])
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_decay_gradient_is_bit_exact_forward() -> None:
    states = draw(4, 7) * 1e3
    states.requires_grad_()
    decayed = decay_gradient(states, 0.3)
    assert torch.equal(decayed, states)
    decayed.sum().backward()
    assert torch.equal(states.grad, torch.full_like(states, 0.3))


def test_condition_dropout_hides_the_condition_in_training_only(build_model: Callable, make_inputs: Callable) -> None:
    expert = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "condition_dropout": 1.0}
    model = build_model(action_expert=expert, query_dropout=0.0)
    actions, noise, timestep = draw(1, 5, 3), draw(1, 5, 3, seed=1), torch.tensor([37])

    def loss(training: bool, first: int) -> float:
        model.train(training)
        with torch.no_grad():
            return model(**make_inputs(1, first=first), actions=actions, noise=noise, timestep=timestep).loss.item()

    assert loss(False, 0) != pytest.approx(loss(False, 1), rel=1e-3)
    assert loss(True, 0) == loss(True, 1)  # always dropped: nothing of image and text is left
    alpha = float(squared_cosine_alphas()[37])
    noisy = alpha**0.5 * actions + (1 - alpha) ** 0.5 * noise
    with torch.no_grad():
        error = predict(model, noisy, timestep, model.action_expert.unconditional[None]) - noise
    assert loss(True, 0) == pytest.approx(error.square().mean().item(), rel=1e-5)


def test_condition_dropout_has_its_rate_and_drops_whole_samples(build_model: Callable) -> None:
    expert = build_model().action_expert
    expert.condition_dropout = 0.3
    condition = draw(4000, 6, 32)
    assert torch.equal(expert.eval().drop_condition(condition, None), condition)
    torch.manual_seed(0)
    dropped = expert.train().drop_condition(condition, None)
    hidden = (dropped == expert.unconditional).all(dim=(1, 2))
    kept = (dropped == condition).flatten(1).all(dim=1)
    assert torch.equal(hidden, ~kept)
    assert hidden.float().mean().item() == pytest.approx(0.3, abs=0.03)
    chosen = torch.zeros(4000, dtype=torch.bool)
    chosen[7] = True
    dropped = expert.drop_condition(condition, chosen)
    assert torch.equal(dropped[7], expert.unconditional)
    assert torch.equal(dropped[:7], condition[:7])


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
        images=[[draw_view(1)], [draw_view(2)]], text=["the cube", "the points"], kind=["box", "point"], answers=answers
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


def test_one_backward_reaches_every_part(build_model: Callable, make_inputs: Callable) -> None:
    model = build_model(state_dim=4).train()
    inputs = make_inputs(1, 2)
    model(**inputs, state=draw(2, 4), actions=draw(2, 5, 3), labels=inputs["input_ids"]).loss.backward()
    untouched = [name for name, p in model.named_parameters() if p.grad is None]
    # DINOv2's mask token is for its own pre-training; nothing else may be left out (two processes would wait for it).
    assert untouched == ["vision_encoder.embeddings.mask_token"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"actions": torch.zeros(1, 6, 3)}, r"actions: expected shape \(1, 5, 3\).*found \(1, 6, 3\)"),
        ({"actions": torch.zeros(1, 5, 4)}, r"actions: expected shape \(1, 5, 3\).*found \(1, 5, 4\)"),
        ({"actions": torch.zeros(2, 5, 3)}, r"actions: expected shape \(1, 5, 3\).*found \(2, 5, 3\)"),
        ({"vision_pixel_values": None}, r"vision_pixel_values: expected shape \(1, views, 3.*found None"),
        ({"vision_pixel_values": torch.zeros(1, 3, 112, 112)}, r"vision_pixel_values.*found \(1, 3, 112, 112\)"),
        ({"state": torch.zeros(1, 4)}, r"state: expected None.*found \(1, 4\)"),
        ({"input_ids": None}, r"input_ids"),
    ],
)
def test_wrong_inputs_are_named(model: Any, make_inputs: Callable, change: dict, message: str) -> None:
    inputs = {**make_inputs(1), "actions": torch.zeros(1, 5, 3), **change}
    with pytest.raises(ValueError, match=message):
        model(**inputs)


def test_state_token_is_required_and_used(build_model: Callable, make_inputs: Callable) -> None:
    model, inputs = build_model(state_dim=4), make_inputs(1)
    noise = draw(1, 5, 3)
    for state in (None, torch.zeros(1, 3)):
        with pytest.raises(ValueError, match=r"state: expected \(1, 4\) for a model with state_dim=4"):
            model(**inputs, state=state, actions=noise)
        with pytest.raises(ValueError, match="state: expected"):
            model.sample_actions(**inputs, state=state, noise=noise)
        with pytest.raises(ValueError, match="state: expected"):
            model.plan(**inputs, state=state, noise=noise, max_new_tokens=1)
    first, second = (model.sample_actions(**inputs, state=draw(1, 4, seed=seed), noise=noise) for seed in (0, 1))
    assert (first - second).abs().max() > 1e-2 * first.abs().max()
    output = model(**inputs, state=draw(1, 4), actions=noise)
    assert output.latent_planning_tokens.shape == (1, 6, 32)  # without the state token
    # 0.4 M parameters at the published width (arXiv 2510.13778, section 2.1)
    from modeling_st4vla.action_expert_st4vla import StateEncoder

    assert sum(p.numel() for p in StateEncoder(7, 768).parameters()) == pytest.approx(0.4e6, rel=0.05)
