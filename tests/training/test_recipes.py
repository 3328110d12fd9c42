"""Every recipe in `examples/recipes` runs at its `--smoke` size on toy data with its own columns and contract."""

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from grounding_toy import write_schema_set
from lerobot_toy import FPS, write_dataset

RECIPES = Path(__file__).resolve().parents[2] / "examples" / "recipes"
# Columns and cameras that the recipe's presets ask of their datasets.
ACTIONS = {
    "simplerenv": [({"action": 7}, ["image_0"]), ({"action": 7}, ["image"])],
    "libero": [({"action": 7}, ["image", "wrist_image"])],
    "interndata_m1": [
        ({"action.delta_joints": 7, "action.gripper_close": 1}, ["video.base_view", "video.ego_view"]),
    ],
    "so101": [({"action": 6, "observation.state": 6}, ["front", "wrist"])],
}


def write_mixture(recipe: str, folder: Path) -> Path:
    """The recipe's mixture with toy datasets in the place of the real ones."""
    mixture = yaml.safe_load((RECIPES / recipe / "mixture.yaml").read_text())
    for number, (entry, (columns, cameras)) in enumerate(zip(mixture["datasets"], ACTIONS[recipe], strict=True)):
        names = [name if name.startswith("video.") else f"observation.images.{name}" for name in cameras]
        write_dataset(folder / f"toy_{number}", columns=columns, cameras=names, lengths=(12, 8))
        entry |= {"dataset": f"toy_{number}", "fps": FPS}
    file = folder / "mixture.yaml"
    file.write_text(yaml.safe_dump(mixture))
    return file


@pytest.mark.slow
@pytest.mark.parametrize("recipe", sorted(ACTIONS))
def test_a_recipe_runs_at_its_smoke_size(recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from training_st4vla.loading import load_model

    mixture = write_mixture(recipe, tmp_path)
    questions = write_schema_set(tmp_path / "questions", count=3)
    words: list[Any] = ["run.py", recipe, "--smoke", "--grounding", questions.parent, "--mixture", mixture]
    monkeypatch.setattr(sys, "argv", [str(word) for word in [*words, "--output", tmp_path / "run"]])
    runpy.run_path(str(RECIPES / "run.py"), run_name="__main__")
    model, processor = load_model(str(tmp_path / "run" / "policy"), device="cpu")
    sizes = yaml.safe_load((RECIPES / recipe / "init.yaml").read_text())
    assert (model.config.action_dim, model.config.chunk_size) == (sizes["action_dim"], sizes["chunk_size"])
    assert len(processor.action_contracts) == len(ACTIONS[recipe])
    for number in range(len(ACTIONS[recipe])):
        report = tmp_path / "run" / "policy" / f"actions_trained_on_toy_{number}.html"
        assert report.read_text().count("<video") == 1
        figures = json.loads(report.with_suffix(".json").read_text())
        assert figures["num_frames"] == 2, "8 frames, every fourth"


def test_the_sizes_are_the_papers() -> None:
    read = {name: yaml.safe_load((RECIPES / name / "train_actions.yaml").read_text()) for name in ACTIONS}
    for name, config in read.items():
        assert (config["vlm_learning_rate"], config["action_expert_learning_rate"]) == (1e-5, 1e-4), name
        assert (config["lm_loss_weight"], config["grounding_ratio"], config["weight_decay"]) == (0.1, 0.25, 1e-8), name
    assert [read[name]["max_steps"] for name in ("simplerenv", "libero", "interndata_m1")] == [50_000, 30_000, 20_000]
    assert [read[name]["learning_rate"] for name in ("simplerenv", "libero")] == [5e-5, 2.5e-5]
    chunks = {name: yaml.safe_load((RECIPES / name / "init.yaml").read_text())["chunk_size"] for name in ACTIONS}
    assert chunks == {"simplerenv": 16, "libero": 8, "interndata_m1": 16, "so101": 16}
