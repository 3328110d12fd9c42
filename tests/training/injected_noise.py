"""A trainer whose noise follows from the sample alone, and a record of its gradients: for comparisons of runs."""

import hashlib
from typing import Any

import torch
from transformers.trainer_callback import TrainerCallback

from training_st4vla.action_trainer import SpatialActionTrainer


def inject_noise(inputs: dict[str, Any], config: Any) -> dict[str, Any]:
    """Noise and timestep of a sample follow from a hash of its actions, whatever batch it is in."""
    noise, timestep = [], []
    for actions in inputs["actions"]:
        # Rounded: the last bits may depend on the batch.
        content = (actions * 1000).round().to(torch.int32).numpy().tobytes()
        generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(content).digest()[:6], "little"))
        noise.append(torch.randn(config.num_noise_samples, *actions.shape, generator=generator))
        timestep.append(torch.randint(0, 100, (config.num_noise_samples,), generator=generator))
    return {**inputs, "noise": torch.stack(noise), "timestep": torch.stack(timestep)}


class InjectedNoiseTrainer(SpatialActionTrainer):
    """A trainer whose noise is injected, and which keeps the batches of each step."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.steps: list[list[dict[str, Any]]] = []

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        found = super().get_batch_samples(*args, **kwargs)
        self.steps.append(found[0])
        return found

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        config = self.accelerator.unwrap_model(model).config
        return super().compute_loss(model, inject_noise(inputs, config), *args, **kwargs)


class GradientRecorder(TrainerCallback):
    """Keeps the gradients that each optimiser step sees, before clipping changes them in place."""

    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        module = getattr(model, "module", model)
        gradients = {name: p.grad.detach() for name, p in module.named_parameters() if p.grad is not None}
        # FSDP2 shows each process a part of the tensor.
        whole = {name: g.full_tensor() if hasattr(g, "full_tensor") else g for name, g in gradients.items()}
        self.steps.append({name: gradient.clone() for name, gradient in whole.items()})


def largest_difference(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Largest difference over all parameters, relative to each parameter's largest gradient (at least 1e-3)."""
    if found.keys() != expected.keys():
        raise AssertionError(f"other parameters: {sorted(found.keys() ^ expected.keys())}")
    return max(
        float((found[name] - expected[name]).abs().max() / expected[name].abs().max().clamp(min=1e-3))
        for name in expected
    )


def losses(trainer: Any, name: str = "loss") -> list[float]:
    """The logged losses of a trainer, one per step when it logged every step."""
    return [entry[name] for entry in trainer.state.log_history if name in entry]
