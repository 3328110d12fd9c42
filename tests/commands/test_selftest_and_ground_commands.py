"""`st4vla selftest` and `ground`: what they notice, print, draw and refuse."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file


@pytest.mark.parametrize(
    "name", ["action_expert.blocks.1.fc1.bias", "vlm.model.language_model.layers.0.mlp.down_proj.weight"]
)
def test_selftest_detects_a_changed_weight(st4vla: Callable, converted: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "changed"
    shutil.copytree(converted, folder)
    code, out, _ = st4vla("selftest", folder, "--json", tmp_path / "result.json")
    result = json.loads((tmp_path / "result.json").read_text())
    assert (code, result["passed"], result["action_error"]) == (0, True, 0.0)
    weights = load_file(folder / "model.safetensors")
    key = next(key for key in weights if key.endswith(name.removeprefix("vlm.model.language_model.")))
    weights[key] = weights[key] * 1.1 + 0.05
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    code, out, _ = st4vla("selftest", folder, "--json", tmp_path / "result.json")
    result = json.loads((tmp_path / "result.json").read_text())
    assert (code, result["passed"]) == (1, False)
    assert out.startswith("FAILED: tokens equal, action error ")
    code, _, err = st4vla("selftest", folder, "--write")  # the user says that this copy is right
    assert code == 0
    assert "stored (float32" in err
    assert st4vla("selftest", folder)[0] == 0


def test_selftest_detects_a_changed_planner_behind_an_untrained_expert(
    st4vla: Callable, tiny: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "changed"
    shutil.copytree(tiny, folder)
    weights = load_file(folder / "model.safetensors")
    key = next(key for key in weights if key.endswith("layers.0.mlp.down_proj.weight"))
    weights[key] = weights[key] * 1.1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    code, _, _ = st4vla("selftest", folder, "--json", tmp_path / "result.json")
    result = json.loads((tmp_path / "result.json").read_text())
    assert (code, result["action_error"]) == (1, 0.0)
    assert result["plan_error"] > result["tolerance"]


def test_selftest_detects_a_changed_prompt(st4vla: Callable, converted: Path, tmp_path: Path) -> None:
    folder = tmp_path / "changed"
    shutil.copytree(converted, folder)
    settings = json.loads((folder / "processor_config.json").read_text())
    settings["spatial_prompt"] = "none"
    (folder / "processor_config.json").write_text(json.dumps(settings))
    code, out, _ = st4vla("selftest", folder)
    assert code == 1
    assert out.startswith("FAILED: tokens differ")


def test_selftest_refusals(st4vla: Callable, tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bare"
    shutil.copytree(tiny, folder, ignore=shutil.ignore_patterns("selftest"))
    (tmp_path / "empty").mkdir()
    for where, flags, message in (
        (folder, [], "expected selftest/golden.json"),
        (tmp_path / "none", [], "expected a model folder, found nothing"),
        (tmp_path / "empty", [], "expected a model folder with config.json, found none"),
        (folder, ["--dtype", "int8"], "--dtype: expected one of"),
    ):
        code, out, err = st4vla("selftest", where, *flags)
        assert (code, out) == (1, "")
        assert message in err


@pytest.fixture
def picture(tmp_path: Path, draw_view: Callable[..., np.ndarray]) -> Path:
    Image.fromarray(draw_view(0)).save(tmp_path / "table.png")
    return tmp_path / "table.png"


@pytest.mark.parametrize("kind", ["st4vla", "plain vlm"])
def test_ground_prints_json_and_draws(
    st4vla: Callable, tiny: Path, base: tuple, picture: Path, tmp_path: Path, kind: str
) -> None:
    where = tiny if kind == "st4vla" else base[0]
    code, out, err = st4vla("ground", picture, "the red cube", "--model", where, "--max-new-tokens", 4)
    assert code == 0, err
    result = json.loads(out)  # nothing but JSON on stdout
    assert {"points", "boxes", "traces", "rejected", "raw_text"} <= set(result)
    assert list(result["image_size"]) == [160, 120]
    drawn = Image.open(tmp_path / "table.png.st4vla.png")
    assert drawn.width >= 160
    code, again, _ = st4vla(
        *("ground", picture, "the red cube", "--model", where, "--max_new_tokens", 4, "--output", tmp_path / "o.png")
    )
    assert (code, again) == (0, out)
    assert (tmp_path / "o.png").is_file()


def test_ground_refusals(st4vla: Callable, tiny: Path, base: tuple, picture: Path, tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8)).save(tmp_path / "alpha.png")
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "half.png").write_bytes(picture.read_bytes()[:200])
    before = sorted(path.name for path in tmp_path.iterdir())
    for image, flags, message in (
        (tmp_path / "none.png", [], "IMAGE: found nothing at"),
        (tmp_path / "alpha.png", [], "IMAGE: expected an RGB image, found mode 'RGBA'"),
        (tmp_path / "text.png", [], "is not a readable image"),
        (tmp_path / "half.png", [], "is not a readable image"),
        (picture, ["--kind", "mask"], "kind: expected one of"),
        (picture, ["--model", base[1]], "expected an ST4VLA, Qwen2.5-VL or Qwen3-VL checkpoint, found model_type"),
    ):
        code, out, err = st4vla(
            "ground", image, "the cube", *(flags if "--model" in flags else ["--model", tiny, *flags])
        )
        assert (code, out) == (1, "")
        assert message in err
    assert sorted(path.name for path in tmp_path.iterdir()) == before
