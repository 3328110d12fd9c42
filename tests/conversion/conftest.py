"""The golden InternVLA-M1 run, whole and in parts that tests change."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from training_st4vla.conversion.internvla_m1 import (
    convert_internvla_m1,
    load_state_dict,
)

CHECKPOINT = Path("checkpoints/steps_1000_pytorch_model.pt")


@pytest.fixture(scope="module")
def official(golden: Path) -> dict[str, torch.Tensor]:
    return {name: tensor.float() for name, tensor in load_state_dict(golden / "run" / CHECKPOINT).items()}


@pytest.fixture
def run_config(golden: Path) -> dict[str, Any]:
    return json.loads((golden / "run" / "config.json").read_text())


@pytest.fixture
def make_run(golden: Path, tmp_path: Path, run_config: dict) -> Callable[..., tuple[Any, Any, list[str]]]:
    """Writes a run folder with these weights and this config, and converts it."""

    def convert(weights: dict[str, torch.Tensor], config: dict | None = None) -> tuple[Any, Any, list[str]]:
        (tmp_path / "checkpoints").mkdir(exist_ok=True)
        torch.save(weights, tmp_path / CHECKPOINT)
        (tmp_path / "config.json").write_text(json.dumps(config or run_config))
        (tmp_path / "dataset_statistics.json").write_text((golden / "run" / "dataset_statistics.json").read_text())
        return convert_internvla_m1(tmp_path / CHECKPOINT, str(golden / "base_vlm"), torch.float32)

    return convert
