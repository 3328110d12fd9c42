"""Streamed action data: the samples of the downloaded dataset, in an order that asks for few videos at a time."""

import fnmatch
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader

from training_st4vla.data import DataError, LeRobotActionDataset
from training_st4vla.data.mixtures import MixtureDataset, has_order
from training_st4vla.data.streaming import StreamedOrder

MakeDataset = Callable[..., Path]
LENGTHS = (6, 4, 5, 7)


class FakeHub:
    """Serves one dataset out of a folder into a snapshot of the Hub's cache, and notes which files were asked for."""

    def __init__(self, remote: Path, cache: Path) -> None:
        self.remote, self.cache = remote, cache
        self.snapshot = cache / "datasets--someone--remote" / "snapshots" / "abc123"

    def hf_hub_download(self, repo_id: str, filename: str, **options: Any) -> str:
        if options.get("cache_dir") is not None:
            assert (options["revision"], Path(options["cache_dir"])) == ("abc123", self.cache)
        return str(self._copy(filename))

    def snapshot_download(self, repo_id: str, **options: Any) -> str:
        wanted, unwanted = options.get("allow_patterns"), options.get("ignore_patterns")
        for path in sorted(self.remote.rglob("*")):
            name = path.relative_to(self.remote).as_posix()
            if path.is_file() and matches(name, wanted, True) and not matches(name, unwanted, False):
                self._copy(name)
        return str(self.snapshot)

    def videos(self) -> list[str]:
        return sorted(path.parent.name + "/" + path.name for path in self.snapshot.rglob("*.mp4"))

    def _copy(self, name: str) -> Path:
        target = self.snapshot / name
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_suffix(f".{np.random.default_rng().integers(1 << 40)}")
            shutil.copy(self.remote / name, partial)
            partial.rename(target)
        return target


def matches(name: str, patterns: Any, otherwise: bool) -> bool:
    if patterns is None:
        return otherwise
    patterns = [patterns] if isinstance(patterns, (str, Path)) else patterns
    return any(
        fnmatch.fnmatch(name, f"{pattern}*" if str(pattern).endswith("/") else str(pattern)) for pattern in patterns
    )


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Path], FakeHub]:
    import huggingface_hub

    def start(remote: Path) -> FakeHub:
        hub = FakeHub(remote, tmp_path / "cache")
        monkeypatch.setenv("HF_LEROBOT_HOME", str(tmp_path / "empty"))
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", hub.hf_hub_download)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
        return hub

    return start


def same(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    return all(np.array_equal(found[name], expected[name]) for name in ("images", "actions", "action_is_pad", "index"))


def test_videos_come_when_they_are_needed(make_dataset: MakeDataset, serve: Callable[[Path], FakeHub]) -> None:
    remote = make_dataset("remote", lengths=LENGTHS)
    local, hub = LeRobotActionDataset(remote, chunk_size=3), serve(remote)
    streamed = LeRobotActionDataset("someone/remote", chunk_size=3, stream=True)
    assert len(hub.videos()) == 2  # of the first episode, whose frames are looked at
    np.testing.assert_array_equal(streamed.raw_actions(), local.raw_actions())
    assert len(hub.videos()) == 2
    assert same(streamed[12], local[12])
    assert [name.rpartition("_")[2] for name in hub.videos()] == ["000000.mp4", "000002.mp4"] * 2
    loader = DataLoader(streamed, batch_size=5, num_workers=2, collate_fn=list)
    found = [sample for batch in loader for sample in batch]
    assert all(same(sample, local[index]) for index, sample in enumerate(found))
    assert len(hub.videos()) == 8


def test_without_stream_everything_is_there_first(make_dataset: MakeDataset, serve: Callable[[Path], FakeHub]) -> None:
    hub = serve(make_dataset("remote", lengths=LENGTHS))
    LeRobotActionDataset("someone/remote", chunk_size=3)
    assert len(hub.videos()) == 8


def test_a_lost_connection_is_named(
    make_dataset: MakeDataset, serve: Callable[[Path], FakeHub], monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    serve(make_dataset("remote", lengths=LENGTHS))
    streamed = LeRobotActionDataset("someone/remote", chunk_size=3, stream=True)

    def unreachable(*_: Any, **__: Any) -> str:
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    with pytest.raises(DataError, match=r"could not be downloaded .*episode_000003.mp4.*no network"):
        streamed[21]
    streamed[0]


@pytest.mark.slow
def test_version_3(
    make_dataset: MakeDataset, serve: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from lerobot.datasets import dataset_metadata, lerobot_dataset
    from lerobot.scripts.convert_dataset_v21_to_v30 import convert_dataset

    root = make_dataset("remote", lengths=LENGTHS)
    convert_dataset(repo_id="local/copy", root=root, push_to_hub=False)
    local, hub = LeRobotActionDataset(root, chunk_size=3), serve(root)
    for module in (dataset_metadata, lerobot_dataset):
        monkeypatch.setattr(module, "snapshot_download", hub.snapshot_download)
        monkeypatch.setattr(module, "get_safe_version", lambda repo_id, revision, **_: revision)
    monkeypatch.setattr(dataset_metadata, "HF_LEROBOT_HOME", tmp_path / "empty")
    streamed = LeRobotActionDataset("someone/remote", chunk_size=3, cameras=["wrist"], stream=True)
    assert streamed.info.version == "v3.0"
    assert len(hub.videos()) == 1  # every episode is in one file per camera
    expected = LeRobotActionDataset(root, chunk_size=3, cameras=["wrist"])
    assert all(same(streamed[index], expected[index]) for index in (0, 9, 21))
    assert len(hub.videos()) == 1
    assert len(local.cameras) == 2


def test_few_videos_at_a_time_and_every_sample_once(make_dataset: MakeDataset) -> None:
    lengths = (3, 5, 4, 6, 2, 7, 3)
    dataset = LeRobotActionDataset(make_dataset(lengths=lengths), chunk_size=3, cameras=["front"])
    order = StreamedOrder(dataset, window=2)
    laps = [order.permutation((5, 0), lap) for lap in range(3)]
    numbers = dataset.episode_numbers
    for lap in laps:
        assert sorted(lap.tolist()) == list(range(30))
        episodes = numbers[lap].tolist()
        for n in range(7):  # between an episode's first and last sample there is at most one other episode
            first, last = episodes.index(n), len(episodes) - episodes[::-1].index(n)
            assert len(set(episodes[first:last])) <= 2
    assert any(np.count_nonzero(np.diff(numbers[lap])) > 7 for lap in laps)  # and the two are mixed
    assert not np.array_equal(laps[0], laps[1])
    np.testing.assert_array_equal(laps[2], order.permutation((5, 0), 2))
    assert not np.array_equal(laps[0], order.permutation((6, 0), 0))


def test_a_mixture_keeps_the_order_of_its_parts(make_dataset: MakeDataset) -> None:
    parts = {
        name: StreamedOrder(LeRobotActionDataset(make_dataset(name, lengths=LENGTHS), chunk_size=3), window=1)
        for name in ("a", "b")
    }
    mixture = MixtureDataset(parts, seed=1)
    assert has_order(mixture)
    assert not has_order(MixtureDataset({"a": parts["a"].dataset}))
    for epoch in range(2):
        mixture.set_epoch(epoch)
        drawn = [mixture.locate(index) for index in range(len(mixture))]
        for slot, name in enumerate(parts):
            positions = [position for part, position in drawn if part == name]
            np.testing.assert_array_equal(positions, parts[name].permutation((1, slot), epoch))
