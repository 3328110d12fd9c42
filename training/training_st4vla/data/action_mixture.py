"""From sources to data: opened datasets, their contracts in the processor, and one mixture of them."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from training_st4vla.data.action_dataset import LeRobotActionDataset
from training_st4vla.data.contracts import (
    build_contract,
    contract_template,
    declare,
    dimension,
    gripper_dims,
    representation,
    shipped_declaration,
)
from training_st4vla.data.errors import DataError, explain
from training_st4vla.data.keys import dimension_names, resolve_action_keys
from training_st4vla.data.lerobot_metadata import DatasetInfo, open_dataset_info
from training_st4vla.data.mixtures import MixtureDataset
from training_st4vla.data.pauses import PauseFilter
from training_st4vla.data.sources import DataSource, check_mixture
from training_st4vla.data.statistics import default_cache
from training_st4vla.data.streaming import StreamedOrder
from training_st4vla.errors import UserError


def key_of(source: DataSource) -> str:
    """Name of the source's action contract: declared, else the folder's or repository's name."""
    return source.dataset_key or Path(source.dataset.rstrip("/")).name


def open_source(source: DataSource, chunk_size: int, processor: Any, stream: bool = False) -> LeRobotActionDataset:
    """
    Opens a dataset as its source says; keys and cameras that are not named come from the model's contract when it has
    one for this dataset.

    Args:
        source: Completed or not. chunk_size: That of the model. processor: With the contracts of the model.
        stream: As in [`LeRobotActionDataset`].

    Raises:
        DataError, UserError: The dataset cannot be used, has another rate than declared, or a conversion or filter
            would have to guess.
    """
    source = source.completed()
    key = key_of(source)
    known = processor.contract(key) if key in processor.action_contracts else None
    state_names = known.state.names if known is not None and known.state is not None else ()
    action_keys = source.action_keys or _columns(known.action.names if known is not None else ())
    info = open_dataset_info(source.dataset)
    _check_rate(info, source)
    names, columns = _names_of(info, action_keys)
    declared = {**shipped_declaration(info), **source.contract}
    recorded = representation(columns, declared)
    return LeRobotActionDataset(
        source.dataset,
        chunk_size=chunk_size,
        action_keys=action_keys,
        state_keys=source.state_keys or _columns(state_names),
        cameras=source.cameras or (list(known.cameras) if known is not None and known.cameras else None),
        episodes=source.episodes,
        max_frames=source.max_frames,
        dataset_key=key,
        delta_dims=_delta_dims(source, names, declared, recorded) if source.to_delta else (),
        pause_filter=_pause_filter(source, names, declared, recorded),
        stream=stream,
    )


def settle_contracts(
    sources: Sequence[DataSource], datasets: Sequence[LeRobotActionDataset], processor: Any, purpose: str
) -> None:
    """
    Gives the processor a complete contract for every dataset key: the model's own, completed by what is declared, or a
    new one from the data and what is declared. Statistics are computed once and cached.

    Args:
        sources, datasets: One source per dataset. purpose: Named in errors.

    Raises:
        UserError: when fields stay unknown; the message shows the file to write.
    """
    groups: dict[str, list[int]] = {}
    for index, dataset in enumerate(datasets):
        groups.setdefault(dataset.dataset_key, []).append(index)
    for key, members in groups.items():
        _refuse_chance_names(key, [sources[index] for index in members])
        parts = [datasets[index] for index in members]
        declared = _declared([sources[index].completed() for index in members], key)
        if key in processor.action_contracts:
            if parts[0].delta_dims:  # what was recorded; the contract says what it was turned into
                declared.pop("representation", None)
            contract = declare(processor.contract(key), declared)
        else:
            contract = build_contract(parts, {**shipped_declaration(parts[0]), **declared}, default_cache())
        if contract.unknown_fields:
            raise UserError(
                f"action contract {key!r}: {purpose} needs to know {', '.join(contract.unknown_fields)}, and the "
                "dataset does not say. Write this file with what is true for your robot, and pass it with --contract "
                f"FILE:\n{contract_template(contract)}"
            )
        processor.action_contracts[key] = contract.to_dict()


