"""The recorder: a dataset that LeRobot reads, resumable, never overwritten by accident."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from filelock import FileLock

from lerobot_env_tabletop.record import RecordingError, main, record, summary
from lerobot_env_tabletop.recording import demonstrate
from lerobot_env_tabletop.shards import Settings, shard_folder, write_shard

TASKS = ("pick_place", "push")
FLAGS = ["--episodes", "4", "--seed", "5", "--tasks", "pick_place,push", "--image-size", "64", "--workers", "1"]


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    return record(
        tmp_path_factory.mktemp("recordings") / "small",
        4,
        tasks=TASKS,
        seed=5,
        image_size=64,
        workers=2,
        progress=False,
    )


def _vectors(folder):
    import pyarrow.parquet as pq

    table = pq.read_table(folder / "data", columns=["observation.state", "action"])
    return [np.array(table[name].to_pylist(), np.float32).tobytes() for name in table.schema.names]


def test_an_interrupted_recording_is_completed_with_the_same_bytes(recording, tmp_path, monkeypatch, capsys):
    output = tmp_path / "small"
    written = []

    def killed_at_the_third(root, settings, shard):
        if len(written) == 2:
            (shard_folder(root, shard).with_suffix(".partial")).mkdir()
            raise KeyboardInterrupt
        written.append(shard)
        return write_shard(root, settings, shard)

    monkeypatch.setattr("lerobot_env_tabletop.record.write_shard", killed_at_the_third)
    assert main([*FLAGS, "--output", str(output)]) == 130
    assert "goes on" in capsys.readouterr().err
    kept = {shard: shard_folder(output / ".shards", shard).stat().st_mtime_ns for shard in written}
    assert not (output / "meta").exists()

    def only_the_missing(root, settings, shard):
        assert shard not in kept
        return write_shard(root, settings, shard)

    monkeypatch.setattr("lerobot_env_tabletop.record.write_shard", only_the_missing)
    assert main([*FLAGS, "--output", str(output)]) == 0
    assert summary(output)["frames"] == summary(recording)["frames"]
    assert _vectors(output) == _vectors(recording)
    assert not (output / ".shards").exists()


def test_lerobot_reads_it(recording):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    dataset = LeRobotDataset("local/small", root=recording, video_backend="pyav")
    assert dataset.meta.total_episodes == 4
    assert len(dataset) == summary(recording)["frames"]
    assert dataset.meta.fps == 10
    demo = demonstrate(3, 5, "train", TASKS, 64, 1.0)
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

    rows = pq.read_table(recording / "data").to_pylist()
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

    rows = pq.read_table(recording / "grounding").to_pylist()
    assert {(row["episode_index"], row["frame_index"]) for row in rows} >= {(0, 0), (3, 5)}
    assert len({(r["episode_index"], r["frame_index"]) for r in rows}) == summary(recording)["frames"]
    for row in rows:
        filled = [name for name in ("points", "boxes", "traces") if row[name]]
        # A point on an object comes with the region in which it is right, a path with what it goes by.
        assert (
            filled
            in {
                "box": (["boxes"],),
                "point": (["points"], ["points", "boxes"]),
                "trace": (["points", "traces"], ["points", "boxes", "traces"]),
            }[row["kind"]]
        )
        assert row["question"] == ("spatial" if row["role"] == "task" else "kind")
        assert (row["coordinate_space"], row["license"], row["image_width"]) == ("pixel", "Apache-2.0", 64)
    assert {row["role"] for row in rows} == {"objects", "object", "target", "place", "free_space", "gripper", "task"}


def test_st4vla_reads_actions_and_contract(recording):
    from training_st4vla.data.action_dataset import LeRobotActionDataset
    from training_st4vla.data.contracts import build_contract, read_declaration

    dataset = LeRobotActionDataset(recording, chunk_size=4, state_keys=["observation.state"], dataset_key="tabletop")
    assert len(dataset) == summary(recording)["frames"]
    sample = dataset[2]
    assert sample["images"][0].shape == (64, 64, 3)
    assert sample["instruction"] == demonstrate(0, 5, "train", TASKS, pixels=False).episode.instruction
    contract = build_contract(dataset, read_declaration(recording / "meta" / "action_contract.json"))
    contract.require_known("a test")
    assert (contract.representation, contract.frame, contract.rotation) == ("delta", "base", "rotation_vector")
    assert (contract.gripper_polarity, contract.gripper_dims, contract.control_hz) == ("high_is_open", (6,), 10)
    assert contract.action.normalization[6] == "binary"
    assert contract.cameras == ("observation.images.front", "observation.images.wrist")


@pytest.mark.parametrize("layout", [None, "lerobot"])
def test_st4vla_reads_grounding_rows_and_language_events(recording, layout):
    from training_st4vla.data.grounding.dataset import open_grounding_dataset

    dataset = open_grounding_dataset(recording, layout=layout)
    samples = list(dataset.samples())
    assert {sample.kind for sample in samples} == {"box", "point", "trace"}
    assert [sample.problem() for sample in samples if sample.problem()] == []
    item = dataset[len(dataset) // 2]
    assert item["image"].size == (64, 64)
    assert item["instruction"]


def test_a_finished_recording_is_kept(recording, capsys):
    before = (recording / "recording.json").read_bytes()
    assert main([*FLAGS, "--output", str(recording)]) == 0
    assert json.loads(capsys.readouterr().out)["frames"] == summary(recording)["frames"]
    assert main([*FLAGS, "--output", str(recording), "--image-size", "128"]) == 2
    assert "image_size" in capsys.readouterr().err
    assert (recording / "recording.json").read_bytes() == before
    assert json.loads(before)["complete"] is True


def test_foreign_folders_are_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("do not delete")
    for overwrite in (False, True):
        with pytest.raises(RecordingError, match="no recording"):
            record(tmp_path, 1, overwrite=overwrite)
    assert (tmp_path / "thesis.txt").exists()


def test_two_do_not_record_into_one_folder(tmp_path):
    with FileLock(tmp_path / ".recording.lock"), pytest.raises(RecordingError, match="Another process"):
        record(tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] in ([], [".recording.lock"])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"split": "mars"}, "no split"), ({"tasks": ["juggle"]}, "no task juggle"), ({"image_size": 15}, "image_size")],
)
def test_impossible_settings_are_refused(tmp_path, wrong, message):
    with pytest.raises(RecordingError, match=message):
        record(tmp_path / "new", 1, **wrong)
    assert not (tmp_path / "new").exists()


def test_the_easy_split_is_recorded_for_the_easy_score():
    demo = demonstrate(0, 0, "train_easy", ("pick_place",), pixels=False)
    assert demo.episode.split == "train_easy"
    assert len(demo) < 60
    assert Settings(1, 0, "train_easy", ("pick_place",), 64, 1.0, 1, "easy").shards == 1


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


def test_importing_the_package_registers_the_environment():
    code = (
        "import lerobot_env_tabletop\n"
        "from lerobot.envs.configs import EnvConfig\n"
        "print(EnvConfig.get_choice_class('tabletop')().fps)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert run.stdout.strip() == "10", run.stderr


@pytest.mark.slow
def test_lerobot_trains_and_scores_act(recording, tmp_path):
    bin_folder = os.path.dirname(sys.executable)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    small = "dim_model=64 n_heads=4 dim_feedforward=128 n_encoder_layers=1 n_vae_encoder_layers=1 chunk_size=8"
    train = [
        f"{bin_folder}/lerobot-train",
        "--dataset.repo_id=local/small",
        f"--dataset.root={recording}",
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
