"""The action contract of a dataset: what its columns say, what its numbers show, and what the user declares."""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from processing_st4vla import ActionContract, BinaryLevels, VectorContract
from processing_st4vla.normalization import UNKNOWN
from training_st4vla.data.action_dataset import LeRobotActionDataset
from training_st4vla.data.lerobot_metadata import DatasetInfo
from training_st4vla.data.statistics import compute_statistics
from training_st4vla.errors import UserError

DECLARATION_FILE = "meta/action_contract.json"
# Names that count dimensions and do not say what they are.
_NUMBERED = re.compile(r".*\[\d+\]|(?:(?:action|actuator|dim|dimension|motors?|value)[ _.]?)?\d+", re.IGNORECASE)
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
    "binary",
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
    return check_declaration(declared, f"--contract: {path}")


def check_declaration(declared: Any, where: str) -> dict[str, Any]:
    """
    Returns what was declared if it is a mapping with keys of `DECLARED_FIELDS`.

    Args:
        declared (`dict`). where (`str`): how the error names its place.
    """
    unknown = sorted(set(declared) - set(DECLARED_FIELDS)) if isinstance(declared, dict) else [type(declared).__name__]
    if unknown:
        raise UserError(f"{where} holds {unknown}; expected an object with keys of {list(DECLARED_FIELDS)}.")
    return declared


def shipped_declaration(dataset: LeRobotActionDataset | DatasetInfo) -> dict[str, Any]:
    """What the dataset's author declared in `DECLARATION_FILE`, if there is such a file."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    info = dataset.info if isinstance(dataset, LeRobotActionDataset) else dataset
    if info.root is not None:
        path = info.root / DECLARATION_FILE
        return read_declaration(path) if path.is_file() else {}
    try:
        fetched = hf_hub_download(str(info.repo_id), DECLARATION_FILE, repo_type="dataset", revision=info.revision)
    except EntryNotFoundError:
        return {}
    return read_declaration(Path(fetched))


def build_contract(
    datasets: LeRobotActionDataset | Sequence[LeRobotActionDataset],
    declared: dict[str, Any] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> ActionContract:
    """
    The contract of a dataset, or of several that share one: statistics from their numbers, rate and cameras from their
    metadata, the rest from `declared`; fields that nobody declared are `unknown`.

    A gripper dimension (see [`gripper_dims`]) with exactly two values in the whole selection becomes `binary`; the
    others use `q99`, or the mode that `declared["normalization"]` names (one for all, or one per dimension).
    `declared["binary"]` gives the levels of dimensions, by name or number, that are switches, too, or whose numbers do
    not show their levels. There is no gripper when that is declared, or when every dimension has a telling name and
    none is a gripper's; otherwise the polarity is unknown.

    Args:
        cache_dir (*optional*): where statistics are kept, see [`compute_statistics`].

    Raises:
        UserError: for datasets that differ in names, chunk, rate or cameras, for declared modes that do not fit, and
            for the polarity of a gripper that no dimension drives.
    """
    declared = declared or {}
    parts = [datasets] if isinstance(datasets, LeRobotActionDataset) else list(datasets)
    _require_alike(parts)
    dataset = parts[0]
    statistics = compute_statistics(parts, cache_dir)
    gripper = gripper_dims(dataset.action_names, declared)
    binary = {
        index: BinaryLevels(threshold=(levels[0] + levels[1]) / 2, low=levels[0], high=levels[1])
        for index, levels in enumerate(statistics["action_levels"])
        if levels and index in gripper
    }
    for name, levels in (declared.get("binary") or {}).items():
        binary[dimension(dataset.action_names, name, "binary")] = BinaryLevels(**levels)
    state = None
    if dataset.state_names:
        state = _vector(dataset.state_names, statistics["state"], declared.get("state_units"), "q99", {})
    return ActionContract(
        action=_vector(
            dataset.action_names,
            statistics["action"],
            declared.get("action_units"),
            declared.get("normalization", "q99"),
            binary,
        ),
        state=state,
        representation="delta" if dataset.delta_dims else representation(dataset.action_keys, declared),
        frame=declared.get("frame", UNKNOWN),
        rotation=declared.get("rotation", UNKNOWN),
        gripper_dims=tuple(gripper),
        gripper_polarity=_gripper_polarity(dataset.action_names, gripper, declared),
        control_hz=float(declared.get("control_hz", dataset.fps)),
        chunk_size=dataset.chunk_size,
        cameras=tuple(declared.get("cameras", dataset.cameras)),
    )


def gripper_dims(names: Sequence[str], declared: dict[str, Any]) -> list[int]:
    """The dimensions that drive a gripper: declared, else those named so."""
    if declared.get("gripper_dims") is not None:
        return list(declared["gripper_dims"])
    return [index for index, name in enumerate(names) if "gripper" in name.lower()]


def _gripper_polarity(names: Sequence[str], gripper: list[int], declared: dict[str, Any]) -> str:
    polarity = declared.get("gripper_polarity")
    if polarity not in (None, UNKNOWN, "none") and not gripper:
        raise UserError(
            f"gripper_dims: gripper_polarity {polarity!r} is declared, but no dimension of {list(names)} is declared "
            "or named as a gripper's. Declare gripper_dims, the numbers of the dimensions that drive it."
        )
    if polarity is not None:
        return polarity
    is_settled = declared.get("gripper_dims") is not None or not any(_NUMBERED.fullmatch(name) for name in names)
    return "none" if not gripper and is_settled else UNKNOWN


def representation(keys: Sequence[str], declared: dict[str, Any]) -> str:
    """How the recorded actions are meant: declared, else told by the columns' names, else `unknown`."""
    return declared.get("representation") or detect_representation(keys)


