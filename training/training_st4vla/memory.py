"""What a training step needs in memory, measured by taking one."""

from dataclasses import dataclass
from typing import Any

import torch

from training_st4vla.evaluation.table import ResultTable


@dataclass(frozen=True)
class StepMemory:
    """
    Bytes on one device.

    Args:
        weights, gradients, optimizer (`int`): of the parameters as they are, of those that are trained, of its state.
        activations (`int`): kept by the forward pass for the backward pass, of one batch.
        peak (`int`, *optional*): highest use seen by the allocator; None on devices that do not count.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    peak: int | None

    @property
    def total(self) -> int:
        """Sum of the parts; fragmentation and temporary buffers come on top."""
        return self.weights + self.gradients + self.optimizer + self.activations

    def table(self) -> ResultTable:
        """For people."""
        rows = [[name, f"{getattr(self, name) / 2**20:,.1f}"] for name in ("weights", "gradients", "optimizer")]
        rows += [["activations", f"{self.activations / 2**20:,.1f}"], ["total", f"{self.total / 2**20:,.1f}"]]
        if self.peak is not None:
            rows.append(["peak, allocator", f"{self.peak / 2**20:,.1f}"])
        return ResultTable(("part", "MiB"), rows, title="Memory of one training step, per device")


def measure_step(trainer: Any) -> StepMemory:
    """
    Takes one optimiser step on the first batch and counts. The trainer's model is changed by it: throw it away.
    """
    trainer.create_optimizer_and_scheduler(1)
    model = trainer.model.to(trainer.args.device).train()
    cuda = trainer.args.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    inputs = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor),
        trainer.compute_loss_context_manager(),
    ):
        items = trainer._get_num_items_in_batch([inputs], trainer.args.device)
        loss = trainer.compute_loss(model, inputs, num_items_in_batch=items)
    loss.backward()
    gradients = sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    trainer.optimizer.step()
    state = sum(
        value.nbytes
        for entry in trainer.optimizer.state.values()
        for value in entry.values()
        if isinstance(value, torch.Tensor)
    )
    return StepMemory(
        weights=sum(p.nbytes for p in model.parameters()),
        gradients=gradients,
        optimizer=state,
        activations=sum(kept.values()),
        peak=torch.cuda.max_memory_allocated() if cuda else None,
    )


__all__ = ["StepMemory", "measure_step"]
