"""Mixtures: several datasets dealt out as one, by weight, from a seed, with an epoch that is defined.

The order of a mixture is a plan: a pure function of the seed, the epoch, and the sizes and weights of its parts. So
any number of workers or processes sees the same samples in the same order, and a resumed run goes on where it stopped.

- In an epoch of `n` draws, part `j` is drawn `weight_j * n` times, rounded by largest remainders, and the draws are
  shuffled.
- The draws of a part walk through a permutation of it, a new one each time it is used up, and go on across epochs: no
  sample is seen a second time before all the others of its part were seen once. A part may have permutations of its
  own (a method `permutation(seed, lap)`), for data that are read well in some orders only; a stream
  ([`~training_st4vla.data.sample_stream.SampleStream`]) has the numbers of its next samples instead.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

Weights = Mapping[str, float] | float


def mixture_shares(counts: Mapping[str, int], weights: Weights = 1.0) -> dict[str, float]:
    """The share of each part in a mixture; they add up to 1.

    Args:
        counts: Number of samples of each part.
        weights: A weight per part, in any unit; or a temperature `T`: shares in proportion to `count ** (1 / T)`. 1
            draws by count, a high temperature evenly, `inf` exactly evenly.

    Raises:
        ValueError: A weight is missing, unknown or not positive, or the temperature is not positive.
    """
    if isinstance(weights, Mapping):
        if set(weights) != set(counts):
            raise ValueError(f"weights: expected one for each of {sorted(counts)}, found {sorted(weights)}.")
        raw = {name: float(weights[name]) for name in counts}
    else:
        if not weights > 0:
            raise ValueError(f"weights: expected a temperature above 0, found {weights}.")
        raw = {name: float(count) ** (1.0 / weights) for name, count in counts.items()}
    if not raw or not all(0 < value < float("inf") for value in raw.values()):
        raise ValueError(f"weights: expected positive numbers, found {raw}.")
    total = sum(raw.values())
    return {name: value / total for name, value in raw.items()}


def apportion(shares: Mapping[str, float], number: int) -> dict[str, int]:
    """`number` draws divided by shares, by largest remainders; they add up to `number`."""
    exact = {name: share * number for name, share in shares.items()}
    draws = {name: int(value) for name, value in exact.items()}
    short = number - sum(draws.values())
    for name in sorted(exact, key=lambda name: draws[name] - exact[name])[:short]:
        draws[name] += 1
    return draws


Permutation = Callable[[tuple[int, ...], int], np.ndarray]


def walk(
    count: int, seed: tuple[int, ...], start: int, number: int, permutation: Permutation | None = None
) -> np.ndarray:
    """Draws `start ... start + number - 1` of an endless walk through seeded permutations of `count` items.

    Args:
        permutation: Of a seed and the lap's number; None: evenly random.

    Returns:
        int64 `[number]`; without a `permutation` each is from 0 to `count - 1`, and every `count` draws from a
        multiple of `count` on are a permutation.
    """
    if number == 0:
        return np.zeros(0, dtype=np.int64)
    first, last = start // count, (start + number - 1) // count
    if permutation is None:
        laps = [np.random.default_rng((*seed, lap)).permutation(count) for lap in range(first, last + 1)]
    else:
        laps = [permutation(seed, lap) for lap in range(first, last + 1)]
    return np.concatenate(laps)[start - first * count :][:number]


class MixtureDataset(Dataset):
    """Map-style datasets dealt out as one; see the module's text for the order.

    Trainers shuffle map-style datasets once more, which changes the order and nothing else; they leave it where a part
    has an order of its own ([`has_order`]).

    Args:
        datasets: Parts by name.
        weights: Weight per name, or a temperature; see [`mixture_shares`].
        epoch_size: Draws per epoch; None: as many as the parts have samples together.
        seed: Of the order.

    Attributes:
        draws: Number of draws of each part per epoch.

    Raises:
        ValueError: For no parts, an empty part, wrong weights, or an epoch without draws.
    """

    def __init__(
        self,
        datasets: Mapping[str, Dataset],
        *,
        weights: Weights = 1.0,
        epoch_size: int | None = None,
        seed: int = 0,
    ) -> None:
        counts = {name: len(part) for name, part in datasets.items()}  # type: ignore[arg-type]
        if not counts or not all(counts.values()):
            raise ValueError(f"datasets: expected parts that hold samples, found {counts}.")
        if epoch_size is not None and epoch_size < 1:
            raise ValueError(f"epoch_size: expected at least 1, found {epoch_size}.")
        self.datasets, self.counts, self.seed = dict(datasets), counts, seed
        self.draws = apportion(mixture_shares(counts, weights), epoch_size or sum(counts.values()))
        # Shared memory: workers that stay alive between epochs see the new one.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._plan: tuple[int, np.ndarray, np.ndarray] | None = None
        self._lengths: list[np.ndarray] | None = None

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch, from 0; trainers call it."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return sum(self.draws.values())

    def __getitem__(self, index: int) -> Any:
        name, position = self.locate(index)
        return self.datasets[name][position]

    def lengths(self) -> list[int]:
        """Length of every draw of this epoch; the parts say theirs, in one unit."""
        if self._lengths is None:
            self._lengths = [np.asarray(part.lengths()) for part in self.datasets.values()]  # type: ignore[attr-defined]
        parts, positions = self._order(int(self._epoch))
        found = np.empty(len(parts), dtype=np.int64)
        for part, lengths in enumerate(self._lengths):
            found[parts == part] = lengths[positions[parts == part]]
        return found.tolist()

    def locate(self, index: int) -> tuple[str, int]:
        """The part that draw `index` of this epoch comes from, and the sample's index in it."""
        parts, positions = self._order(int(self._epoch))
        slot = range(len(self))[int(index)]
        return list(self.datasets)[parts[slot]], int(positions[slot])

    def _order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        if self._plan is None or self._plan[0] != epoch:
            parts = deal(tuple(self.draws.values()), self.seed, epoch)
            positions = np.empty(len(parts), dtype=np.int64)
            for part, (name, number) in enumerate(self.draws.items()):
                seed = (self.seed, part)
                own = getattr(self.datasets[name], "permutation", None)
                positions[parts == part] = walk(self.counts[name], seed, epoch * number, number, own)
            self._plan = epoch, parts, positions
        return self._plan[1], self._plan[2]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_plan": None}


def has_order(dataset: Any) -> bool:
    """Whether a mixture, or one that a dataset wraps, holds a part with an order of its own, to be left as it is."""
    if isinstance(dataset, MixtureDataset):
        return any(hasattr(part, "permutation") for part in dataset.datasets.values())
    inner = getattr(dataset, "dataset", getattr(dataset, "actions", None))
    return inner is not None and has_order(inner)


@lru_cache(maxsize=4)
def deal(draws: tuple[int, ...], seed: int, epoch: int) -> np.ndarray:
    """Which part each draw of an epoch comes from: int16 `[sum(draws)]`, read-only."""
    parts = np.repeat(np.arange(len(draws), dtype=np.int16), draws)
    np.random.default_rng((seed, epoch, len(draws))).shuffle(parts)
    parts.setflags(write=False)
    return parts


__all__ = ["MixtureDataset", "apportion", "deal", "has_order", "mixture_shares", "walk"]
