"""Any diffusers scheduler samples: solvers against exact answers, and refusal of those that cannot."""

from collections.abc import Callable
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from by_hand import FLOW, draw, squared_cosine_alphas
from torch import nn

from modeling_st4vla import ST4VLAConfig
from modeling_st4vla.noise_schedule_st4vla import build_scheduler

MEAN = torch.tensor([0.4, -0.7, 0.1])  # of the oracle's data, one per action dimension


def install_oracle(model: Any, spread: float) -> None:
    """
    Replaces the expert by the best possible one for actions drawn from a normal distribution around `MEAN`.

    Every sampler then has a known answer: the probability flow maps noise z to `MEAN + spread * z'`, where z' is z
    standardised at the first time step (see `exact_answer`).
    """
    alphas = torch.from_numpy(squared_cosine_alphas())
    flow = model.config.scheduler["_class_name"].startswith("FlowMatch")

    def predict(sample: torch.Tensor, timestep: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        sample = sample.double()
        if flow:
            sigma = timestep.double() / 1000
            offset = sample - (1 - sigma) * MEAN
            variance = (1 - sigma) ** 2 * spread**2 + sigma**2
            return (sigma * offset / variance - MEAN - (1 - sigma) * spread**2 * offset / variance).float()
        alpha = alphas[timestep.round().long()]
        return ((1 - alpha).sqrt() * (sample - alpha.sqrt() * MEAN) / (alpha * spread**2 + 1 - alpha)).float()

    model.action_expert.timestep_embedder = nn.Identity()  # the oracle reads the bare timestep
    model.action_expert.denoise = predict


def exact_answer(noise: torch.Tensor, spread: float, alpha: float) -> torch.Tensor:
    standard = (noise - alpha**0.5 * MEAN) / (alpha * spread**2 + 1 - alpha) ** 0.5
    return MEAN + spread * standard


@pytest.mark.parametrize(
    "solver",
    [
        "DDIMScheduler",
        "DPMSolverMultistepScheduler",
        "UniPCMultistepScheduler",
        "EulerDiscreteScheduler",
        "DDPMScheduler",
    ],
)
def test_solvers_agree_on_an_oracle(model: Any, make_inputs: Callable, relative_error: Callable, solver: str) -> None:
    inputs, noise = make_inputs(1), draw(1, 5, 3)
    # "trailing" starts at the last time step, whatever the number of steps; "leading" starts lower, and each solver
    # of diffusers counts its steps there in its own way.
    config = {**model.noise_scheduler.config, "timestep_spacing": "trailing"}
    model.noise_scheduler = getattr(diffusers, solver).from_config(config)
    assert type(model.noise_scheduler).__name__ == solver
    install_oracle(model, spread=0.0)
    found = model.sample_actions(**inputs, noise=noise, num_inference_steps=10)
    tolerance = 0.05 if solver == "DDPMScheduler" else 1e-3  # it draws noise while stepping
    assert relative_error(found, MEAN.expand(1, 5, 3)) < tolerance
    if solver == "DDPMScheduler":
        return
    install_oracle(model, spread=0.5)
    errors = [
        relative_error(
            model.sample_actions(**inputs, noise=noise, num_inference_steps=steps),
            exact_answer(noise, 0.5, squared_cosine_alphas()[99]),
        )
        for steps in (10, 50)
    ]
    assert errors[1] < 0.05
    assert errors[1] < errors[0]


def test_a_stochastic_solver_follows_the_generator(model: Any, make_inputs: Callable) -> None:
    model.noise_scheduler = diffusers.DDPMScheduler.from_config(model.noise_scheduler.config)
    inputs, noise = make_inputs(1), draw(1, 5, 3)

    def sample(seed: int) -> torch.Tensor:
        return model.sample_actions(**inputs, noise=noise, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(sample(0), sample(0))
    assert not torch.equal(sample(0), sample(1))


def test_fast_solver_is_close_to_many_ddim_steps(model: Any, make_inputs: Callable, relative_error: Callable) -> None:
    inputs, noise = make_inputs(1), draw(1, 5, 3)
    install_oracle(model, spread=0.5)
    slow = model.sample_actions(**inputs, noise=noise, num_inference_steps=100)
    config = {**model.noise_scheduler.config, "timestep_spacing": "trailing"}
    model.noise_scheduler = diffusers.DPMSolverMultistepScheduler.from_config(config)
    fast = model.sample_actions(**inputs, noise=noise, num_inference_steps=10)
    model.noise_scheduler = diffusers.DDIMScheduler.from_config(config)
    plain = model.sample_actions(**inputs, noise=noise, num_inference_steps=10)
    assert relative_error(fast, slow) < 0.05
    assert relative_error(fast, slow) < relative_error(plain, slow) / 2


def test_flow_matching_samples(build_model: Callable, make_inputs: Callable, relative_error: Callable) -> None:
    model, inputs, noise = build_model(scheduler=FLOW), make_inputs(1), draw(1, 5, 3)
    assert torch.isfinite(model.sample_actions(**inputs, noise=noise)).all()
    install_oracle(model, spread=0.0)
    assert relative_error(model.sample_actions(**inputs, noise=noise), MEAN.expand(1, 5, 3)) < 1e-4
    install_oracle(model, spread=0.5)
    found = model.sample_actions(**inputs, noise=noise, num_inference_steps=100)
    assert relative_error(found, MEAN + 0.5 * noise) < 0.02


def test_incompatible_schedulers_are_refused(model: Any, build_model: Callable) -> None:
    kept = model.noise_scheduler
    with pytest.raises(ValueError, match="flow matching = False"):
        model.noise_scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    with pytest.raises(ValueError, match=r"num_train_timesteps = 100, the new scheduler has 1000.*from_config"):
        model.noise_scheduler = diffusers.DDIMScheduler()
    with pytest.raises(ValueError, match="prediction_type = epsilon, the new scheduler has v_prediction"):
        model.noise_scheduler = diffusers.DDIMScheduler(num_train_timesteps=100, prediction_type="v_prediction")
    assert model.noise_scheduler is kept
    with pytest.raises(ValueError, match="flow matching = True"):
        build_model(scheduler=FLOW).noise_scheduler = kept


def test_a_solver_of_another_noise_schedule_is_refused(model: Any) -> None:
    # diffusers' default is a linear schedule: its time steps mean other noise levels than those trained on.
    with pytest.raises(ValueError, match="beta_schedule"):
        model.noise_scheduler = diffusers.DDIMScheduler(num_train_timesteps=100)


@pytest.mark.parametrize("name", ["NoSuchScheduler", "UNet2DModel", "logging"])
def test_unknown_scheduler_is_an_error(build_model: Callable, make_inputs: Callable, name: str) -> None:
    with pytest.raises(ValueError, match=f"scheduler._class_name.*{name}"):
        build_scheduler({"_class_name": name})
    with pytest.raises(ValueError, match=f"scheduler._class_name.*{name}"):
        build_model(scheduler={"_class_name": name}).sample_actions(**make_inputs(1))


def test_default_schedule_is_the_official_one() -> None:
    scheduler = build_scheduler(ST4VLAConfig().scheduler)
    assert isinstance(scheduler, diffusers.DDIMScheduler)
    np.testing.assert_allclose(scheduler.alphas_cumprod.numpy(), squared_cosine_alphas(), rtol=1e-4, atol=1e-8)
    scheduler.set_timesteps(10)
    assert scheduler.timesteps.tolist() == [90, 80, 70, 60, 50, 40, 30, 20, 10, 0]
    assert not scheduler.config.clip_sample
