"""What was pushed is downloaded and used in a process that knows nothing but the Hub's address."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hub import Hub
from lerobot_toy import write_dataset
from reader import read_dataset

from modeling_st4vla import ST4VLAForActionPrediction
from processing_st4vla import ST4VLAProcessor

ROOT = Path(__file__).resolve().parents[2]
ROOTS = [str(ROOT), str(ROOT / "processing"), str(ROOT / "training")]
TOY_CARD = """---
license: cc-by-4.0
task_categories: [robotics]
tags: [LeRobot]
configs:
- config_name: default
  data_files: data/*/*.parquet
---

# Toy
"""


@pytest.fixture(scope="session")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two demonstrations of the embedded robot, in LeRobot v3.0."""
    from lerobot_env_tabletop.record import record

    folder = tmp_path_factory.mktemp("recordings") / "v30"
    return record(folder, 2, split="train_easy", image_size=64, workers=1, progress=False)


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A small LeRobot v2.1 dataset with a card."""
    folder = write_dataset(tmp_path / "v21", lengths=(12, 8))
    (folder / "README.md").write_text(TOY_CARD)
    return folder


def compute(folder: Path, given: dict[str, np.ndarray]) -> tuple[Any, Any, dict[str, Any]]:
    model = ST4VLAForActionPrediction.from_pretrained(folder).eval()
    processor = ST4VLAProcessor.from_pretrained(folder)
    inputs = processor(images=[[given["front"]]], text=["push the ball"], state=given["state"])
    actions = model.sample_actions(**inputs, noise=torch.from_numpy(given["noise"]))
    units = processor.post_process_actions(actions)
    return model, processor, {"input_ids": inputs["input_ids"].numpy(), "actions": actions.numpy(), "units": units}


@pytest.mark.slow
def test_a_stranger_gets_the_same_numbers_from_the_hub(
    hub: Hub, push: Callable, robot: Path, recording: Path, toy: Path, draw_view: Callable, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    given = {
        "front": draw_view(1),
        "state": np.array([[0.5, -1.0, 1.0, 3.0]]),
        "noise": rng.normal(size=(1, 5, 3)).astype(np.float32),
    }
    np.savez(tmp_path / "given.npz", **given)
    model, processor, expected = compute(robot, given)
    for folder, name in ((robot, "robot"), (recording, "v30"), (toy, "v21")):
        code, _, err = push(folder, "--repo-id", f"me/{name}")
        assert code == 0, err
    model.push_to_hub("me/plain")  # transformers' own way
    processor.push_to_hub("me/plain")

    environment = {key: value for key, value in os.environ.items() if key not in ("HF_HUB_OFFLINE", "HF_TOKEN")}
    environment |= {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-I", str(Path(__file__).with_name("reader.py")), str(tmp_path / "given.npz")]
    command += [str(tmp_path / "found.npz"), str(torch.get_num_threads()), *ROOTS]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-4000:]
    found = dict(np.load(tmp_path / "found.npz"))
    assert found["imported"].tolist() == []
    for repository in ("robot", "plain"):
        assert all(place.startswith("transformers_modules.me.") for place in found[f"{repository} modules"])
        for name, value in expected.items():
            np.testing.assert_array_equal(found[f"{repository} {name}"], value, err_msg=f"{repository} {name}")
    for folder, name in ((toy, "v21"), (recording, "v30")):
        for key, value in read_dataset(str(folder)).items():
            np.testing.assert_array_equal(found[f"{name} {key}"], value, err_msg=f"{name} {key}")


def test_a_dataset_arrives_with_its_version_as_a_tag(hub: Hub, push: Callable, toy: Path) -> None:
    (toy / "scratch.bin").write_bytes(b"mine")
    assert push(toy, "--repo-id", "me/toy")[0] == 0
    repository = hub.repositories["dataset", "me/toy"]
    first = repository.tags["v2.1"]
    assert repository.branches["main"] == first
    assert "scratch.bin" not in hub.files("dataset", "me/toy")
    gone = next((toy / "videos").rglob("*.mp4"))
    assert gone.relative_to(toy).as_posix() in hub.files("dataset", "me/toy")
    (toy / "README.md").write_text(TOY_CARD + "More words.\n")
    code, out, err = push(toy, "--repo-id", "me/toy")
    assert code == 0, err
    assert out == f"{hub.endpoint}/datasets/me/toy\n"
    assert repository.tags["v2.1"] == repository.branches["main"] != first
    assert "LeRobot v2.1, 2 episodes" in err


def test_a_recording_has_a_complete_card(recording: Path) -> None:
    from huggingface_hub import DatasetCard

    card = DatasetCard.load(recording / "README.md")
    assert (card.data.license, card.data.task_categories) == ("apache-2.0", ["robotics"])
    assert "LeRobot" in (card.data.tags or [])
    assert card.data.to_dict()["configs"][0] == {"config_name": "default", "data_files": "data/*/*.parquet"}
    assert "python -m lerobot_env_tabletop.record --episodes 2 --split train_easy" in card.text
    assert '"codebase_version": "v3.0"' in card.text
    assert "OWNER/v30" in card.text


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "README.md").unlink(), "no README.md. `lerobot_env_tabletop.record` writes one"),
        (lambda folder: (folder / "README.md").write_text("# Toy\n"), "`license` is missing at the top of README.md"),
        (lambda folder: (folder / "README.md").write_text(""), "`task_categories` is missing at the top of README.md"),
        (lambda folder: next((folder / "videos").rglob("*.mp4")).unlink(), "video files are missing or empty"),
        (lambda folder: (folder / "meta" / "tasks.jsonl").unlink(), "metadata cannot be read"),
    ],
)
def test_datasets_that_are_refused(hub: Hub, push: Callable, toy: Path, spoil: Callable, message: str) -> None:
    spoil(toy)
    code, out, err = push(toy, "--repo-id", "me/toy")
    assert (code, out, hub.requests) == (1, "", [])
    assert message in err
