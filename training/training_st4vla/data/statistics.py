"""Statistics of actions and state over the selected frames, without decoding video: once, then from a cache."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

EXACT_NUMBERS = 2**26
"""Up to so many numbers per vector (256 MiB as float32) quantiles are exact; above, from a histogram."""

BINS = 2**16
"""Bins of that histogram between the exact minimum and maximum; the sample at a quantile's rank lies within one."""

_FORMAT = 2
_QUANTILES = (0.01, 0.99)


class HasValues(Protocol):
    """What statistics need of a dataset."""

    def values(self) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """Actions [n, A] and state [n, S] (or None) of the selected frames, piece by piece; the same every time."""
        ...

    def fingerprint(self) -> str:
        """A name that changes with the data and the selection."""
        ...


def default_cache() -> Path:
    """Folder of the cached statistics: `$ST4VLA_CACHE`, else `st4vla` in the Hugging Face home; never the dataset."""
    from huggingface_hub.constants import HF_HOME

    return Path(os.environ.get("ST4VLA_CACHE", os.path.join(HF_HOME, "st4vla"))) / "statistics"


def compute_statistics(
    datasets: HasValues | Sequence[HasValues], cache_dir: str | os.PathLike[str] | None = None
) -> dict[str, Any]:
    """Statistics per dimension of the raw actions and state of one dataset, or of several taken together.

    Args:
        datasets: `LeRobotActionDataset`s with the same dimensions.
        cache_dir: Folder in which the result is kept as JSON, under the datasets' fingerprint. None: nothing is kept.
            The dataset's own folder is never written to.

    Returns:
        `{"action": {...}, "state": {...} or None, "action_levels": [...]}`. The first two map `q01`, `q99` (linear
        interpolation between samples), `min`, `max`, `mean`, `std` (population) to a list of floats, one per
        dimension, `quantile_error` to the bound of the error of `q01` and `q99` (0: exact; above [`EXACT_NUMBERS`]
        they are the sample at that rank to within one of [`BINS`] bins), and `count` to the number of frames.
        `action_levels` holds the two values of each action dimension that has exactly two, else None.

    Raises:
        DataError: A column is missing or holds values that are not finite.
    """
    parts = list(datasets) if isinstance(datasets, Sequence) else [datasets]
    path = None if cache_dir is None else Path(cache_dir) / f"statistics-{_name(parts)}.json"
    cached = _load(path)
    if cached is not None:
        return cached

    def actions() -> Iterator[np.ndarray]:
        return (values for part in parts for values, _ in part.values())

    def states() -> Iterator[np.ndarray]:
        return (state for part in parts for _, state in part.values() if state is not None)

    summary, levels = summarize_pieces(actions)
    has_state = next(states(), None) is not None
    state = summarize_pieces(states)[0] if has_state else None
    result = {"action": summary, "state": state, "action_levels": levels}
    if path is not None:
        _save(path, result)
    return result


def summarize_pieces(
    pieces: Callable[[], Iterable[np.ndarray]],
) -> tuple[dict[str, Any], list[list[float] | None]]:
    """Statistics along the first axis of arrays [n, D] that `pieces` gives anew at each call, and two-valued levels.

    One pass finds count, extremes, mean, spread and levels, and keeps the values while they are few; only otherwise a
    second pass counts them into a histogram.
    """
    kept: list[np.ndarray] | None = []
    count, mean, squares, levels = 0, np.zeros(1), np.zeros(1), None
    low, high = np.full(1, np.inf), np.full(1, -np.inf)
    for piece in pieces():
        if not len(piece):
            continue
        values = piece.astype(np.float64)
        # Chan, Golub and LeVeque's update: no cancellation, whatever the offset of the values.
        total, shift = count + len(values), values.mean(axis=0) - mean
        squares = squares + ((values - values.mean(axis=0)) ** 2).sum(axis=0) + shift**2 * count * len(values) / total
        mean, count = mean + shift * len(values) / total, total
        low, high = np.minimum(low, values.min(axis=0)), np.maximum(high, values.max(axis=0))
        levels = _collect_levels(levels, piece)
        if kept is not None:
            kept.append(piece)
            if count * piece.shape[1] > EXACT_NUMBERS:
                kept = None
    if kept is not None:
        quantiles, error = _exact_quantiles(np.concatenate(kept)), np.zeros_like(low)
    else:
        quantiles, error = _histogram_quantiles(pieces(), low, high, count)
    columns = {
        "q01": quantiles[0],
        "q99": quantiles[1],
        "min": low,
        "max": high,
        "mean": mean,
        "std": np.sqrt(squares / count),
        "quantile_error": error,
    }
    found = [sorted(values) if len(values) == 2 else None for values in levels or []]
    return {**{name: column.tolist() for name, column in columns.items()}, "count": count}, found


def _exact_quantiles(values: np.ndarray) -> np.ndarray:
    # Column by column: a float64 copy of everything would double the memory.
    columns = [np.quantile(values[:, index].astype(np.float64), _QUANTILES) for index in range(values.shape[1])]
    return np.stack(columns, axis=1)


def _histogram_quantiles(
    pieces: Iterable[np.ndarray], low: np.ndarray, high: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    width = np.where(high > low, (high - low) / BINS, 1.0)
    counts = np.zeros((len(low), BINS), dtype=np.int64)
    for piece in pieces:
        slots = np.minimum(((piece.astype(np.float64) - low) / width).astype(np.int64), BINS - 1)
        for index in range(len(low)):
            counts[index] += np.bincount(slots[:, index], minlength=BINS)
    below = np.cumsum(counts, axis=1)
    slots = [[int(np.searchsorted(row, share * (count - 1), side="right")) for row in below] for share in _QUANTILES]
    middle = np.minimum(low + (np.array(slots) + 0.5) * width, high)
    return np.where(high > low, middle, low), np.where(high > low, width, 0.0)


def _collect_levels(levels: list[set[float]] | None, values: np.ndarray) -> list[set[float]]:
    """Up to three distinct values per dimension: two are levels, three are too many."""
    levels = levels or [set() for _ in range(values.shape[1])]
    for index, seen in enumerate(levels):
        if len(seen) < 3:
            seen.update(np.unique(values[:, index])[:3].astype(float).tolist())
    return levels


def _name(parts: list[HasValues]) -> str:
    digest = hashlib.sha256(f"{_FORMAT}:{BINS}:{EXACT_NUMBERS}".encode())
    for part in parts:
        digest.update(part.fingerprint().encode())
    return digest.hexdigest()[:32]


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


__all__ = ["BINS", "EXACT_NUMBERS", "compute_statistics", "default_cache", "summarize_pieces"]
