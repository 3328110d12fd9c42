"""Rows of a grounding dataset, from JSON, JSON lines, parquet, a saved Hugging Face dataset or the Hub."""

import json
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training_st4vla.data.errors import DataError, explain
from training_st4vla.data.grounding.columns import as_table

Row = dict[str, Any]

SUFFIXES = (".json", ".jsonl", ".parquet")
_SPLIT_WORDS = ("train", "val", "validation", "dev", "test", "testa", "testb", "location", "placement", "unseen")
_BLOCK = 256
_DEEPEST = 3
_LIST_KEYS = ("data", "annotations", "samples", "rows", "train", "test")


@dataclass(frozen=True)
class RowTable:
    """Rows with random access. Can be pickled.

    Args:
        rows: A list, or a `datasets.Dataset` whose images are not decoded.
        source: Path or Hub id, for errors and as the default of `source`.
        roots: Folders to which paths inside the rows may be relative: where the file is, and the folder that was
            given. Empty for the Hub.
    """

    rows: Any
    source: str
    roots: tuple[Path, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        return self.rows[index]

    def read(self, indices: Sequence[int]) -> Iterator[Row]:
        """These rows in this order, read in blocks: many times faster than one by one."""
        for start in range(0, len(indices), _BLOCK):
            block = indices[start : start + _BLOCK]
            if isinstance(self.rows, list):
                yield from (self.rows[index] for index in block)
            else:
                columns = self.rows[block]
                yield from (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))

    def where(self, index: int) -> str:
        """Place of a row, for errors."""
        return f"{self.source}, row {index}"

    def columns(self, names: Sequence[str]) -> Sequence[Row]:
        """The same rows with only these columns: counting and filtering does not touch image bytes."""
        if isinstance(self.rows, list):
            return self.rows
        return self.rows.select_columns([name for name in names if name in self.rows.column_names])

    def arrow(self, names: Sequence[str], indices: np.ndarray) -> Any:
        """The same columns of these rows as a `pyarrow.Table`; None where values of a column differ in type."""
        if isinstance(self.rows, list):
            return as_table([self.rows[index] for index in indices.tolist()], names)
        table = self.columns(names).with_format("arrow")[:]  # pyright: ignore[reportAttributeAccessIssue]
        every = len(indices) == len(table) and bool((indices == np.arange(len(table))).all())
        return table if every else table.take(indices)


def open_rows(path: str | Path, split: str | None = None, *, revision: str | None = None) -> RowTable:
    """Opens a local file or folder, or a Hub dataset. No code of the dataset is run.

    Args:
        path: A `.json` (a list of objects), `.jsonl` or `.parquet` file; a folder of them, or one written by
            `Dataset.save_to_disk`; or a Hub id.
        split: Which split, where there are several; see `find_splits`.
        revision: Hub revision.

    Raises:
        DataError: Nothing is there, the file is damaged or empty, or the split is missing or must be chosen.
    """
    splits = find_splits(path, revision=revision)
    table = splits[choose_split(splits, split, path)]()
    if not len(table):
        raise DataError(
            explain(
                "The dataset has no rows",
                where=str(path),
                expected="at least one row",
                found="none",
                remedy="Check that the file was written to its end.",
            )
        )
    return table


def choose_split(splits: Collection[str], split: str | None, path: str | Path) -> str:
    """The split that is named, or the only one. Raises `DataError` when there is no such split, or no only one."""
    if split is None and len(splits) > 1:
        raise DataError(
            explain(
                "The split must be chosen",
                where=str(path),
                expected="--split, one of " + ", ".join(splits),
                found="none",
                remedy="Name one.",
            )
        )
    name = split if split is not None else next(iter(splits))
    if name not in splits:
        raise DataError(
            explain(
                "There is no such split",
                where=str(path),
                expected="one of " + ", ".join(splits),
                found=repr(name),
                remedy="Change --split.",
            )
        )
    return name


