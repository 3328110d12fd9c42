"""Questions about one image, dealt out together: the image is decoded and encoded once for all of them."""

from typing import Any

import numpy as np
from torch.utils.data import Dataset

from training_st4vla.data.grounding.dataset import GroundingDataset


class QuestionsPerImage(Dataset):
    """
    Groups of at most `number` samples of one image, as lists.

    Which questions are grouped is a pure function of seed and epoch; in an epoch every sample comes once.

    Args:
        samples ([`GroundingDataset`]). number (`int`): most questions of a group. seed (`int`).
    """

    def __init__(self, samples: GroundingDataset, number: int, seed: int = 0) -> None:
        if number < 1:
            raise ValueError(f"number: expected at least 1 question per image, found {number}.")
        self.samples, self.number, self.seed = samples, number, seed
        _, self._image_of = np.unique([sample.image.key for sample in samples.samples()], return_inverse=True)
        self._sample_lengths = np.asarray(samples.lengths())
        self._groups = self._deal(0)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch, from 0; trainers call it."""
        self._groups = self._deal(epoch)

    def __len__(self) -> int:
        return len(self._groups)

    def __getitem__(self, index: int) -> list[dict[str, Any]]:
        numbers = self._groups[int(index)]
        return [self.samples.sample(number).to_item() for number in numbers]

    def lengths(self) -> list[int]:
        """Characters of all questions and answers of each group."""
        return [int(self._sample_lengths[group].sum()) for group in self._groups]

    def _deal(self, epoch: int) -> list[np.ndarray]:
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.samples))
        order = order[np.argsort(self._image_of[order], kind="stable")]
        starts = np.flatnonzero(np.diff(self._image_of[order], prepend=-1))
        ends = np.append(starts[1:], len(order))
        return [
            order[first : min(first + self.number, end)]
            for start, end in zip(starts, ends, strict=True)
            for first in range(start, end, self.number)
        ]


__all__ = ["QuestionsPerImage"]
