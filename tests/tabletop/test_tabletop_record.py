"""The recorder: a dataset that LeRobot reads, resumable, never overwritten by accident."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from lerobot_env_tabletop.record import RecordingError, main, prepare, record
from lerobot_env_tabletop.recording import demonstrate
from lerobot_env_tabletop.shards import Settings, shard_folder, write_shard

SETTINGS = Settings(4, 5, "train", ("pick_place", "push"), 64, 1.0, 2, "small")


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    output = tmp_path_factory.mktemp("recordings") / "small"
    assert prepare(output, SETTINGS)
    write_shard(output / ".shards", SETTINGS, 0)
    (output / ".shards" / "shard-00001.partial").mkdir()  # killed in the middle of the second shard
    with pytest.raises(RecordingError, match="unfinished"):
        prepare(output, SETTINGS)
    assert prepare(output, SETTINGS, resume=True)
    kept = shard_folder(output / ".shards", 0).stat().st_mtime_ns
    assert shard_folder(output / ".shards", 0).stat().st_mtime_ns == kept
    summary = record(output, SETTINGS, workers=1, progress=False)
    return output, summary


def test_lerobot_reads_it(recording):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    output, summary = recording
    dataset = LeRobotDataset("local/small", root=output, video_backend="pyav")
    assert dataset.meta.total_episodes == 4
    assert len(dataset) == summary["frames"]
    assert dataset.meta.fps == 10
    demo = demonstrate(3, 5, "train", ("pick_place", "push"), 64, 1.0)
    first = int(dataset.meta.episodes[3]["dataset_from_index"])
    for offset in (0, len(demo) // 2, len(demo) - 1):
        item = dataset[first + offset]
        np.testing.assert_array_equal(item["action"].numpy(), demo.actions[offset])
        np.testing.assert_array_equal(item["observation.state"].numpy(), demo.states[offset])
        assert item["task"] == demo.episode.instruction
        stored = item["observation.images.front"].numpy().transpose(1, 2, 0) * 255
        assert np.abs(stored - demo.images["front"][offset]).mean() < 6
    assert set(dataset.meta.stats["action"]) >= {"mean", "std", "q01", "q99"}


def test_language_columns_follow_lerobots_rules(recording):
    import pyarrow.parquet as pq
    from lerobot.datasets.language import EVENT_ONLY_STYLES, PERSISTENT_STYLES, validate_camera_field

    output, _ = recording
    rows = pq.read_table(output / "data").to_pylist()
    styles = set()
    for row in rows:
        asked = [(e["role"], e["camera"]) for e in row["language_events"] if e["style"] == "vqa"]
        assert len(asked) == len(set(asked))
        for event in row["language_events"]:
            validate_camera_field(event["style"], event["camera"])
            assert event["style"] in EVENT_ONLY_STYLES
            styles.add(event["style"])
            if event["role"] == "assistant":
                json.loads(event["content"])
        for state in row["language_persistent"]:
            validate_camera_field(state["style"], state["camera"])
            assert state["style"] in PERSISTENT_STYLES
    assert styles == {"vqa", "trace"}


def test_grounding_rows(recording):
    import pyarrow.parquet as pq

    output, summary = recording
    rows = pq.read_table(output / "grounding").to_pylist()
    assert {(row["episode_index"], row["frame_index"]) for row in rows} >= {(0, 0), (3, 5)}
    assert len({(r["episode_index"], r["frame_index"]) for r in rows}) == summary["frames"]
    for row in rows:
        filled = [name for name in ("points", "boxes", "traces") if row[name]]
        assert filled == [{"point": "points", "box": "boxes", "trace": "traces"}[row["kind"]]]
        assert (row["coordinate_space"], row["license"], row["image_width"]) == ("pixel", "Apache-2.0", 64)
    assert {row["role"] for row in rows} == {"objects", "target", "place", "free_space", "gripper"}


def test_a_finished_recording_is_kept(recording, capsys):
    output, _ = recording
    flags = ["--episodes", "4", "--output", str(output), "--seed", "5", "--tasks", "pick_place,push"]
    assert main([*flags, "--image-size", "64"]) == 2
    assert "finished recording" in capsys.readouterr().err
    assert main([*flags, "--image-size", "128", "--resume"]) == 2
    assert "image_size" in capsys.readouterr().err
    assert not prepare(output, SETTINGS, resume=True)
    assert json.loads((output / "recording.json").read_text())["complete"] is True


def test_foreign_folders_are_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("do not delete")
    for overwrite in (False, True):
        with pytest.raises(RecordingError, match="no recording"):
            prepare(tmp_path, SETTINGS, overwrite=overwrite)
    assert (tmp_path / "thesis.txt").exists()


def test_lerobot_finds_the_plugin():
    code = (
        "from lerobot.utils.import_utils import register_third_party_plugins as r; r()\n"
        "from lerobot.envs.configs import EnvConfig\n"
        "c = EnvConfig.get_choice_class('tabletop')(task='all')\n"
        "e = c.create_envs(1)['in_distribution'][0]; o, i = e.reset(seed=[1000])\n"
        "print(c.type, o['pixels']['front'].shape, e.call('task_description')[0] != '')"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert "tabletop (1, 224, 224, 3) True" in run.stdout, run.stderr


@pytest.mark.slow
def test_lerobot_trains_and_scores_act(recording, tmp_path):
    output, _ = recording
    bin_folder = os.path.dirname(sys.executable)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    small = "dim_model=64 n_heads=4 dim_feedforward=128 n_encoder_layers=1 n_vae_encoder_layers=1 chunk_size=8"
    train = [
        f"{bin_folder}/lerobot-train",
        "--dataset.repo_id=local/small",
        f"--dataset.root={output}",
        "--dataset.video_backend=pyav",
        "--policy.type=act",
        "--policy.pretrained_backbone_weights=null",
        "--policy.push_to_hub=false",
        "--policy.device=cpu",
        "--policy.n_action_steps=8",
        *(f"--policy.{flag}" for flag in small.split()),
        "--batch_size=2",
        "--num_workers=0",
        "--steps=2",
        "--save_freq=2",
        "--wandb.enable=false",
        f"--output_dir={tmp_path / 'act'}",
    ]
    subprocess.run(train, check=True, env=environment, timeout=900, capture_output=True)
    score = [
        f"{bin_folder}/lerobot-eval",
        f"--policy.path={tmp_path / 'act/checkpoints/last/pretrained_model'}",
        "--policy.device=cpu",
        "--env.type=tabletop",
        "--env.task=pick_place,push",
        "--env.image_size=64",
        "--env.episode_length=12",
        "--eval.n_episodes=2",
        "--eval.batch_size=2",
        "--eval.use_async_envs=false",
        f"--output_dir={tmp_path / 'scores'}",
    ]
    subprocess.run(score, check=True, env=environment, timeout=900, capture_output=True)
    scores = json.loads((tmp_path / "scores/eval_info.json").read_text())
    assert scores["overall"]["n_episodes"] == 4
