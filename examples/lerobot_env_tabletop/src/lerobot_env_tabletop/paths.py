"""A path by a few of its points."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

_FINE = 10
_STRAIGHT = 0.01  # pixels; no further off a line is on it


def corners(path: np.ndarray, number: int) -> np.ndarray:
    """A path by ``number`` of its points: both ends and those that, one after the other, are farthest off what the
    points so far draw (the order of Ramer, 1972, and of Douglas and Peucker, 1973, with a count for a tolerance).

    Args:
        path: Points ``[n, 2]``, at least two; with fewer than ``number``, ten evenly spaced along it are taken.
        number: How many, at least two.

    Returns:
        Points ``[number, 2]`` in the order of the path.
    """
    points = path if len(path) >= number else evenly(path, max(number, _FINE))
    chosen = [0, len(points) - 1]
    while len(chosen) < number:
        gaps = [(start, end) for start, end in pairwise(chosen) if end - start > 1]
        off = [_distances(points[start + 1 : end], points[start], points[end]) for start, end in gaps]
        widest = max(range(len(gaps)), key=lambda gap: float(off[gap].max()))
        turn = gaps[widest][0] + 1 + int(off[widest].argmax())
        if off[widest].max() < _STRAIGHT:  # no turn is left: the middle of what has most points
            start, end = max(gaps, key=lambda gap: gap[1] - gap[0])
            turn = (start + end) // 2
        chosen = sorted([*chosen, turn])
    return points[chosen]


def evenly(path: np.ndarray, number: int) -> np.ndarray:
    """A path ``[n, 2]`` by ``number`` points ``[number, 2]``, evenly spaced along it; both ends are kept exactly."""
    along = np.append(0.0, np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1)))
    targets = np.linspace(0.0, along[-1], number)
    return np.stack([np.interp(targets, along, path[:, axis]) for axis in (0, 1)], axis=-1)


def _distances(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """From each of ``[n, 2]`` to the line between two points."""
    line = end - start
    part = np.clip((points - start) @ line / max(float(line @ line), 1e-9), 0.0, 1.0)
    return np.linalg.norm(points - (start + part[:, None] * line), axis=1)


__all__ = ["corners", "evenly"]
