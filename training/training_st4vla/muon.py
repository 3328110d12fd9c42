"""Muon for the matrices of a network and AdamW for the rest, as one optimizer for trainers and schedules."""
# torch's own optimizers are made of these operations on lists, which it does not export.
# pyright: reportPrivateImportUsage=false

from collections.abc import Callable, Iterator
from typing import Any

import torch

from training_st4vla.precision import multiplies_bfloat16

# Tables that are looked up, not multiplied: their rows are updated one by one.
_TABLES = ("embed", "lm_head")

_ELEMENTS_TOGETHER = 1 << 26


class Muon(torch.optim.Muon):
    """
    [`torch.optim.Muon`] with steps of one size for all shapes (`match_rms_adamw`), taken by all matrices of one shape
    together: torch's runs about twenty kernels for every matrix, one after the other.

    It orthogonalises in bfloat16 as torch's, and in float32 where the device does not multiply bfloat16: emulated, a
    step of the `tiny` planner took 100 seconds on such a CPU.
    """

    def __init__(self, matrices: list[torch.nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step."""
        (group,) = self.param_groups
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        weights: list[torch.Tensor] = []
        gradients: list[torch.Tensor] = []
        averages: list[torch.Tensor] = []
        self._init_group(group, weights, gradients, averages)
        if not weights:
            return loss
        torch._foreach_lerp_(averages, gradients, 1 - group["momentum"])
        updates = torch._foreach_lerp(gradients, averages, group["momentum"]) if group["nesterov"] else averages
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        dtype = torch.bfloat16 if multiplies_bfloat16(weights[0].device) else torch.float32
        for alike in _by_shape(weights):
            update = torch.stack([updates[index] for index in alike]).to(dtype)
            update = orthogonalize(update, group["ns_coefficients"], group["ns_steps"], group["eps"])
            size = group["lr"] * 0.2 * max(update.shape[-2:]) ** 0.5
            torch._foreach_add_([weights[index] for index in alike], list(update.to(weights[0].dtype)), alpha=-size)
        return loss


def _by_shape(weights: list[torch.Tensor]) -> Iterator[list[int]]:
    """Indices of weights of one shape, and at most so many that copies of them stay small."""
    shapes: dict[torch.Size, list[int]] = {}
    for index, weight in enumerate(weights):
        shapes.setdefault(weight.shape, []).append(index)
    for shape, indices in shapes.items():
        together = max(1, _ELEMENTS_TOGETHER // shape.numel())
        yield from (indices[start : start + together] for start in range(0, len(indices), together))


def orthogonalize(
    matrices: torch.Tensor, coefficients: tuple[float, float, float], steps: int, eps: float
) -> torch.Tensor:
    """
    Brings all singular values near one by Newton-Schulz iteration, in the matrices' own dtype.

    Args:
        matrices (`torch.Tensor` of shape `(batch, rows, columns)`): each on its own. coefficients: of the quintic.
        steps (`int`): iterations. eps (`float`): least norm that is divided by.
    """
    first, second, third = coefficients
    tall = matrices.shape[-2] > matrices.shape[-1]
    wide = matrices.mT if tall else matrices
    wide = wide / wide.norm(dim=(-2, -1), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = wide @ wide.mT
        wide = torch.baddbmm(wide, torch.baddbmm(gram, gram, gram, beta=second, alpha=third), wide, beta=first)
    return wide.mT if tall else wide


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
