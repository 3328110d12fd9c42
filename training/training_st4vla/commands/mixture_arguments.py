"""Flags that name the robot data of a training run: one dataset, several, or a mixture file."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training_st4vla.commands.arguments import flag
from training_st4vla.commands.console import say
from training_st4vla.commands.data_arguments import show_dataset
from training_st4vla.errors import UserError

if TYPE_CHECKING:
    from training_st4vla.data.sources import DataSource, PauseRule


@dataclass
class MixtureFlags:
    """Which datasets are trained on, in what shares, and how their samples are filtered and changed."""

    dataset: list[str] | None = flag(
        "LeRobot datasets, v2.1 or v3.0: folders or Hub ids; the flags about data hold for each of them", None
    )
    weights: list[float] | None = flag("share of each dataset, in any unit; by number of frames without it", None)
    mixture: str | None = flag(
        "YAML or JSON file instead of --dataset: `datasets:` with one mapping each of dataset, weight, preset, "
        "dataset_key, action_keys, state_keys, cameras, episodes, max_frames, contract, to_delta, pause",
        None,
    )
    stream: bool = flag(
        "download each video of a Hub dataset when it is needed, not all before the start; samples come from "
        "--stream-window videos at a time",
        False,
    )
    stream_window: int = flag("videos of each dataset that --stream mixes samples from at a time", 32)
    pause_threshold: float | None = flag(
        "leave out frames that move by at most this much, in action units, and change no gripper; below 0: no filter, "
        "even where a preset has one",
        None,
    )
    pause_dims: list[str] | None = flag(
        "action dimensions, by name or number, that --pause-threshold looks at; all but the gripper's without it", None
    )

    def pause_rule(self) -> "PauseRule | None":
        """The pause filter of the flags; None when they say nothing."""
        from training_st4vla.data.sources import PauseRule

        if self.pause_threshold is None:
            if self.pause_dims:
                raise UserError("--pause-dims: give --pause-threshold with it.")
            return None
        return PauseRule(self.pause_threshold, tuple(self.pause_dims) if self.pause_dims else None)


# What tells one dataset from another, and so cannot hold for each of several.
_ONE_DATASET = ("dataset_key", "episodes", "contract")
_IN_THE_FILE = (*_ONE_DATASET, "action_keys", "state_keys", "cameras", "max_frames", "preset", "to_delta", "weights")


def sources_of(args: Any) -> list["DataSource"]:
    """
    The datasets of the flags, in order.

    Args:
        args: With the fields of [`MixtureFlags`] and [`DataFlags`].

    Raises:
        UserError: There is none, or flags contradict each other.
    """
    from training_st4vla.data.sources import check_mixture, read_mixture

    if (args.dataset is None) == (args.mixture is None):
        raise UserError("--dataset, --mixture: expected one of them: datasets by name, or a file that lists them.")
    if args.stream_window < 1:
        raise UserError(f"--stream-window: expected at least 1, found {args.stream_window}.")
    rule = args.pause_rule()
    if args.mixture is not None:
        _refuse(args, _IN_THE_FILE, "belongs into the mixture file, to its dataset")
        sources = read_mixture(Path(args.mixture))
    else:
        if len(args.dataset) > 1:
            _refuse(args, _ONE_DATASET, "cannot hold for several datasets; write a --mixture file")
        if args.weights is not None and len(args.weights) != len(args.dataset):
            raise UserError(
                f"--weights: expected one for each of {len(args.dataset)} datasets, found {len(args.weights)}."
            )
        weights = args.weights or [None] * len(args.dataset)
        sources = [
            replace(args.source(dataset), weight=weight) for dataset, weight in zip(args.dataset, weights, strict=True)
        ]
    check_mixture(sources)
    return sources if rule is None else [replace(source, pause=rule) for source in sources]


def _refuse(args: Any, names: Sequence[str], why: str) -> None:
    for name in names:
        if getattr(args, name) not in (None, False):
            raise UserError(f"--{name.replace('_', '-')}: {why}.")


def find_source(sources: Sequence["DataSource"], key: str | None) -> "DataSource":
    """
    How held-out data of a dataset key is read: as that source, but every frame of every episode.

    Raises:
        UserError: No source has this key, or none is named and there are several.
    """
    from training_st4vla.data.action_mixture import key_of

    keys = [key_of(source.completed()) for source in sources]
    chosen = keys[0] if key is None and len(set(keys)) == 1 else key
    if chosen not in keys:
        raise UserError(f"--eval-dataset-key: expected one of {sorted(set(keys))}, found {key!r}.")
    source = sources[keys.index(chosen)]
    return replace(source.unfiltered(), dataset_key=chosen, episodes=None, max_frames=None)


def show_mixture(dataset: Any, processor: Any) -> None:
    """What was detected of every dataset, and its share, before anything long starts."""
    from training_st4vla.fit import parts_of

    for part in parts_of(dataset):
        show_dataset(part, processor)
        missing = (processor.action_dim or part.action_dim) - part.action_dim
        if missing:
            say(f"         filled up with {missing} dimension(s) that count for nothing")
    mixture = getattr(dataset, "dataset", dataset)
    if hasattr(mixture, "draws"):
        total = len(mixture)
        shares = ", ".join(f"{Path(name).name} {number / total:.1%}" for name, number in mixture.draws.items())
        say(f"mixture  {shares} of {total} samples per epoch")
    if mixture is not dataset:
        how = dataset.augmentation
        say(f"augment  crops of {how.crop:g} to 1 of each side, colours by {how.color:g}, hue by {how.hue:g}")


__all__ = ["MixtureFlags", "find_source", "show_mixture", "sources_of"]
