"""`open_grounding_dataset`: every kind of grounding data behind one door."""

import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from torch.utils.data import Dataset

from training_st4vla.data.errors import DataError, explain
from training_st4vla.data.grounding.columns import (
    IMAGE_COLUMNS,
    LENGTH_COLUMNS,
    schema_images,
    schema_lengths,
    schema_matches,
)
from training_st4vla.data.grounding.conversations import CONVERSATIONS, fitting_dialects, turns
from training_st4vla.data.grounding.demonstrations import grounding_rows
from training_st4vla.data.grounding.episodes import EPISODES, is_episode_folder, open_episodes
from training_st4vla.data.grounding.images import LeRobotFrames
from training_st4vla.data.grounding.layouts import (
    ROW_LAYOUTS,
    FrameRoots,
    Layout,
    ReadOptions,
)
from training_st4vla.data.grounding.lerobot import event_rows, has_events
from training_st4vla.data.grounding.rows import RowTable, open_rows
from training_st4vla.data.grounding.schema import GroundingSample, UndeclaredSpaceError
from training_st4vla.data.grounding.spaces import describe_fits, raw_coordinates, space_doubt
from training_st4vla.data.keys import resolve_cameras
from training_st4vla.data.lerobot_metadata import INFO_PATH, open_dataset_info

LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    {layout.name: layout for layout in (CONVERSATIONS, EPISODES, *ROW_LAYOUTS.values())}
)
"""Layouts of rows, by name; the first that matches a row is its layout."""

LEROBOT, INTERNDATA = "lerobot", "interndata-m1"
LAYOUT_NAMES = (*LAYOUTS, LEROBOT, INTERNDATA)

_GUESSED_FROM = 200
_CHECKED_FIRST = 16


