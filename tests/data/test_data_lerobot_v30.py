"""A v2.1 dataset and its v3.0 conversion give the same samples, equal to what `LeRobotDataset` itself gives."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from lerobot_toy import read_number, write_dataset, write_metadata

from training_st4vla.data import DataError, LeRobotActionDataset

ACTION_KEYS = ["action.delta_eef_position", "action.delta_eef_rotation", "action.gripper_close"]
CAMERAS = ["video.base_view", "video.ego_view"]
FRAMES = 60
CHUNK = 16

pytestmark = pytest.mark.slow


def convert_to_v30(v21: Path, v30: Path) -> Path:
    """Run LeRobot's own converter on a copy, offline."""
    from lerobot.scripts.convert_dataset_v21_to_v30 import convert_dataset

    shutil.copytree(v21, v30)
    convert_dataset(repo_id="local/copy", root=v30, push_to_hub=False)
    return v30


@pytest.fixture(scope="module")
def toy_pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("toy")
    v21 = write_dataset(folder / "v21", lengths=(15, 9, 12))
    return v21, convert_to_v30(v21, folder / "v30")


@pytest.fixture(scope="module")
def stored_images_pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("images")
    v21 = write_dataset(folder / "v21", lengths=(5, 4), stored_images=True)
    return v21, convert_to_v30(v21, folder / "v30")


