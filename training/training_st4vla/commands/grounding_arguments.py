"""Flags that name the grounding data of a training run: one dataset, several, or a mixture file."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training_st4vla.commands.arguments import flag
from training_st4vla.commands.console import say
from training_st4vla.errors import UserError

if TYPE_CHECKING:
    from training_st4vla.data.grounding_sources import GroundingMixture, GroundingSource


@dataclass(kw_only=True)
class GroundingFlags:
    """Which grounding datasets are trained on, how they are read, what is taken of them, and in what shares."""

    dataset: list[str] | None = flag(
        "grounding datasets: folders, files or Hub ids; the flags about reading hold for each of them", None
    )
    weights: list[float] | None = flag("share of each dataset in the mixture, in any unit; by count without it", None)
    temperature: float | None = flag(
        "instead of weights: shares in proportion to count ** (1 / temperature); 1: by count, higher: more even", None
    )
    mixture: str | None = flag(
        "YAML or JSON file instead of --dataset: `datasets:` with one mapping each of dataset, weight, split, layout, "
        "dialect, coordinate_space, answer_kind, box_format, image_root, frames_root, cameras, stride, skip_invalid, "
        "kinds, roles, max_rows, max_samples, stream; beside it `temperature:` and `eval_dataset:` (one such mapping)",
        None,
    )
    split: str | None = flag("split of the dataset, where it has several", None)
    layout: str | None = flag("layout of the dataset; detected without it", None)
    dialect: str | None = flag("how conversations write coordinates (qwen2_5_vl, molmo, ...), or text", None)
    coordinate_space: str | None = flag(
        "space of coordinates that do not declare theirs: pixel, unit, percent, byte, per_mille; resized for "
        "conversations in qwen2_5_vl",
        None,
    )
    answer_kind: str | None = flag("what lists of points in conversations are: auto, point or trace", None)
    box_format: str | None = flag("boxes of refcoco files: auto, xyxy or xywh", None)
    image_root: str | None = flag("folder of the image files, if not the dataset's", None)
    frames_root: str | None = flag("LeRobot dataset of rows that point to video frames", None)
    cameras: list[str] | None = flag("cameras of a LeRobot dataset to take; all with annotations without it", None)
    stride: int | None = flag("take every so many-th frame of InternData-M1 annotations; every one without it", None)
    skip_invalid: bool = flag("leave out samples that cannot be used instead of refusing them", False)
    kinds: list[str] | None = flag("answers to train on: point, box, trace, text; all without it", None)
    roles: list[str] | None = flag(
        "roles to train on, as the data name them (the tabletop's: objects object target place free_space gripper "
        "task); all without it",
        None,
    )
    max_rows: int | None = flag("use only the first so many rows of each dataset", None)
    max_samples: int | None = flag(
        "use at most so many samples of these kinds and roles, drawn evenly over each dataset by the seed", None
    )
    stream: int | None = flag(
        "read rows as they come, from .jsonl or .parquet files or the Hub, not all before the start: so many samples "
        "of each dataset an epoch, going on in the next",
        None,
    )
    eval_dataset: str | None = flag(
        "held-out grounding dataset, read as --dataset is: scored by generation every --eval-steps, with pictures",
        None,
    )
    eval_split: str | None = flag("split of --eval-dataset, where it has several", None)

    def source(self) -> "GroundingSource":
        """What the flags say about every dataset."""
        from training_st4vla.data.grounding_sources import CHOOSING, READING, GroundingSource

        values = {name: getattr(self, name) for name in (*READING, *CHOOSING)}
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        return GroundingSource(**{**values, "skip_invalid": self.skip_invalid or None})

    def grounding(self) -> "GroundingMixture":
        """
        The datasets of the flags; kinds, roles and numbers of samples hold for entries of a file that say none.

        Raises:
            UserError: There is none, or flags contradict each other.
        """
        mixture = mixture_of(self.dataset, self.weights, self.mixture, said=self.source())
        if self.temperature is not None:
            if mixture.temperature is not None:
                raise UserError("--temperature: the mixture file has one already.")
            mixture = replace(mixture, temperature=self.temperature)
        return mixture if self.eval_dataset is None else replace(mixture, eval_dataset=self._held_out(mixture))

    def _held_out(self, mixture: "GroundingMixture") -> "GroundingSource":
        if mixture.eval_dataset is not None:
            raise UserError("--eval-dataset: the mixture file has one already.")
        return replace(
            self.source(), dataset=self.eval_dataset or "", split=self.eval_split, max_rows=None, stream=None
        )


def mixture_of(
    datasets: Sequence[str] | None,
    weights: Sequence[float] | None,
    file: str | None,
    *,
    said: "GroundingSource | None" = None,
    prefix: str = "--",
) -> "GroundingMixture":
    """
    The mixture of datasets by name, or of a file.

    Args:
        said: What holds for each dataset by name; how datasets are read belongs into the file, where there is one.
        prefix: Of the flags, as errors name them.

    Raises:
        UserError: There is no dataset, or there are both, or weights are not one per dataset.
    """
    from training_st4vla.data.grounding_sources import (
        CHOOSING,
        READING,
        GroundingMixture,
        GroundingSource,
        read_grounding_mixture,
    )

    said = said or GroundingSource()
    if (datasets is None) == (file is None):
        raise UserError(f"{prefix}dataset, {prefix}mixture: expected one of them: datasets by name, or a file.")
    if file is not None:
        misplaced = [*said.said(READING), *(["weights"] if weights is not None else [])]
        if misplaced:
            raise UserError(f"--{misplaced[0].replace('_', '-')}: belongs into the mixture file, to its dataset.")
        return read_grounding_mixture(Path(file), f"{prefix}mixture").with_defaults(**said.said(CHOOSING))
    names = list(datasets or ())
    if weights is not None and len(weights) != len(names):
        raise UserError(f"{prefix}weights: expected one for each of {len(names)} datasets, found {len(weights)}.")
    shares = weights or [None] * len(names)
    sources = [replace(said, dataset=name, weight=weight) for name, weight in zip(names, shares, strict=True)]
    return GroundingMixture(tuple(sources))


def show_grounding(dataset: Any, names: Sequence[str], unit: str) -> None:
    """How many samples an epoch has, and whose, before anything long starts."""
    say(f"dataset  {', '.join(names)}: {len(dataset)} {unit} an epoch")
    mixture = getattr(dataset, "dataset", dataset)
    if hasattr(mixture, "draws"):
        total = len(mixture)
        say("mixture  " + "; ".join(f"{name}: {number / total:.1%}" for name, number in mixture.draws.items()))


__all__ = ["GroundingFlags", "mixture_of", "show_grounding"]
