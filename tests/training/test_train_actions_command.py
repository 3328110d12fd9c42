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
from grounding_toy import write_schema_set

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

    output = tmp_path / "run"
    flags = {"warmup_steps": 10, "logging_steps": 5, "save_strategy": "no", "save_dtype": "bfloat16"}
    assert main(command(output, 110, 8, **flags)) == 0
    curve = history(output)
    assert min(curve[-3:]) < curve[0] / 5, curve
    report = (output / "training.html").read_text()
    assert "<img" in report or "<svg" in report
    card = (output / "README.md").read_text()
    assert "license: apache-2.0" in card  # the starting point's
    first, second = card.index("### Step 1\n\nA new ST4VLA model"), card.index("### Step 2\n\nFine-tuned from `tiny`")
    assert first < second
    assert "| sim_pick_place_v21 | not stated |" in card  # `st4vla push` refuses until it is stated
    assert (output / "selftest" / "example.png").is_file()
    assert json.loads((output / "config.json").read_text())["dtype"] == "bfloat16"
    assert main(["selftest", str(output)]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 3])
def test_a_killed_run_goes_on_with_the_same_curve(
    command: Callable[..., list[str]], tmp_path: Path, workers: int
) -> None:
    from training_st4vla.commands.main import main

    # Four steps an epoch: the run is killed in its first and goes on into its second.
    flags = {"logging_steps": 1, "save_steps": 2, "dataloader_num_workers": workers, "max_frames": 8}
    flags |= {"grounding_dataset": write_schema_set(tmp_path / "questions").parent, "grounding_ratio": 0.5}
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
    for name in ("loss", "action_loss", "lm_loss", "grad_norm"):
        assert len(history(whole, name)) == 6
        assert history(killed, name) == history(whole, name), name


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
        ({"--gradient-decay": "1.5"}, "--gradient-decay: expected a number from 0 to 1, found 1.5"),
        ({"--save-dtype": "float16"}, "--save-dtype"),
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


@pytest.fixture
def mixture_command(tmp_path: Path) -> Callable[..., list[str]]:
    """Words of a `train-actions` command on three datasets, with grounding data and changed images."""
    from grounding_toy import write_schema_set
    from mixture_toy import write_three

    from training_st4vla.commands.main import main

    model = tmp_path / "wide"
    sizes = ["--action-dim", "8", "--state-dim", "8", "--chunk-size", "5"]
    assert main(["init", "--preset", "tiny", *sizes, "--output", str(model)]) == 0
    mixture = write_three(tmp_path / "data")
    write_schema_set(tmp_path / "grounding")

    def words(output: Path, **flags: Any) -> list[str]:
        options = {
            "--model": model,
            "--mixture": mixture,
            "--grounding-dataset": tmp_path / "grounding",
            "--augment": True,
            "--output-dir": output,
            "--max-steps": 6,
            "--per-device-train-batch-size": 4,
            "--use-cpu": True,
            "--disable-tqdm": True,
            **{f"--{name.replace('_', '-')}": value for name, value in flags.items()},
        }
        return ["train-actions", *(str(word) for option in options.items() for word in option)]

    return words


@pytest.mark.slow
def test_a_killed_mixture_goes_on_with_the_same_curve(
    mixture_command: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from processing_st4vla import ST4VLAProcessor
    from training_st4vla.commands.main import main

    flags = {"logging_steps": 1, "save_steps": 2}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main(mixture_command(whole, **flags)) == 0
    shown = capsys.readouterr().err
    assert "mixture  five 20.0%, ten 40.0%, thirty 40.0% of 55 samples per epoch" in shown
    assert "filled up with 1 dimension(s) that count for nothing" in shown
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in (".", "processing", "training")),
    }
    flags["dataloader_num_workers"] = 3
    words = [sys.executable, "-m", "training_st4vla.commands.main", *mixture_command(killed, **flags)]
    process = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: any(killed.glob("checkpoint-*/trainer_state.json")) or process.poll() is not None)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (killed / "config.json").exists(), "it was killed before it finished"
    assert main(mixture_command(killed, **flags)) == 0
    for name in ("loss", "action_loss", "lm_loss", "grad_norm"):
        assert history(killed, name) == history(whole, name), name
    processor = ST4VLAProcessor.from_pretrained(killed)
    assert sorted(processor.action_contracts) == ["five", "ten", "thirty"]
    evaluate = ["evaluate-actions", "--model", str(killed), "--dataset", str(tmp_path / "data" / "five")]
    assert main([*evaluate, "--device", "cpu", "--stride", "5"]) == 0


