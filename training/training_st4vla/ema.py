"""Exponential moving average of the trained weights, by diffusers' `EMAModel`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from transformers.trainer_callback import TrainerCallback

FILE = "ema.pt"


class WeightAverage(TrainerCallback):
    """
    Averages the weights after every optimiser step, keeps the average in checkpoints, and leaves it in the model when
    training ends.

    Args:
        decay (`float`): of the average, reached by diffusers' warm-up: early steps are forgotten faster.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.resume_from: str | None = None
        self._average: EMAModel | None = None
        self._parameters: list[torch.nn.Parameter] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._average = EMAModel(self._parameters, decay=self.decay, use_ema_warmup=True, foreach=True)
        if self.resume_from is not None:
            saved = torch.load(Path(self.resume_from) / FILE, map_location="cpu", weights_only=True)
            self._average.load_state_dict(saved)
        self._average.to(self._parameters[0].device)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._average is not None:
            self._average.step(self._parameters)

    def save(self, folder: Path) -> None:
        """The average into a checkpoint's folder, new or not."""
        if self._average is not None:
            folder.mkdir(parents=True, exist_ok=True)
            torch.save(self._average.state_dict(), folder / FILE)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._average is not None:
            self._average.copy_to(self._parameters)

    @property
    def nbytes(self) -> int:
        """Bytes of the average."""
        return 0 if self._average is None else sum(parameter.nbytes for parameter in self._average.shadow_params)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within it the model computes with the average."""
        if self._average is None:
            yield
            return
        self._average.store(self._parameters)
        self._average.copy_to(self._parameters)
        try:
            yield
        finally:
            self._average.restore(self._parameters)


__all__ = ["WeightAverage"]
