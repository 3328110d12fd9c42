"""Opening a model and its processor from a folder or Hub id, with errors that say what is wrong."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from training_st4vla.errors import UserError
from training_st4vla.precision import multiplies_bfloat16

DTYPES = {"auto": "auto", "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pick_device(device: str) -> str:
    """`auto` becomes cuda, mps or cpu, whichever exists first; anything else is kept."""
    if device != "auto":
        return device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def training_attention(choice: str, device: str, bf16: bool, looks: bool = False) -> str:
    """
    The attention implementation for a training run: `choice`, or for `auto` the fastest that needs no extra package.

    Args:
        choice (`str`): `auto`, `sdpa`, `eager`, `by_turns`, `flash_attention_2`, ...
        device (`str`): type of the device, `cpu`, `cuda`, ... bf16 (`bool`): the run computes in bfloat16 (autocast).
        looks (`bool`): the run has a loss for where it looks, which only `by_turns` can tell.
    """
    from modeling_st4vla.turn_attention_st4vla import BY_TURNS

    if choice != "auto":
        return choice
    # torch's fused CPU kernel does not use bfloat16 matrix instructions: 24 ms against 7 ms of plain products for
    # 16 sequences of 165 tokens, forward and backward (two cores with AMX, torch 2.12, 2026-11-24).
    return BY_TURNS if looks or (device == "cpu" and bf16) else "sdpa"


def load_model(
    path: str, dtype: str = "auto", device: str = "auto", attn_implementation: str = "sdpa"
) -> tuple[Any, Any]:
    """
    An ST4VLA model in evaluation mode, and its processor.

    Args:
        path (`str`): folder or Hub id. device (`str`): `auto`, `cpu`, `cuda`, ...
        dtype (`str`): a key of `DTYPES`. `auto` is as saved, and float32 for bfloat16 weights on a device that does
            not multiply bfloat16 (see `multiplies_bfloat16`).
        attn_implementation (`str`): as in transformers.

    Raises:
        UserError: when the folder is no model, its weights are damaged or incomplete, or it is another kind of model.
    """
    from modeling_st4vla import ST4VLAForActionPrediction
    from processing_st4vla import ST4VLAProcessor

    if dtype not in DTYPES:
        raise UserError(f"--dtype: expected one of {list(DTYPES)}, found {dtype!r}.")
    _require_config(path, "st4vla")
    try:
        model = ST4VLAForActionPrediction.from_pretrained(
            path, dtype=DTYPES[dtype], attn_implementation=attn_implementation
        )
        processor = ST4VLAProcessor.from_pretrained(path)
    except SafetensorError as error:
        raise UserError(
            f"{path}: a weights file is damaged or truncated ({error}). Copy or download it again."
        ) from error
    except OSError as error:
        raise UserError(f"{path}: could not be opened as a model: {error}") from error
    return _placed(model, dtype, device), processor


def _placed(model: Any, dtype: str, device: str) -> Any:
    chosen = pick_device(device)
    if dtype == "auto" and model.dtype == torch.bfloat16 and not multiplies_bfloat16(chosen):
        model = model.float()  # seven times as fast as emulating bfloat16, and exact (`tiny`, two AVX2 cores)
    return model.to(chosen).eval()


def load_grounder(path: str, dtype: str = "auto", device: str = "auto") -> tuple[Any, Any]:
    """
    Anything that can ground: an ST4VLA model, or a plain Qwen-VL opened as itself with our processor around its own.

    An ST4VLA model is asked at its processor's `image_size`, as it was trained; a plain VLM at each image's own size
    (`image_size` is None), fitted by its image processor, as its makers ask it.

    Raises:
        UserError: as `load_model`.
    """
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

    import modeling_st4vla  # noqa: F401 (registers its configuration, so that exported code in a folder is not run)

    try:
        config = AutoConfig.from_pretrained(path) if _has_config(path) or "/" in path else None
    except OSError as error:
        raise UserError(f"{path}: could not be opened as a model: {error}") from error
    if config is None or config.model_type == "st4vla":
        return load_model(path, dtype, device)
    dialects = {"qwen2_5_vl": "qwen2_5_vl", "qwen3_vl": "qwen3_vl"}
    if config.model_type not in dialects:
        raise UserError(
            f"--model: expected an ST4VLA, Qwen2.5-VL or Qwen3-VL checkpoint, found model_type {config.model_type!r}."
        )
    from processing_st4vla import ST4VLAProcessor

    base = AutoProcessor.from_pretrained(path)
    processor: Any = ST4VLAProcessor(
        image_processor=base.image_processor,
        tokenizer=base.tokenizer,
        video_processor=base.video_processor,
        chat_template=base.chat_template or base.tokenizer.chat_template,
        grounding_dialect=dialects[config.model_type],
    )
    processor.image_size = None
    model: Any = AutoModelForImageTextToText.from_pretrained(path, dtype=DTYPES[dtype])
    return _placed(model, dtype, device), processor


def _has_config(path: str) -> bool:
    folder = Path(path)
    if not folder.exists():
        return False  # a Hub id: transformers says what it cannot find
    if not (folder / "config.json").is_file():
        raise UserError(
            f"--model: expected a model folder with config.json, found none in {folder}. Make one with `st4vla init` "
            "or `st4vla convert`."
        )
    return True


def _require_config(path: str, model_type: str) -> None:
    if not _has_config(path):
        return
    folder = Path(path)
    import json

    try:
        found = json.loads((folder / "config.json").read_text()).get("model_type")
    except (ValueError, AttributeError) as error:
        raise UserError(f"--model: {folder}/config.json is no JSON object ({error}). Copy it again.") from error
    if found != model_type:
        raise UserError(f"--model: expected model_type {model_type!r} in {folder}/config.json, found {found!r}.")


__all__ = ["DTYPES", "load_grounder", "load_model", "pick_device", "training_attention"]
