"""A released InternVLA-M1 run (weights, run config, statistics) → an ST4VLA model and processor."""

import json
import pickle
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoProcessor

from modeling_st4vla import ST4VLAConfig, ST4VLAForActionPrediction
from processing_st4vla import ActionContract, BinaryLevels, ST4VLAProcessor, VectorContract
from training_st4vla.conversion.internvla_m1_weights import convert_weights, count_layers
from training_st4vla.errors import UserError

# Sizes behind the preset names of the official configs: (width, layers, heads).
DINO_SIZES = {"dinov2_vits14": (384, 12, 6), "dinov2_vitb14": (768, 12, 12), "dinov2_vitl14": (1024, 24, 16)}
DIT_HEADS = {"DiT-S": 4, "DiT-B": 12, "DiT-L": 16}
IMAGE_SIZE = 224
PATCH_SIZE = 14


def convert_internvla_m1(
    checkpoint: Path, base_vlm: str, dtype: torch.dtype | None = None
) -> tuple[ST4VLAForActionPrediction, ST4VLAProcessor, list[str]]:
    """
    Reads `RUN/checkpoints/steps_N_pytorch_model.pt`, `RUN/config.json` and `RUN/dataset_statistics.json`.

    Args:
        checkpoint (`Path`): the `.pt` file.
        base_vlm (`str`): folder or Hub id of the VLM the run started from: its config, tokenizer and image processor.
        dtype (`torch.dtype`, *optional*): of the converted weights; the checkpoint's own by default (float32 when it
            mixes several).

    Returns:
        The model, its processor, and the names of dropped dead parameters.

    Raises:
        UserError: for missing files, a pickle with code in it, unknown keys, or sizes that contradict each other.
    """
    official = load_state_dict(checkpoint)
    run = checkpoint.resolve().parent.parent
    run_config = _read_json(run / "config.json")
    statistics = _read_json(run / "dataset_statistics.json")

    vlm_config = AutoConfig.from_pretrained(base_vlm)
    config = build_config(official, run_config, vlm_config)
    weights, dropped = convert_weights(official, config.tie_word_embeddings, IMAGE_SIZE // PATCH_SIZE)
    dtype = dtype or _common_dtype(official)
    model = _fill(config, weights, dtype)
    contracts = {key: contract_from_statistics(key, value, config) for key, value in statistics.items()}
    return model, build_processor(base_vlm, run_config, contracts), dropped


def load_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """
    Tensors of a `.pt` file, without executing anything it holds.

    Raises:
        UserError: when the file is absent, truncated, holds more than tensors, or is no state dict.
    """
    if not path.is_file():
        raise UserError(f"--checkpoint: expected a .pt file, found nothing at {path}.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"--checkpoint: {path.name} holds objects other than tensors, which could run code; it was not opened. "
            f"Expected a plain state dict saved with torch.save. ({str(error).splitlines()[0]})"
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        raise UserError(
            f"--checkpoint: {path.name} is not a readable torch file: {error}. Download it again."
        ) from error
    if (
        not isinstance(state, dict)
        or not state
        or not all(isinstance(value, torch.Tensor) for value in state.values())
    ):
        raise UserError(f"--checkpoint: expected {path.name} to hold a dict of tensors, found {type(state).__name__}.")
    return state


def build_config(official: dict[str, torch.Tensor], run_config: dict[str, Any], vlm_config: Any) -> ST4VLAConfig:
    """The configuration of a run: widths are read from the weights, names and layer choices from its config."""
    framework = run_config["framework"]
    queries = _tensor(official, "layer_qformer.query_tokens")
    positions = _tensor(official, "action_model.net.positional_embedding")
    blocks = count_layers(list(official), r"layer_qformer\.layers\.(\d+)\.")
    first, last = (framework["layer_qformer"][f"qformer_{end}_layer"] for end in ("start", "end"))
    if last - first != blocks:
        raise UserError(
            f"layer_qformer: config.json selects layers {first}..{last} ({last - first}), the weights hold {blocks}."
        )
    chunk_size = framework["action_model"]["future_action_window_size"] + 1
    if positions.shape[0] != queries.shape[0] + chunk_size:
        raise UserError(
            f"action_model: {queries.shape[0]} queries + chunk of {chunk_size} (future_action_window_size + 1) need a "
            f"position table of {queries.shape[0] + chunk_size}, the weights hold {positions.shape[0]}."
        )
    trainer = run_config.get("trainer", {})
    return ST4VLAConfig(
        vlm_config=vlm_config.to_dict(),
        vision_encoder_config=_dino_config(official, framework["dino"]),
        planner_layers=list(range(first, last)),
        num_query_tokens=queries.shape[0],
        query_hidden_size=queries.shape[1],
        action_expert={
            "hidden_size": positions.shape[1],
            "num_layers": count_layers(list(official), r"action_model\.net\.blocks\.(\d+)\."),
            "num_heads": _dit_heads(framework["action_model"]),
        },
        action_dim=_tensor(official, "action_model.net.x_embedder.linear.weight").shape[1],
        chunk_size=chunk_size,
        num_noise_samples=trainer.get("repeated_diffusion_steps", 4),
    )


def _dino_config(official: dict[str, torch.Tensor], dino: dict[str, Any]) -> dict[str, Any]:
    width = _tensor(official, "dino_encoder.body.cls_token").shape[-1]
    layers = count_layers(list(official), r"dino_encoder\.body\.blocks\.(\d+)\.")
    if "dims" in dino:  # only test-size runs spell their sizes out
        heads = dino["dims"]["num_heads"]
    elif dino["dino_backbone"] in DINO_SIZES and DINO_SIZES[dino["dino_backbone"]][:2] == (width, layers):
        heads = DINO_SIZES[dino["dino_backbone"]][2]
    else:
        raise UserError(
            f"framework.dino.dino_backbone: expected one of {sorted(DINO_SIZES)} with its published size, found "
            f"{dino.get('dino_backbone')!r} with width {width} and {layers} layers."
        )
    return {
        "model_type": "dinov2",
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "image_size": IMAGE_SIZE,
        "patch_size": PATCH_SIZE,
    }


def _dit_heads(action_model: dict[str, Any]) -> int:
    if "dit_dims" in action_model:
        return action_model["dit_dims"]["num_heads"]
    name = action_model["action_model_type"]
    if name not in DIT_HEADS:
        raise UserError(
            f"framework.action_model.action_model_type: expected one of {sorted(DIT_HEADS)}, found {name!r}."
        )
    return DIT_HEADS[name]


def _tensor(official: dict[str, torch.Tensor], key: str) -> torch.Tensor:
    if key not in official:
        raise UserError(f"checkpoint: expected the weight {key!r}, found none. Is this an InternVLA-M1 state dict?")
    return official[key]


def _fill(config: ST4VLAConfig, weights: dict[str, torch.Tensor], dtype: torch.dtype) -> ST4VLAForActionPrediction:
    config.dtype = dtype
    with torch.device("meta"):
        expected = {name: tensor.shape for name, tensor in ST4VLAForActionPrediction(config).state_dict().items()}
    if config.tie_word_embeddings:
        expected.pop("vlm.lm_head.weight", None)
    missing, surplus = sorted(set(expected) - set(weights)), sorted(set(weights) - set(expected))
    misshaped = [
        f"{name}: expected {tuple(shape)}, found {tuple(weights[name].shape)}"
        for name, shape in expected.items()
        if name in weights and weights[name].shape != shape
    ]
    if missing or surplus or misshaped:
        raise UserError(
            f"checkpoint: does not fill the model of its config: missing {missing[:5]}, without a place "
            f"{surplus[:5]}, mis-shaped {misshaped[:5]}. Check --base-vlm and RUN/config.json. Nothing was written."
        )
    weights = {name: tensor.to(dtype) for name, tensor in weights.items()}
    model = ST4VLAForActionPrediction.from_pretrained(
        None,  # pyright: ignore[reportArgumentType]  # transformers' way to load from a state dict
        config=config,
        state_dict=weights,
        dtype=dtype,
    )
    return model.eval()


def _common_dtype(official: dict[str, torch.Tensor]) -> torch.dtype:
    found = {tensor.dtype for tensor in official.values() if tensor.is_floating_point()}
    return found.pop() if len(found) == 1 else torch.float32


def contract_from_statistics(key: str, statistics: dict[str, Any], config: ST4VLAConfig) -> ActionContract:
    """
    The action contract that reproduces the official inverse: q01/q99 where `mask` is true, {0, 1} where it is false.

    What the run does not say (units, frame, rotation, polarity, rate, cameras) stays unknown.
    """
    action = dict(statistics["action"])
    mask = action.pop("mask", [True] * config.action_dim)
    if len(mask) != config.action_dim or len(action.get("q01", ())) != config.action_dim:
        raise UserError(
            f"dataset_statistics.json[{key!r}].action: expected q01, q99 and mask of {config.action_dim} entries, "
            f"found {len(action.get('q01', ()))} and {len(mask)}."
        )
    gripper = tuple(index for index, normalized in enumerate(mask) if not normalized)
    numbers = {name: values for name, values in action.items() if isinstance(values, list)}
    return ActionContract(
        action=VectorContract.from_statistics(
            names=[f"action_{index}" for index in range(config.action_dim)],
            statistics=numbers,
            mode="q99",
            binary={index: BinaryLevels(threshold=0.5, low=0.0, high=1.0) for index in gripper},
        ),
        state=None,
        representation="unknown",
        frame="unknown",
        rotation="unknown",
        gripper_dims=gripper,
        gripper_polarity="unknown" if gripper else "none",
        control_hz=None,
        chunk_size=config.chunk_size,
        cameras=(),
    )


def build_processor(
    base_vlm: str, run_config: dict[str, Any], contracts: dict[str, ActionContract]
) -> ST4VLAProcessor:
    """The base VLM's processor with the run's prompt verbatim and the lower-casing of the official inference code."""
    base = AutoProcessor.from_pretrained(base_vlm)
    prompt = run_config.get("datasets", {}).get("vla_data", {}).get("CoT_prompt") or "none"
    return ST4VLAProcessor(
        image_processor=base.image_processor,
        tokenizer=base.tokenizer,
        video_processor=base.video_processor,
        chat_template=base.chat_template or base.tokenizer.chat_template,
        spatial_prompt=prompt,
        lowercase_instruction=True,
        image_size=(IMAGE_SIZE, IMAGE_SIZE),
        action_contracts={key: contract.to_dict() for key, contract in contracts.items()},
    )


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(
            f"{path.name}: expected it at {path}, two folders above the checkpoint (RUN/checkpoints/steps_N.pt), "
            "found nothing. Copy it there from the release."
        )
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not valid JSON: {error}.") from error


__all__ = ["convert_internvla_m1", "load_state_dict"]
