"""Grounding data that are read as they come: files too large for memory, and Hub datasets that are not downloaded."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from training_st4vla.data.errors import DataError, explain
from training_st4vla.data.grounding.dataset import (
    LAYOUTS,
    GroundingDataset,
    check_first_samples,
    is_row_layout,
    recognise,
)
from training_st4vla.data.grounding.layouts import FrameRoots, ReadOptions
from training_st4vla.data.grounding.row_stream import RowStream, open_row_stream
from training_st4vla.data.grounding.rows import Row, RowTable
from training_st4vla.data.grounding.schema import GroundingSample
from training_st4vla.data.sample_stream import SampleStream

WINDOW = 4096
"""Rows that a stream is shuffled among: more mix better, and wait longer for the first sample."""

_LOOKED_AT = 64


class GroundingStream(SampleStream):
    """Grounding samples of rows as they come, shuffled among `window` rows at a time; see [`open_grounding_stream`].

    Args:
        rows, layout, options: As in [`GroundingDataset`].
        epoch_size: Samples of an epoch.
        keep: Which samples are taken; with it, a sample whose row cannot be read is left out as well.
        seed: Of the order, which differs from pass to pass.
        window: See `WINDOW`.
    """

    def __init__(
        self,
        rows: RowStream,
        layout: str,
        options: ReadOptions,
        epoch_size: int,
        keep: Callable[[GroundingSample], bool] | None = None,
        seed: int = 0,
        window: int = WINDOW,
    ) -> None:
        super().__init__(epoch_size, rows.source)
        self.rows, self.layout, self.options = rows, layout, options
        self.keep, self.seed, self.window = keep, seed, window

    def read_pass(self, number: int) -> Iterator[GroundingSample]:
        """See `SampleStream.read_pass`."""
        layout = LAYOUTS[self.layout]
        for where, row in self.rows.read_pass(number, self.seed, self.window):
            for one in range(1 if layout.count is None else layout.count(row, self.options)):
                try:
                    sample = layout.sample(dict(row), one, where, self.options)
                except DataError:
                    if self.keep is None:
                        raise
                    continue
                if self.keep is None or self.keep(sample):
                    yield sample

    def decode(self, sample: GroundingSample) -> dict[str, Any]:
        """See `GroundingSample.to_item`."""
        return sample.to_item()


@dataclass(frozen=True)
class Choice:
    """Which samples of a dataset are taken. Can be pickled.

    Args:
        kinds, roles: Those to keep; None: all.
        valid: Only those that can be learnt.
    """

    kinds: tuple[str, ...] | None = None
    roles: tuple[str, ...] | None = None
    valid: bool = False

    def __call__(self, sample: GroundingSample) -> bool:
        """Whether a sample is taken."""
        is_wanted = (not self.kinds or sample.kind in self.kinds) and (not self.roles or sample.role in self.roles)
        return is_wanted and not (self.valid and sample.problem() is not None)


def open_grounding_stream(
    path_or_hub_id: str,
    epoch_size: int,
    *,
    layout: str | None = None,
    split: str | None = None,
    max_rows: int | None = None,
    skip_invalid: bool = False,
    kinds: tuple[str, ...] | None = None,
    roles: tuple[str, ...] | None = None,
    image_root: str | None = None,
    seed: int = 0,
    window: int = WINDOW,
    revision: str | None = None,
    **declared: Any,
) -> GroundingStream:
    """Opens JSON lines, parquet or a Hub dataset as a stream: nothing but the first rows is read before the start.

    Args:
        path_or_hub_id: File, folder of files, or Hub id.
        epoch_size: Samples of an epoch; the next epoch goes on where it ended, and a stream that ends begins again.
        kinds, roles: Samples to keep; None: all.
        seed, window: Of the order: rows are shuffled among `window` at a time, and so are the files.
        layout, split, max_rows, skip_invalid, image_root, revision, declared: As in [`open_grounding_dataset`].

    Raises:
        DataError: Nothing is found, it cannot be streamed, or the first samples cannot be used.
        UndeclaredSpaceError: Coordinates have no declared space.
    """
    if not is_row_layout(path_or_hub_id, layout) or declared.keys() & {"cameras", "stride"}:
        raise DataError(
            explain(
                "The dataset cannot be read as a stream",
                where=path_or_hub_id,
                expected="rows in files or on the Hub",
                found="a LeRobot dataset, A0 episodes, or options for them",
                remedy="Leave `stream` out: their rows are small, and frames are decoded when they are used.",
            )
        )
    rows = open_row_stream(path_or_hub_id, split, revision=revision, max_rows=max_rows)
    roots = (Path(image_root).expanduser(),) if image_root is not None else rows.roots
    options = _options(path_or_hub_id, image_roots=roots, **declared)
    first: list[Row] = [row for _, row in islice(rows.read_pass(0, seed, 1), _LOOKED_AT)]
    table = RowTable(first, rows.source, rows.roots)
    name = layout or recognise(table)
    check_first_samples(GroundingDataset(table, name, options), strict=not skip_invalid)
    choice = Choice(kinds, roles, skip_invalid)
    return GroundingStream(rows, name, options, epoch_size, None if choice == Choice() else choice, seed, window)


def _options(path: str, frames_root: str | None = None, source: str | None = None, **declared: Any) -> ReadOptions:
    return ReadOptions(frames=FrameRoots(frames_root), source=source or Path(path.rstrip("/\\")).stem, **declared)


__all__ = ["WINDOW", "Choice", "GroundingStream", "open_grounding_stream"]
