"""Running `st4vla` in this process, and the models its commands are tried on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import Qwen2_5_VLProcessor

from training_st4vla.commands.main import main


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
    flags += ["--gradient-decay", "0.25"]
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


@pytest.fixture
def base(build_model: Callable, processor: Any, tmp_path: Path) -> tuple[Path, Path, Any]:
    """A tiny Qwen2.5-VL folder, a tiny DINOv2 folder, and the model their weights come from."""
    model = build_model(seed=3)
    model.vlm.save_pretrained(tmp_path / "vlm")
    parts = (processor.image_processor, processor.tokenizer, processor.video_processor)
    Qwen2_5_VLProcessor(*parts, chat_template=processor.chat_template).save_pretrained(tmp_path / "vlm")
    model.vision_encoder.save_pretrained(tmp_path / "dino")
    return tmp_path / "vlm", tmp_path / "dino", model
