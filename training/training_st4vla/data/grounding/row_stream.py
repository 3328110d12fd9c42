"""Rows of a grounding dataset that are read as they come, from JSON lines, parquet or the Hub."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training_st4vla.data.errors import DataError, explain
from training_st4vla.data.grounding.rows import (
    Row,
    choose_split,
    files_by_split,
    find_splits,
    format_of,
    open_parquet,
    roots_of,
    undecoded,
    unreachable,
)

BLOCK = 256


@dataclass(frozen=True)
class RowStream:
    """Rows that are read as they come. Can be pickled; nothing is open between passes.

    Args:
        source: Path or Hub id.
        files: Of the chosen split, of one format; empty: on the Hub.
        roots: As in `RowTable`.
        split, revision: On the Hub.
        max_rows: Read only the first so many.
    """

    source: str
    files: tuple[Path, ...] = ()
    roots: tuple[Path, ...] = ()
    split: str | None = None
    revision: str | None = None
    max_rows: int | None = None

    def read_pass(self, number: int, seed: int, window: int) -> Iterator[tuple[str, Row]]:
        """Place and content of each row, shuffled among `window` at a time; another order for each number."""
        rows = self._open()
        if self.max_rows is not None:
            rows = rows.take(self.max_rows)
        rows = rows.shuffle(seed=seed, buffer_size=window)
        rows.set_epoch(number)
        # In batches: plain iteration would deal out files between the workers of a data loader.
        for columns in rows.iter(BLOCK):
            for values in zip(*columns.values(), strict=True):
                row = dict(zip(columns, values, strict=True))
                yield (row["where"], row["row"]) if self._is_json else (f"{self.source}, streamed", row)

    @property
    def _is_json(self) -> bool:
        return bool(self.files) and self.files[0].suffix != ".parquet"

    def _open(self) -> Any:
        import datasets

        if self._is_json:
            return datasets.IterableDataset.from_generator(_placed_rows, gen_kwargs={"files": list(self.files)})
        if self.files:
            return open_parquet(list(self.files), self.source, streaming=True)
        try:
            table = datasets.load_dataset(self.source, split=self.split, revision=self.revision, streaming=True)
            return undecoded(table)
        except Exception as error:
            raise unreachable(self.source, error) from error


def open_row_stream(
    path: str | Path, split: str | None = None, *, revision: str | None = None, max_rows: int | None = None
) -> RowStream:
    """Finds rows to read as they come: `.jsonl` or `.parquet` files, or a Hub dataset. See `open_rows`.

    Raises:
        DataError: Nothing is there, the split is missing or must be chosen, or the data cannot be read in parts.
    """
    source = Path(path).expanduser()
    if not source.exists():
        splits = find_splits(path, revision=revision)
        name = choose_split(splits, split, path)
        return RowStream(str(path), split=name, revision=revision, max_rows=max_rows)
    saved = (source / "dataset_dict.json").is_file() or (source / "state.json").is_file()
    folder = source.parent if source.is_file() else source
    groups = {"all": [source]} if source.is_file() else {} if saved else files_by_split(source, str(path))
    files = groups[choose_split(groups, split, path)] if groups else []
    if not files or format_of(files, str(path)) not in (".jsonl", ".parquet"):
        raise DataError(
            explain(
                "The dataset cannot be read as a stream",
                where=str(path),
                expected=".jsonl or .parquet files, or a Hub dataset",
                found="a folder of Dataset.save_to_disk" if saved else ", ".join(file.name for file in files[:3]),
                remedy="Leave `stream` out: a saved dataset is not read into memory. Write JSON as lines.",
            )
        )
    return RowStream(str(path), tuple(files), roots_of(files, folder), max_rows=max_rows)


def _placed_rows(files: list[Path]) -> Iterator[dict[str, Any]]:
    for file in files:
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines):
                if line.strip():
                    yield {"where": f"{file}, line {number + 1}", "row": _json_object(line, file, number)}


def _json_object(line: str, file: Path, number: int) -> Row:
    try:
        row = json.loads(line)
        if not isinstance(row, dict):
            raise TypeError(f"a {type(row).__name__}")
    except (ValueError, TypeError, RecursionError) as error:
        raise DataError(
            explain(
                "A data file cannot be read",
                where=f"{file}, line {number + 1}",
                expected="one JSON object per line",
                found=f"{type(error).__name__}: {error}",
                remedy="Copy or write it again.",
            )
        ) from error
    return row


__all__ = ["RowStream", "open_row_stream"]
