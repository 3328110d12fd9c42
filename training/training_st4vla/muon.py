"""Muon for the matrices of a network and AdamW for the rest, as one optimizer for trainers and schedules."""

from collections.abc import Callable
from typing import Any

import torch

# Tables that are looked up, not multiplied: their rows are updated one by one.
_TABLES = ("embed", "lm_head")


class MuonAdamW(torch.optim.Optimizer):
    """
    [`torch.optim.Muon`] (Jordan et al., 2024) on matrices, [`torch.optim.AdamW`] on embeddings, biases, norms and
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
        muon = torch.optim.Muon(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
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


__all__ = ["MuonAdamW", "is_matrix"]