def test_flags_about_one_dataset_are_refused_for_several(
    mixture_command: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from training_st4vla.commands.main import main

    words = mixture_command(tmp_path / "run")
    alone = [word for word in words if word not in ("--mixture", words[words.index("--mixture") + 1])]
    several = [*alone, "--dataset", str(tmp_path / "data" / "five"), str(tmp_path / "data" / "ten")]
    for extra, message in (
        ([*words, "--dataset", "x"], "--dataset, --mixture: expected one of them"),
        (alone, "--dataset, --mixture: expected one of them"),
        ([*words, "--cameras", "front"], "--cameras: belongs into the mixture file"),
        ([*several, "--dataset-key", "x"], "--dataset-key: cannot hold for several datasets"),
        ([*several, "--weights", "1"], "--weights: expected one for each of 2 datasets, found 1"),
        ([*words, "--pause-dims", "0"], "--pause-dims: give --pause-threshold with it"),
        ([*words, "--eval-dataset", "x", "--eval-dataset-key", "six"], "--eval-dataset-key: expected one of"),
        ([*words, "--augment-crop", "2"], "augmentation, crop: expected 0.1 to 1.0, found 2.0"),
    ):
        assert main(extra) == 1, message
        assert message in capsys.readouterr().err
        assert not (tmp_path / "run" / "config.json").exists()


def test_a_changed_mixture_file_does_not_resume(
    mixture_command: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from training_st4vla.commands.main import main

    words = mixture_command(tmp_path / "run", max_steps=1, save_strategy="no")
    (tmp_path / "data" / "five" / "meta" / "action_contract.json").rename(tmp_path / "contract.json")
    assert main(words) == 1  # stops after the folder was claimed: the contract is incomplete
    assert "action contract 'five': training needs to know" in capsys.readouterr().err
    mixture = tmp_path / "data" / "mixture.yaml"
    mixture.write_text(mixture.read_text().replace("weight: 1", "weight: 5"))
    assert main(words) == 1
    assert "interrupted run with other settings (data." in capsys.readouterr().err


def test_grounding_data_come_from_a_mixture_file_as_well(command: Callable[..., list[str]], tmp_path: Path) -> None:
    import yaml

    from training_st4vla.commands.main import main

    write_schema_set(tmp_path / "questions", count=2)
    entry = {"dataset": "questions", "kinds": ["box"]}
    (tmp_path / "grounding.yaml").write_text(yaml.safe_dump({"datasets": [entry]}))
    flags = {"grounding_mixture": tmp_path / "grounding.yaml", "grounding_ratio": 1.0, "logging_steps": 1}
    assert main(command(tmp_path / "run", 1, 2, max_frames=8, save_strategy="no", **flags)) == 0
    assert len(history(tmp_path / "run", "lm_loss")) == 1
    assert "questions" in (tmp_path / "run" / "README.md").read_text()
    (tmp_path / "grounding.yaml").write_text(yaml.safe_dump({"datasets": [{**entry, "stream": 4}]}))
    assert main(command(tmp_path / "other", 1, 2, max_frames=8, **flags)) == 1


def test_a_dry_run_prints_the_memory_of_a_step_and_writes_nothing(
    command: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from training_st4vla.commands.main import main

    assert main([*command(tmp_path / "run", 4, 2), "--dry-run", "True"]) == 0
    table = capsys.readouterr().out
    rows = [line for line in table.splitlines() if line.strip()]
    for part in ("weights", "gradients", "optimizer", "activations", "total"):
        assert any(part in row for row in rows), table
    assert not (tmp_path / "run").exists()


def test_the_gradient_decay_of_a_run_is_in_its_model(
    command: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training_st4vla.commands import train_actions
    from training_st4vla.commands.main import main

    built: list[Any] = []

    def stop(trainer: Any, *rest: Any) -> Path:
        built.append(trainer.model)
        trainer.model.save_pretrained(tmp_path / "saved")
        return tmp_path

    monkeypatch.setattr(train_actions, "complete_run", stop)
    assert main([*command(tmp_path / "run", 1, 2), "--gradient-decay", "0.125"]) == 0
    assert built[0].query_transformer.gradient_decay == 0.125  # what the forward pass applies
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["gradient_decay"] == 0.125


@pytest.mark.slow
def test_adapters_leave_a_merged_model_and_themselves(command: Callable[..., list[str]], tmp_path: Path) -> None:
    from training_st4vla.commands.main import main
    from training_st4vla.loading import load_model
    from training_st4vla.selftest import run_selftest

    output = tmp_path / "run"
    assert main([*command(output, 2, 2, save_strategy="no"), "--lora-rank", "4"]) == 0
    assert (output / "adapter" / "adapter_model.safetensors").is_file()
    model, processor = load_model(str(output), device="cpu")
    assert not any("lora" in name for name, _ in model.named_parameters())
    assert run_selftest(model, processor, output).passed
