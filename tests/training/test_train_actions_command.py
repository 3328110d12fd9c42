"""`st4vla train-actions` as people run it: the tiny preset on a real recording, a killed run, and refused runs."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
ACTION_KEYS = ["action.delta_eef_position", "action.delta_eef_rotation", "action.gripper_close"]
DECLARATION = {
    "action_units": ["m", "m", "m", "rad", "rad", "rad", "1"],
    "frame": "base",
    "rotation": "euler_xyz",
    "gripper_polarity": "high_is_closed",
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new model of the tiny preset."""
    from training_st4vla.commands.main import main

    folder = tmp_path_factory.mktemp("models") / "tiny"
    assert main(["init", "--preset", "tiny", "--output", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def recording(shared: Path) -> Path:
    """One real simulated episode in LeRobot v2.1."""
    folder = shared / "data" / "sim_pick_place_v21"
    if not folder.is_dir():
        pytest.skip(f"the recorded dataset is not at {folder}")
    return folder


@pytest.fixture
def command(tiny: Path, recording: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """Words of a `train-actions` command on 40 frames, one view."""
    contract = tmp_path / "contract.json"
    contract.write_text(json.dumps(DECLARATION))

    def words(output: Path, steps: int, batch: int, **flags: Any) -> list[str]:
        options = {
            "--model": tiny,
            "--dataset": recording,
            "--cameras": "base_view",
            "--contract": contract,
            "--max-frames": 40,
            "--output-dir": output,
            "--max-steps": steps,
            "--per-device-train-batch-size": batch,
            "--learning-rate": 1e-3,
            "--vlm-learning-rate": 5e-4,
            "--action-expert-learning-rate": 1e-3,
            "--use-cpu": True,
            "--disable-tqdm": True,
            **{f"--{name.replace('_', '-')}": value for name, value in flags.items()},
        }
        flat = [str(word) for option in options.items() for word in option]
        return ["train-actions", "--action-keys", *ACTION_KEYS, *flat]

    return words


def history(folder: Path, name: str = "loss") -> list[float]:
    """Logged losses of a finished run."""
    log = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [entry[name] for entry in log if name in entry]


@pytest.mark.slow
def test_forty_frames_of_one_view_are_learned(command: Callable[..., list[str]], tmp_path: Path) -> None:
    from training_st4vla.commands.main import main

    output, started = tmp_path / "run", time.process_time()
    assert main(command(output, 110, 8, warmup_steps=10, logging_steps=5, save_strategy="no")) == 0
    curve = history(output)
    assert min(curve[-3:]) < curve[0] / 5, curve
    assert time.process_time() - started < 2 * 120, "two minutes of two cores"
    report = (output / "training.html").read_text()
    assert "<img" in report or "<svg" in report
    card = (output / "README.md").read_text()
    assert "license: apache-2.0" in card  # the starting point's
    first, second = card.index("### Step 1\n\nA new ST4VLA model"), card.index("### Step 2\n\nFine-tuned from `tiny`")
    assert first < second
    assert "| sim_pick_place_v21 | not stated |" in card  # `st4vla push` refuses until it is stated
    assert (output / "selftest" / "example.png").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 3])
def test_a_killed_run_goes_on_with_the_same_curve(
    command: Callable[..., list[str]], tmp_path: Path, workers: int
) -> None:
    from training_st4vla.commands.main import main

    flags = {"logging_steps": 1, "save_steps": 2, "dataloader_num_workers": workers}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main(command(whole, 6, 2, **flags)) == 0

    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in (".", "processing", "training")),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "training_st4vla.commands.main", *command(killed, 6, 2, **flags)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: any(killed.glob("checkpoint-*/trainer_state.json")) or process.poll() is not None)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (killed / "config.json").exists(), "it was killed before it finished"
    # What a kill in the middle of a save leaves: a newer checkpoint without its end.
    half = killed / "checkpoint-5"
    half.mkdir(exist_ok=True)
    shutil.copy(whole / "model.safetensors", half / "model.safetensors")

    assert main(command(killed, 6, 2, **flags)) == 0
    assert history(killed) == history(whole)
    assert history(killed, "grad_norm") == history(whole, "grad_norm")


def wait_until(ready: Callable[[], bool], limit: float = 300) -> None:
    """Polls until `ready`, at most `limit` seconds."""
    for _ in ticks(limit):
        if ready():
            return
    raise TimeoutError(f"not ready after {limit:g} seconds")


def ticks(limit: float, pause: float = 0.02) -> Iterator[None]:
    """Yields every `pause` seconds until `limit`."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        yield
        time.sleep(pause)


def test_another_command_does_not_resume_a_run(
    command: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from training_st4vla.commands.main import main

    output = tmp_path / "run"
    output.mkdir()
    (output / "notes.txt").write_text("mine")
    assert main(command(output, 2, 2)) == 1
    assert "expected a new or empty folder" in capsys.readouterr().err
    assert (output / "notes.txt").read_text() == "mine"

    (output / "notes.txt").unlink()
    (output / "config.json").write_text("{}")
    assert main(command(output, 2, 2)) == 1
    assert "holds a finished model already" in capsys.readouterr().err
    assert (output / "config.json").read_text() == "{}"


def test_an_undeclared_contract_is_refused_with_the_file_to_write(
    tiny: Path, recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from training_st4vla.commands.main import main

    words = ["train-actions", "--model", str(tiny), "--dataset", str(recording), "--action-keys", *ACTION_KEYS]
    assert main([*words, "--output-dir", str(tmp_path / "run"), "--max-steps", "1", "--use-cpu", "True"]) == 1
    message = capsys.readouterr().err
    assert "training needs to know" in message
    assert '"gripper_polarity": "high_is_open or high_is_closed"' in message
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--cameras": "front_view"}, "front_view"),
        ({"--dataset": "/nowhere/at/all"}, "/nowhere/at/all"),
        ({"--model": ""}, "--model: expected a model to start from"),
        ({"--dtype": "float16"}, "dtype"),
    ],
)
def test_what_does_not_exist_is_named(
    change: dict[str, str],
    message: str,
    command: Callable[..., list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from training_st4vla.commands.main import main

    words = command(tmp_path / "run", 1, 2)
    for name, value in change.items():
        if name in words:
            words[words.index(name) + 1] = value
        else:
            words += [name, value]
    assert main(words) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
