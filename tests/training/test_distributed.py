"""Two processes compute what one computes on the doubled batch, under every launch config that a CPU can run."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from injected_noise import largest_difference

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory, build_model: Any, _small_processor: Any) -> Path:
    """A saved model to start from, without dropout."""
    folder = tmp_path_factory.mktemp("distributed") / "model"
    expert = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "condition_dropout": 0.0}
    build_model(query_dropout=0.0, action_expert=expert).save_pretrained(folder)
    _small_processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def one(start: Path, toy: Path) -> dict[str, Any]:
    """The run of one process on batches of eight."""
    from two_processes import run

    run(str(start), str(toy), str(start.parent / "one.pt"), batch_size=8)
    return torch.load(start.parent / "one.pt")


def launch(config: str, start: Path, toy: Path) -> tuple[dict[str, Any], Path]:
    """The record and the model folder of two processes on batches of four, under a launch config of the package."""
    from training_st4vla.commands.accelerate_config import accelerate_config

    output = start.parent / f"{config}.pt"
    words = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(accelerate_config(config))]
    words += ["--num_processes", "2", "--mixed_precision", "no", "--main_process_port", "0"]
    words += [str(HERE / "two_processes.py"), str(start), str(toy), str(output), "4"]
    words += ["fsdp"] if config == "fsdp2" else []
    paths = os.pathsep.join([*(str(ROOT / part) for part in (".", "processing", "training")), *sys.path])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    # What tells the engine to stay on the CPU: accelerate's own switch turns DeepSpeed off.
    environment |= {"DS_ACCELERATOR": "cpu"} if config.startswith("zero") else {"ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(output), output.with_suffix("")


def check_equal(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert (one["processes"], two["processes"]) == (1, 2)
    for name, expected in one["losses"].items():
        assert len(two["losses"][name]) == 9
        assert two["losses"][name] == pytest.approx(expected, rel=2e-4, abs=2e-5), name  # logs are rounded
    # The checkpoint lies within the second epoch: the order of samples there is found again.
    for name, values in two["losses"].items():
        assert two["resumed"][name][-2:] == pytest.approx(values[-2:], rel=1e-5), name


def check_folder(one: Path, two: Path) -> None:
    """The saved folder is complete, passes its own selftest, and holds the weights of one process."""
    from modeling_st4vla import ST4VLAForActionPrediction
    from training_st4vla.loading import load_model
    from training_st4vla.selftest import run_selftest

    model, processor = load_model(str(two), "float32", "cpu")
    assert run_selftest(model, processor, two).passed
    expected = dict(ST4VLAForActionPrediction.from_pretrained(one).named_parameters())
    for name, weight in model.named_parameters():
        assert torch.allclose(weight, expected[name], atol=2e-5), name


def test_ddp_equals_one_process_with_the_doubled_batch(one: dict[str, Any], start: Path, toy: Path) -> None:
    two, folder = launch("ddp", start, toy)
    assert two["engine"] == []
    check_equal(one, two)
    assert len(one["gradients"]) == len(two["gradients"]) == 9
    assert largest_difference(two["gradients"][0], one["gradients"][0]) < 1e-5
    check_folder(start.parent / "one", folder)


def test_fsdp2_equals_one_process_and_saves_a_whole_model(one: dict[str, Any], start: Path, toy: Path) -> None:
    two, folder = launch("fsdp2", start, toy)
    assert two["engine"] == ["fsdp"]
    check_equal(one, two)
    assert largest_difference(two["gradients"][0], one["gradients"][0]) < 1e-5
    check_folder(start.parent / "one", folder)


@pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed")
@pytest.mark.parametrize("config", ["zero2", "zero3"])
def test_zero_equals_one_process_and_saves_a_whole_model(
    config: str, one: dict[str, Any], start: Path, toy: Path
) -> None:
    two, folder = launch(config, start, toy)
    assert two["engine"] == ["deepspeed"]
    assert two["clipping"] == 5.0
    check_equal(one, two)
    check_folder(start.parent / "one", folder)
