"""What is said about the robot data of a run: which datasets, whose keys, contracts and filters, in what shares.

A [`DataSource`] is one dataset with everything that is declared about it. It comes from flags, from an entry of a
mixture file, or from both a preset and one of these; what stands nearer to the user holds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from training_st4vla.data.contracts import check_declaration, read_declaration
from training_st4vla.errors import UserError

PRESETS = Path(__file__).parent / "presets"


@dataclass(frozen=True)
class PauseRule:
    """A pause filter in names of dimensions; see [`PauseFilter`].

    Args:
        threshold: Largest motion of a pause, per frame.
        motion: Action dimensions, by name or number; None: all but the gripper's.
        gripper: Likewise; None: the contract's gripper dimensions.
    """

    threshold: float
    motion: tuple[str | int, ...] | None = None
    gripper: tuple[str | int, ...] | None = None


@dataclass(frozen=True)
class DataSource:
    """One LeRobot dataset of a run, and what is declared about it. None: nothing is.

    Args:
        dataset: Folder or Hub id.
        preset: A name of `preset_names()`, whose values hold where this source says nothing.
        weight: Its share in a mixture, in any unit.
        dataset_key: Name of its action contract; sources with the same one share a contract.
        action_keys, state_keys, cameras: As in [`LeRobotActionDataset`].
        episodes, max_frames: Likewise.
        fps: The rate that the dataset must have.
        contract: Fields of a `--contract` file.
        to_delta: Turn absolute targets into steps: every dimension but the gripper's becomes its difference from the
            frame before. Declared rotations are refused: their difference is no rotation.
        pause: Frames left out as starting points.
        about: Where a preset's values come from.
    """

    dataset: str = ""
    preset: str | None = None
    weight: float | None = None
    dataset_key: str | None = None
    action_keys: tuple[str, ...] | None = None
    state_keys: tuple[str, ...] | None = None
    cameras: tuple[str, ...] | None = None
    episodes: tuple[int, ...] | None = None
    max_frames: int | None = None
    fps: float | None = None
    contract: Mapping[str, Any] = field(default_factory=dict)
    to_delta: bool | None = None
    pause: PauseRule | None = None
    about: str | None = None

    def completed(self) -> "DataSource":
        """This source with its preset's values where it has none. Raises `UserError` for an unknown preset."""
        if self.preset is None:
            return self
        base = read_preset(self.preset)
        empty = {one.name: getattr(base, one.name) for one in fields(self) if getattr(self, one.name) is None}
        return replace(self, **empty, contract={**base.contract, **self.contract})

    def unfiltered(self) -> "DataSource":
        """This source for evaluation: every frame, pauses too."""
        return replace(self.completed(), preset=None, pause=None)


