"""What a training step needs in memory, measured by taking one."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from transformers.integrations.integration_utils import get_reporting_integration_callbacks
from transformers.trainer_callback import PrinterCallback, ProgressCallback, TrainerCallback

from training_st4vla.ema import WeightAverage
from training_st4vla.evaluation.table import ResultTable
from training_st4vla.sharding import refuse_sharded

PARTS = ("weights", "gradients", "optimizer", "average", "activations")


@dataclass(frozen=True)
class StepMemory:
    """
    Bytes on one device.

    Args:
        weights, gradients, optimizer (`int`): of the parameters as they are, of those that are trained, of its state.
        average (`int`): of the moving average of the weights; 0 without one.
        activations (`int`): kept by the forward pass for the backward pass, of one batch; under autocast with the
            copies of weights in the lower precision.
        peak (`int`, *optional*): highest use seen by the allocator; None on devices that do not count.
    """

    weights: int
    gradients: int
    optimizer: int
    average: int
    activations: int
    peak: int | None

    @property
    def total(self) -> int:
        """Sum of the parts; fragmentation and temporary buffers come on top."""
        return sum(getattr(self, name) for name in PARTS)

    def table(self) -> ResultTable:
        """For people."""
        rows = [[name, f"{getattr(self, name) / 2**20:,.1f}"] for name in PARTS]
        rows.append(["total", f"{self.total / 2**20:,.1f}"])
        if self.peak is not None:
            rows.append(["peak, allocator", f"{self.peak / 2**20:,.1f}"])
        return ResultTable(("part", "MiB"), rows, title="Memory of one training step, per device")


def measure_step(trainer: Any) -> StepMemory:
    """
    Lets the trainer train for one step and counts, so that all its settings hold: activation checkpointing, autocast,
    accumulation, a moving average. The trainer and its model are changed by it: throw them away.

    On CUDA it takes two steps: the second holds the optimiser's state beside its activations.

    Raises:
        UserError: when an engine holds the weights in pieces, whose storages cannot be counted.
    """
    refuse_sharded(trainer, "--dry-run", "measuring a step")
    args, cuda = trainer.args, trainer.args.device.type == "cuda"
    args.max_steps, args.disable_tqdm = 2 if cuda else 1, True
    args.save_strategy = args.eval_strategy = args.logging_strategy = "no"
    args.eval_on_start = args.load_best_model_at_end = args.push_to_hub = False
    for callback in (PrinterCallback, ProgressCallback, *get_reporting_integration_callbacks(args.report_to)):
        trainer.remove_callback(callback)
    meter = _Meter(trainer)
    trainer.add_callback(meter)
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    trainer.train()
    return StepMemory(
        weights=_bytes(trainer.model.parameters()),
        gradients=meter.gradients,
        optimizer=meter.optimizer,
        average=meter.average,
        activations=meter.activations,
        peak=torch.cuda.max_memory_allocated() if cuda else None,
    )


class _Meter(TrainerCallback):
    """Reads the parts of a step while the trainer takes it."""

    def __init__(self, trainer: Any) -> None:
        self.gradients = self.optimizer = self.average = self.activations = 0
        self._trainer, self._compute_loss = trainer, trainer.compute_loss
        trainer.compute_loss = self._forward

    def _forward(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        """The loss as the trainer computes it; what its graph keeps is counted."""
        own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        kept: dict[int, int] = {}

        def count(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            loss = self._compute_loss(model, *args, **kwargs)
        self.activations = max(self.activations, sum(kept.values()))
        return loss

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.gradients = _bytes(p.grad for p in model.parameters() if p.grad is not None)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        values = (value for entry in optimizer.state.values() for value in entry.values())
        self.optimizer = _bytes(value for value in values if isinstance(value, torch.Tensor))
        callbacks = self._trainer.callback_handler.callbacks
        self.average = sum(one.nbytes for one in callbacks if isinstance(one, WeightAverage))


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


__all__ = ["StepMemory", "measure_step"]
