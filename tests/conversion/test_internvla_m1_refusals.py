"""Checkpoints and run folders that cannot be converted: refused by name, and nothing in them is executed."""

import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from training_st4vla.conversion.internvla_m1 import (
    convert_internvla_m1,
    load_state_dict,
)
from training_st4vla.errors import UserError


class Bomb:
    """What an attacker would put into a `.pt` file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_code_in_a_checkpoint_is_refused_and_never_run(tmp_path: Path, writer: str) -> None:
    path, marker = tmp_path / "evil.pt", tmp_path / "ran"
    content = {"weight": torch.zeros(2), "bomb": Bomb(marker)}
    if writer == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match=r"evil\.pt"):
        load_state_dict(path)
    assert not marker.exists()
    torch.load(path, weights_only=False) if writer == "torch" else pickle.loads(path.read_bytes())
    assert marker.exists()  # the bomb works: it was the reader that did not run it


@pytest.mark.parametrize("damage", ["absent", "truncated", "no state dict", "nested"])
def test_unusable_checkpoints_are_named(golden: Path, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "weights.pt"
    if damage == "truncated":
        path.write_bytes((golden / "run" / "checkpoints" / "steps_1000_pytorch_model.pt").read_bytes()[:100_000])
    elif damage == "no state dict":
        torch.save([torch.zeros(1)], path)
    elif damage == "nested":
        torch.save({"state_dict": {"weight": torch.zeros(1)}}, path)
    with pytest.raises(UserError, match=re.escape(str(path) if damage == "absent" else path.name)):
        load_state_dict(path)


@pytest.mark.parametrize("name", ["config.json", "dataset_statistics.json"])
def test_missing_and_broken_run_files_are_named(
    official: dict, make_run: Callable, golden: Path, tmp_path: Path, name: str
) -> None:
    make_run(official)
    (tmp_path / name).write_text("{broken")
    with pytest.raises(UserError, match=rf"{re.escape(name)}: not valid JSON"):
        convert_internvla_m1(tmp_path / "checkpoints" / "steps_1000_pytorch_model.pt", str(golden / "base_vlm"))
    (tmp_path / name).unlink()
    with pytest.raises(UserError, match=rf"{re.escape(name)}: expected it at .*two folders above the checkpoint"):
        convert_internvla_m1(tmp_path / "checkpoints" / "steps_1000_pytorch_model.pt", str(golden / "base_vlm"))
