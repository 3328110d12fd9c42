"""Mixtures: exact shares, a defined epoch, one order for any number of workers, resuming."""

import pickle
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader, Dataset

from training_st4vla.data.mixtures import MixtureDataset, apportion, has_order, mixture_shares, walk
from training_st4vla.data.sample_stream import SampleStream


class Numbers(Dataset):
    def __init__(self, name: str, count: int) -> None:
        self.name, self.count = name, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> str:
        return f"{self.name}{range(self.count)[index]}"


PARTS = {"a": Numbers("a", 100), "b": Numbers("b", 10), "c": Numbers("c", 1)}


def test_shares() -> None:
    counts = {"a": 900, "b": 100}
    assert mixture_shares(counts) == {"a": 0.9, "b": 0.1}
    assert mixture_shares(counts, {"a": 1, "b": 3}) == {"a": 0.25, "b": 0.75}
    assert mixture_shares(counts, 2.0) == pytest.approx({"a": 0.75, "b": 0.25})
    assert mixture_shares(counts, float("inf")) == {"a": 0.5, "b": 0.5}
    assert apportion({"a": 0.5, "b": 0.3, "c": 0.2}, 7) == {"a": 4, "b": 2, "c": 1}
    for bad in ({"a": 1}, {"a": 1, "b": 0}, {"a": 1, "b": -1}, 0.0):
        with pytest.raises(ValueError, match="weights"):
            mixture_shares(counts, bad)


def test_a_walk_sees_everything_before_anything_twice() -> None:
    draws = walk(7, (3,), 0, 21)
    assert [sorted(draws[lap : lap + 7].tolist()) for lap in (0, 7, 14)] == [list(range(7))] * 3
    np.testing.assert_array_equal(walk(7, (3,), 5, 10), draws[5:15])
    assert not np.array_equal(draws[:7], draws[7:14])
    assert len(walk(7, (3,), 5, 0)) == 0


def test_an_epoch_is_what_it_says() -> None:
    mixture = MixtureDataset(PARTS)
    assert len(mixture) == 111
    assert sorted(mixture[i] for i in range(111)) == sorted(
        part[i] for part in PARTS.values() for i in range(len(part))
    )
    weighted = MixtureDataset(PARTS, weights={"a": 1, "b": 1, "c": 2}, epoch_size=400, seed=5)
    drawn = Counter(weighted[i] for i in range(400))
    assert weighted.draws == {"a": 100, "b": 100, "c": 200}
    assert all(drawn[f"a{i}"] == 1 for i in range(100))
    assert all(drawn[f"b{i}"] == 10 for i in range(10))
    assert drawn["c0"] == 200


def test_epochs_differ_and_go_on_in_each_part() -> None:
    mixture = MixtureDataset({"a": Numbers("a", 100), "b": Numbers("b", 100)}, epoch_size=50)
    seen: list[str] = []
    for epoch in range(4):
        mixture.set_epoch(epoch)
        seen += [mixture[i] for i in range(50)]
    assert len(set(seen)) == 200
    mixture.set_epoch(0)
    assert [mixture[i] for i in range(50)] == seen[:50]
    assert seen[:50] != seen[50:100]


def test_the_seed_decides() -> None:
    def order(seed: int) -> list[str]:
        mixture = MixtureDataset(PARTS, seed=seed)
        return [mixture[i] for i in range(20)]

    assert order(1) == order(1) != order(2)
    clone = pickle.loads(pickle.dumps(MixtureDataset(PARTS, seed=1)))
    assert [clone[i] for i in range(20)] == order(1)


def test_workers_see_the_epoch() -> None:
    mixture = MixtureDataset(PARTS, seed=3)
    alone = DataLoader(mixture, batch_size=4)
    with_workers = DataLoader(mixture, batch_size=4, num_workers=2, persistent_workers=True)
    for epoch in range(2):
        mixture.set_epoch(epoch)
        assert list(with_workers) == list(alone)


def test_refused() -> None:
    for arguments in ({"datasets": {}}, {"datasets": {"a": Numbers("a", 0)}}, {"datasets": PARTS, "epoch_size": 0}):
        with pytest.raises(ValueError, match=r"datasets|epoch_size"):
            MixtureDataset(**arguments)


class Counting(SampleStream):
    """`name0`, `name1`, ... in passes of `count`; the pass is part of what is delivered."""

    def __init__(self, name: str, count: int, epoch_size: int) -> None:
        super().__init__(epoch_size, name)
        self.count, self.decoded = count, 0

    def read_pass(self, number: int) -> Iterator[str]:
        return (f"{self.name}{index}/{number}" for index in range(self.count))

    def decode(self, sample: str) -> str:
        self.decoded += 1
        return sample


def with_stream() -> MixtureDataset:
    parts = {"s": Counting("s", 30, 20), "b": Numbers("b", 4)}
    return MixtureDataset(parts, weights={"s": 3, "b": 1}, epoch_size=40, seed=2)


def epochs(mixture: MixtureDataset, number: int) -> list[str]:
    seen: list[str] = []
    for epoch in range(number):
        mixture.set_epoch(epoch)
        seen += [mixture[index] for index in range(len(mixture))]
    return seen


def test_a_stream_is_a_part_like_any_other() -> None:
    """Its samples come in its order, pass after pass, on across epochs."""
    mixture = with_stream()
    assert has_order(mixture)
    seen = epochs(mixture, 2)
    assert [name for name in seen if name.startswith("s")] == [f"s{i}/{n}" for n in (0, 1) for i in range(30)]
    assert Counter(name for name in seen if name.startswith("b")) == {f"b{i}": 5 for i in range(4)}


@pytest.mark.parametrize("workers", [1, 3])
def test_streams_with_workers(workers: int) -> None:
    mixture = with_stream()
    expected = list(DataLoader(with_stream(), batch_size=4))
    assert list(DataLoader(mixture, batch_size=4, num_workers=workers)) == expected


@pytest.mark.parametrize("position", [1, 17, 39])
def test_streams_resume_without_decoding_what_was_seen(position: int) -> None:
    whole = epochs(with_stream(), 2)[40:]
    resumed = pickle.loads(pickle.dumps(with_stream()))
    resumed.set_epoch(1)
    assert [resumed[index] for index in range(position, 40)] == whole[position:]
    stream: Any = resumed.datasets["s"]
    assert stream.decoded == sum(name.startswith("s") for name in whole[position:])
    assert resumed[0] == whole[0]  # reading back is possible, and begins anew


def test_an_empty_stream_is_no_endless_loop() -> None:
    with pytest.raises(ValueError, match="e: the stream holds no sample"):
        Counting("e", 0, 3)[0]
