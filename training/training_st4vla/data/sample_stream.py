"""Samples that can only be read in order, as a part of a mixture like any other."""

import os
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import Dataset


class SampleStream(Dataset):
    """An endless stream by number: sample `i` is the `i`-th one that is read, pass after pass.

    A part of a [`MixtureDataset`], which walks through it in order and on across epochs (`permutation`). So streams
    and map-style datasets mix by weight, any number of workers sees the same samples, and a resumed run goes on at
    its place: it reads up to it again, and decodes nothing on the way. Every worker and process reads all of it.

    Args:
        epoch_size: Samples of an epoch; a stream does not know its length.
        name: For errors.
    """

    def __init__(self, epoch_size: int, name: str) -> None:
        if epoch_size < 1:
            raise ValueError(f"epoch_size: expected at least 1, found {epoch_size}.")
        self.epoch_size, self.name = epoch_size, name
        self._reader: Iterator[Any] | None = None
        self._process, self._next, self._last = 0, 0, None

    @abstractmethod
    def read_pass(self, number: int) -> Iterator[Any]:
        """The samples of one pass, undecoded; the same ones in the same order for the same number."""

    def decode(self, sample: Any) -> Any:
        """What is delivered of a sample."""
        return sample

    def permutation(self, seed: tuple[int, ...], lap: int) -> np.ndarray:
        """Numbers of the samples of an epoch: int64 `[epoch_size]`, the next ones of the stream."""
        return np.arange(lap * self.epoch_size, (lap + 1) * self.epoch_size)

    def __len__(self) -> int:
        return self.epoch_size

    def __getitem__(self, index: int) -> Any:
        # A reader that was opened before a worker was forked shares its files with it.
        if self._reader is None or self._process != os.getpid() or index < self._next - 1:
            self._reader, self._process, self._next = self._read(), os.getpid(), 0
        while self._next <= index:
            self._last = next(self._reader)
            self._next += 1
        return self.decode(self._last)

    def _read(self) -> Iterator[Any]:
        number = 0
        while True:
            is_empty = True
            for sample in self.read_pass(number):
                is_empty = False
                yield sample
            if is_empty:
                raise ValueError(f"{self.name}: the stream holds no sample that is asked for.")
            number += 1

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_reader": None, "_last": None}


__all__ = ["SampleStream"]
