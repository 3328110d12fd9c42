"""Mixtures: exact shares, a defined epoch, one order for any number of workers, resuming."""

import pickle
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from torch.utils.data import DataLoader, Dataset, IterableDataset

from training_st4vla.data.mixtures import MixtureDataset, StreamingMixture, apportion, mixture_shares, walk


class Numbers(Dataset):
    def __init__(self, name: str, count: int) -> None:
        self.name, self.count = name, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> str:
        return f"{self.name}{range(self.count)[index]}"


class Stream(IterableDataset):
    def __init__(self, name: str, count: int) -> None:
        self.name, self.count = name, count

    def __iter__(self) -> Iterator[str]:
        return (f"{self.name}{index}" for index in range(self.count))


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


def streaming(**options: object) -> StreamingMixture:
    parts = {"a": Stream("a", 30), "b": Stream("b", 4)}
    return StreamingMixture(parts, weights={"a": 3, "b": 1}, epoch_size=40, seed=2, **options)


def test_streams() -> None:
    mixture = streaming()
    first = list(mixture)
    assert len(first) == len(mixture) == 40
    assert [name for name in first if name.startswith("a")] == [f"a{i}" for i in range(30)]
    assert [name for name in first if name.startswith("b")] == [f"b{i % 4}" for i in range(10)]
    mixture.set_epoch(1)
    second = list(mixture)
    assert next(name for name in second if name.startswith("b")) == "b2"
    assert second != first


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_streams_with_workers(workers: int) -> None:
    mixture = streaming(batch_size=4)
    alone = list(DataLoader(mixture, batch_size=4))
    assert list(DataLoader(mixture, batch_size=4, num_workers=workers)) == alone


@pytest.mark.parametrize("position", [0, 1, 17, 39])
def test_streams_resume(position: int) -> None:
    mixture = streaming()
    mixture.set_epoch(1)
    whole = list(mixture)
    mixture.start_at(1, position)
    assert list(mixture) == whole[position:]


def test_hugging_face_streams() -> None:
    import datasets

    table = datasets.Dataset.from_dict({"x": list(range(10))}).to_iterable_dataset()
    mixture = StreamingMixture({"t": table}, weights={"t": 1.0}, epoch_size=15)
    assert [row["x"] for row in mixture] == [*range(10), *range(5)]
    mixture.start_at(0, 7)
    assert [row["x"] for row in mixture] == [7, 8, 9, *range(5)]
    mixture.start_at(1, 0)
    assert next(iter(mixture))["x"] == 5


def test_an_empty_stream_is_no_endless_loop() -> None:
    with pytest.raises(ValueError, match="'e' is empty"):
        list(StreamingMixture({"e": Stream("e", 0)}, weights={"e": 1.0}, epoch_size=3))