def find_splits(path: str | Path, *, revision: str | None = None) -> dict[str, Callable[[], RowTable]]:
    """The splits of a dataset and how to open each.

    A single file is the split `all`. In a folder, files named after a split (`test.jsonl`, `data/train-00000.parquet`)
    belong to it, and files without such a name make up `all`.

    Raises:
        DataError: Nothing is there.
    """
    source = Path(path).expanduser()
    if source.is_file():
        return {"all": lambda: _open_files([source], source.parent, str(path))}
    if (source / "dataset_dict.json").is_file():
        names = _load_json(source / "dataset_dict.json").get("splits", [])
        return {str(name): lambda name=name: _open_saved(source / str(name), str(path)) for name in names}
    if (source / "state.json").is_file():
        return {"all": lambda: _open_saved(source, str(path))}
    if source.is_dir():
        return _folder_splits(source, str(path))
    return _hub_splits(str(path), revision)


def _folder_splits(folder: Path, source: str) -> dict[str, Callable[[], RowTable]]:
    groups = files_by_split(folder, source)
    return {name: lambda files=files: _open_files(files, folder, source) for name, files in groups.items()}


def files_by_split(folder: Path, source: str) -> dict[str, list[Path]]:
    """The data files of a folder by split; see `find_splits`. Raises `DataError` when there are none."""
    groups: dict[str, list[Path]] = {}
    for file in sorted(_data_files(folder, _DEEPEST)):
        groups.setdefault(_split_name(file, folder), []).append(file)
    if not groups:
        raise DataError(
            explain(
                "No dataset was found",
                where=source,
                expected="a .json, .jsonl or .parquet file, or a folder with such files",
                found="a folder without them",
                remedy="Give the file itself.",
            )
        )
    return groups


