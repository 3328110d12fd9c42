"""Labelled images of many scenes: what recordings say of the same frames, resumable, readable by the trainers."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lerobot_env_tabletop.annotations import frame_answers
from lerobot_env_tabletop.record import RecordingError
from lerobot_env_tabletop.recording import demonstrate
from lerobot_env_tabletop.scenes import main, write_scenes
from lerobot_env_tabletop.splits import SPLITS

SETTINGS = {"split": "train_easy", "seed": 2, "image_size": 64, "stride": 10}
TASKS = SPLITS["train_easy"].tasks


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("scenes") / "few", 22, **SETTINGS, workers=2, progress=False)


def _rows(folder):
    return pq.read_table(folder / "grounding").to_pylist()


def test_frames_are_those_of_the_recording_with_the_same_seed(scenes):
    rows = _rows(scenes)
    whole = demonstrate(3, 2, "train_easy", TASKS, 64)
    few = demonstrate(3, 2, "train_easy", TASKS, 64, stride=10)
    assert few.actions.tobytes() == whole.actions.tobytes()
    assert few.seen == list(range(few.seen[0], len(whole), 10))
    for at, frame in enumerate(few.seen):
        np.testing.assert_array_equal(few.images["wrist"][at], whole.images["wrist"][frame])
        asked = frame_answers(whole, frame, whole.labels["front"][frame], others=None)
        mine = [
            row
            for row in rows
            if (row["episode_index"], row["frame_index"], row["camera"]) == (3, frame, "observation.images.front")
        ]
        # Free points are drawn at random, by a generator that is asked once more where frames are left out.
        known = [(row["role"], row["kind"], row["instruction"]) for row in mine if row["role"] != "free_space"]
        assert known == [(a["role"], a["kind"], a["instruction"]) for a in asked if a["role"] != "free_space"]
        named = {row["instruction"] for row in mine if row["role"] in ("object", "target") and row["kind"] == "box"}
        assert len(named) >= len(whole.labels["front"][frame].visible) - 1
        image = np.asarray(Image.open(scenes / mine[0]["image"]), np.float32)
        assert np.abs(image - whole.images["front"][frame]).mean() < 3


def test_the_trainers_read_it(scenes):
    from training_st4vla.data.grounding import open_grounding_dataset

    dataset = open_grounding_dataset(scenes)
    assert len(dataset) == len(_rows(scenes))
    assert dataset[0]["image"].size == (64, 64)


def test_an_interrupted_set_is_completed_and_a_finished_one_left_alone(scenes, tmp_path, monkeypatch, capsys):
    from lerobot_env_tabletop import scenes as module

    flags = ["--scenes", "22", "--split", "train_easy", "--seed", "2", "--image-size", "64", "--stride", "10"]
    flags += ["--workers", "1", "--output", str(tmp_path / "few")]
    write = module._write_shard

    def killed_at_the_second(folder, settings, shard):
        if shard == 1:
            raise KeyboardInterrupt
        return write(folder, settings, shard)

    monkeypatch.setattr(module, "_write_shard", killed_at_the_second)
    assert main(flags) == 130
    kept = (tmp_path / "few" / "grounding" / "file-00000.parquet").stat().st_mtime_ns
    monkeypatch.setattr(module, "_write_shard", write)
    assert main(flags) == 0
    assert (tmp_path / "few" / "grounding" / "file-00000.parquet").stat().st_mtime_ns == kept
    assert _rows(tmp_path / "few") == _rows(scenes)

    monkeypatch.setattr(module, "_write_shard", None)  # nothing is written any more
    assert main(flags) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["output"].endswith("few")


def test_what_lies_in_the_folder_is_not_touched(scenes, tmp_path):
    with pytest.raises(RecordingError, match="other settings"):
        write_scenes(scenes, 23, **SETTINGS, workers=1)
    (tmp_path / "mine").mkdir()
    with pytest.raises(RecordingError, match="something else"):
        write_scenes(tmp_path, 2, **SETTINGS, workers=1)
    with pytest.raises(RecordingError, match="stride"):
        write_scenes(tmp_path / "new", 2, stride=0)
    assert not (tmp_path / "new" / "grounding").exists()
