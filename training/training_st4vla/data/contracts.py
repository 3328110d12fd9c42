"""The action contract of a dataset: what its columns say, what its numbers show, and what the user declares."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from processing_st4vla import ActionContract, BinaryLevels, VectorContract
from processing_st4vla.normalization import UNKNOWN
from training_st4vla.data.action_dataset import LeRobotActionDataset
from training_st4vla.data.statistics import compute_statistics
from training_st4vla.errors import UserError

DECLARATION_FILE = "meta/action_contract.json"
# What a --contract file may declare; everything else of a contract follows from the data.
DECLARED_FIELDS = (
    "action_units",
    "state_units",
    "representation",
    "frame",
    "rotation",
    "gripper_dims",
    "gripper_polarity",
    "control_hz",
    "normalization",
    "cameras",
)


def read_declaration(path: Path) -> dict[str, Any]:
    """
    A `--contract` file: JSON with some of `DECLARED_FIELDS`.

    Raises:
        UserError: when it is absent, no JSON object, or holds another key.
    """
    if not path.is_file():
        raise UserError(f"--contract: expected a JSON file, found nothing at {path}.")
    try:
        declared = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise UserError(f"--contract: {path} is not valid JSON: {error}.") from error
    unknown = sorted(set(declared) - set(DECLARED_FIELDS)) if isinstance(declared, dict) else [type(declared).__name__]
    if unknown:
        raise UserError(
            f"--contract: {path} holds {unknown}; expected an object with keys of {list(DECLARED_FIELDS)}."
        )
    return declared


def shipped_declaration(dataset: LeRobotActionDataset) -> dict[str, Any]:
    """What the dataset's author declared in `DECLARATION_FILE`, if there is such a file."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    info = dataset.info
    if info.root is not None:
        path = info.root / DECLARATION_FILE
        return read_declaration(path) if path.is_file() else {}
    try:
        fetched = hf_hub_download(str(info.repo_id), DECLARATION_FILE, repo_type="dataset", revision=info.revision)
    except EntryNotFoundError:
        return {}
    return read_declaration(Path(fetched))


def build_contract(dataset: LeRobotActionDataset, declared: dict[str, Any] | None = None) -> ActionContract:
    """
    The contract of `dataset`: statistics and two-valued dimensions from its numbers, rate and cameras from its
    metadata, the rest from `declared`; fields that nobody declared are `unknown`.

    A dimension with exactly two values in the whole selection becomes `binary` (a gripper command, usually); the
    others use `q99`, or the mode that `declared["normalization"]` names (one for all, or one per dimension).
    """
    declared = declared or {}
    statistics = compute_statistics(dataset)
    actions = dataset.raw_actions()
    binary = {index: levels for index in range(actions.shape[1]) if (levels := find_levels(actions[:, index]))}
    state = None
    if dataset.state_names:
        state = _vector(dataset.state_names, statistics["state"], declared.get("state_units"), "q99", {})
    gripper_dims = declared.get("gripper_dims")
    if gripper_dims is None:
        gripper_dims = [index for index, name in enumerate(dataset.action_names) if "gripper" in name.lower()]
    return ActionContract(
        action=_vector(
            dataset.action_names,
            statistics["action"],
            declared.get("action_units"),
            declared.get("normalization", "q99"),
            binary,
        ),
        state=state,
        representation=declared.get("representation") or detect_representation(dataset.action_keys),
        frame=declared.get("frame", UNKNOWN),
        rotation=declared.get("rotation", UNKNOWN),
        gripper_dims=tuple(gripper_dims),
        gripper_polarity=declared.get("gripper_polarity", UNKNOWN if gripper_dims else "none"),
        control_hz=float(declared.get("control_hz", dataset.fps)),
        chunk_size=dataset.chunk_size,
        cameras=tuple(declared.get("cameras", dataset.cameras)),
    )


def declare(contract: ActionContract, declared: dict[str, Any]) -> ActionContract:
    """`contract` with declared fields filled in; statistics and normalisation stay as they were trained."""
    value = contract.to_dict()
    refused = sorted(set(declared) & {"normalization"})
    if refused:
        raise UserError(f"--contract: {refused} cannot change for a model that already has this contract.")
    for field in ("representation", "frame", "rotation", "gripper_dims", "gripper_polarity", "control_hz", "cameras"):
        if field in declared:
            value[field] = declared[field]
    for vector in ("action", "state"):
        if f"{vector}_units" in declared:
            value[vector]["units"] = declared[f"{vector}_units"]
    return ActionContract.from_dict(value)


def detect_representation(action_keys: list[str]) -> str:
    """`delta` when every continuous action column says so in its name; otherwise not guessed."""
    continuous = [key for key in action_keys if "gripper" not in key.lower()]
    return "delta" if continuous and all("delta" in key.lower() for key in continuous) else UNKNOWN


def find_levels(values: np.ndarray) -> BinaryLevels | None:
    """The two levels of a column `[N]` that holds exactly two values, or `None`."""
    levels = np.unique(values)
    if len(levels) != 2:
        return None
    low, high = float(levels[0]), float(levels[1])
    return BinaryLevels(threshold=(low + high) / 2, low=low, high=high)


def contract_template(contract: ActionContract) -> str:
    """A `--contract` file with the fields still to declare, to fill in by hand."""
    examples: dict[str, Any] = {
        "representation": "delta or absolute",
        "frame": "base, tool or joint",
        "rotation": "euler_xyz, rotation_vector or none",
        "gripper_polarity": "high_is_open or high_is_closed",
        "control_hz": "actions per second",
        "cameras": "camera names in slot order",
        "action.units": [f"unit of {name}: m, rad, 1" for name in contract.action.names],
        "state.units": [f"unit of {name}: m, rad, 1" for name in (contract.state.names if contract.state else ())],
    }
    return json.dumps({field.replace(".", "_"): examples[field] for field in contract.unknown_fields}, indent=2)


def _vector(
    names: list[str],
    statistics: dict[str, Any],
    units: list[str] | None,
    mode: str | list[str],
    binary: dict[int, BinaryLevels],
) -> VectorContract:
    modes = [mode] * len(names) if isinstance(mode, str) else list(mode)
    if len(modes) != len(names):
        raise UserError(f"normalization: expected one mode or {len(names)}, found {len(modes)}.")
    # Modes that are named one by one are final; a mode for all leaves two-valued dimensions binary.
    modes = ["binary" if isinstance(mode, str) and index in binary else name for index, name in enumerate(modes)]
    return VectorContract(
        names=tuple(names),
        units=tuple(units or [UNKNOWN] * len(names)),
        normalization=tuple(modes),
        statistics={key: tuple(values) for key, values in statistics.items() if isinstance(values, list)},
        clip=True,
        binary={index: levels for index, levels in binary.items() if modes[index] == "binary"},
    )


__all__ = [
    "build_contract",
    "contract_template",
    "declare",
    "detect_representation",
    "find_levels",
    "read_declaration",
    "shipped_declaration",
]