def preset_names() -> list[str]:
    """The presets that ship with the package."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def read_preset(name: str) -> DataSource:
    """
    What is known about a public kind of dataset: keys, cameras, contract, pause rule.

    Raises:
        UserError: There is no such preset.
    """
    if name not in preset_names():
        raise UserError(f"--preset: expected one of {preset_names()}, found {name!r}.")
    path = PRESETS / f"{name}.yaml"
    return parse_source(yaml.safe_load(path.read_text()), where=f"preset {name}", folder=PRESETS)


def read_mixture(path: Path) -> list[DataSource]:
    """
    The sources of a mixture file: YAML or JSON, `datasets:` with one mapping of [`DataSource`] fields per dataset.

    Relative paths of datasets and contracts that exist beside the file are meant there.

    Raises:
        UserError: The file is absent or malformed, or holds a key that is no field.
    """
    return [
        parse_source(entry, where=f"--mixture: {path}, datasets[{number}]", folder=path.parent)
        for number, entry in enumerate(load_mixture(path)["datasets"])
    ]


def load_mixture(path: Path, flag: str = "--mixture", optional: Sequence[str] = ()) -> dict[str, Any]:
    """
    The content of a mixture file: a list under `datasets`, and what is `optional`.

    Raises:
        UserError: The file is absent or malformed, or holds another key.
    """
    if not path.is_file():
        raise UserError(f"{flag}: expected a YAML or JSON file, found nothing at {path}.")
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise UserError(f"{flag}: {path} is neither YAML nor JSON: {error}.") from error
    entries = content.get("datasets") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries or not {"datasets", *optional} >= set(content):
        found = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
        more = f", beside it {' and '.join(optional)}," if optional else ""
        raise UserError(
            f"{flag}: expected {path} to hold `datasets:` with a list{more} and nothing else, found {found}."
        )
    return content


def parse_source(value: Any, *, where: str, folder: Path) -> DataSource:
    """
    A source from plain values; an unknown key, or a value of the wrong type, is an error.

    Args:
        where: How errors name its place.
        folder: To which paths are relative.
    """
    values = checked_fields(DataSource, value, where)
    for name in ("action_keys", "state_keys", "cameras", "episodes"):
        if values.get(name) is not None:
            values[name] = as_tuple(values[name], f"{where}.{name}")
    beside = folder / str(values.get("dataset") or "")
    if values.get("dataset") and beside.exists():
        values["dataset"] = str(beside)
    if isinstance(values.get("contract"), str):
        values["contract"] = read_declaration(folder / values["contract"])
    values["contract"] = check_declaration(values.get("contract") or {}, f"{where}.contract")
    if values.get("pause") is not None:
        rule = checked_fields(PauseRule, values["pause"], f"{where}.pause")
        if not isinstance(rule.get("threshold"), (int, float)):
            raise UserError(f"{where}.pause.threshold: expected a number, found {rule.get('threshold')!r}.")
        for name in ("motion", "gripper"):
            rule[name] = None if rule.get(name) is None else as_tuple(rule[name], f"{where}.pause.{name}")
        values["pause"] = PauseRule(**rule)
    return DataSource(**values)


def check_mixture(sources: Sequence[DataSource]) -> None:
    """
    Raises:
        UserError: A dataset is missing or named twice, or some have a weight and others none.
    """
    names = [source.dataset for source in sources]
    if not all(names):
        raise UserError("--mixture: every entry needs `dataset:`, a folder or Hub id.")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UserError(f"--dataset: {repeated} named twice; give a dataset a larger weight instead.")
    check_weights({source.dataset: source.weight for source in sources})


def check_weights(weights: Mapping[str, float | None]) -> None:
    """
    Raises:
        UserError: Some datasets have a weight and others none, or one is not a positive number.
    """
    missing = [name for name, weight in weights.items() if weight is None]
    if missing and len(missing) < len(weights):
        raise UserError(f"weights: expected one for every dataset or for none, found none for {missing}.")
    bad = {name: weight for name, weight in weights.items() if weight is not None and not _is_positive(weight)}
    if bad:
        raise UserError(f"weights: expected numbers above 0, found {bad}.")


def _is_positive(weight: Any) -> bool:
    return isinstance(weight, int | float) and not isinstance(weight, bool) and 0 < weight < float("inf")


def checked_fields(cls: type, value: Any, where: str) -> dict[str, Any]:
    """A mapping whose keys are all fields of a dataclass. Raises `UserError` for any other."""
    known = [one.name for one in fields(cls)]
    unknown = sorted(map(str, set(value) - set(known))) if isinstance(value, dict) else [type(value).__name__]
    if unknown:
        raise UserError(f"{where} holds {unknown}; expected a mapping with keys of {known}.")
    return dict(value)


def as_tuple(value: Any, where: str) -> tuple:
    """A list as a tuple. Raises `UserError` for anything else."""
    if not isinstance(value, list):
        raise UserError(f"{where}: expected a list, found {value!r}.")
    return tuple(value)


__all__ = [
    "DataSource",
    "PauseRule",
    "as_tuple",
    "check_mixture",
    "check_weights",
    "checked_fields",
    "load_mixture",
    "parse_source",
    "preset_names",
    "read_mixture",
    "read_preset",
]