@pytest.fixture(scope="module")
def real_pair(real_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The first frames of the recorded episode without annotations, and their conversion.

    LeRobot's converter keeps one-element lists and then cannot load them, so they are written as scalars first.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path_factory.mktemp("real")
    v21 = folder / "v21"
    name = "chunk-000/episode_000000"
    table = pq.read_table(real_dataset / f"data/{name}.parquet").slice(0, FRAMES)
    kept = [key for key in table.column_names if not key.startswith("annotation.")]
    info = json.loads((real_dataset / "meta/info.json").read_text())
    features = {key: spec for key, spec in info["features"].items() if key in kept or key in CAMERAS}
    for key in kept:
        if features[key]["shape"] == [1] and pa.types.is_list(table.schema.field(key).type):
            scalars = table.column(key).combine_chunks().flatten()
            table = table.set_column(table.column_names.index(key), key, scalars)
    (v21 / "data/chunk-000").mkdir(parents=True)
    pq.write_table(table.select(kept), v21 / f"data/{name}.parquet")
    for camera in CAMERAS:
        target = v21 / f"videos/chunk-000/{camera}/episode_000000.mp4"
        target.parent.mkdir(parents=True)
        target.write_bytes((real_dataset / f"videos/chunk-000/{camera}/episode_000000.mp4").read_bytes())
    episode = json.loads((real_dataset / "meta/episodes.jsonl").read_text().splitlines()[0])
    stats = json.loads((real_dataset / "meta/episodes_stats.jsonl").read_text().splitlines()[0])
    write_metadata(
        v21,
        info={**info, "total_frames": FRAMES, "total_videos": len(CAMERAS), "features": features},
        episodes=[{"episode_index": 0, "tasks": episode["tasks"], "length": FRAMES}],
        stats=[{"episode_index": 0, "stats": {key: stats["stats"][key] for key in kept if key in stats["stats"]}}],
        tasks=[json.loads((real_dataset / "meta/tasks.jsonl").read_text().splitlines()[0])],
    )
    return v21, convert_to_v30(v21, folder / "v30")


def assert_same_samples(first: LeRobotActionDataset, second: LeRobotActionDataset, positions: range) -> None:
    assert len(first) == len(second)
    for position in positions:
        one, two = first[position], second[position]
        for left, right in zip(one["images"], two["images"], strict=True):
            np.testing.assert_array_equal(left, right)
        for key in ("actions", "action_is_pad", "state"):
            np.testing.assert_array_equal(one[key], two[key])
        for key in ("instruction", "index", "episode_index", "frame_index"):
            assert one[key] == two[key]


def test_real_v21_and_its_v30_conversion_are_the_same(real_pair: tuple[Path, Path], real_dataset: Path) -> None:
    options = {
        "chunk_size": CHUNK,
        "action_keys": ACTION_KEYS,
        "state_keys": ["state.joints"],
        "cameras": CAMERAS,
        "dataset_key": "sim",
    }
    v21, v30 = (LeRobotActionDataset(path, **options) for path in real_pair)
    assert (v21.info.version, v30.info.version) == ("v2.1", "v3.0")
    assert v21.action_names == v30.action_names
    assert v21.fps == v30.fps == 30
    assert_same_samples(v21, v30, range(FRAMES))
    # The untouched original agrees too, away from the cut.
    original = LeRobotActionDataset(real_dataset, max_frames=FRAMES, **options)
    np.testing.assert_array_equal(original[7]["actions"], v30[7]["actions"])
    np.testing.assert_array_equal(original[7]["images"][1], v30[7]["images"][1])


def test_real_v30_equals_lerobots_own_items(real_pair: tuple[Path, Path]) -> None:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    v30 = LeRobotActionDataset(real_pair[1], chunk_size=CHUNK, action_keys=ACTION_KEYS, cameras=CAMERAS)
    deltas = {key: [step / 30 for step in range(CHUNK)] for key in ACTION_KEYS}
    official = LeRobotDataset(
        "local/v30", root=real_pair[1], delta_timestamps=deltas, video_backend="pyav", return_uint8=True
    )
    for position in (0, 1, 31, FRAMES - CHUNK + 1, FRAMES - 1):
        ours, theirs = v30[position], official[position]
        actions = [theirs[key].reshape(CHUNK, -1).numpy() for key in ACTION_KEYS]
        np.testing.assert_array_equal(ours["actions"], np.concatenate(actions, axis=1).astype(np.float32))
        np.testing.assert_array_equal(ours["action_is_pad"], theirs[f"{ACTION_KEYS[0]}_is_pad"].numpy())
        assert ours["instruction"] == theirs["task"]
        for image, camera in zip(ours["images"], CAMERAS, strict=True):
            np.testing.assert_array_equal(image, theirs[camera].permute(1, 2, 0).numpy())


def test_episodes_that_share_a_video_file(toy_pair: tuple[Path, Path]) -> None:
    options = {"chunk_size": 4, "state_keys": ["observation.state"]}
    v21, v30 = (LeRobotActionDataset(path, **options) for path in toy_pair)
    assert len(list(toy_pair[1].glob("videos/observation.images.front/*/*.mp4"))) == 1
    assert_same_samples(v21, v30, range(36))
    assert [read_number(v30[position]["images"][0]) for position in range(36)] == list(range(36))


def test_selected_episodes(toy_pair: tuple[Path, Path]) -> None:
    v21, v30 = (
        LeRobotActionDataset(p, chunk_size=4, episodes=[2, 1], max_frames=20, state_keys=["state"]) for p in toy_pair
    )
    assert v30.frame_indices.tolist() == v21.frame_indices.tolist() == [*range(24, 36), *range(15, 23)]
    assert_same_samples(v21, v30, range(20))


def test_images_stored_in_the_tables(stored_images_pair: tuple[Path, Path]) -> None:
    v21, v30 = (LeRobotActionDataset(path, chunk_size=2, state_keys=["state"]) for path in stored_images_pair)
    assert_same_samples(v21, v30, range(9))


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers(toy_pair: tuple[Path, Path], context: str) -> None:
    from torch.utils.data import DataLoader

    v30 = LeRobotActionDataset(toy_pair[1], chunk_size=4)
    v30[0]
    loader = DataLoader(v30, sampler=range(0, 36, 5), num_workers=2, multiprocessing_context=context, collate_fn=list)
    assert [read_number(batch[0]["images"][1]) for batch in loader] == [1000 + i for i in range(0, 36, 5)]


def test_missing_parts_are_named(toy_pair: tuple[Path, Path], tmp_path: Path) -> None:
    removals: list[tuple[Callable[[Path], Path], str]] = [
        (lambda root: root / "meta/tasks.parquet", r"expected meta/tasks\.parquet"),
        (
            lambda root: next(root.glob("videos/observation.images.wrist/*/*.mp4")),
            r"1 of 2 video files are missing.*observation\.images\.wrist.*all cameras",
        ),
        (lambda root: next(root.glob("data/*/*.parquet")), r"1 of 1 data files are missing.*file-000\.parquet"),
    ]
    for number, (victim, message) in enumerate(removals):
        root = tmp_path / f"copy{number}"
        shutil.copytree(toy_pair[1], root)
        victim(root).unlink()
        with pytest.raises(DataError, match=message):
            LeRobotActionDataset(root, chunk_size=4)
