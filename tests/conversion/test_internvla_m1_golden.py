"""The converted golden checkpoint computes what the official InternVLA-M1 modules computed, number by number."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoProcessor

from modeling_st4vla.noise_schedule_st4vla import add_noise
from training_st4vla.conversion.internvla_m1 import convert_internvla_m1
from training_st4vla.saving import save_portable


@pytest.fixture(scope="module")
def converted(golden: Path) -> tuple[Any, Any]:
    checkpoint = golden / "run" / "checkpoints" / "steps_1000_pytorch_model.pt"
    model, processor, _ = convert_internvla_m1(checkpoint, str(golden / "base_vlm"), torch.float32)
    return model, processor


@pytest.fixture(scope="module")
def expected(golden: Path) -> dict[str, np.ndarray]:
    return dict(np.load(golden / "expected.npz"))


@pytest.fixture(scope="module")
def sample(golden: Path, converted: tuple[Any, Any]) -> Callable[..., Any]:
    """Model inputs of the given golden samples."""
    images = np.load(golden / "images.npz")
    words = json.loads((golden / "inputs.json").read_text())["instructions"]

    def make(*indices: int) -> Any:
        views = [
            [images[name] for name in sorted(images.files) if name.startswith(f"sample{index}_")] for index in indices
        ]
        assert all(views)
        return converted[1](images=views, text=[words[index] for index in indices])

    return make


@pytest.fixture(scope="module")
def inner(converted: tuple[Any, Any], sample: Callable) -> dict[str, torch.Tensor]:
    """Everything between the inputs and the actions of sample 0."""
    model, inputs = converted[0], sample(0)
    with torch.no_grad():
        mask = inputs["attention_mask"]
        planner = {name: inputs[name] for name in ("pixel_values", "image_grid_thw", "mm_token_type_ids")}
        states, final, _ = model._run_planner(inputs["input_ids"], mask, **planner)
        dino = model.vision_encoder(inputs["vision_pixel_values"][:, 0]).last_hidden_state[:, 1:]
        condition = model._condition(states, mask, inputs["vision_pixel_values"], inputs["view_mask"], None)
        return {
            "vlm_hidden_3": final,
            "vlm_logits_last": model(**inputs).logits[:, -1],
            "dino_patch_tokens": dino,
            "condition_tokens": condition,
        }


@pytest.mark.parametrize("name", ["input_ids", "attention_mask", "mm_token_type_ids", "image_grid_thw"])
def test_integer_inputs_are_equal(sample: Callable, expected: dict, name: str) -> None:
    np.testing.assert_array_equal(sample(0)[name].numpy(), expected[f"in_{name}"])


def test_pixels_are_equal(sample: Callable, expected: dict) -> None:
    inputs = sample(0)
    np.testing.assert_allclose(inputs["pixel_values"].numpy(), expected["in_pixel_values"], rtol=0, atol=1e-5)
    found = inputs["vision_pixel_values"][0].numpy()
    np.testing.assert_allclose(found, expected["in_dino_pixels"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["vlm_hidden_3", "vlm_logits_last", "dino_patch_tokens", "condition_tokens"])
def test_inner_states_are_equal(inner: dict, expected: dict, relative_error: Callable, name: str) -> None:
    assert relative_error(inner[name], expected[name]) < 1e-4


def test_denoiser_and_noise_schedule_are_equal(
    converted: tuple[Any, Any], inner: dict, expected: dict, relative_error: Callable
) -> None:
    model, noise = converted[0], torch.from_numpy(expected["noise"][:1])
    expert, step = model.action_expert, torch.tensor([37])
    with torch.no_grad():
        condition = expert.condition_embedder(inner["condition_tokens"])
        epsilon = expert.denoise(noise, expert.timestep_embedder(step), condition)
    assert relative_error(epsilon, expected["eps_t37"]) < 1e-4
    chunk = torch.from_numpy(expected["actions_b0_cfg1.5_ddim10"])
    noisy = add_noise(model.noise_scheduler, chunk, noise, step)
    assert relative_error(noisy, expected["q_sample_t37"]) < 1e-5


@pytest.mark.parametrize(("row", "guidance", "steps"), [(0, 1.5, 10), (1, 1.5, 10), (0, 1.0, 5)])
def test_actions_are_equal(
    converted: tuple[Any, Any],
    sample: Callable,
    expected: dict,
    relative_error: Callable,
    row: int,
    guidance: float,
    steps: int,
) -> None:
    noise = torch.from_numpy(expected["noise"][:1])
    found = converted[0].sample_actions(**sample(row), noise=noise, guidance_scale=guidance, num_inference_steps=steps)
    assert relative_error(found, expected[f"actions_b{row}_cfg{guidance}_ddim{steps}"]) < 1e-3


def test_defaults_are_those_of_the_official_inference(
    converted: tuple[Any, Any], sample: Callable, expected: dict, relative_error: Callable
) -> None:
    found = converted[0].sample_actions(**sample(0), noise=torch.from_numpy(expected["noise"][:1]))
    assert relative_error(found, expected["actions_b0_cfg1.5_ddim10"]) < 1e-3


def test_environment_actions_are_equal(
    converted: tuple[Any, Any], sample: Callable, expected: dict, golden: Path
) -> None:
    model, processor = converted
    key = json.loads((golden / "inputs.json").read_text())["unnorm_key"]
    truth = expected["env_actions_b0_cfg1.5_ddim10"]
    given = processor.post_process_actions(expected["actions_b0_cfg1.5_ddim10"][0], key)
    np.testing.assert_allclose(given, truth, rtol=1e-6, atol=1e-7)
    assert set(np.unique(truth[:, 6])) <= {0.0, 1.0}
    np.testing.assert_array_equal(given[:, 6], truth[:, 6])
    own = model.sample_actions(**sample(0), noise=torch.from_numpy(expected["noise"][:1]))
    np.testing.assert_allclose(processor.post_process_actions(own)[0], truth, rtol=0, atol=1e-3)


def test_greedy_tokens_are_equal(converted: tuple[Any, Any], sample: Callable, expected: dict) -> None:
    inputs = sample(0)
    truth = expected["greedy_tokens"]
    ids = converted[0].generate(**inputs, max_new_tokens=truth.shape[1], do_sample=False)
    np.testing.assert_array_equal(ids[:, inputs["input_ids"].shape[1] :].numpy(), truth)


def test_a_batch_of_two_is_two_batches_of_one(
    converted: tuple[Any, Any], sample: Callable, expected: dict, relative_error: Callable
) -> None:
    model, noise = converted[0], torch.from_numpy(expected["noise"])
    both = sample(0, 1)
    assert (both["attention_mask"].sum(dim=1) < both["input_ids"].shape[1]).any()  # one of them is padded
    together = model.sample_actions(**both, noise=noise)
    for row in (0, 1):
        alone = model.sample_actions(**sample(row), noise=noise[row : row + 1])
        assert relative_error(together[row : row + 1], alone) < 1e-5


def test_saved_and_reloaded_it_computes_the_same(
    converted: tuple[Any, Any], sample: Callable, expected: dict, tmp_path: Path
) -> None:
    model, processor = converted
    save_portable(model, processor, tmp_path)
    noise, inputs = torch.from_numpy(expected["noise"][:1]), sample(0)
    reloaded = AutoModel.from_pretrained(tmp_path)
    assert torch.equal(reloaded.sample_actions(**inputs, noise=noise), model.sample_actions(**inputs, noise=noise))
    again = AutoProcessor.from_pretrained(tmp_path)
    assert again.action_contracts == processor.action_contracts
    assert (again.spatial_prompt, again.lowercase_instruction) == (processor.spatial_prompt, True)
