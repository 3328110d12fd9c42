"""Batches of samples of like length, in an order that depends on seed and epoch alone."""

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices


class LengthGroupedEpochs(Sampler[int]):
    """
    As transformers' `LengthGroupedSampler`, but a resumed run draws the same order: transformers' draws from the
    global generator, whose state at the start of an epoch is not the same after a restart.

    Args:
        lengths (`Sequence[int]`): one per sample, in any unit.
        batch_size (`int`): of all processes and accumulation steps together.
        seed (`int`).
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = list(lengths), batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + 1_000_003 * self.epoch)
        return iter(get_length_grouped_indices(self.lengths, self.batch_size, generator=generator))


__all__ = ["LengthGroupedEpochs"]
