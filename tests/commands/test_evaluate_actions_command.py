"""`st4vla evaluate-actions` on a small model: the report has a film per episode, bands, and where the model looks."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lerobot_toy import write_dataset

DECLARATION = {
    "action_units": ["m", "m", "m"],
    "frame": "base",
    "rotation": "none",
    "representation": "absolute",
    "gripper_dims": [],
    "gripper_polarity": "none",
}


@pytest.fixture
def evaluated(tmp_path: Path, model: Any, processor: Any) -> Callable[..., Path]:
    """Evaluates the small model on a toy dataset; returns the report."""
    from training_st4vla.commands.main import main
    from training_st4vla.data.action_dataset import LeRobotActionDataset
    from training_st4vla.data.contracts import build_contract, shipped_declaration

    root = write_dataset(tmp_path / "toy")
    (root / "meta" / "action_contract.json").write_text(json.dumps(DECLARATION))
    dataset = LeRobotActionDataset(root, chunk_size=5, action_keys=["action"])
    contract = build_contract(dataset, shipped_declaration(dataset))
    processor.action_contracts[dataset.dataset_key] = contract.to_dict()
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")

    def run(*flags: str) -> Path:
        report = tmp_path / "report.html"
        argv = ["evaluate-actions", "--model", str(tmp_path / "model"), "--dataset", str(root), "--stride", "5"]
        assert main([*argv, "--action-keys", "action", "--report", str(report), *flags]) == 0
        return report

    return run


def test_films_bands_and_looks(evaluated: Callable[..., Path]) -> None:
    report = evaluated("--band-samples", "3", "--shown-episodes", "2", "--grounding", "True")
    text = report.read_text()
    assert text.count("<video") == 2
    assert text.count('class="cursor"') == 2
    assert len(text) < 10_000_000


def test_without_bands(evaluated: Callable[..., Path]) -> None:
    text = evaluated("--band-samples", "0", "--shown-episodes", "1").read_text()
    assert text.count("<video") == 1