def mix(
    sources: Sequence[DataSource], datasets: Sequence[LeRobotActionDataset], seed: int, window: int | None = None
) -> Dataset:
    """
    One dataset of all: the only one itself, else a mixture by the sources' weights (by size without weights).

    Args:
        window: Deal samples out of so many videos at a time, in each part; see [`StreamedOrder`].
    """
    check_mixture(sources)
    if len(datasets) == 1 and window is None:
        return datasets[0]
    ordered = datasets if window is None else [StreamedOrder(dataset, window) for dataset in datasets]
    parts = {source.dataset: dataset for source, dataset in zip(sources, ordered, strict=True)}
    weights = {source.dataset: source.weight for source in sources if source.weight is not None}
    return MixtureDataset(parts, weights=weights or 1.0, seed=seed)


def fill_up(processor: Any, config: Any, datasets: Sequence[LeRobotActionDataset]) -> None:
    """
    Lets the processor fill up actions and states to the model's widths when several datasets share the model, or
    contracts of an earlier mixture do. A single dataset that is narrower than its model stays an error.
    """
    if len(datasets) > 1 and any(dataset.action_dim < config.action_dim for dataset in datasets):
        processor.action_dim = config.action_dim
    states = {dataset.state_dim for dataset in datasets}
    if len(datasets) > 1 and config.state_dim is not None and states != {config.state_dim} and states != {None}:
        processor.state_dim = config.state_dim


def _names_of(info: DatasetInfo, action_keys: Sequence[str] | None) -> tuple[list[str], list[str]]:
    columns = resolve_action_keys(info, action_keys)
    return dimension_names(info, columns), columns


def _columns(names: tuple[str, ...]) -> list[str] | None:
    # Dimensions are named `column[i]` where the dataset gives no names of its own.
    found = [match.group(1) if (match := re.fullmatch(r"(.+)\[\d+\]", name)) else None for name in names]
    return None if None in found or not found else list(dict.fromkeys(name for name in found if name))


def _check_rate(info: DatasetInfo, source: DataSource) -> None:
    if source.fps is not None and abs(info.fps - source.fps) > 1e-3:
        raise DataError(
            explain(
                "The dataset has another rate than declared",
                where=info.source + (f", preset {source.preset}" if source.preset else ""),
                expected=f"{source.fps:g} frames per second",
                found=f"{info.fps:g}",
                remedy="Actions per frame mean another speed at another rate: declare `fps` in a mixture file if this "
                "is right, or choose another dataset.",
            )
        )


def _delta_dims(source: DataSource, names: list[str], declared: dict[str, Any], recorded: str) -> list[int]:
    rotation = declared.get("rotation", "unknown")
    if recorded != "absolute" or rotation != "none":
        raise UserError(
            f"--to-delta: {source.dataset} must declare representation 'absolute' and rotation 'none' (positions or "
            f"joints; differences of rotations are no rotations), found {recorded!r} and {rotation!r}. Declare them "
            "with --contract, or use the dataset's own delta columns with --action-keys."
        )
    kept = gripper_dims(names, declared)
    return [index for index in range(len(names)) if index not in kept]


def _pause_filter(source: DataSource, names: list[str], declared: dict[str, Any], recorded: str) -> PauseFilter | None:
    rule = source.pause
    if rule is None or rule.threshold < 0:
        return None
    if recorded not in ("absolute", "delta"):
        raise UserError(
            f"pause filter: whether the actions of {source.dataset} are motions or targets is unknown. Declare "
            "representation 'delta' or 'absolute' with --contract."
        )
    gripper = gripper_dims(names, declared)
    if rule.gripper is not None:
        gripper = [dimension(names, name, "pause.gripper") for name in rule.gripper]
    if rule.motion is not None:
        motion = [dimension(names, name, "pause.motion") for name in rule.motion]
    else:
        motion = [index for index in range(len(names)) if index not in gripper]
    absolute = recorded == "absolute" and not source.to_delta
    return PauseFilter(rule.threshold, tuple(motion), tuple(gripper), absolute)


def _refuse_chance_names(key: str, sources: list[DataSource]) -> None:
    """Datasets share a contract when they are told to, not because their folders have the same name."""
    if len(sources) > 1 and not all(source.completed().dataset_key for source in sources):
        raise UserError(
            f"dataset key {key!r}: {[source.dataset for source in sources]} would share one action contract because "
            "their last names are equal. Give each a dataset_key in a mixture file: equal ones to share, else not."
        )


def _declared(sources: list[DataSource], key: str) -> dict[str, Any]:
    first, *others = (dict(source.contract) for source in sources)
    if any(other != first for other in others):
        raise UserError(f"dataset key {key!r}: datasets that share an action contract must declare the same.")
    return first


__all__ = ["fill_up", "key_of", "mix", "open_source", "settle_contracts"]
