"""`st4vla init` and `convert`, run in this process: what they write, say, refuse and return."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoProcessor

from training_st4vla.commands.main import COMMANDS, main

FILES = {"config.json", "model.safetensors", "processor_config.json", "README.md", "modeling_st4vla.py", "selftest"}


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
    assert (config.action_dim, config.chunk_size, config.state_dim, config.gradient_decay) == (3, 5, 4, 0.25)
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
        (["--preset", "tiny", "--gradient-decay", "2"], "--gradient-decay: expected a number from 0 to 1, found 2"),
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


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_prints_its_flags(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([name, "--help"])
    assert stopped.value.code == 0
    assert f"usage: st4vla {name}" in capsys.readouterr().out


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="found nothing"):
        main(["selftest", str(tmp_path / "none"), "--debug"])
