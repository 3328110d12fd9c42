"""Questions about one image, dealt out together: the image is decoded and encoded once for all of them."""

from typing import Any

import numpy as np
from torch.utils.data import Dataset

from training_st4vla.data.grounding.dataset import GroundingDataset


class QuestionsPerImage(Dataset):
    """
    Groups of at most `number` samples of one image: items are `{"questions": [sample, ...]}`.

    Which questions are grouped is a pure function of seed and epoch; in an epoch every sample comes once.

    Args:
        samples ([`GroundingDataset`]). number (`int`): most questions of a group. seed (`int`).
    """

    def __init__(self, samples: GroundingDataset, number: int, seed: int = 0) -> None:
        if number < 1:
            raise ValueError(f"number: expected at least 1 question per image, found {number}.")
        self.samples, self.number, self.seed = samples, number, seed
        self._image_of, self._lengths = samples.image_numbers(), np.asarray(samples.lengths())
        self._groups = self._deal(0)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch, from 0; trainers call it."""
        self._groups = self._deal(epoch)

    def __len__(self) -> int:
        return len(self._groups)

    def __getitem__(self, index: int) -> dict[str, list[dict[str, Any]]]:
        return {"questions": self.samples.together(self._groups[int(index)].tolist())}

    def lengths(self) -> list[int]:
        """About how many characters the questions and answers of each group have."""
        return [int(self._lengths[group].sum()) for group in self._groups]

    def _deal(self, epoch: int) -> list[np.ndarray]:
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.samples))
        order = order[np.argsort(self._image_of[order], kind="stable")]
        starts = np.flatnonzero(np.diff(self._image_of[order], prepend=-1))
        ends = np.append(starts[1:], len(order))
        groups = []
        for start, end in zip(starts, ends, strict=True):
            parts = -(-(end - start) // self.number)
            groups += np.array_split(order[start:end], parts)  # of like size: no sequence for a single one left over
        return groups


__all__ = ["QuestionsPerImage"]
