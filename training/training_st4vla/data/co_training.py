"""Grounding samples dealt out beside action samples: one index, one order, one data loader."""

from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import TrainerCallback


class CoTrainingDataset(Dataset):
    """
    Pairs every action sample with `ratio` grounding samples on average. The action data define the epoch.

    Which grounding samples go with an index is a pure function of the epoch, the index and the seed: walking a seeded
    permutation, a new one each time it is used up, on across epochs. Any number of workers, and a resumed run, see the
    same pairs.

    Args:
        actions, grounding (`Dataset`): map-style.
        ratio (`float`): grounding samples per action sample; the paper's SimplerEnv recipe has 64 per 256 (0.25).
        seed (`int`).
    """

    def __init__(self, actions: Dataset, grounding: Dataset, ratio: float, seed: int = 0) -> None:
        if not ratio > 0 or len(grounding) == 0:  # type: ignore[arg-type]
            raise ValueError(f"grounding: expected samples and a ratio above 0, found ratio {ratio}.")
        self.actions, self.grounding, self.ratio, self.seed = actions, grounding, ratio, seed
        self._orders: dict[int, torch.Tensor] = {}
        # Shared memory: workers that stay alive between epochs see the new one.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch, from 0, of both kinds of samples."""
        self._epoch.fill_(epoch)
        for samples in (self.actions, self.grounding):
            if hasattr(samples, "set_epoch"):
                samples.set_epoch(epoch)  # pyright: ignore[reportAttributeAccessIssue]

    def __len__(self) -> int:
        return len(self.actions)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        place = int(self._epoch) * len(self) + index
        first, last = int(place * self.ratio), int((place + 1) * self.ratio)
        return self.actions[index], [self.grounding[self._position(step)] for step in range(first, last)]

    def _position(self, step: int) -> int:
        count = len(self.grounding)  # type: ignore[arg-type]
        lap, place = divmod(step, count)
        if lap not in self._orders:
            generator = torch.Generator().manual_seed(self.seed + lap)
            self._orders = {lap: torch.randperm(count, generator=generator)}
        return int(self._orders[lap][place])


class EpochOfData(TrainerCallback):
    """
    Tells a dataset the epoch before it begins.

    accelerate does so itself for one process; for several it finds only the sampler inside the shards (1.15).
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """`state.epoch` is a fraction within an epoch that is resumed, and whole up to rounding at its start."""
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(int(state.epoch + 1e-6))


__all__ = ["CoTrainingDataset", "EpochOfData"]
