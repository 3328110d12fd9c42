"""Muon for the matrices of a network and AdamW for the rest, as one optimizer for trainers and schedules."""

from collections.abc import Callable
from typing import Any

import torch

from training_st4vla.precision import multiplies_bfloat16

# Tables that are looked up, not multiplied: their rows are updated one by one.
_TABLES = ("embed", "lm_head")


class Muon(torch.optim.Muon):
    """
    [`torch.optim.Muon`] with steps of one size for all shapes (`match_rms_adamw`), which orthogonalises in float32
    where the device does not multiply bfloat16: emulated, a step of the `tiny` planner took 100 seconds on such a CPU.
    """

    def __init__(self, matrices: list[torch.nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step."""
        (group,) = self.param_groups
        if multiplies_bfloat16(group["params"][0].device):
            return super().step(closure)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        weights: list[torch.Tensor] = []
        gradients: list[torch.Tensor] = []
        averages: list[torch.Tensor] = []
        self._init_group(group, weights, gradients, averages)
        for weight, gradient, average in zip(weights, gradients, averages, strict=True):
            average.lerp_(gradient, 1 - group["momentum"])
            update = gradient.lerp(average, group["momentum"]) if group["nesterov"] else average
            update = orthogonalize(update, group["ns_coefficients"], group["ns_steps"], group["eps"])
            weight.mul_(1 - group["lr"] * group["weight_decay"])
            weight.add_(update, alpha=-group["lr"] * 0.2 * max(weight.shape) ** 0.5)
        return loss


def orthogonalize(
    matrix: torch.Tensor, coefficients: tuple[float, float, float], steps: int, eps: float
) -> torch.Tensor:
    """
    Brings all singular values near one by Newton-Schulz iteration, in the matrix's own dtype.

    Args:
        matrix (`torch.Tensor` of shape `(rows, columns)`). coefficients: of the quintic. steps (`int`): iterations.
        eps (`float`): least norm that is divided by.
    """
    first, second, third = coefficients
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    wide = wide / wide.norm().clamp(min=eps)
    for _ in range(steps):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=second, alpha=third), wide, beta=first)
    return wide.T if matrix.shape[0] > matrix.shape[1] else wide


class MuonAdamW(torch.optim.Optimizer):
    """
    [`Muon`] (Jordan et al., 2024) on matrices, [`torch.optim.AdamW`] on embeddings, biases, norms and
    convolutions, with one learning rate: Muon's steps are scaled to the size of AdamW's (arXiv 2502.16982).

    Args:
        named (`list[tuple[str, nn.Parameter]]`): what is trained, with names.
        lr (`float`), weight_decay (`float`): of both. betas, eps: of AdamW.

    Raises:
        ValueError: when there is no matrix among the parameters.
    """

    def __init__(
        self,
        named: list[tuple[str, torch.nn.Parameter]],
        lr: float,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
    ) -> None:
        matrices = [weight for name, weight in named if is_matrix(name, weight)]
        rest = [weight for name, weight in named if not is_matrix(name, weight)]
        if not matrices:
            raise ValueError("named: expected matrices among the parameters, found none; use AdamW.")
        muon = Muon(matrices, lr, weight_decay)
        self._parts: list[torch.optim.Optimizer] = [muon]
        if rest:
            adamw = torch.optim.AdamW(rest, lr=lr, weight_decay=weight_decay, betas=betas, eps=eps)
            self._parts.append(adamw)
        super().__init__([group for part in self._parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Both work on this optimizer's groups and state, so that schedules reach them and checkpoints hold them."""
        for part, group in zip(self._parts, self.param_groups, strict=True):
            part.param_groups, part.state = [group], self.state

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of both."""
        loss = None if closure is None else closure()
        for part in self._parts:
            part.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As any optimizer's."""
        super().load_state_dict(state_dict)
        self._share()


def is_matrix(name: str, weight: torch.Tensor) -> bool:
    """Whether Muon is for this parameter."""
    return weight.ndim == 2 and not any(part in name for part in _TABLES)


__all__ = ["Muon", "MuonAdamW", "is_matrix"]
