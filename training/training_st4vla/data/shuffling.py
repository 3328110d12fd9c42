"""The order in which a training run sees its samples: a function of seed and epoch alone."""

from typing import Any

import torch
from torch.utils.data import Dataset


class ShuffledEpochs(Dataset):
    """
    A map-style dataset in a new order every epoch; read it from first to last.

    The order stands in the dataset instead of a sampler so that what is dealt out by place in the epoch, such as
    grounding samples beside actions, comes evenly to every batch; and so that a resumed run, any number of workers and
    any number of processes see the same order.

    Args:
        dataset (`Dataset`): map-style; told the epoch, too, if it has `set_epoch`.
        seed (`int`).
    """

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self.dataset, self.seed = dataset, seed
        # Shared memory: workers that stay alive between epochs see the new one.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._order: tuple[int, torch.Tensor] | None = None

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch, from 0."""
        self._epoch.fill_(epoch)
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)  # pyright: ignore[reportAttributeAccessIssue]

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, place: int) -> Any:
        epoch = int(self._epoch)
        if self._order is None or self._order[0] != epoch:
            generator = torch.Generator().manual_seed(self.seed + 1_000_003 * epoch)
            self._order = epoch, torch.randperm(len(self), generator=generator)
        return self.dataset[int(self._order[1][place])]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_order": None}


__all__ = ["ShuffledEpochs"]
