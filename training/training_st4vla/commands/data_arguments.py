"""Flags that name robot data, alike in every command, and what follows from them."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training_st4vla.commands.arguments import flag
from training_st4vla.commands.console import say


@dataclass
class DataArguments:
    """Flags of every command that reads a LeRobot dataset."""

    dataset: str = flag("LeRobot dataset, v2.1 or v3.0: folder or Hub id")
    action_keys: list[str] | None = flag("action columns, joined in this order into the action vector", None)
    state_keys: list[str] | None = flag("state columns, joined in this order; no state without them", None)
    cameras: list[str] | None = flag("cameras in slot order; all of them without it", None)
    dataset_key: str | None = flag("name of the action contract; the dataset's name without it", None)
    episodes: list[int] | None = flag("episode numbers; all without it", None)
    max_frames: int | None = flag("use only the first so many frames of the selection", None)
    contract: str | None = flag("JSON file that declares units, frame, rotation, polarity of the actions", None)


def open_action_dataset(args: DataArguments, model: Any, processor: Any) -> Any:
    """
    The dataset of the flags, with the model's chunk size; keys and cameras that are not named come from the model's
    contract when it has one for this dataset.
    """
    from training_st4vla.data.action_dataset import LeRobotActionDataset

    key = args.dataset_key or Path(args.dataset.rstrip("/")).name
    known = processor.contract(key) if key in processor.action_contracts else None
    state_names = known.state.names if known is not None and known.state is not None else ()
    return LeRobotActionDataset(
        args.dataset,
        chunk_size=model.config.chunk_size,
        action_keys=args.action_keys or _columns(known.action.names if known is not None else ()),
        state_keys=args.state_keys or _columns(state_names),
        cameras=args.cameras or (list(known.cameras) if known is not None and known.cameras else None),
        episodes=args.episodes,
        max_frames=args.max_frames,
        dataset_key=key,
    )


def _columns(names: tuple[str, ...]) -> list[str] | None:
    # Dimensions are named `column[i]` where the dataset gives no names of its own.
    found = [match.group(1) if (match := re.fullmatch(r"(.+)\[\d+\]", name)) else None for name in names]
    return None if None in found or not found else list(dict.fromkeys(name for name in found if name))


def settle_contract(args: DataArguments, dataset: Any, processor: Any, purpose: str) -> None:
    """
    Gives the processor a complete contract for the dataset's key: the model's own, completed by `--contract`, or a new
    one from the data and `--contract`.

    Raises:
        ValueError: when fields stay unknown; the message shows the file to write.
    """
    from training_st4vla.data.contracts import (
        build_contract,
        contract_template,
        declare,
        read_declaration,
        shipped_declaration,
    )
    from training_st4vla.errors import UserError

    declared = read_declaration(Path(args.contract)) if args.contract else {}
    key = dataset.dataset_key
    if key in processor.action_contracts:
        contract = declare(processor.contract(key), declared)
    else:
        contract = build_contract(dataset, {**shipped_declaration(dataset), **declared})
    if contract.unknown_fields:
        raise UserError(
            f"action contract {key!r}: {purpose} needs to know {', '.join(contract.unknown_fields)}, and the dataset "
            f"does not say. Write this file with what is true for your robot, and pass it with --contract FILE:\n"
            f"{contract_template(contract)}"
        )
    processor.action_contracts[key] = contract.to_dict()


def show_dataset(dataset: Any, processor: Any) -> None:
    """What was detected, before anything long starts."""
    facts = dataset.describe()
    contract = processor.contract(dataset.dataset_key)
    say(
        f"dataset  {facts['dataset']} ({facts['version']}), {facts['episodes']} episode(s), {facts['frames']} frames "
        f"at {facts['fps']:g} Hz"
    )
    for slot, camera in facts["cameras"].items():
        say(f"{slot:<8} {camera}")
    for index, name in enumerate(contract.action.names):
        levels = contract.action.binary.get(index)
        extra = f" {levels.low:g} / {levels.high:g}" if levels else ""
        say(f"action   {name} [{contract.action.units[index]}], {contract.action.normalization[index]}{extra}")
    say(
        f"         {contract.representation}, frame {contract.frame}, rotation {contract.rotation}, gripper "
        f"{contract.gripper_polarity}, {contract.control_hz:g} Hz, chunks of {dataset.chunk_size} "
        f"({dataset.chunk_size / contract.control_hz:.2g} s)"
    )
    say(f"task     {'; '.join(facts['instructions'])}")


__all__ = ["DataArguments", "open_action_dataset", "settle_contract", "show_dataset"]
