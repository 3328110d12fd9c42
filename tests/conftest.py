"""Fixtures shared by all tests: a model and a processor small enough for milliseconds, and the shared files."""

import copy
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Before any import of transformers or huggingface_hub: tests never ask the network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["ST4VLA_CACHE"] = tempfile.mkdtemp(prefix="st4vla-tests-")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
from training_st4vla.workers import usable_cores

# Test processes side by side (`pytest -n 2`) share the cores; commands that tests start inherit it.
if (processes := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))) > 1:
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // processes)))

import numpy as np
import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"

ACTION_DIM, CHUNK_SIZE, STATE_DIM = 3, 5, 4
IMAGE_SIZE = 112  # 64 patches in 4 attention windows for the planner (16 tokens), 64 patches for DINOv2
SMALL_TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
SMALL_VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "depth": 2,
    "num_heads": 2,
    "fullatt_block_indexes": [1],
    "window_size": 56,
    "out_hidden_size": 64,
}
SMALL_ENCODER = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": IMAGE_SIZE}
SMALL_FIELDS = {
    "planner_layers": [1, -1],
    "num_query_tokens": 6,
    "query_hidden_size": 32,
    "query_num_heads": 4,
    "action_expert": {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "condition_dropout": 0.1},
    "num_noise_samples": 2,
    "initializer_range": 0.02,
}


@pytest.fixture(scope="session")
def shared() -> Path:
    """`../shared` beside the checkout: reference data too large, or not ours, to ship."""
    if not SHARED.is_dir():
        pytest.skip(f"the shared reference data is not at {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium: one for all tests of a process, since Playwright runs once in it."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium is installed: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="session")
def golden(shared: Path) -> Path:
    """Outputs of the official InternVLA-M1 modules at tiny size, with the checkpoint they come from."""
    folder = shared / "golden" / "internvla_m1_tiny"
    if not folder.is_dir():
        pytest.skip(f"the golden reference is not at {folder}")
    return folder


@pytest.fixture(scope="session")
def make_contract() -> Callable[..., dict[str, Any]]:
    """An action contract of the small model: a mean/std, a q99 and a binary dimension, and a four-number state."""
    from processing_st4vla import ActionContract, BinaryLevels, VectorContract

    def build(**fields: Any) -> dict[str, Any]:
        action = VectorContract(
            names=("dx", "dy", "gripper"),
            units=("m", "m", "1"),
            normalization=("mean_std", "q99", "binary"),
            statistics={
                "mean": (0.5, 0.0, 0.0),
                "std": (0.25, 1.0, 1.0),
                "q01": (0.0, -2.0, 0.0),
                "q99": (0.0, 6.0, 0.0),
            },
            clip=True,
            binary={2: BinaryLevels(threshold=0.04, low=0.0, high=0.08)},
        )
        state = VectorContract.from_statistics(
            ["a", "b", "c", "d"],
            {"min": [-1.0, -2.0, 0.0, 3.0], "max": [1.0, 2.0, 4.0, 3.0]},
            mode="min_max",
            units=["rad"] * STATE_DIM,
        )
        values = {
            "action": action,
            "state": state,
            "representation": "delta",
            "frame": "base",
            "rotation": "none",
            "gripper_dims": (2,),
            "gripper_polarity": "high_is_open",
            "control_hz": 10.0,
            "chunk_size": CHUNK_SIZE,
            "cameras": (),
        }
        return ActionContract(**{**values, **fields}).to_dict()

    return build


@pytest.fixture(scope="session")
def _small_processor() -> Any:
    from training_st4vla.presets.tiny import build_tiny_processor

    processor = build_tiny_processor()
    processor.image_size = [IMAGE_SIZE, IMAGE_SIZE]
    return processor


@pytest.fixture
def processor(_small_processor: Any) -> Any:
    """The tiny preset's processor at 112 x 112 pixels, without contracts; each test has its own copy."""
    return copy.deepcopy(_small_processor)


