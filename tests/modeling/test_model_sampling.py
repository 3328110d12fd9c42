"""Sampling actions: the arithmetic of DDIM and guidance by hand; calls keep no state."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from by_hand import draw, squared_cosine_alphas

from modeling_st4vla import ST4VLAConfig


def sample_by_hand(model: Any, inputs: Any, noise: torch.Tensor, steps: int, guidance: float | None) -> torch.Tensor:
    """DDIM with eta 0 and leading spacing, written out; `guidance=None` uses the conditional prediction alone."""
    expert, alphas = model.action_expert, squared_cosine_alphas()
    with torch.no_grad():
        zeros = torch.zeros(len(noise), 5, 3)
        latent = model(**inputs, actions=zeros).latent_planning_tokens
        hidden = expert.unconditional.expand_as(latent)

        def predict(sample: torch.Tensor, timestep: int, condition: torch.Tensor) -> torch.Tensor:
            embedding = expert.timestep_embedder(torch.tensor([timestep]))
            return expert.denoise(sample, embedding, expert.condition_embedder(condition)).double()

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
    rows, denoise = [], model.action_expert.denoise
    model.action_expert.denoise = lambda *args: rows.append(len(args[0])) or denoise(*args)
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
