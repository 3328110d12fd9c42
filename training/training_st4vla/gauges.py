"""What a trainer reads off between two log lines: parts of the loss, gradient norms, speed, time spent waiting."""

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

PARTS = ("vlm", "vision_encoder", "vision_projector", "query_transformer", "state_encoder", "action_expert")


class Gauges:
    """
    Running means since the last log.

    Args:
        names (`Sequence[str]`): everything that may be recorded; the same in all processes, which sum up together.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = list(names)
        self._sums: dict[str, torch.Tensor] = {}
        self._since, self._waited, self._samples = time.perf_counter(), 0.0, 0

    def record(self, name: str, total: torch.Tensor, count: torch.Tensor | int = 1) -> None:
        """Adds `total / count` to the mean of `name`, weighted by `count`."""
        # Kept on the device: reading a number here would wait for the accelerator at every step.
        total = total.detach().float()
        entry = torch.stack([total, torch.as_tensor(count, dtype=torch.float32, device=total.device)])
        self._sums[name] = self._sums[name] + entry if name in self._sums else entry

    def waited(self, seconds: float, samples: int) -> None:
        """`samples` of this process were fetched, which kept it waiting."""
        self._waited += seconds
        self._samples += samples

    def read(self, accelerator: Any) -> dict[str, float]:
        """Means over all processes; this process's samples per second and share of time spent waiting. Starts anew."""
        nothing = torch.zeros(2, device=accelerator.device)
        table = torch.stack([self._sums.get(name, nothing).to(accelerator.device) for name in self._names])
        rows = accelerator.reduce(table, reduction="sum").tolist()
        found = {name: round(total / n, 6) for name, (total, n) in zip(self._names, rows, strict=True) if n}
        elapsed = max(time.perf_counter() - self._since, 1e-9)
        found["samples_per_second"] = round(self._samples * accelerator.num_processes / elapsed, 3)
        found["data_wait"] = round(self._waited / elapsed, 4)
        self._sums.clear()
        self._since, self._waited, self._samples = time.perf_counter(), 0.0, 0
        return found


def gradient_norms(parameters: Iterable[tuple[str, torch.nn.Parameter]]) -> Iterator[tuple[str, torch.Tensor]]:
    """L2 norm of the gradients of each of `PARTS` that has any."""
    by_part: dict[str, list[torch.Tensor]] = {}
    for name, parameter in parameters:
        if parameter.grad is not None:
            by_part.setdefault(plain_name(name).split(".", 1)[0], []).append(parameter.grad)
    for part in PARTS:
        if part in by_part:
            norm: Any = torch.nn.utils.get_total_norm(by_part[part])
            yield part, norm.full_tensor() if hasattr(norm, "full_tensor") else norm


def plain_name(name: str) -> str:
    """A parameter's name without what torch.compile, DDP and PEFT wrap around it."""
    name = name.replace("_orig_mod.", "").removeprefix("module.").removeprefix("base_model.model.")
    return name.replace(".modules_to_save.default", "")


__all__ = ["PARTS", "Gauges", "gradient_norms", "plain_name"]
