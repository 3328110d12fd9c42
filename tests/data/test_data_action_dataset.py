"""Samples, chunks, selections, workers and clear errors of `LeRobotActionDataset` on a synthetic v2.1 dataset."""

import json
import multiprocessing
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lerobot_toy import read_number, write_video
from torch.utils.data import DataLoader

from training_st4vla.data import DataError, LeRobotActionDataset, VideoReadError, compute_statistics

MakeDataset = Callable[..., Path]
MANY_KEYS = {"action.delta": 3, "action.gripper": 1, "state.joints": 2}


def first_sample(batch: list[dict[str, Any]]) -> dict[str, Any]:
    return batch[0]


def edit_info(root: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    info = json.loads((root / "meta/info.json").read_text())
    change(info)
    (root / "meta/info.json").write_text(json.dumps(info))


def set_cell(key: str, frame: int, value: Any, episode: int = 0) -> Callable[[int, dict[str, Any]], None]:
    def edit(number: int, columns: dict[str, Any]) -> None:
        if number == episode:
            columns[key] = list(columns[key])
            columns[key][frame] = value

    return edit


# --- samples ---------------------------------------------------------------------------------------


def test_every_sample_holds_its_own_frame_actions_and_text(shared_toy: Path) -> None:
    dataset = LeRobotActionDataset(shared_toy, chunk_size=4, state_keys=["observation.state"])
    assert len(dataset) == 50
    for position in (0, 29, 30, 31, 49, 7):
        sample = dataset[position]
        episode = int(position >= 30)
        assert [read_number(image) for image in sample["images"]] == [position, position + 1000]
        assert all(image.dtype == np.uint8 and image.shape == (64, 64, 3) for image in sample["images"])
        assert sample["instruction"] == ("push the red block", "open the drawer")[episode]
        assert (sample["index"], sample["episode_index"]) == (position, episode)
        assert sample["frame_index"] == position - 30 * episode
        assert sample["dataset_key"] == "toy"
        assert sample["actions"].dtype == np.float32
        assert sample["state"].dtype == np.float32
        np.testing.assert_allclose(sample["actions"][0], position + np.arange(3) / 10, rtol=1e-6)
        np.testing.assert_allclose(sample["state"], position + np.arange(2) / 10, rtol=1e-6)


def test_actions_past_the_end_repeat_the_last_one_and_are_flagged(shared_toy: Path) -> None:
    dataset = LeRobotActionDataset(shared_toy, chunk_size=4)
    sample = dataset[28]
    np.testing.assert_allclose(sample["actions"][:, 0], [28, 29, 29, 29])
    assert sample["action_is_pad"].tolist() == [False, False, True, True]
    assert dataset[26]["action_is_pad"].tolist() == [False] * 4
    assert dataset[0]["state"] is None
    assert dataset[-1]["index"] == 49
    with pytest.raises(IndexError):
        dataset[50]


def test_keys_are_joined_in_the_given_order(make_dataset: MakeDataset) -> None:
    root = make_dataset(columns=MANY_KEYS, names={"action.delta": {"axes": ["dx", "dy", "dz"]}})
    dataset = LeRobotActionDataset(root, chunk_size=2, action_keys=["action.gripper", "delta"], state_keys=["joints"])
    np.testing.assert_allclose(dataset[5]["actions"][0], [5, 5, 5.1, 5.2], rtol=1e-6)
    assert (dataset.action_dim, dataset.state_dim) == (4, 2)
    assert dataset.action_names == ["action.gripper[0]", "dx", "dy", "dz"]
    assert dataset.state_names == ["state.joints[0]", "state.joints[1]"]


def test_one_element_columns_as_scalars_and_as_lists_are_the_same(make_dataset: MakeDataset) -> None:
    def as_lists(_: int, columns: dict[str, Any]) -> None:
        columns["action"] = [[float(value)] for value in columns["action"]]
        columns["task_index"] = [[value] for value in columns["task_index"]]

    plain = LeRobotActionDataset(make_dataset("plain", columns={"action": 1}), chunk_size=3)
    listed = LeRobotActionDataset(make_dataset("listed", columns={"action": 1}, edit=as_lists), chunk_size=3)
    np.testing.assert_array_equal(plain.raw_actions(), listed.raw_actions())
    assert plain[40]["instruction"] == listed[40]["instruction"]


def test_selection_of_episodes_frames_and_cameras(shared_toy: Path) -> None:
    dataset = LeRobotActionDataset(
        shared_toy, chunk_size=3, episodes=[1, 0], max_frames=25, cameras=["wrist", "front"]
    )
    assert dataset.frame_indices.tolist() == [*range(30, 50), *range(5)]
    assert dataset.episode_lengths == {1: 20, 0: 30}
    sample = dataset[24]
    assert [read_number(image) for image in sample["images"]] == [1004, 4]
    # The chunk reaches beyond `max_frames`, within its episode.
    np.testing.assert_allclose(sample["actions"][:, 0], [4, 5, 6])
    assert not sample["action_is_pad"].any()
    assert dataset.raw_actions().shape == (25, 3)
    assert dataset.describe()["cameras"] == {
        "view 0": "observation.images.wrist",
        "view 1": "observation.images.front",
    }


def test_images_stored_in_the_tables(make_dataset: MakeDataset) -> None:
    dataset = LeRobotActionDataset(make_dataset(stored_images=True), chunk_size=2)
    assert [read_number(image) for image in dataset[37]["images"]] == [37, 1037]


def test_describe_is_plain_json(shared_toy: Path) -> None:
    summary = LeRobotActionDataset(shared_toy, chunk_size=4).describe()
    assert json.loads(json.dumps(summary)) == summary
    assert summary["version"] == "v2.1"
    assert summary["action"] == {"action": 3}
    assert summary["instructions"] == ["push the red block", "open the drawer"]


# --- workers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("workers", "context"), [(0, None), (2, "fork"), (2, "spawn")])
def test_data_loader_workers_give_the_same_samples(shared_toy: Path, workers: int, context: str | None) -> None:
    dataset = LeRobotActionDataset(shared_toy, chunk_size=2)
    dataset[3]  # A file is open in this process before the workers start.
    loader = DataLoader(
        dataset,
        batch_size=1,
        sampler=range(0, 50, 9),
        num_workers=workers,
        multiprocessing_context=multiprocessing.get_context(context) if context else None,
        collate_fn=first_sample,
    )
    assert [read_number(sample["images"][0]) for sample in loader] == list(range(0, 50, 9))
    assert read_number(dataset[4]["images"][1]) == 1004


def test_pickles_without_open_files(shared_toy: Path) -> None:
    dataset = LeRobotActionDataset(shared_toy, chunk_size=2)
    dataset[0]
    copy = pickle.loads(pickle.dumps(dataset))
    torch.testing.assert_close(torch.from_numpy(copy[33]["actions"]), torch.from_numpy(dataset[33]["actions"]))


def test_the_dataset_folder_is_never_written(make_dataset: MakeDataset, tmp_path: Path) -> None:
    root = make_dataset()
    before = sorted((path, path.stat().st_mtime_ns) for path in root.rglob("*"))
    dataset = LeRobotActionDataset(root, chunk_size=2, state_keys=["observation.state"])
    dataset[0]
    compute_statistics(dataset, cache_dir=tmp_path / "cache")
    assert sorted((path, path.stat().st_mtime_ns) for path in root.rglob("*")) == before


# --- statistics ------------------------------------------------------------------------------------


def test_statistics_are_exact_and_decode_no_video(shared_toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = LeRobotActionDataset(shared_toy, chunk_size=2, state_keys=["observation.state"], max_frames=41)
    monkeypatch.setattr(dataset._frames, "frame", lambda *_: pytest.fail("a frame was decoded"))
    statistics = compute_statistics(dataset)
    values = (np.arange(41)[:, None] + np.arange(3, dtype=np.float32) / 10).astype(np.float32).astype(np.float64)
    expected = {
        "q01": np.quantile(values, 0.01, axis=0),
        "q99": np.quantile(values, 0.99, axis=0),
        "min": values.min(0),
        "max": values.max(0),
        "mean": values.mean(0),
        "std": values.std(0),
    }
    for name, column in expected.items():
        np.testing.assert_allclose(statistics["action"][name], column, rtol=1e-12)
    assert statistics["action"]["count"] == 41
    assert len(statistics["state"]["mean"]) == 2


def test_statistics_cache_follows_the_selection(shared_toy: Path, tmp_path: Path) -> None:
    whole = LeRobotActionDataset(shared_toy, chunk_size=2)
    part = LeRobotActionDataset(shared_toy, chunk_size=2, max_frames=10)
    first = compute_statistics(whole, tmp_path)
    assert compute_statistics(whole, tmp_path) == first
    assert compute_statistics(part, tmp_path)["action"]["max"] != first["action"]["max"]
    assert len(list(tmp_path.glob("*.json"))) == 2


# --- bad input -------------------------------------------------------------------------------------


def test_several_action_columns_must_be_chosen(make_dataset: MakeDataset) -> None:
    root = make_dataset(columns=MANY_KEYS)
    with pytest.raises(DataError, match=r"action\.delta \(3\), action\.gripper \(1\).*--action-keys"):
        LeRobotActionDataset(root, chunk_size=2)


def test_no_action_column(make_dataset: MakeDataset) -> None:
    with pytest.raises(DataError, match=r"no action column.*state\.joints \(2\).*--action-keys"):
        LeRobotActionDataset(make_dataset(columns={"state.joints": 2}), chunk_size=2)


def test_unknown_camera_lists_the_known_ones(shared_toy: Path) -> None:
    with pytest.raises(DataError, match=r"no camera 'top'.*images\.front, observation\.images\.wrist.*--cameras"):
        LeRobotActionDataset(shared_toy, chunk_size=2, cameras=["top"])


def test_camera_named_twice_or_ambiguously(make_dataset: MakeDataset, shared_toy: Path) -> None:
    with pytest.raises(DataError, match="named twice"):
        LeRobotActionDataset(shared_toy, chunk_size=2, cameras=["front", "observation.images.front"])
    root = make_dataset(cameras=("left.wrist", "right.wrist"))
    with pytest.raises(DataError, match=r"'wrist' is ambiguous.*left\.wrist, right\.wrist"):
        LeRobotActionDataset(root, chunk_size=2, cameras=["wrist"])


def test_unknown_episode(shared_toy: Path) -> None:
    with pytest.raises(DataError, match=r"0 to 1, found 7"):
        LeRobotActionDataset(shared_toy, chunk_size=2, episodes=[7])


def test_missing_video_is_found_at_once(make_dataset: MakeDataset) -> None:
    root = make_dataset()
    video = root / "videos/chunk-000/observation.images.wrist/episode_000001.mp4"
    video.unlink()
    with pytest.raises(DataError, match=r"1 of 4 video files.*images\.wrist/episode_000001\.mp4.*--cameras"):
        LeRobotActionDataset(root, chunk_size=2)
    assert len(LeRobotActionDataset(root, chunk_size=2, cameras=["front"])) == 50
    assert len(LeRobotActionDataset(root, chunk_size=2, episodes=[0])) == 30


def test_damaged_video_is_found_at_once(make_dataset: MakeDataset) -> None:
    root = make_dataset()
    (root / "videos/chunk-000/observation.images.front/episode_000000.mp4").write_bytes(b"\0" * 500)
    with pytest.raises(VideoReadError, match=r"cannot be read.*images\.front/episode_000000\.mp4"):
        LeRobotActionDataset(root, chunk_size=2)


def test_video_shorter_than_its_episode(make_dataset: MakeDataset) -> None:
    root = make_dataset()
    write_video(root / "videos/chunk-000/observation.images.front/episode_000001.mp4", range(10))
    with pytest.raises(VideoReadError, match=r"episode_000001\.mp4.*of 1\.9.*last frame at 0\.9"):
        LeRobotActionDataset(root, chunk_size=2)[49]


def test_damaged_or_missing_table(make_dataset: MakeDataset) -> None:
    root = make_dataset()
    path = root / "data/chunk-000/episode_000001.parquet"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(DataError, match=r"data file cannot be read.*episode_000001\.parquet"):
        LeRobotActionDataset(root, chunk_size=2)
    path.unlink()
    with pytest.raises(DataError, match=r"1 of 2 data files.*episode_000001\.parquet"):
        LeRobotActionDataset(root, chunk_size=2)


@pytest.mark.parametrize("task", ["", "   "])
def test_empty_instruction(make_dataset: MakeDataset, task: str) -> None:
    root = make_dataset(tasks=("push the red block", task))
    with pytest.raises(DataError, match=r"1 of 2 episodes have no instruction.*episodes 1"):
        LeRobotActionDataset(root, chunk_size=2)
    assert len(LeRobotActionDataset(root, chunk_size=2, episodes=[0])) == 30


def test_unknown_task_number(make_dataset: MakeDataset) -> None:
    root = make_dataset(edit=set_cell("task_index", 3, 9))
    with pytest.raises(DataError, match=r"Frames have no instruction.*task_index 9"):
        LeRobotActionDataset(root, chunk_size=2)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("key", ["action", "observation.state"])
def test_values_that_are_not_finite(make_dataset: MakeDataset, key: str, value: float) -> None:
    row = [0.0, value] + [0.0] * (key == "action")
    root = make_dataset(edit=set_cell(key, 5, row, episode=1))
    with pytest.raises(DataError, match=rf"not finite.*episode 1, frame 5, {key}\[1\].*found {value}"):
        LeRobotActionDataset(root, chunk_size=2, state_keys=["observation.state"])


@pytest.mark.parametrize("row", [[1.0, 2.0], [1.0, 2.0, 3.0, 4.0], None])
def test_rows_of_the_wrong_width(make_dataset: MakeDataset, row: Any) -> None:
    root = make_dataset(edit=set_cell("action", 5, row))
    with pytest.raises(DataError, match=r"wrong content.*episode 0, action.*expected 3 numbers"):
        LeRobotActionDataset(root, chunk_size=2)


def test_shape_in_the_metadata_that_the_table_contradicts(make_dataset: MakeDataset) -> None:
    root = make_dataset()
    edit_info(root, lambda info: info["features"]["action"].update(shape=[7]))
    with pytest.raises(DataError, match=r"expected 7 numbers per frame, found 3 values"):
        LeRobotActionDataset(root, chunk_size=2)
    edit_info(root, lambda info: info["features"]["action"].update(shape=[3]))
    edit_info(root, lambda info: info["features"]["observation.images.front"].update(shape=[48, 64, 3]))
    with pytest.raises(DataError, match=r"wrong size.*expected shape \[48, 64, 3\].*found shape \[64, 64, 3\]"):
        LeRobotActionDataset(root, chunk_size=2)


def test_column_that_the_table_lacks(make_dataset: MakeDataset) -> None:
    root = make_dataset()
    edit_info(root, lambda info: info["features"].update({"action": {"dtype": "float32", "shape": [3]}}))
    edit_info(root, lambda info: info["features"].update({"gone": {"dtype": "float32", "shape": [3]}}))
    with pytest.raises(DataError, match=r"lacks columns.*expected gone"):
        LeRobotActionDataset(root, chunk_size=2, action_keys=["gone"])


def test_length_in_the_metadata_that_the_table_contradicts(make_dataset: MakeDataset) -> None:
    root = make_dataset()
    path = root / "meta/episodes.jsonl"
    path.write_text(path.read_text().replace('"length": 20', '"length": 25'))
    with pytest.raises(DataError, match=r"wrong length.*episode 1.*25 frames.*found 20 rows"):
        LeRobotActionDataset(root, chunk_size=2)


@pytest.mark.parametrize("version", ["v2.0", "v1.6", "v4.0", None])
def test_other_versions(make_dataset: MakeDataset, version: str | None) -> None:
    root = make_dataset()
    edit_info(root, lambda info: info.update(codebase_version=version))
    with pytest.raises(DataError, match=rf"expected v2\.1 or v3\.0, found {version}\. \w+"):
        LeRobotActionDataset(root, chunk_size=2)


def test_no_dataset_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No dataset was found"):
        LeRobotActionDataset(tmp_path / "nothing", chunk_size=2)
    with pytest.raises(DataError, match="an existing path without it"):
        LeRobotActionDataset(tmp_path, chunk_size=2)


def test_hub_id_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def unreachable(*_: Any, **__: Any) -> str:
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    with pytest.raises(DataError, match=r"neither a local folder nor reachable.*someone/some-set.*no network"):
        LeRobotActionDataset("someone/some-set", chunk_size=2)


def test_hub_dataset_downloads_what_is_needed(
    make_dataset: MakeDataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import huggingface_hub

    root = make_dataset("remote")
    asked: list[list[str]] = []
    monkeypatch.setenv("HF_LEROBOT_HOME", str(tmp_path / "empty"))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda repo_id, name, **_: str(root / name))
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda repo_id, **options: (asked.append(options["allow_patterns"]), str(root))[1],
    )
    dataset = LeRobotActionDataset("someone/remote", chunk_size=2, cameras=["front"], episodes=[1])
    assert dataset.dataset_key == "remote"
    assert read_number(dataset[0]["images"][0]) == 30
    assert asked[0] == ["meta/*"]
    assert asked[1][1:] == [
        "data/chunk-000/episode_000001.parquet",
        "videos/chunk-000/observation.images.front/episode_000001.mp4",
    ]


def test_dataset_in_lerobots_own_cache(
    make_dataset: MakeDataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    make_dataset("home/someone/cached")
    monkeypatch.setenv("HF_LEROBOT_HOME", str(tmp_path / "home"))
    assert len(LeRobotActionDataset("someone/cached", chunk_size=2)) == 50


@pytest.mark.parametrize("options", [{"chunk_size": 0}, {"chunk_size": 2, "max_frames": 0}])
def test_sizes_below_one(shared_toy: Path, options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        LeRobotActionDataset(shared_toy, **options)
