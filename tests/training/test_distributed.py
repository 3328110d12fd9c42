"""Data-parallel training: two processes compute what one process computes on the doubled batch."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from injected_noise import largest_difference

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


@pytest.mark.slow
def test_two_processes_equal_one_with_the_doubled_batch(tmp_path: Path, toy: Path, model: Any, processor: Any) -> None:
    from two_processes import run

    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    run(str(tmp_path / "model"), str(toy), str(tmp_path / "one.pt"), batch_size=8)

    # `--cpu` starts one process whatever `--num_processes` says (accelerate 1.15, without MPI); `--multi_gpu` is the
    # launcher of several processes, and the environment tells them to stay on the CPU.
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    launch += [str(HERE / "two_processes.py"), str(tmp_path / "model"), str(toy), str(tmp_path / "two.pt"), "4"]
    paths = os.pathsep.join(str(ROOT / part) for part in (".", "processing", "training"))
    done = subprocess.run(
        launch,
        env={**os.environ, "PYTHONPATH": paths, "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]

    one, two = torch.load(tmp_path / "one.pt"), torch.load(tmp_path / "two.pt")
    assert (one["processes"], two["processes"]) == (1, 2)
    for name, expected in one["losses"].items():
        assert two["losses"][name] == pytest.approx(expected, abs=1.1e-5 if name != "loss" else 2e-4), name
    assert len(one["gradients"]) == len(two["gradients"]) == 3
    assert largest_difference(two["gradients"][0], one["gradients"][0]) < 1e-5
