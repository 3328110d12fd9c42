"""Batches of samples of like length: little padding, every sample once, the same order after a restart."""

import random

import numpy as np

from training_st4vla.data.length_groups import LengthGroupedEpochs


class _Samples:
    def __init__(self, lengths: list[int]) -> None:
        self._lengths = lengths

    def lengths(self) -> list[int]:
        return self._lengths


def _padding(lengths: list[int], order: list[int], size: int) -> float:
    batches = [[lengths[i] for i in order[at : at + size]] for at in range(0, len(order), size)]
    return sum(max(batch) * len(batch) for batch in batches) / sum(lengths)


def test_every_sample_comes_once_and_padding_shrinks() -> None:
    generator = random.Random(0)
    lengths = [generator.choice((40, 60, 300)) + generator.randrange(20) for _ in range(1000)]
    sampler = LengthGroupedEpochs(_Samples(lengths), batch_size=8, seed=1)
    order = list(sampler)
    assert sorted(order) == list(range(1000))
    assert len(sampler) == 1000
    assert _padding(lengths, order, 8) < 1.1
    assert _padding(lengths, list(range(1000)), 8) > 1.8


def test_the_order_follows_from_seed_and_epoch() -> None:
    lengths = np.random.default_rng(0).integers(1, 99, 64).tolist()

    def order(seed: int, epoch: int) -> list[int]:
        sampler = LengthGroupedEpochs(_Samples(lengths), 4, seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(1, 2) == order(1, 2)
    assert len({tuple(order(seed, epoch)) for seed in (1, 2) for epoch in (0, 1, 2)}) == 6
