"""Exact statistics of actions and state over the selected frames, without decoding video."""

import json
import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np


class HasRawValues(Protocol):
    """What statistics need of a dataset."""

    def raw_actions(self) -> np.ndarray:
        """Actions of the selected frames, [N, A]."""
        ...

    def raw_state(self) -> np.ndarray | None:
        """State of the selected frames, [N, S], or None."""
        ...

    def fingerprint(self) -> str:
        """A name that changes with the data and the selection."""
        ...


def compute_statistics(dataset: HasRawValues, cache_dir: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """Statistics per dimension of the raw actions and state.

    Args:
        dataset: A `LeRobotActionDataset`.
        cache_dir: Folder in which the result is kept as JSON, under the dataset's fingerprint. None: nothing is kept.
            The dataset's own folder is never written to.

    Returns:
        `{"action": {...}, "state": {...} or None}`; each maps `q01`, `q99` (linear interpolation between samples),
        `min`, `max`, `mean`, `std` (population) to a list of floats, one per dimension, and `count` to the number of
        frames.

    Raises:
        DataError: A column is missing or holds values that are not finite.
    """
    path = None if cache_dir is None else Path(cache_dir) / f"statistics-{dataset.fingerprint()}.json"
    cached = _load(path)
    if cached is not None:
        return cached
    state = dataset.raw_state()
    result = {"action": summarize(dataset.raw_actions()), "state": None if state is None else summarize(state)}
    if path is not None:
        _save(path, result)
    return result


def summarize(values: np.ndarray) -> dict[str, Any]:
    """Statistics of `values` [N, D] along the first axis. See `compute_statistics` for the keys."""
    exact = values.astype(np.float64)
    q01, q99 = np.quantile(exact, [0.01, 0.99], axis=0)
    columns = {
        "q01": q01,
        "q99": q99,
        "min": exact.min(axis=0),
        "max": exact.max(axis=0),
        "mean": exact.mean(axis=0),
        "std": exact.std(axis=0),
    }
    return {**{name: column.tolist() for name, column in columns.items()}, "count": len(exact)}


def _load(path: Path | None) -> dict[str, Any] | None:
    if path is None or not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _save(path: Path, result: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(result, indent=1), encoding="utf-8")
    partial.replace(path)
