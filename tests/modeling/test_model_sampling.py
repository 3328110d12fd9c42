"""Sampling actions: the arithmetic of DDIM and guidance by hand, other schedulers against exact answers, no state."""

import math
import threading
from collections.abc import Callable
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch import nn

from modeling_st4vla import ST4VLAConfig
from modeling_st4vla.noise_schedule_st4vla import build_scheduler

FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000}
MEAN = torch.tensor([0.4, -0.7, 0.1])  # of the oracle's data, one per action dimension


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def squared_cosine_alphas(steps: int = 100) -> np.ndarray:
    def level(share: float) -> float:
        return math.cos((share + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [min(1 - level((step + 1) / steps) / level(step / steps), 0.999) for step in range(steps)]
    return np.cumprod(1 - np.array(betas))


def sample_by_hand(model: Any, inputs: Any, noise: torch.Tensor, steps: int, guidance: float | None) -> torch.Tensor:
    """DDIM with eta 0 and leading spacing, written out; `guidance=None` uses the conditional prediction alone."""
    expert, alphas = model.action_expert, squared_cosine_alphas()
    with torch.no_grad():
        zeros = torch.zeros(len(noise), 5, 3)
        latent = model(**inputs, actions=zeros).latent_planning_tokens
        hidden = expert.unconditional.expand_as(latent)

        def predict(sample: torch.Tensor, timestep: int, condition: torch.Tensor) -> torch.Tensor:
            embedding = expert.timestep_embedder(torch.tensor([timestep]))
            return expert(sample, embedding, expert.condition_embedder(condition)).double()

        sample, stride = noise.double(), 100 // steps
        for timestep in reversed(range(0, 100, stride)):
            epsilon = predict(sample.float(), timestep, latent)
            if guidance is not None:
                free = predict(sample.float(), timestep, hidden)
                epsilon = free + guidance * (epsilon - free)
            now = alphas[timestep]
            before = alphas[timestep - stride] if timestep >= stride else 1.0
            clean = (sample - (1 - now) ** 0.5 * epsilon) / now**0.5
            sample = before**0.5 * clean + (1 - before) ** 0.5 * epsilon
    return sample.float()


@pytest.mark.parametrize(
    ("steps", "guidance", "by_hand"), [(10, 1.5, 1.5), (5, 1.0, None), (20, 3.0, 3.0), (10, 0.0, 0.0)]
)
def test_ddim_and_guidance_by_hand(
    model: Any, make_inputs: Callable, relative_error: Callable, steps: int, guidance: float, by_hand: float | None
) -> None:
    inputs, noise = make_inputs(1, 2), draw(2, 5, 3)
    actions = model.sample_actions(**inputs, noise=noise, num_inference_steps=steps, guidance_scale=guidance)
    assert actions.dtype == torch.float32
    assert actions.shape == (2, 5, 3)
    assert relative_error(actions, sample_by_hand(model, inputs, noise, steps, by_hand)) < 1e-4


def test_defaults_come_from_the_config(build_model: Callable, make_inputs: Callable) -> None:
    model, inputs, noise = build_model(num_inference_steps=4, guidance_scale=2.5), make_inputs(1), draw(1, 5, 3)
    explicit = model.sample_actions(**inputs, noise=noise, num_inference_steps=4, guidance_scale=2.5)
    assert torch.equal(model.sample_actions(**inputs, noise=noise), explicit)
    assert not torch.equal(model.sample_actions(**inputs, noise=noise, guidance_scale=1.0), explicit)
    preset = ST4VLAConfig()
    assert (preset.num_inference_steps, preset.guidance_scale, preset.num_noise_samples) == (10, 1.5, 4)


def test_guidance_of_one_runs_the_expert_once(model: Any, make_inputs: Callable) -> None:
    rows, forward = [], model.action_expert.forward
    model.action_expert.forward = lambda *args: rows.append(len(args[0])) or forward(*args)
    model.sample_actions(**make_inputs(1, 1), num_inference_steps=3, guidance_scale=1.0)
    model.sample_actions(**make_inputs(1, 1), num_inference_steps=3, guidance_scale=1.5)
    assert rows == [2, 2, 2, 4, 4, 4]


def test_calls_leave_no_trace(model: Any, make_inputs: Callable) -> None:
    inputs, noise = make_inputs(1), draw(1, 5, 3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ten = model.sample_actions(**inputs, noise=noise, num_inference_steps=10)
    five = model.sample_actions(**inputs, noise=noise, num_inference_steps=5)
    assert not torch.equal(ten, five)
    assert torch.equal(model.sample_actions(**inputs, noise=noise, num_inference_steps=10), ten)
    assert torch.equal(model.sample_actions(**inputs, noise=noise, num_inference_steps=5), five)
    assert len(model.noise_scheduler.timesteps) == 100  # the shared scheduler was never stepped
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_threads_share_a_model(model: Any, make_inputs: Callable) -> None:
    inputs, noise, found = make_inputs(1), draw(1, 5, 3), {}
    alone = {n: model.sample_actions(**inputs, noise=noise, num_inference_steps=n) for n in (25, 20)}

    def work(steps: int) -> None:
        found[steps] = [model.sample_actions(**inputs, noise=noise, num_inference_steps=steps) for _ in range(3)]

    threads = [threading.Thread(target=work, args=(steps,)) for steps in alone]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(actions, alone[steps]) for steps in alone for actions in found[steps])


def test_generator_determines_the_initial_sample(model: Any, make_inputs: Callable) -> None:
    inputs = make_inputs(1)

    def sample(seed: int) -> torch.Tensor:
        return model.sample_actions(**inputs, generator=torch.Generator().manual_seed(seed))

    first = sample(0)
    torch.manual_seed(5)
    assert torch.equal(sample(0), first)
    assert not torch.equal(sample(1), first)
    assert torch.equal(model.sample_actions(**inputs, noise=draw(1, 5, 3)), first)  # the same draw, given
    assert not torch.equal(model.sample_actions(**inputs), model.sample_actions(**inputs))


def test_wrong_noise_is_named(model: Any, make_inputs: Callable) -> None:
    with pytest.raises(ValueError, match=r"noise: expected shape \(1, 5, 3\), found \(1, 4, 3\)"):
        model.sample_actions(**make_inputs(1), noise=draw(1, 4, 3))


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
    model.action_expert.forward = predict


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
def test_solvers_agree_on_an_oracle(
    model: Any, make_inputs: Callable, relative_error: Callable, solver: str
) -> None:
    inputs, noise = make_inputs(1), draw(1, 5, 3)
    model.noise_scheduler = getattr(diffusers, solver).from_config(model.noise_scheduler.config)
    assert type(model.noise_scheduler).__name__ == solver
    install_oracle(model, spread=0.0)
    found = model.sample_actions(**inputs, noise=noise, num_inference_steps=10)
    tolerance = 0.05 if solver == "DDPMScheduler" else 1e-3  # it draws noise while stepping
    assert relative_error(found, MEAN.expand(1, 5, 3)) < tolerance
    if solver == "DDPMScheduler":
        return
    install_oracle(model, spread=0.5)
    found = model.sample_actions(**inputs, noise=noise, num_inference_steps=50)
    assert relative_error(found, exact_answer(noise, 0.5, squared_cosine_alphas()[98])) < 0.02


def test_a_stochastic_solver_follows_the_generator(model: Any, make_inputs: Callable) -> None:
    model.noise_scheduler = diffusers.DDPMScheduler.from_config(model.noise_scheduler.config)
    inputs, noise = make_inputs(1), draw(1, 5, 3)

    def sample(seed: int) -> torch.Tensor:
        return model.sample_actions(**inputs, noise=noise, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(sample(0), sample(0))
    assert not torch.equal(sample(0), sample(1))


def test_fast_solver_is_close_to_many_ddim_steps(
    model: Any, make_inputs: Callable, relative_error: Callable
) -> None:
    inputs, noise = make_inputs(1), draw(1, 5, 3)
    install_oracle(model, spread=0.5)
    slow = model.sample_actions(**inputs, noise=noise, num_inference_steps=100)
    model.noise_scheduler = diffusers.DPMSolverMultistepScheduler.from_config(model.noise_scheduler.config)
    fast = model.sample_actions(**inputs, noise=noise, num_inference_steps=20)
    assert relative_error(fast, slow) < 0.05
    assert not torch.equal(fast, slow)


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