class GroundingDataset(Dataset):
    """Grounding samples with random access; see [`open_grounding_dataset`].

    `dataset[i]` is what collators and trainers take: `{"image", "instruction", "kind", "answer", "answer_kind",
    "source"}`, the image decoded and the answer in its pixels. `dataset.sample(i)` is the same sample undecoded, a
    [`GroundingSample`]. Picklable; works with `DataLoader` workers.

    Args:
        table: The rows.
        layout: What they mean, a key of `LAYOUTS`.
        options: What the user declares.
        max_rows: Use only the first so many rows.
    """

    def __init__(self, table: RowTable, layout: str, options: ReadOptions, max_rows: int | None = None) -> None:
        self.table, self.layout, self.options = table, layout, options
        rows = len(table) if max_rows is None else min(max_rows, len(table))
        count = LAYOUTS[layout].count
        if count is None:
            self._row_of, self._number = np.arange(rows), np.zeros(rows, dtype=np.int32)
        else:
            scanned = itertools.islice(iter(table.columns(LAYOUTS[layout].columns)), rows)
            counts = np.fromiter((count(row, options) for row in scanned), dtype=np.int64, count=rows)
            self._row_of = np.repeat(np.arange(rows), counts)
            starts = np.repeat(np.cumsum(counts) - counts, counts)
            self._number = (np.arange(len(self._row_of)) - starts).astype(np.int32)

    @property
    def name(self) -> str:
        """Path or Hub id, as it was given."""
        return self.table.source

    def __len__(self) -> int:
        return len(self._row_of)

    def sample(self, index: int) -> GroundingSample:
        """Sample `index`, with nothing decoded. Raises `DataError` when its row has another layout."""
        position = range(len(self))[int(index)]
        row = int(self._row_of[position])
        return self.read(self.table[row], int(self._number[position]), self.table.where(row))

    def read(self, values: Mapping[str, Any], number: int, where: str) -> GroundingSample:
        """Sample `number` of a row's values; `where` the row is, for errors."""
        return LAYOUTS[self.layout].sample(dict(values), number, where, self.options)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.sample(index).to_item()

    def question(self, index: int) -> dict[str, Any]:
        """Sample `index` as a question without its answer: what [`predict_grounding`] takes."""
        return self.sample(index).to_question()

    def samples(self) -> Iterator[GroundingSample]:
        """All samples in order, undecoded."""
        return (read() for read in self._readers())

    def readable(self) -> Iterator[GroundingSample]:
        """Those samples whose rows can be read, in order, undecoded."""
        for read in self._readers():
            with suppress(DataError):
                yield read()

    def _readers(self) -> Iterator[Callable[[], GroundingSample]]:
        rows = self._row_of.tolist()
        for row, number, values in zip(rows, self._number.tolist(), self.table.read(rows), strict=True):
            yield partial(self.read, values, number, self.table.where(row))

    def together(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """The items of samples about one image, which is decoded once."""
        chosen = list(self.select(indices).samples())
        image = chosen[0].image.load() if chosen else None
        return [sample.to_item(image) for sample in chosen]

    def lengths(self) -> list[int]:
        """About how many characters each sample's question and answer have: what batches of like length are made
        by."""
        found = None if self.layout != "grounding" else self._computed(schema_lengths, LENGTH_COLUMNS)
        return [sample.length() for sample in self.samples()] if found is None else found.tolist()

    def image_numbers(self) -> np.ndarray:
        """int64 `[samples]`: equal where the image is, from 0 in order of appearance."""
        found = None if self.layout != "grounding" else self._computed(schema_images, IMAGE_COLUMNS)
        if found is not None:
            return found
        numbers: dict[Any, int] = {}
        keys = (sample.image.key for sample in self.samples())
        return np.fromiter((numbers.setdefault(key, len(numbers)) for key in keys), dtype=np.int64, count=len(self))

    def _computed(self, compute: Callable[[Any], np.ndarray | None], names: Sequence[str]) -> np.ndarray | None:
        """What follows from these columns of each sample's row, for all rows at once; None where it does not."""
        table = self.table.arrow(names, self._row_of)
        return None if table is None else compute(table)

    def select(self, indices: Sequence[int] | np.ndarray) -> "GroundingDataset":
        """The samples of these indices, in this order."""
        chosen = np.asarray(indices, dtype=np.int64)
        other = object.__new__(GroundingDataset)
        other.__dict__ = {**self.__dict__, "_row_of": self._row_of[chosen], "_number": self._number[chosen]}
        return other

    def filter(self, keep: Callable[[GroundingSample], bool]) -> "GroundingDataset":
        """The samples for which `keep` holds; a sample whose row cannot be read is left out as well."""

        def is_kept(read: Callable[[], GroundingSample]) -> bool:
            try:
                return keep(read())
            except DataError:
                return False

        return self.select([index for index, read in enumerate(self._readers()) if is_kept(read)])

    def of(self, kinds: Sequence[str] | None = None, roles: Sequence[str] | None = None) -> "GroundingDataset":
        """The samples of these kinds and these roles in the task; None: of all."""
        wanted = {"kind": kinds, "role": roles}
        asked = {name: set(values) for name, values in wanted.items() if values}
        if not asked:
            return self
        if self.layout == "grounding":
            kept = self._computed(partial(schema_matches, wanted=asked), tuple(asked))
            if kept is not None:
                return self.select(np.flatnonzero(kept))
        return self.filter(lambda one: all(getattr(one, name) in asked[name] for name in asked))

    def thin_out(self, number: int | None, seed: int = 0) -> "GroundingDataset":
        """At most `number` samples, drawn evenly over the set by a seed, in order; all for None."""
        if number is None or number >= len(self):
            return self
        chosen = np.random.default_rng(seed).choice(len(self), number, replace=False)
        return self.select(np.sort(chosen).tolist())


def open_grounding_dataset(
    path_or_hub_id: str | os.PathLike[str],
    *,
    layout: str | None = None,
    split: str | None = None,
    max_rows: int | None = None,
    skip_invalid: bool = False,
    dialect: str | None = None,
    coordinate_space: str | None = None,
    answer_kind: Literal["auto", "point", "trace"] = "auto",
    box_format: Literal["auto", "xyxy", "xywh"] = "auto",
    image_root: str | os.PathLike[str] | None = None,
    frames_root: str | os.PathLike[str] | None = None,
    cameras: Sequence[str] | None = None,
    stride: int = 1,
    verbatim: bool = False,
    source: str | None = None,
    license: str = "unknown",
    revision: str | None = None,
    check_first: bool = True,
) -> GroundingDataset:
    """Opens grounding data of any known layout as a map-style dataset.

    Read are: tables and JSON files in the grounding schema (DESIGN.md §5) and of the published sets (`LAYOUTS`),
    alone, in a folder, saved by `datasets`, or on the Hub; LeRobot datasets with rows of the schema in their folder
    `grounding/`, with `language_events`, or with the `annotation.*` columns of InternData-M1.

    Args:
        path_or_hub_id: File, folder or Hub id. No code of a dataset is run.
        layout: A name of `LAYOUT_NAMES`; None: told from the folder, or from the keys of the first row.
        split: Which split, where there are several.
        max_rows: Read only the first so many rows (a row may hold several samples).
        skip_invalid: Leave out samples that cannot be used, instead of raising when they are reached. Reads all rows.
        dialect: How conversations write coordinates: a key of `DIALECTS`, or `text` for words only.
        coordinate_space: The space of coordinates that do not declare theirs: a key of `COORDINATE_SPACES`; for
            conversations in `qwen2_5_vl` also `resized`.
        answer_kind: For conversations: `trace` where lists of points are paths, `point` where they are not.
        box_format: For `refcoco`: `xyxy` or `xywh`, where the layout does not tell.
        image_root: Folder to which image paths are relative, if not the file's own or the one given.
        frames_root: The LeRobot dataset of rows that point to frames; None: where their column `dataset` points, or
            the folder around `grounding/`.
        cameras: Cameras of a LeRobot dataset to take; None: all that have annotations.
        stride: For `interndata-m1`: take every so many-th frame.
        verbatim: For benchmarks and conversations: ask the question as published, with its instructions on how to
            write coordinates.
        source, license: What to record where the data do not say it.
        revision: Hub revision.
        check_first: Refuse at once when one of the first samples cannot be used. An undeclared space is refused
            anyway.

    Raises:
        DataError: Nothing is found, the layout is not recognised, or the first samples cannot be used.
        UndeclaredSpaceError: Coordinates have no declared space; the message says what the numbers look like.
    """
    if max_rows is not None and max_rows < 1:
        raise ValueError(f"max_rows: expected at least 1, found {max_rows}.")
    if layout is not None and layout not in LAYOUT_NAMES:
        raise ValueError(f"layout: expected one of {', '.join(LAYOUT_NAMES)}, found {layout!r}.")
    path = os.fspath(path_or_hub_id)
    options = ReadOptions(
        frames=FrameRoots(None if frames_root is None else os.fspath(frames_root)),
        coordinate_space=coordinate_space,
        dialect=dialect,
        answer_kind=answer_kind,
        box_format=box_format,
        verbatim=verbatim,
        source=source or Path(path.rstrip("/\\")).stem,
        license=license,
    )
    if _is_lerobot(path, layout):
        table, name, options = _open_lerobot(path, layout, options, cameras, stride, max_rows, revision)
    elif not is_row_layout(path, layout):
        table, name = open_episodes(Path(path).expanduser(), split), EPISODES.name
    else:
        table = open_rows(path, split, revision=revision)
        name = layout or recognise(table)
    roots = (Path(image_root).expanduser(),) if image_root is not None else table.roots
    dataset = GroundingDataset(table, name, replace(options, image_roots=roots), max_rows)
    check_first_samples(dataset, strict=check_first and not skip_invalid)
    return dataset.filter(lambda sample: sample.problem() is None) if skip_invalid else dataset


def is_row_layout(path: str, layout: str | None) -> bool:
    """Whether a dataset is rows in files or on the Hub: neither a LeRobot dataset nor A0's episodes."""
    is_episodes = layout == EPISODES.name or (layout is None and is_episode_folder(Path(path).expanduser()))
    return not _is_lerobot(path, layout) and not is_episodes


def recognise(table: RowTable) -> str:
    """The layout of the first row.

    Raises:
        DataError: No layout matches.
    """
    row = table[0]
    found = next((name for name, layout in LAYOUTS.items() if layout.matches(row)), None)
    if found is None:
        raise DataError(
            explain(
                "The layout of the data is not recognised",
                where=table.where(0),
                expected=f"rows of one of the layouts {', '.join(LAYOUTS)}",
                found=f"the keys {', '.join(map(str, row)) or 'none'}",
                remedy="Name the layout with --layout, or convert the rows to the grounding schema.",
            )
        )
    return found


# --- LeRobot --------------------------------------------------------------------------------------------------------


def _is_lerobot(path: str, layout: str | None) -> bool:
    return layout in (LEROBOT, INTERNDATA) or (
        layout in (None, "grounding") and (Path(path).expanduser() / INFO_PATH).is_file()
    )


def _open_lerobot(
    path: str,
    layout: str | None,
    options: ReadOptions,
    cameras: Sequence[str] | None,
    stride: int,
    max_rows: int | None,
    revision: str | None,
) -> tuple[RowTable, str, ReadOptions]:
    """Rows of the grounding schema from whatever a LeRobot dataset offers."""
    info = open_dataset_info(path, revision)
    beside = Path(path).expanduser() / "grounding"
    if layout in (None, "grounding") and beside.is_dir():
        frames = options.frames if options.frames.root is not None else FrameRoots(path)
        return open_rows(beside), "grounding", replace(options, frames=frames)
    if layout in (None, LEROBOT) and has_events(info):
        frames = LeRobotFrames(path, None if cameras is None else list(cameras))
        found = event_rows(frames, options.coordinate_space or "pixel")
        wanted = None if cameras is None else set(frames.cameras)
        rows = [row for row in itertools.islice(found, max_rows) if wanted is None or row["camera"] in wanted]
        table = RowTable(rows, path)
        _refuse_doubtful_events(table, options)
        return table, "grounding", replace(options, frames=FrameRoots(path))
    annotated = [key for key in info.cameras if f"annotation.{key.rpartition('.')[2]}.bbox2d_tight" in info.features]
    if layout in (None, INTERNDATA) and annotated:
        chosen = resolve_cameras(info, cameras) if cameras else annotated
        found = itertools.chain.from_iterable(_annotation_rows(path, key, stride, options) for key in chosen)
        return (
            RowTable(list(itertools.islice(found, max_rows)), path),
            "grounding",
            replace(options, frames=FrameRoots(path)),
        )
    raise DataError(
        explain(
            "The LeRobot dataset holds no grounding data",
            where=path,
            expected="a folder grounding/ with rows, a column language_events, or annotation.* columns",
            found="none of them" if layout is None else f"nothing for --layout {layout}",
            remedy="Annotate it (`lerobot-annotate`), or give a grounding dataset.",
        )
    )


def _annotation_rows(path: str, camera: str, stride: int, options: ReadOptions) -> Iterator[dict[str, Any]]:
    from training_st4vla.data.grounding.demonstrations import GroundingRowOptions

    return grounding_rows(path, camera, options=GroundingRowOptions(stride=stride, license=options.license))


def _refuse_doubtful_events(table: RowTable, options: ReadOptions) -> None:
    """LeRobot's convention is pixels, but its annotators write what their model answers: look before believing it."""
    if options.coordinate_space is not None or not len(table):
        return
    dataset = GroundingDataset(table, "grounding", replace(options, frames=FrameRoots(table.source)), 10_000)
    points, sizes = raw_coordinates(dataset.samples())
    doubt = space_doubt(points, sizes, "pixel")
    if doubt is not None:
        raise UndeclaredSpaceError(
            explain(
                "The language events are probably not in pixels",
                where=f"{table.source}, language_events",
                expected="pixels of the stored frames, LeRobot's convention",
                found=doubt.rstrip("."),
                remedy="Say what they are with --coordinate-space (pixel, if they are pixels after all).",
            )
        )


# --- First look -----------------------------------------------------------------------------------------------------


def check_first_samples(dataset: GroundingDataset, strict: bool) -> None:
    """Refuses now what would otherwise fail in the middle of training."""
    if not len(dataset):
        raise DataError(
            explain(
                "The dataset has no samples",
                where=dataset.name,
                expected=f"at least one row of the layout {dataset.layout!r} with a question and an answer",
                found=f"{len(dataset.table)} rows without one",
                remedy="Check --layout.",
            )
        )
    try:
        for index in range(min(_CHECKED_FIRST, len(dataset))):
            sample = dataset.sample(index)
            if strict:
                sample.check(training=False)
    except UndeclaredSpaceError as error:
        raise UndeclaredSpaceError(f"{error} {_space_hint(dataset)}") from None
    except DataError as error:
        if dataset.layout == CONVERSATIONS.name and dataset.options.dialect is None:
            raise DataError(f"{error} {_dialect_hint(dataset)}") from None
        if strict:
            raise


def _space_hint(dataset: GroundingDataset) -> str:
    """What the numbers look like when they are taken as they stand."""
    taken = replace(dataset.options, coordinate_space="pixel")
    table = dataset.table
    if dataset.layout == "grounding" and isinstance(table.rows, list):
        table = replace(table, rows=[{**row, "coordinate_space": None} for row in table.rows[:_GUESSED_FROM]])
    probe = GroundingDataset(table, dataset.layout, taken, _GUESSED_FROM)
    readable = []
    for index in range(len(probe)):
        try:
            readable.append(probe.sample(index))
        except DataError:
            continue
    return describe_fits(*raw_coordinates(readable))


def _dialect_hint(dataset: GroundingDataset) -> str:
    rows = [dataset.table[index] for index in range(min(_GUESSED_FROM, len(dataset.table)))]
    first = next((answer for row in rows for _, answer in turns(row)), "")
    fitting = fitting_dialects(rows, (1000, 1000))
    shares = ", ".join(f"{name} ({share:.0%})" for name, share in fitting.items())
    return f"The first answer is {first[:120]!r}; dialects that read the answers: {shares or 'none, so text'}."


__all__ = [
    "LAYOUTS",
    "LAYOUT_NAMES",
    "GroundingDataset",
    "check_first_samples",
    "is_row_layout",
    "open_grounding_dataset",
    "recognise",
]