def dimension(names: Sequence[str], name: str | int, field: str) -> int:
    """
    The index of a dimension that is given by name or number.

    Raises:
        UserError: when there is no such one.
    """
    if str(name) in names:
        return list(names).index(str(name))
    if str(name).isdigit() and int(name) < len(names):
        return int(name)
    raise UserError(f"{field}: expected one of {list(names)} or a number below {len(names)}, found {name!r}.")


def _require_alike(parts: list[LeRobotActionDataset]) -> None:
    first = parts[0]
    for part in parts[1:]:
        for field in ("action_names", "state_names", "cameras", "fps", "chunk_size", "delta_dims"):
            ours, theirs = getattr(first, field), getattr(part, field)
            if ours != theirs:
                raise UserError(
                    f"dataset key {first.dataset_key!r}: datasets that share an action contract must agree, but "
                    f"{field} is {ours} in {first.info.source} and {theirs} in {part.info.source}. Give them "
                    "different dataset keys."
                )


def declare(contract: ActionContract, declared: dict[str, Any]) -> ActionContract:
    """
    `contract` with declared fields filled in; statistics and normalisation stay as they were trained.

    Raises:
        UserError: when another normalisation is declared than the contract has.
    """
    value = contract.to_dict()
    refused = _changed_normalization(contract, declared)
    if refused:
        raise UserError(f"--contract: {refused} cannot change for a model that already has this contract.")
    for field in ("representation", "frame", "rotation", "gripper_dims", "gripper_polarity", "control_hz", "cameras"):
        if field in declared:
            value[field] = declared[field]
    for vector in ("action", "state"):
        if f"{vector}_units" in declared:
            value[vector]["units"] = declared[f"{vector}_units"]
    return ActionContract.from_dict(value)


def _changed_normalization(contract: ActionContract, declared: dict[str, Any]) -> list[str]:
    """Which of `normalization` and `binary` are declared otherwise than in the contract."""
    found = []
    mode, modes = declared.get("normalization"), contract.action.normalization
    if isinstance(mode, str) and set(modes) - {mode, "binary"}:
        found.append("normalization")
    if isinstance(mode, (list, tuple)) and tuple(mode) != modes:
        found.append("normalization")
    for name, levels in (declared.get("binary") or {}).items():
        if contract.action.binary.get(dimension(contract.action.names, name, "binary")) != BinaryLevels(**levels):
            found.append("binary")
    return sorted(set(found))


def detect_representation(action_keys: Sequence[str]) -> str:
    """`delta` when every action column but the gripper's has that word in its name; otherwise not guessed."""
    # A gripper's own column begins with it: `action.gripper_close`. One that holds other things, too, must say it.
    others = [key.lower() for key in action_keys if not key.lower().rsplit(".", 1)[-1].startswith("gripper")]
    return "delta" if others and all("delta" in re.split(r"[^a-z0-9]+", key) for key in others) else UNKNOWN


def contract_template(contract: ActionContract) -> str:
    """A `--contract` file with the fields still to declare, to fill in by hand."""
    examples: dict[str, Any] = {
        "representation": "delta or absolute",
        "frame": "base, tool or joint",
        "rotation": "euler_xyz, rotation_vector or none",
        "gripper_polarity": "high_is_open or high_is_closed",
        "gripper_dims": "numbers of the dimensions that drive a gripper, [] where there is none",
        "control_hz": "actions per second",
        "cameras": "camera names in slot order",
        "action.units": [f"unit of {name}: m, rad, 1" for name in contract.action.names],
        "state.units": [f"unit of {name}: m, rad, 1" for name in (contract.state.names if contract.state else ())],
    }
    fields = list(contract.unknown_fields)
    if "gripper_polarity" in fields and not contract.gripper_dims:
        fields.insert(fields.index("gripper_polarity"), "gripper_dims")
        examples["gripper_polarity"] += ", or none"
    return json.dumps({field.replace(".", "_"): examples[field] for field in fields}, indent=2)


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
    "check_declaration",
    "contract_template",
    "declare",
    "detect_representation",
    "dimension",
    "gripper_dims",
    "read_declaration",
    "representation",
    "shipped_declaration",
]
