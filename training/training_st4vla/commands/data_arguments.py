"""Flags that name robot data, alike in every command, and what follows from them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training_st4vla.commands.arguments import flag
from training_st4vla.commands.console import say

if TYPE_CHECKING:
    from training_st4vla.data.sources import DataSource


@dataclass
class DataFlags:
    """What every command that reads LeRobot data may be told about it."""

    action_keys: list[str] | None = flag("action columns, joined in this order into the action vector", None)
    state_keys: list[str] | None = flag("state columns, joined in this order; no state without them", None)
    cameras: list[str] | None = flag("cameras in slot order; all of them without it", None)
    dataset_key: str | None = flag("name of the action contract; the dataset's name without it", None)
    episodes: list[int] | None = flag("episode numbers; all without it", None)
    max_frames: int | None = flag("use only the first so many frames of the selection", None)
    contract: str | None = flag("JSON file that declares units, frame, rotation, polarity of the actions", None)
    preset: str | None = flag(
        "what is known about a public dataset: bridge_orig, fractal, interndata_m1, libero or so101", None
    )
    to_delta: bool = flag("turn absolute targets into steps, except the gripper's", False)

    def source(self, dataset: str) -> "DataSource":
        """One dataset as these flags describe it."""
        from training_st4vla.data.contracts import read_declaration
        from training_st4vla.data.sources import DataSource

        return DataSource(
            dataset=dataset,
            preset=self.preset,
            dataset_key=self.dataset_key,
            action_keys=_tuple(self.action_keys),
            state_keys=_tuple(self.state_keys),
            cameras=_tuple(self.cameras),
            episodes=_tuple(self.episodes),
            max_frames=self.max_frames,
            contract=read_declaration(Path(self.contract)) if self.contract else {},
            to_delta=self.to_delta or None,
        )


@dataclass(kw_only=True)
class DataArguments(DataFlags):
    """Flags of every command that reads one LeRobot dataset."""

    dataset: str = flag("LeRobot dataset, v2.1 or v3.0: folder or Hub id")


def _tuple(values: list | None) -> tuple | None:
    return None if values is None else tuple(values)


def show_dataset(dataset: Any, processor: Any) -> None:
    """What was detected, before anything long starts."""
    facts = dataset.describe()
    contract = processor.contract(dataset.dataset_key)
    say(
        f"dataset  {facts['dataset']} ({facts['version']}), {facts['episodes']} episode(s), {facts['frames']} frames "
        f"at {facts['fps']:g} Hz" + (f"; {facts['paused']} frames in pauses left out" if facts["paused"] else "")
    )
    for slot, camera in facts["cameras"].items():
        say(f"{slot:<8} {camera}")
    for index, name in enumerate(contract.action.names):
        levels = contract.action.binary.get(index)
        extra = f" {levels.low:g} / {levels.high:g}" if levels else ""
        say(f"action   {name} [{contract.action.units[index]}], {_normalization(contract.action, index)}{extra}")
    for index, name in enumerate(contract.state.names if contract.state else ()):
        say(f"state    {name} [{contract.state.units[index]}], {_normalization(contract.state, index)}")
    say(
        f"         {contract.representation}, frame {contract.frame}, rotation {contract.rotation}, gripper "
        f"{contract.gripper_polarity}, {contract.control_hz:g} Hz, chunks of {dataset.chunk_size} "
        f"({dataset.chunk_size / contract.control_hz:.2g} s)"
    )
    say(f"task     {'; '.join(facts['instructions'])}")


def _normalization(vector: Any, index: int) -> str:
    """The mode of a dimension with the statistics that it reads."""
    from processing_st4vla.normalization import NORMALIZATION_MODES

    mode = vector.normalization[index]
    read = [f"{vector.statistics[name][index]:.4g}" for name in NORMALIZATION_MODES[mode]]
    return mode + (f" {' to '.join(read)}" if read else "")


__all__ = ["DataArguments", "DataFlags", "show_dataset"]
