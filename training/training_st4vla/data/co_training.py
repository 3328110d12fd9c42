"""Grounding samples dealt out beside action samples: one index, one order, one data loader."""

from typing import Any

import torch
from torch.utils.data import Dataset


class CoTrainingDataset(Dataset):
    """
    Pairs every action sample with `ratio` grounding samples on average. The action data define the epoch.

    Which grounding samples go with an index is a pure function of the index and the seed: walking a seeded
    permutation, a new one each time it is used up. Any number of workers, and a resumed run, see the same pairs.

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

    def __len__(self) -> int:
        return len(self.actions)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        first, last = int(index * self.ratio), int((index + 1) * self.ratio)
        return self.actions[index], [self.grounding[self._position(step)] for step in range(first, last)]

    def _position(self, step: int) -> int:
        count = len(self.grounding)  # type: ignore[arg-type]
        lap, place = divmod(step, count)
        if lap not in self._orders:
            generator = torch.Generator().manual_seed(self.seed + lap)
            self._orders = {lap: torch.randperm(count, generator=generator)}
        return int(self._orders[lap][place])


__all__ = ["CoTrainingDataset"]