@pytest.fixture(scope="session")
def build_model(_small_processor: Any) -> Callable[..., Any]:
    """
    Builds a small float32 model in evaluation mode.

    Fresh weights would predict zero actions and nearly equal texts, and hide most mistakes: all of them are drawn
    again, at sizes that let every input reach every output.
    """
    import torch

    from modeling_st4vla import ST4VLAConfig, ST4VLAForActionPrediction
    from modeling_st4vla.configuration_st4vla import DEFAULT_SCHEDULER
    from training_st4vla.presets.tiny import build_tiny_config

    def build(seed: int = 0, **fields: Any) -> ST4VLAForActionPrediction:
        values = build_tiny_config(_small_processor, ACTION_DIM, CHUNK_SIZE, None).to_dict()
        head_dim = SMALL_TEXT["hidden_size"] // SMALL_TEXT["num_attention_heads"]
        rope = {**values["vlm_config"]["text_config"]["rope_parameters"], "mrope_section": [head_dim // 8, 6, 6]}
        values["vlm_config"]["text_config"] |= {**SMALL_TEXT, "rope_parameters": rope, "layer_types": None}
        values["vlm_config"]["vision_config"] |= SMALL_VISION
        values["vision_encoder_config"] = {"model_type": "dinov2", **SMALL_ENCODER}
        model = ST4VLAForActionPrediction(
            ST4VLAConfig(**{**values, "scheduler": DEFAULT_SCHEDULER, **SMALL_FIELDS, **fields})
        )
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                if parameter.ndim > 1:
                    parameter.copy_(noise * parameter[0].numel() ** -0.5)
                elif name.endswith("bias"):
                    parameter.copy_(0.1 * noise)
                else:  # norms and layer scales
                    parameter.copy_(1 + 0.1 * noise)
        return model.eval()

    return build


@pytest.fixture(scope="session")
def _small_model(build_model: Callable[..., Any]) -> Any:
    return build_model()


@pytest.fixture
def model(_small_model: Any) -> Any:
    """The small model; each test has its own copy."""
    return copy.deepcopy(_small_model)


@pytest.fixture(scope="session")
def draw_view() -> Callable[..., np.ndarray]:
    """A random picture `(height, width, 3)`, uint8: coarse blocks, so that it survives resizing."""

    def draw(seed: int, height: int = 120, width: int = 160) -> np.ndarray:
        coarse = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        return coarse.repeat(8, axis=0).repeat(8, axis=1)

    return draw


INSTRUCTIONS = (
    "put the red cube on the blue plate",
    "pick up the small wooden spoon and place it in the yellow bowl, then open the drawer",
    "push the ball",
)


@pytest.fixture
def make_inputs(processor: Any, draw_view: Callable[..., np.ndarray]) -> Callable[..., Any]:
    """Model inputs of samples with given numbers of views: `make_inputs(1, 2)` are two samples, one and two views."""

    def make(*views: int, first: int = 0, **kwargs: Any) -> Any:
        samples = [[draw_view(100 * (first + row) + slot) for slot in range(count)] for row, count in enumerate(views)]
        texts = [INSTRUCTIONS[(first + row) % len(INSTRUCTIONS)] for row in range(len(views))]
        return processor(images=samples, text=texts, **kwargs)

    return make


@pytest.fixture(scope="session")
def relative_error() -> Callable[[Any, Any], float]:
    """Largest absolute difference, relative to the largest absolute value expected."""

    def compute(found: Any, expected: Any) -> float:
        found, expected = (
            np.asarray(value.detach() if hasattr(value, "detach") else value) for value in (found, expected)
        )
        if found.shape != expected.shape:
            raise AssertionError(f"shape {found.shape} instead of {expected.shape}")
        found, expected = found.astype(np.float64), expected.astype(np.float64)
        return float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-30))

    return compute
