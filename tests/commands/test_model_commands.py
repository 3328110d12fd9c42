"""`st4vla init`, `convert`, `selftest` and `ground`, run in this process: what they write, say, refuse and return."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoProcessor, Qwen2_5_VLProcessor

from training_st4vla.commands.main import main

FILES = {"config.json", "model.safetensors", "processor_config.json", "README.md", "modeling_st4vla.py", "selftest"}


@pytest.fixture
def st4vla(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs a command; returns the exit code, stdout and stderr."""

    def run(*argv: Any) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(word) for word in argv])
        return code, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `st4vla init --preset tiny` writes, in float32 at 112 x 112 pixels."""
    folder = tmp_path_factory.mktemp("init") / "tiny"
    flags = ["--action-dim", "3", "--chunk_size", "5", "--state-dim", "4", "--image-size", "112"]
    assert main(["init", "--preset", "tiny", "--output", str(folder), "--dtype", "float32", *flags]) == 0
    return folder


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory, golden: Path) -> Path:
    """What `st4vla convert internvla-m1` writes for the golden checkpoint, in float32."""
    folder = tmp_path_factory.mktemp("convert") / "golden"
    checkpoint = golden / "run" / "checkpoints" / "steps_1000_pytorch_model.pt"
    flags = ["--base-vlm", str(golden / "base_vlm"), "--output", str(folder), "--dtype", "float32"]
    assert main(["convert", "internvla-m1", "--checkpoint", str(checkpoint), *flags]) == 0
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_init_tiny_writes_a_complete_model_of_the_stated_size(st4vla: Callable, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "robot"
    code, out, err = st4vla("init", "--preset", "tiny", "--output", folder)
    assert (code, out) == (0, "")
    assert "M parameters, bfloat16" in err
    assert {path.name for path in folder.iterdir()} >= FILES
    assert not list(folder.parent.glob(".robot-*"))  # no scratch folder stays behind
    model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    assert sum(parameter.numel() for parameter in model.parameters()) <= 9.5e6
    assert (folder / "model.safetensors").stat().st_size <= 19e6
    assert model.dtype == torch.bfloat16
    config = model.config
    assert (config.action_dim, config.chunk_size, config.state_dim) == (7, 16, None)
    actions = model.sample_actions(**processor(images=torch.rand(3, 64, 64), text="put the cube on the plate"))
    assert actions.shape == (1, 16, 7)
    assert torch.isfinite(actions).all()


def test_init_obeys_its_flags(tiny: Path, st4vla: Callable, tmp_path: Path) -> None:
    config = AutoModel.from_pretrained(tiny).config
    assert (config.action_dim, config.chunk_size, config.state_dim) == (3, 5, 4)
    assert list(AutoProcessor.from_pretrained(tiny).image_size) == [112, 112]
    settings = tmp_path / "init.yaml"
    settings.write_text("preset: tiny\nimage-size: 112\naction_dim: 3\nchunk-size: 5\nstate_dim: 4\ndtype: float32\n")
    weights = {}
    for seed in (0, 1):
        folder = tmp_path / str(seed)
        assert st4vla("init", "--config", settings, "--output", folder, "--seed", seed)[0] == 0
        weights[seed] = load_file(folder / "model.safetensors")
    same = load_file(tiny / "model.safetensors")
    assert all(torch.equal(weights[0][name], value) for name, value in same.items())
    assert not torch.equal(weights[1]["vision_projector.weight"], same["vision_projector.weight"])


@pytest.fixture
def base(build_model: Callable, processor: Any, tmp_path: Path) -> tuple[Path, Path, Any]:
    """A tiny Qwen2.5-VL folder, a tiny DINOv2 folder, and the model their weights come from."""
    model = build_model(seed=3)
    model.vlm.save_pretrained(tmp_path / "vlm")
    parts = (processor.image_processor, processor.tokenizer, processor.video_processor)
    Qwen2_5_VLProcessor(*parts, chat_template=processor.chat_template).save_pretrained(tmp_path / "vlm")
    model.vision_encoder.save_pretrained(tmp_path / "dino")
    return tmp_path / "vlm", tmp_path / "dino", model


def test_init_from_a_base_vlm_and_a_dinov2(st4vla: Callable, base: tuple, tmp_path: Path) -> None:
    vlm, dino, source = base
    folder = tmp_path / "made"
    flags = ["--action-dim", 2, "--image-size", 112, "--dtype", "float32", "--spatial-prompt", "point"]
    code, _, err = st4vla("init", "--vlm", vlm, "--vision-encoder", dino, "--output", folder, *flags)
    assert code == 0, err
    model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    weights, given = model.state_dict(), source.state_dict()
    kept = [name for name in weights if name.startswith(("vlm.", "vision_encoder."))]
    assert len(kept) > 50
    assert all(torch.equal(weights[name], given[name]) for name in kept)
    assert (model.config.action_dim, processor.spatial_prompt) == (2, "point")
    assert model.sample_actions(**processor(images=torch.rand(3, 64, 64), text="go")).shape == (1, 16, 2)
    code, out, _ = st4vla("selftest", folder)
    assert (code, out.split(":")[0]) == (0, "passed")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "expected exactly one of --preset tiny and --vlm MODEL"),
        (["--preset", "tiny", "--vlm", "x"], "expected exactly one of --preset tiny and --vlm MODEL"),
        (["--preset", "huge"], "--preset: expected 'tiny', found 'huge'"),
        (["--preset", "tiny", "--dtype", "int8"], "--dtype: expected float32 or bfloat16, found 'int8'"),
        (["--preset", "tiny", "--image-size", "100"], "--image-size: expected a positive multiple of 28, found 100"),
        (["--preset", "tiny", "--action-dim", "0"], "action_dim: expected at least 1, found 0"),
        (["--preset", "tiny", "--spatial-prompt", "boxes"], "spatial_prompt: expected one of"),
        (["--vlm", "x"], "--vision-encoder: expected a DINOv2 beside --vlm"),
        (["--config", "none.yaml"], "--config: expected a YAML file, found nothing at none.yaml"),
    ],
)
def test_init_refuses_and_writes_nothing(st4vla: Callable, tmp_path: Path, flags: list, message: str) -> None:
    code, out, err = st4vla("init", *flags, "--output", tmp_path / "new")
    assert (code, out) == (1, "")
    assert message in err
    assert err.startswith("st4vla init: error: ")
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_init_refuses_models_of_another_kind(st4vla: Callable, base: tuple, tmp_path: Path) -> None:
    vlm, dino, _ = base
    for first, second, message in (
        (dino, dino, "--vlm: expected a qwen2_5_vl or qwen3_vl checkpoint, found 'dinov2'"),
        (vlm, vlm, "--vision-encoder: expected a dinov2 checkpoint, found 'qwen2_5_vl'"),
    ):
        code, _, err = st4vla("init", "--vlm", first, "--vision-encoder", second, "--output", tmp_path / "new")
        assert code == 1
        assert message in err
    assert not (tmp_path / "new").exists()


def test_no_command_overwrites_a_folder_with_content(st4vla: Callable, tiny: Path, golden: Path) -> None:
    before = content(tiny)
    checkpoint = golden / "run" / "checkpoints" / "steps_1000_pytorch_model.pt"
    for argv in (
        ["init", "--preset", "tiny"],
        ["convert", "internvla-m1", "--checkpoint", checkpoint, "--base-vlm", golden / "base_vlm"],
    ):
        code, _, err = st4vla(*argv, "--output", tiny)
        assert code == 1
        assert f"--output: expected a new or empty folder, found {tiny} with content. Nothing was overwritten" in err
    assert content(tiny) == before


def test_convert_writes_a_complete_model_and_says_what_is_unknown(
    st4vla: Callable, converted: Path, golden: Path, tmp_path: Path
) -> None:
    assert {path.name for path in converted.iterdir()} >= FILES
    checkpoint = golden / "run" / "checkpoints" / "steps_1000_pytorch_model.pt"
    base = ["--base-vlm", golden / "base_vlm", "--output", tmp_path / "again"]
    code, out, err = st4vla("convert", "internvla-m1", "--checkpoint", checkpoint, *base)
    assert (code, out) == (0, "")
    assert "action_model.net.history_embedder.linear.weight" in err
    assert "action contract 'franka': the checkpoint does not say representation, frame" in err
    assert AutoModel.from_pretrained(tmp_path / "again").dtype == torch.bfloat16  # the checkpoint's own
    code, out, _ = st4vla("selftest", converted)
    assert (code, out.split(":")[0]) == (0, "passed")


class Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.mkdir, (self.marker,)


def test_convert_refuses_and_writes_nothing(st4vla: Callable, golden: Path, tmp_path: Path) -> None:
    base = ["--base-vlm", golden / "base_vlm", "--output", tmp_path / "new"]
    evil = tmp_path / "evil.pt"
    evil.write_bytes(pickle.dumps({"a": Bomb(tmp_path / "ran")}))
    for argv, message in (
        (["internvla-m1", "--checkpoint", evil], "evil.pt"),
        (["internvla-m1", "--checkpoint", tmp_path / "none.pt"], "--checkpoint: expected a .pt file, found nothing"),
        (["pi0", "--checkpoint", evil], "expected the format internvla-m1, found 'pi0'"),
        (["internvla-m1", "--checkpoint", evil, "--dtype", "int4"], "--dtype: expected auto, float32 or bfloat16"),
    ):
        code, out, err = st4vla("convert", *argv, *base)
        assert (code, out) == (1, "")
        assert message in err
    assert [path.name for path in tmp_path.iterdir()] == ["evil.pt"]


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


def test_the_console_script_itself(st4vla: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = st4vla("--help")
    assert code == 0
    assert all(f"\n  {name} " in out for name in ("init", "convert", "ground", "selftest", "train-actions"))
    code, out, err = st4vla("initialise")
    assert (code, out) == (2, "")
    assert "unknown command 'initialise'; expected one of" in err
    for name in ("init", "convert", "ground", "selftest"):
        with pytest.raises(SystemExit) as stopped:
            main([name, "--help"])
        assert stopped.value.code == 0
        assert f"usage: st4vla {name}" in capsys.readouterr().out
        with pytest.raises(SystemExit) as stopped:
            main([name])
        assert stopped.value.code == 2
        assert "required" in capsys.readouterr().err


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="found nothing"):
        main(["selftest", str(tmp_path / "none"), "--debug"])
