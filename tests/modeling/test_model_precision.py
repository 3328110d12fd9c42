"""Precision, attention backends, checkpointing, devices: other ways to run the same computation."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from by_hand import FLOW, draw
from transformers import AutoModel

TIMESTEP = torch.tensor([[0, 37], [62, 99]])


def losses_and_gradients(model: Any, inputs: Any) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Action and text loss of two samples with everything drawn at random held fixed, and all gradients."""
    torch.manual_seed(0)  # dropout
    output = model(
        **inputs,
        actions=draw(2, 5, 3),
        noise=draw(2, 2, 5, 3, seed=1),
        timestep=TIMESTEP,
        labels=inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100),
    )
    output.loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return {"action": output.action_loss.item(), "text": output.lm_loss.item()}, gradients


def test_gradient_checkpointing_changes_no_gradient(
    model: Any, make_inputs: Callable, relative_error: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = make_inputs(1, 2)
    model.train()  # dropout included: checkpointing must restore the random state
    losses, gradients = losses_and_gradients(model, inputs)
    model.gradient_checkpointing_enable()
    kinds = {type(m).__name__ for m in model.modules() if getattr(m, "gradient_checkpointing", False)}
    assert {"DiTBlock", "QueryTransformerBlock", "Qwen2_5_VLDecoderLayer"} <= kinds
    again, checkpointed = losses_and_gradients(model, inputs)
    assert again == losses
    assert checkpointed.keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert relative_error(checkpointed[name], gradient) < 1e-5, name
    model.gradient_checkpointing_disable()
    assert not any(getattr(m, "gradient_checkpointing", False) for m in model.modules())


def test_gradient_checkpointing_stores_less(model: Any, make_inputs: Callable) -> None:
    model.train()
    inputs, sizes = make_inputs(1, 2), []
    for enabled in (False, True):
        if enabled:
            model.gradient_checkpointing_enable()
        stored = 0

        def count(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal stored
            stored += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            model(**inputs, actions=draw(2, 5, 3))
        sizes.append(stored)
    assert sizes[1] < 0.6 * sizes[0]


def test_attention_backends_agree(model: Any, make_inputs: Callable, relative_error: Callable) -> None:
    inputs, noise = make_inputs(1, 2), draw(2, 5, 3)
    results = {}
    for backend in ("sdpa", "eager"):
        model.set_attn_implementation(backend)
        assert {model.config._attn_implementation, model.vlm.config._attn_implementation} == {backend}
        actions = model.sample_actions(**inputs, noise=noise)
        results[backend] = (actions, *losses_and_gradients(model, inputs))
    (actions, losses, gradients), (other, other_losses, other_gradients) = results["sdpa"], results["eager"]
    assert relative_error(other, actions) < 1e-4
    assert other_losses == pytest.approx(losses, rel=1e-5)
    for name, gradient in gradients.items():  # absolute, too: the exact gradient of a key's bias is zero
        torch.testing.assert_close(other_gradients[name], gradient, rtol=1e-3, atol=1e-5, msg=name)


def test_attention_backend_is_chosen_when_loading(model: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path, attn_implementation="eager")
    assert loaded.config._attn_implementation == "eager"
    assert loaded.vlm.config._attn_implementation == "eager"
    assert loaded.vision_encoder.config._attn_implementation == "eager"


@pytest.mark.parametrize("views", [1, 2])
def test_bfloat16_is_float32_within_its_rounding(
    model: Any, make_inputs: Callable, relative_error: Callable, tmp_path: Path, views: int
) -> None:
    inputs, noise = make_inputs(views, views), draw(2, 5, 3)
    expected = model.sample_actions(**inputs, noise=noise)
    losses, _ = losses_and_gradients(model, inputs)
    model.save_pretrained(tmp_path)
    half = AutoModel.from_pretrained(tmp_path, dtype="bfloat16")
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    actions = half.sample_actions(**inputs, noise=noise)
    assert actions.dtype == torch.float32
    assert 0 < relative_error(actions, expected) < 0.15  # 8 bits, and ten steps of guided denoising
    half_losses, gradients = losses_and_gradients(half, inputs)
    assert half_losses == pytest.approx(losses, rel=0.05)
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())
    assert half.generate(**inputs, max_new_tokens=3, do_sample=False).shape[0] == 2
    half.save_pretrained(tmp_path / "half")
    assert AutoModel.from_pretrained(tmp_path / "half").dtype == torch.bfloat16  # as it was saved


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("views", [1, 2])
def test_a_batch_of_eight_is_eight_batches_of_one(
    model: Any, make_inputs: Callable, relative_error: Callable, dtype: torch.dtype, views: int
) -> None:
    model = model.to(dtype)
    inputs, noise = make_inputs(*[views] * 8), draw(8, 5, 3)
    lengths = inputs["attention_mask"].sum(dim=1)
    assert len(set(lengths.tolist())) > 1  # instructions of different length: some rows are padded, on the left
    together = model.sample_actions(**inputs, noise=noise)
    alone = torch.cat(
        [model.sample_actions(**make_inputs(views, first=row), noise=noise[row : row + 1]) for row in range(8)]
    )
    assert relative_error(together, alone) < (1e-5 if dtype == torch.float32 else 0.1)


@pytest.mark.parametrize("scheduler", [None, FLOW], ids=["ddim", "flow"])
def test_a_loaded_model_trains(
    build_model: Callable, make_inputs: Callable, tmp_path: Path, scheduler: dict | None
) -> None:
    # transformers builds the model without storage first; a scheduler made then would fail in the first step.
    model = build_model(**({} if scheduler is None else {"scheduler": scheduler}))
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path).train()
    loss = loaded(**make_inputs(1, 2), actions=draw(2, 5, 3)).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert not any(tensor.is_meta for tensor in (*loaded.parameters(), *loaded.buffers()))


def test_device_map_auto(model: Any, make_inputs: Callable, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path, device_map="auto")
    assert {parameter.device.type for parameter in loaded.parameters()} <= {"cpu", "cuda"}  # nothing left behind
    inputs, noise = make_inputs(1, 2), draw(2, 5, 3)
    if loaded.device.type == "cpu":
        assert torch.equal(loaded.sample_actions(**inputs, noise=noise), model.sample_actions(**inputs, noise=noise))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cuda_computes_what_the_cpu_computes(
    model: Any, make_inputs: Callable, relative_error: Callable, dtype: torch.dtype
) -> None:
    inputs, noise = make_inputs(1, 2), draw(2, 5, 3)
    expected = model.sample_actions(**inputs, noise=noise)
    there = model.to("cuda", dtype)
    moved = inputs.to("cuda")
    found = there.sample_actions(**moved, noise=noise.cuda()).cpu()
    assert relative_error(found, expected) < (1e-3 if dtype == torch.float32 else 0.15)
    plan = there.plan(**moved, noise=noise.cuda(), max_new_tokens=4, do_sample=False)
    assert relative_error(plan.actions.cpu(), found) < (1e-3 if dtype == torch.float32 else 0.1)
    output = there.train()(**moved, actions=draw(2, 5, 3).cuda(), labels=moved["input_ids"])
    output.loss.backward()
    assert torch.isfinite(output.loss)
