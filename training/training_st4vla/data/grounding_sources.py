"""What is said about the grounding data of a run: which datasets, how they are read, what is taken, in what shares."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from training_st4vla.data.sources import as_tuple, check_weights, checked_fields, load_mixture
from training_st4vla.errors import UserError

READING = (
    "split",
    "layout",
    "dialect",
    "coordinate_space",
    "answer_kind",
    "box_format",
    "image_root",
    "frames_root",
    "cameras",
    "stride",
    "skip_invalid",
)
"""How a dataset is read: arguments of [`~training_st4vla.data.grounding.open_grounding_dataset`]."""

CHOOSING = ("kinds", "roles", "max_rows", "max_samples", "stream")
"""What is taken of it."""

_LISTS = ("cameras", "kinds", "roles")
_NUMBERS = ("stride", "max_rows", "max_samples", "stream")
_CHOICES = {"answer_kind": ("auto", "point", "trace"), "box_format": ("auto", "xyxy", "xywh")}


@dataclass(frozen=True)
class GroundingSource:
    """One grounding dataset of a run, and what is declared about it. None: nothing is.

    Args:
        dataset: Folder, file or Hub id.
        weight: Its share in a mixture, in any unit.
        split, layout, dialect, coordinate_space, answer_kind, box_format, image_root, frames_root, cameras, stride,
            skip_invalid: As in [`~training_st4vla.data.grounding.open_grounding_dataset`].
        kinds: Answers to keep: `point`, `box`, `trace`, `text`.
        roles: Roles in the task to keep, as the data name them: `target`, `place`, ...
        max_rows, max_samples: Its first rows; samples of these kinds and roles, drawn evenly by the seed.
        stream: Read the rows as they come, so many samples an epoch; the next epoch goes on where it ended.

    Raises:
        UserError: For a value that no dataset can be read with.
    """

    dataset: str = ""
    weight: float | None = None
    split: str | None = None
    layout: str | None = None
    dialect: str | None = None
    coordinate_space: str | None = None
    answer_kind: str | None = None
    box_format: str | None = None
    image_root: str | None = None
    frames_root: str | None = None
    cameras: tuple[str, ...] | None = None
    stride: int | None = None
    skip_invalid: bool | None = None
    kinds: tuple[str, ...] | None = None
    roles: tuple[str, ...] | None = None
    max_rows: int | None = None
    max_samples: int | None = None
    stream: int | None = None

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in (None, *allowed):
                raise UserError(f"{name}: expected one of {', '.join(allowed)}, found {getattr(self, name)!r}.")
        for name in _NUMBERS:
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise UserError(f"{name}: expected a whole number of at least 1, found {value!r}.")

        if self.stream is not None and self.max_samples is not None:
            raise UserError("stream: it says how many samples an epoch has; leave max_samples out.")

    @property
    def name(self) -> str:
        """Tells it from the other parts of a mixture."""
        return self.dataset if self.split is None else f"{self.dataset}, split {self.split}"

    def said(self, names: Sequence[str]) -> dict[str, Any]:
        """Which of these fields are given."""
        return {name: getattr(self, name) for name in names if getattr(self, name) not in (None, False)}


@dataclass(frozen=True)
class GroundingMixture:
    """Grounding datasets of a run, in order.

    Args:
        sources: With a weight each, or without one.
        temperature: Without weights: shares in proportion to `count ** (1 / temperature)`. 1 or None: by count.
        eval_dataset: Held out.

    Raises:
        UserError: There is no source, or one is named twice, or weights are incomplete, or beside a temperature.
    """

    sources: tuple[GroundingSource, ...]
    temperature: float | None = None
    eval_dataset: GroundingSource | None = None

    def __post_init__(self) -> None:
        names = [source.name for source in self.sources]
        if not names or not all(source.dataset for source in self.sources):
            raise UserError("--mixture: every entry needs `dataset:`, a folder, file or Hub id.")
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise UserError(f"datasets: {repeated} named twice; give a dataset a larger weight instead.")
        check_weights({source.name: source.weight for source in self.sources})
        if self.temperature is None:
            return
        if isinstance(self.temperature, bool) or not isinstance(self.temperature, int | float):
            raise UserError(f"temperature: expected a number, found {self.temperature!r}.")
        if not self.temperature > 0:
            raise UserError(f"temperature: expected a number above 0, found {self.temperature}.")
        if self.sources[0].weight is not None:
            raise UserError("temperature: it makes shares of counts, and the datasets have weights; give one of both.")

    def with_defaults(self, **values: Any) -> "GroundingMixture":
        """These values for every source that does not say its own; kinds and roles for the held-out one as well."""
        held_out = self.eval_dataset
        if held_out is not None:
            held_out = _completed(held_out, {name: values.get(name) for name in ("kinds", "roles")})
        return replace(self, sources=tuple(_completed(one, values) for one in self.sources), eval_dataset=held_out)


def _completed(source: GroundingSource, values: Mapping[str, Any]) -> GroundingSource:
    return replace(source, **{name: value for name, value in values.items() if getattr(source, name) is None})


def read_grounding_mixture(path: Path, flag: str = "--mixture") -> GroundingMixture:
    """
    A mixture file: YAML or JSON, `datasets:` with one mapping of [`GroundingSource`] fields per dataset, and
    optionally `temperature:` and `eval_dataset:` (one mapping).

    Relative paths that exist beside the file are meant there.

    Raises:
        UserError: The file is absent or malformed, or holds a key that is no field.
    """
    content = load_mixture(path, flag, optional=("temperature", "eval_dataset"))
    place = f"{flag}: {path}"
    sources = [
        _parse(entry, f"{place}, datasets[{number}]", path.parent) for number, entry in enumerate(content["datasets"])
    ]
    held_out = content.get("eval_dataset")
    return GroundingMixture(
        tuple(sources),
        content.get("temperature"),
        None if held_out is None else _parse(held_out, f"{place}, eval_dataset", path.parent),
    )


def _parse(value: Any, where: str, folder: Path) -> GroundingSource:
    values = checked_fields(GroundingSource, value, where)
    for one in fields(GroundingSource):
        given = values.get(one.name)
        if given is None:
            continue
        if one.name in _LISTS:
            values[one.name] = as_tuple(given, f"{where}.{one.name}")
        elif one.name not in (*_NUMBERS, "weight", "skip_invalid") and not isinstance(given, str):
            raise UserError(f"{where}.{one.name}: expected a text, found {given!r}.")
        elif one.name in ("dataset", "image_root", "frames_root") and (folder / given).exists():
            values[one.name] = str(folder / given)
    if not isinstance(values.get("skip_invalid", False), bool):
        raise UserError(f"{where}.skip_invalid: expected true or false, found {values['skip_invalid']!r}.")
    try:
        return GroundingSource(**values)
    except UserError as error:
        raise UserError(f"{where}.{error}") from None


def open_grounding_source(source: GroundingSource, seed: int = 0) -> Any:
    """
    Opens a dataset as its source says.

    Returns:
        The [`~training_st4vla.data.grounding.GroundingDataset`] of its kinds and roles, thinned out after that; or a
        [`~training_st4vla.data.grounding.GroundingStream`] of them.

    Raises:
        DataError, UserError: It cannot be read so, or holds no such sample.
    """
    from training_st4vla.data.grounding import LAYOUT_NAMES, open_grounding_dataset, open_grounding_stream

    if source.layout not in (None, *LAYOUT_NAMES):
        raise UserError(f"layout: expected one of {', '.join(LAYOUT_NAMES)}, found {source.layout!r}.")
    if source.stream is not None:
        chosen = source.said(("max_rows", "kinds", "roles"))
        return open_grounding_stream(source.dataset, source.stream, seed=seed, **chosen, **source.said(READING))
    dataset = open_grounding_dataset(source.dataset, max_rows=source.max_rows, **source.said(READING))
    dataset = dataset.of(source.kinds, source.roles)
    if not len(dataset):
        wanted = " ".join(f"{name} {list(given)}" for name, given in source.said(("kinds", "roles")).items())
        raise UserError(f"{source.name} holds no sample" + (f" of {wanted}." if wanted else "."))
    return dataset.thin_out(source.max_samples, seed)


def open_grounding_mixture(mixture: GroundingMixture, *, questions_per_image: int | None = None, seed: int = 0) -> Any:
    """
    A map-style dataset of grounding samples: the one source, or a mixture of them; a stream is always in a mixture.

    Args:
        questions_per_image: Deal out questions about one image together, at most so many; each item is then a list.
        seed: Of all draws.

    Raises:
        DataError, UserError: A source cannot be read as it says, or holds no such sample.
    """
    from training_st4vla.data.grounding import QuestionsPerImage
    from training_st4vla.data.mixtures import MixtureDataset

    parts: dict[str, Any] = {source.name: open_grounding_source(source, seed) for source in mixture.sources}
    streams = [source.name for source in mixture.sources if source.stream is not None]
    if questions_per_image is not None:
        if streams:
            raise UserError(f"questions_per_image: a stream does not know the questions of an image: {streams}.")
        parts = {name: QuestionsPerImage(part, questions_per_image, seed) for name, part in parts.items()}
    if len(parts) == 1 and not streams:
        return next(iter(parts.values()))
    given = {source.name: source.weight for source in mixture.sources if source.weight is not None}
    return MixtureDataset(parts, weights=given or mixture.temperature or 1.0, seed=seed)


__all__ = [
    "CHOOSING",
    "READING",
    "GroundingMixture",
    "GroundingSource",
    "open_grounding_mixture",
    "open_grounding_source",
    "read_grounding_mixture",
]
