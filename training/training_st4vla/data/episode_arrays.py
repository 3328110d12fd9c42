"""The numbers of one episode in memory: actions, state, time and task, checked as they are read."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from training_st4vla.data.errors import DataError, explain
from training_st4vla.data.lerobot_metadata import Episode
from training_st4vla.data.readers import DatasetReader

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class EpisodeArrays:
    """The numeric columns of one episode.

    Args:
        actions: float32 [L, A], raw environment units.
        state: float32 [L, S], or None.
        timestamps: float64 [L], seconds from the start of the episode.
        task_index: int64 [L].
    """

    actions: np.ndarray
    state: np.ndarray | None
    timestamps: np.ndarray
    task_index: np.ndarray


class EpisodeStore:
    """Reads `EpisodeArrays`, keeping the most recently used episodes in memory.

    Args:
        reader: The dataset.
        action_keys: Columns joined into the action vector, in order.
        state_keys: Columns joined into the state vector, in order; may be empty.
        delta_dims: Action dimensions that become their difference from the frame before; row 0 of these is 0 and
            stands for nothing.
        max_episodes: Number of episodes kept.
    """

    def __init__(
        self,
        reader: DatasetReader,
        action_keys: Sequence[str],
        state_keys: Sequence[str],
        delta_dims: Sequence[int] = (),
        max_episodes: int = 256,
    ) -> None:
        self.reader = reader
        self.action_keys = list(action_keys)
        self.state_keys = list(state_keys)
        self.delta_dims = list(delta_dims)
        self.max_episodes = max_episodes
        self._arrays: OrderedDict[int, EpisodeArrays] = OrderedDict()

    def __getitem__(self, episode: Episode) -> EpisodeArrays:
        """Return the arrays of an episode.

        Raises:
            DataError: A column is missing, has the wrong width, holds NaN or infinity, or the length is wrong.
        """
        arrays = self._arrays.get(episode.index)
        if arrays is None:
            arrays = self._arrays[episode.index] = self._read(episode)
            while len(self._arrays) > self.max_episodes:
                self._arrays.popitem(last=False)
        self._arrays.move_to_end(episode.index)
        return arrays

    def _read(self, episode: Episode) -> EpisodeArrays:
        features = self.reader.info.features
        keys = [*self.action_keys, *self.state_keys, "task_index"]
        has_time = "timestamp" in features
        table = self.reader.table(episode, list(dict.fromkeys([*keys, *(["timestamp"] if has_time else [])])))
        self._check_length(table.num_rows, episode)
        joined = {
            name: np.concatenate([self._column(table, key, episode) for key in group], axis=1) if group else None
            for name, group in (("actions", self.action_keys), ("state", self.state_keys))
        }
        actions: Any = joined["actions"]
        moved = actions[:, self.delta_dims]
        actions[:, self.delta_dims] = np.diff(moved, axis=0, prepend=moved[:1])
        if has_time:
            timestamps = self._column(table, "timestamp", episode, dtype=np.float64)[:, 0]
        else:
            timestamps = np.arange(episode.length) / self.reader.info.fps
        task_index = self._column(table, "task_index", episode, dtype=np.int64)[:, 0]
        self._check_tasks(task_index, episode)
        return EpisodeArrays(actions, joined["state"], timestamps, task_index)  # pyright: ignore[reportArgumentType]

    def _column(self, table: "pa.Table", key: str, episode: Episode, dtype: Any = np.float32) -> np.ndarray:
        feature = self.reader.info.features.get(key)
        dim = feature.dim if feature is not None else 1
        return column_to_array(table, key, dim, dtype=dtype, where=self._where(episode))

    def _check_length(self, rows: int, episode: Episode) -> None:
        if rows != episode.length:
            raise DataError(
                explain(
                    "An episode has the wrong length",
                    where=self._where(episode),
                    expected=f"{episode.length} frames, as its metadata says",
                    found=f"{rows} rows",
                    remedy="The data or metadata files are incomplete: copy them again, or leave the episode out with "
                    "--episodes.",
                )
            )

    def _check_tasks(self, task_index: np.ndarray, episode: Episode) -> None:
        for number in np.unique(task_index).tolist():
            if not self.reader.tasks.get(number, "").strip():
                raise DataError(
                    explain(
                        "Frames have no instruction",
                        where=f"{self._where(episode)}, task_index {number}",
                        expected="a non-empty text in the dataset's task list",
                        found=repr(self.reader.tasks.get(number, "no such task")),
                        remedy="Add the instruction to the task list, or leave the episode out with --episodes.",
                    )
                )

    def _where(self, episode: Episode) -> str:
        return f"dataset {self.reader.info.source}, episode {episode.index}"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_arrays": OrderedDict()}


def column_to_array(table: "pa.Table", key: str, dim: int, *, dtype: Any, where: str) -> np.ndarray:
    """Turn a column of numbers into an array of shape [L, dim].

    Scalars, one-element lists, lists and nested lists are all accepted, as LeRobot datasets write all of them.

    Args:
        table: Rows of one episode.
        key: Column name.
        dim: Number of values per row.
        dtype: numpy dtype of the result.
        where: Place named in errors.

    Raises:
        DataError: Values are missing, not numeric, not `dim` per row, or NaN or infinite.
    """
    import pyarrow as pa

    column = table.column(key).combine_chunks()
    flat = column.storage if isinstance(column, pa.ExtensionArray) else column
    rows = len(flat)
    try:
        while (
            pa.types.is_list(flat.type) or pa.types.is_large_list(flat.type) or pa.types.is_fixed_size_list(flat.type)
        ):
            widths = {len(value) if value is not None else 0 for value in flat} if flat.null_count else None
            if widths is not None:
                raise ValueError("empty cells")
            flat = flat.flatten()
        if flat.null_count:
            raise ValueError("empty cells")
        values = flat.to_numpy(zero_copy_only=False).astype(np.float64)
        if values.size != rows * dim or not _equal_widths(column, dim):
            raise ValueError(f"{values.size / max(rows, 1):.4g} values per frame on average")
    except (ValueError, TypeError, pa.ArrowException) as error:
        raise DataError(
            explain(
                "A column has the wrong content",
                where=f"{where}, {key}",
                expected=f"{dim} numbers per frame",
                found=f"{error} ({column.type})",
                remedy="The shape in meta/info.json and the data disagree: repair the dataset or choose other keys.",
            )
        ) from error
    array = values.reshape(rows, dim)
    _require_finite(array, key, where)
    return array.astype(dtype)


def _equal_widths(column: Any, dim: int) -> bool:
    """Whether every row of a plain list column has `dim` elements (nested lists are checked by their total only)."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
        return True
    if pa.types.is_nested(column.type.value_type):
        return True
    return bool(pc.all(pc.equal(pc.list_value_length(column), dim)).as_py())  # pyright: ignore[reportAttributeAccessIssue]


def _require_finite(array: np.ndarray, key: str, where: str) -> None:
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        frame, dimension = bad[0].tolist()
        raise DataError(
            explain(
                "A column holds values that are not finite",
                where=f"{where}, frame {frame}, {key}[{dimension}]",
                expected="finite numbers",
                found=f"{array[frame, dimension]} ({len(bad)} such values in the episode)",
                remedy="Repair these frames, or leave the episode out with --episodes.",
            )
        )