def _data_files(folder: Path, depth: int) -> Iterator[Path]:
    """Files of `SUFFIXES` in a folder and, `depth` levels down, below it: one look at each of a million images."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if depth > 1:
                    yield from _data_files(folder / entry.name, depth - 1)
            elif (
                entry.name.endswith(SUFFIXES) and not entry.name.startswith(".") and entry.name != "dataset_info.json"
            ):
                yield folder / entry.name


def _split_name(file: Path, folder: Path) -> str:
    words = [*file.relative_to(folder).parts[:-1], file.stem.split("-")[0].split(".")[0], file.stem.split("_")[-1]]
    return next((word for word in reversed(words) if word.lower() in _SPLIT_WORDS), "all")


def _open_files(files: list[Path], root: Path, source: str) -> RowTable:
    roots = roots_of(files, root)
    if format_of(files, source) == ".parquet":
        return RowTable(open_parquet(files, source), source, roots)
    rows = [row for file in files for row in _json_rows(file)]
    return RowTable(rows, source, roots)


def format_of(files: list[Path], source: str) -> str:
    """The suffix that all files of a split have. Raises `DataError` for several."""
    kinds = {file.suffix for file in files}
    if len(kinds) > 1:
        raise DataError(
            explain(
                "The folder mixes file formats",
                where=source,
                expected="files of one format per split",
                found=", ".join(sorted(kinds)),
                remedy="Give one file.",
            )
        )
    return kinds.pop()


def roots_of(files: list[Path], root: Path) -> tuple[Path, ...]:
    """Folders to which paths in the rows of files may be relative."""
    nearest = Path(os.path.commonpath([file.parent for file in files]))
    return tuple(dict.fromkeys((nearest, root)))


def _json_rows(path: Path) -> list[Row]:
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".jsonl":
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            rows = _rows_of(json.loads(text))
        bad = next((number for number, row in enumerate(rows) if not isinstance(row, dict)), None)
        if bad is not None:
            raise TypeError(f"row {bad} is a {type(rows[bad]).__name__}")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise DataError(
            explain(
                "A data file cannot be read",
                where=str(path),
                expected="one JSON object per line" if path.suffix == ".jsonl" else "a JSON list of objects",
                found=f"{type(error).__name__}: {error}",
                remedy="Copy or write it again.",
            )
        ) from error
    return rows


def _rows_of(content: Any) -> list[Row]:
    if isinstance(content, dict):
        lists = [content[key] for key in _LIST_KEYS if isinstance(content.get(key), list)]
        if len(lists) != 1:
            raise TypeError("one JSON object instead of a list")
        content = lists[0]
    if not isinstance(content, list):
        raise TypeError(f"a JSON {type(content).__name__}")
    return content


def open_parquet(files: list[Path], source: str, streaming: bool = False) -> Any:
    """A `datasets.Dataset`, or an `IterableDataset` when streaming, whose images are not decoded."""
    import datasets

    try:
        names = [str(file) for file in files]
        table = datasets.load_dataset("parquet", data_files=names, split="train", streaming=streaming)
    except Exception as error:
        raise DataError(
            explain(
                "A parquet file cannot be read",
                where=source,
                expected="intact parquet files with the same columns",
                found=_first_line(error),
                remedy="Copy or download them again.",
            )
        ) from error
    return undecoded(table)


def _open_saved(folder: Path, source: str) -> RowTable:
    import datasets

    try:
        table = datasets.load_from_disk(str(folder))
    except Exception as error:
        raise DataError(
            explain(
                "A saved dataset cannot be read",
                where=str(folder),
                expected="a folder written by Dataset.save_to_disk",
                found=_first_line(error),
                remedy="Copy or write it again.",
            )
        ) from error
    return RowTable(undecoded(table), source, (folder,))


def _hub_splits(name: str, revision: str | None) -> dict[str, Callable[[], RowTable]]:
    import datasets

    if name.count("/") != 1 or name.startswith((".", "/")) or name.endswith(SUFFIXES):
        raise DataError(
            explain(
                "No dataset was found",
                where=name,
                expected="a file or folder, or a Hub id of the form owner/name",
                found="nothing at this path",
                remedy="Check the path.",
            )
        )
    try:
        splits = datasets.get_dataset_split_names(name, revision=revision)
    except Exception as error:
        raise unreachable(name, error) from error
    return {str(split): lambda split=split: _open_hub(name, str(split), revision) for split in splits}


def _open_hub(name: str, split: str, revision: str | None) -> RowTable:
    import datasets

    try:
        return RowTable(undecoded(datasets.load_dataset(name, split=split, revision=revision)), name)
    except Exception as error:
        raise unreachable(name, error) from error


def undecoded(table: Any) -> Any:
    """Images stay encoded until they are used."""
    import datasets

    for column, feature in (table.features or {}).items():  # a stream of JSON does not know its own
        inner = getattr(feature, "feature", None)
        if isinstance(feature, datasets.Image):
            table = table.cast_column(column, datasets.Image(decode=False))
        elif isinstance(inner, datasets.Image):
            table = table.cast_column(column, datasets.List(datasets.Image(decode=False)))
    return table


def unreachable(name: str, error: Exception) -> DataError:
    """The error for a Hub dataset that cannot be opened."""
    return DataError(
        explain(
            "The dataset is neither a local path nor reachable on the Hub",
            where=name,
            expected="a file, a folder, or a public dataset repository",
            found=_first_line(error),
            remedy="Check the name, the network and your login (`hf auth login`), or download it and give the path.",
        )
    )


def _load_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            explain(
                "A saved dataset cannot be read",
                where=str(path),
                expected="a JSON object",
                found=str(error),
                remedy="Copy or write it again.",
            )
        ) from error


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0][:300] if text else ''}"


__all__ = [
    "SUFFIXES",
    "Row",
    "RowTable",
    "choose_split",
    "files_by_split",
    "find_splits",
    "format_of",
    "open_parquet",
    "open_rows",
    "roots_of",
    "undecoded",
    "unreachable",
]
