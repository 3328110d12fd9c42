"""Batches of samples of like length, in an order that depends on seed and epoch alone."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices


class LengthGroupedEpochs(Sampler[int]):
    """
    As transformers' `LengthGroupedSampler`, but a resumed run draws the same order: transformers' draws from the
    global generator, whose state at the start of an epoch is not the same after a restart.

    Args:
        samples (`Dataset`): map-style; with `lengths()`, and `set_epoch` where they change with it.
        batch_size (`int`): of all processes and accumulation steps together.
        seed (`int`).
    """

    def __init__(self, samples: Any, batch_size: int, seed: int) -> None:
        self.samples, self.batch_size, self.seed, self.epoch = samples, batch_size, seed, 0
        self.lengths = lengths_of(samples)

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate before each epoch."""
        if epoch != self.epoch and hasattr(self.samples, "set_epoch"):
            self.samples.set_epoch(epoch)
            self.lengths = lengths_of(self.samples)
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + 1_000_003 * self.epoch)
        return iter(get_length_grouped_indices(self.lengths, self.batch_size, generator=generator))


def lengths_of(samples: Any) -> list[int]:
    """Lengths of questions and answers, in any unit; without decoding images where the dataset can."""
    if hasattr(samples, "lengths"):
        return samples.lengths()
    return [len(sample["instruction"]) + len(str(sample["answer"])) for sample in samples]


__all__ = ["LengthGroupedEpochs", "lengths_of"]
