"""A run that has diverged stops, and leaves its last good checkpoint."""

import math
from typing import Any

import torch
from torch import nn
from transformers.trainer_callback import TrainerCallback

from training_st4vla.errors import UserError


class DivergenceError(UserError):
    """Weights or gradients are no longer numbers; nothing that training goes on to do can mend them."""


class StopWhenDiverged(TrainerCallback):
    """
    Raises [`DivergenceError`] when a logged gradient norm is not finite, or trained weights that are about to be saved
    are not.

    transformers leaves losses that are not numbers out of the logged average and goes on to the last step; the model
    that it then saves answers nothing.
    """

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Looks at the gradient norm of the last step."""
        norm = (logs or {}).get("grad_norm")
        if norm is not None and not math.isfinite(norm):
            raise DivergenceError(explain(state.global_step, f"a gradient norm of {norm}"))

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Looks at the weights before they are written."""
        if control.should_save or control.should_training_stop:
            wrong = not_finite(model)
            if wrong:
                raise DivergenceError(explain(state.global_step, f"values in {wrong[0]} that are not numbers"))


def not_finite(model: nn.Module) -> list[str]:
    """Names of trained weights with a value that is not finite; of sharded weights, this process's part is read."""
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    finite = torch.stack([torch.isfinite(own_part(weight)).all() for weight in trained.values()]).tolist()
    return [name for name, good in zip(trained, finite, strict=True) if not good]


def own_part(weight: torch.Tensor) -> torch.Tensor:
    """What this process holds of a weight."""
    to_local = getattr(weight, "to_local", None)
    return weight.detach() if to_local is None else to_local().detach()


def explain(step: int, found: str) -> str:
    """What happened, and what to do."""
    return (
        f"Training has diverged at step {step}: expected finite numbers, found {found}. Nothing more is saved; "
        "checkpoints from before are untouched. Lower --learning-rate, or give it more --warmup-steps, and start "
        "again in another folder."
    )


__all__ = ["DivergenceError", "StopWhenDiverged"]
