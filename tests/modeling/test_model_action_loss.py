"""The action loss: what it is and what counts in it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from by_hand import FLOW, draw, squared_cosine_alphas

from modeling_st4vla.noise_schedule_st4vla import sample_timesteps


def predict(model: Any, noisy: torch.Tensor, timestep: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
    expert = model.action_expert
    return expert.denoise(noisy, expert.timestep_embedder(timestep), expert.condition_embedder(condition))


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
        noisy = (alphas.sqrt() * actions[:, None] + (1 - alphas).sqrt() * noise) * dims[:, None, None]
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


@pytest.mark.parametrize("what", ["steps", "dimensions"])
def test_errors_where_nothing_counts_do_not_change_the_loss(
    model: Any, make_inputs: Callable, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    inputs, actions, noise, timestep = make_inputs(1), draw(1, 5, 3), draw(1, 5, 3, seed=1), torch.tensor([20])
    masks = {
        "steps": {"action_is_pad": torch.tensor([[False, False, False, True, True]])},
        "dimensions": {"action_dim_mask": torch.tensor([[1, 0, 1]])},
    }[what]
    ignored = (slice(None), slice(3, 5)) if what == "steps" else (..., 1)
    forward, shifted = model.action_expert.forward, ()

    def predict(*args: torch.Tensor) -> torch.Tensor:
        prediction = forward(*args).clone()
        if shifted:
            prediction[shifted] += 7
        return prediction

    def loss() -> float:
        return model(**inputs, actions=actions, noise=noise, timestep=timestep, **masks).loss.item()

    monkeypatch.setattr(model.action_expert, "forward", predict)
    expected = loss()
    shifted = ignored
    assert loss() == expected
    shifted = (slice(None), slice(0, 1), slice(0, 1))
    assert loss() > expected + 1e-3 or loss() < expected - 1e-3


def test_values_in_padding_change_nothing(model: Any, make_inputs: Callable) -> None:
    pad = torch.tensor([[False, False, False, True, True]])
    dims = torch.tensor([[1.0, 1.0, 0.0]])
    fixed = {
        "noise": draw(1, 2, 5, 3),
        "timestep": torch.tensor([[7, 60]]),
        "action_is_pad": pad,
        "action_dim_mask": dims,
    }
    actions = draw(1, 5, 3)
    expected = model(**make_inputs(1), actions=actions, **fixed).action_losses
    actions[:, 3:], actions[:, :, 2] = 1e3, float("nan")
    assert model(**make_inputs(1), actions=actions, **fixed).action_losses.equal(expected)


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
            model(**inputs, actions=actions, noise=noise[:, k], timestep=timestep[:, k]).action_losses
            for k in range(3)
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
