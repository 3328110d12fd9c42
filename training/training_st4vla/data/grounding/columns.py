"""What is asked of every row of the grounding schema before training, computed on whole Arrow columns at once."""
# pyarrow makes the functions of `pyarrow.compute` when it is imported.
# pyright: reportAttributeAccessIssue=false

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

LENGTH_COLUMNS = ("kind", "instruction", "text", "answer", "points", "boxes", "traces", "labels")
_ITEM_CHARACTERS, _LABEL_CHARACTERS, _NUMBER_CHARACTERS = 17, 13, 5
_NUMBERS_OF_A_POINT = 2

IMAGE_COLUMNS = ("image", "dataset", "camera", "episode_index", "frame_index")


def schema_lengths(table: pa.Table) -> np.ndarray | None:
    """
    About how many characters question and answer of each row have: int64 `[rows]`.

    Args:
        table: `LENGTH_COLUMNS` of rows of the schema, as far as there are any.

    Returns:
        None where a column is of a type that the schema does not have.
    """
    try:
        text, answer = _texts(table, "text"), _texts(table, "answer")
        length = _texts(table, "instruction") + np.where(_is(table, "text"), np.where(text > 0, text, answer), 0)
        counts = np.zeros(len(table), dtype=np.int64)
        for kind, name in (("point", "points"), ("box", "boxes"), ("trace", "traces")):
            items = _lists(table, name)
            if items is None:
                continue
            asked, numbers = _is(table, kind), _sums(items, _counts(pc.list_flatten(items)))
            if kind == "trace":  # a list of points each
                numbers *= _NUMBERS_OF_A_POINT
            counts += np.where(asked, _counts(items), 0)
            length += np.where(asked, _NUMBER_CHARACTERS * numbers, 0)
        return length + _ITEM_CHARACTERS * counts + _labels(table, counts)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError):
        return None  # reading the rows one by one says which of them is wrong


def schema_images(table: pa.Table) -> np.ndarray | None:
    """
    Which image each row is about: int64 `[rows]`, equal where the image is, from 0 in order of appearance.

    Args:
        table: `IMAGE_COLUMNS` of rows of the schema, as far as there are any.

    Returns:
        None where only the content of images tells them apart.
    """
    image = table["image"].type if "image" in table.column_names else pa.null()
    if not (pa.types.is_string(image) or pa.types.is_null(image)):
        return None
    images = _codes(table, "image")
    named = images
    for name in IMAGE_COLUMNS[1:]:  # the place of a frame, where no file is named
        codes = np.where(images > 0, 0, _codes(table, name))
        named = np.unique(named * (codes.max(initial=0) + 1) + codes, return_inverse=True)[1].reshape(-1)
    _, first, inverse = np.unique(named, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse.reshape(-1)]


def schema_matches(table: pa.Table, wanted: Mapping[str, Collection[str]]) -> np.ndarray:
    """Rows of which every wanted column holds one of its values: bool `[rows]`; none where there is no such column."""
    kept = np.ones(len(table), dtype=bool)
    for name, values in wanted.items():
        if name not in table.column_names:
            return np.zeros(len(table), dtype=bool)
        words = pc.cast(table[name], pa.string())
        kept &= _numbers(pc.is_in(words, value_set=pa.array(sorted(values), pa.string()))).astype(bool)
    return kept


def as_table(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> pa.Table | None:
    """These columns of rows in memory; None where their values are not of one type each."""
    try:
        return pa.table({name: [row.get(name) for row in rows] for name in names})
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError):
        return None


def _codes(table: pa.Table, name: str) -> np.ndarray:
    """A number from 1 for each value of a column, 0 for none."""
    if name not in table.column_names:
        return np.zeros(len(table), dtype=np.int64)
    column = table[name].combine_chunks()
    return _numbers(pc.add(pc.cast(pc.index_in(column, pc.unique(column.drop_null())), pa.int64()), 1))


def _is(table: pa.Table, kind: str) -> np.ndarray:
    return _numbers(pc.equal(table["kind"], kind)).astype(bool)


def _texts(table: pa.Table, name: str) -> np.ndarray:
    if name not in table.column_names or pa.types.is_null(table[name].type):
        return np.zeros(len(table), dtype=np.int64)
    return _numbers(pc.utf8_length(table[name]))


def _lists(table: pa.Table, name: str) -> Any:
    """The column in one piece; None where there is none, or nothing in it. Raises `ArrowTypeError` for no lists."""
    if name not in table.column_names or pa.types.is_null(table[name].type):
        return None
    column = table[name].combine_chunks()
    if not hasattr(column.type, "value_type"):
        raise pa.ArrowTypeError(f"{name}: expected lists, found {column.type}")
    return None if pa.types.is_null(column.type.value_type) else column


def _labels(table: pa.Table, counts: np.ndarray) -> np.ndarray:
    """Characters of the labels of the first `counts` items of each row."""
    labels = _lists(table, "labels")
    if labels is None:
        return np.zeros(len(table), dtype=np.int64)
    rows, number = pc.list_parent_indices(labels).to_numpy(zero_copy_only=False), _counts(labels)
    place = np.arange(len(rows)) - np.repeat(np.cumsum(number) - number, number)
    length = _numbers(pc.utf8_length(pc.list_flatten(labels)))
    return _sums(labels, np.where((place < counts[rows]) & (length > 0), length + _LABEL_CHARACTERS, 0))


def _counts(lists: Any) -> np.ndarray:
    return _numbers(pc.list_value_length(lists))


def _sums(lists: Any, values: np.ndarray) -> np.ndarray:
    """Sum over each list of values that belong to its items."""
    rows = pc.list_parent_indices(lists).to_numpy(zero_copy_only=False)
    return np.bincount(rows, weights=values, minlength=len(lists)).astype(np.int64)


def _numbers(column: Any) -> np.ndarray:
    return pc.fill_null(pc.cast(column, pa.int64()), 0).to_numpy(zero_copy_only=False).copy()


__all__ = ["IMAGE_COLUMNS", "LENGTH_COLUMNS", "as_table", "schema_images", "schema_lengths", "schema_matches"]
