"""Boxes, points and curves in the image plane: overlaps, membership, distances.

Coordinates are pixels of the original image, x to the right and y down, origin at the top left corner; pixel i covers
[i, i + 1). All functions take arrays or nested lists and know nothing of models or parsers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]


def as_rows(values: ArrayLike, width: int, name: str) -> FloatArray:
    """Checks and shapes coordinates.

    Args:
        values (`ArrayLike`): Shape `[n, width]`, a single `[width]`, or empty.
        width (`int`): 2 for points, 4 for boxes.
        name (`str`): What to call it in an error.

    Returns:
        `np.ndarray` of shape `[n, width]`, float64.

    Raises:
        ValueError: for another shape, or a coordinate that is not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        return np.zeros((0, width))
    if array.shape == (width,):
        array = array[None]
    if array.ndim != 2 or array.shape[1] != width:
        raise ValueError(f"{name}: expected shape [n, {width}], found {list(array.shape)}.")
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: coordinates must be finite.")
    return array


def box_iou(first: ArrayLike, second: ArrayLike) -> FloatArray:
    """Intersection over union of every pair of boxes, on continuous coordinates (no `+ 1` pixel).

    Args:
        first (`ArrayLike` of shape `[n, 4]`), second (`ArrayLike` of shape `[m, 4]`): Boxes `x1, y1, x2, y2`. A box
            whose corners are swapped or that has no area overlaps nothing.

    Returns:
        `np.ndarray` of shape `[n, m]` in [0, 1].
    """
    a, b = as_rows(first, 4, "boxes"), as_rows(second, 4, "boxes")
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    intersection = np.clip(high - low, 0.0, None).prod(axis=-1)
    union = box_area(a)[:, None] + box_area(b)[None, :] - intersection
    return np.divide(intersection, union, out=np.zeros_like(intersection), where=intersection > 0)


def box_area(boxes: FloatArray) -> FloatArray:
    """Areas of boxes `[n, 4]`; zero where corners are swapped."""
    return np.clip(boxes[:, 2:] - boxes[:, :2], 0.0, None).prod(axis=-1)


def match_boxes(iou: FloatArray) -> list[tuple[int, int]]:
    """Greedy one-to-one matching: the best remaining pair first, each box at most once, pairs with IoU 0 never.

    Ties go to the lower row, then to the lower column, so that the result does not depend on the platform.

    Args:
        iou (`np.ndarray` of shape `[n, m]`): Predictions against references.

    Returns:
        `list[tuple[int, int]]`: (prediction, reference) in the order of falling IoU.
    """
    rows, columns = np.nonzero(iou > 0)
    order = np.lexsort((columns, rows, -iou[rows, columns]))
    used_rows: set[int] = set()
    used_columns: set[int] = set()
    pairs: list[tuple[int, int]] = []
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if row in used_rows or column in used_columns:
            continue
        used_rows.add(row)
        used_columns.add(column)
        pairs.append((row, column))
    return pairs


def points_in_boxes(points: ArrayLike, boxes: ArrayLike) -> NDArray[np.bool_]:
    """Whether each point lies in at least one box, edges included.

    Args:
        points (`ArrayLike` of shape `[n, 2]`), boxes (`ArrayLike` of shape `[m, 4]`).

    Returns:
        `np.ndarray` of shape `[n]`.
    """
    xy, corners = as_rows(points, 2, "points"), as_rows(boxes, 4, "boxes")
    above = xy[:, None] >= corners[None, :, :2]
    below = xy[:, None] <= corners[None, :, 2:]
    return np.asarray((above & below).all(axis=-1).any(axis=-1))


def mask_to_float(mask: ArrayLike) -> FloatArray:
    """A mask as membership in [0, 1].

    Args:
        mask (`ArrayLike` of shape `[H, W]`): Boolean; or uint8 with 255 = inside (JPEG masks are soft at the edges);
            or float in [0, 1].

    Raises:
        ValueError: for another shape, type or range; for a uint8 mask of zeros and ones, which says not which scale it
            is on; and for a mask that is empty everywhere, which no point can hit.
    """
    array = np.asarray(mask)
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"A mask has shape [H, W], found {list(array.shape)}.")
    if array.dtype != np.bool_ and array.dtype != np.uint8 and not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"A mask is bool, uint8 (0 to 255) or float (0 to 1), found {array.dtype}.")
    if array.dtype == np.uint8 and array.max() == 1:
        raise ValueError("A uint8 mask is on the scale 0 to 255, but this one holds only 0 and 1: pass it as bool.")
    values = array.astype(np.float64) / (255.0 if array.dtype == np.uint8 else 1.0)
    if not ((values >= 0.0) & (values <= 1.0)).all():
        raise ValueError("A float mask lies in [0, 1].")
    if values.max() == 0.0:
        raise ValueError("The mask is empty: no point can be inside.")
    return values


def mask_values(points: ArrayLike, mask: FloatArray, *, truncate: bool = False) -> FloatArray:
    """Membership of each point: the value of the pixel that holds it, 0 outside the image.

    Args:
        points (`ArrayLike` of shape `[n, 2]`): Pixel coordinates; x = W and y = H are outside.
        mask (`np.ndarray` of shape `[H, W]`): From [`mask_to_float`].
        truncate (`bool`): Round towards zero as Python's `int()` does, so that (-1, 0) falls into pixel 0; the
            published scorers do this. Otherwise round down.

    Returns:
        `np.ndarray` of shape `[n]` in [0, 1].
    """
    xy = as_rows(points, 2, "points")
    height, width = mask.shape
    pixels = np.trunc(xy) if truncate else np.floor(xy)
    inside = np.asarray(((pixels >= 0) & (pixels < [width, height])).all(axis=1))
    columns, rows = np.where(inside[:, None], pixels, 0).astype(np.intp).T
    return np.where(inside, mask[rows, columns], 0.0)


# ---------------------------------------------------------------------------------------------------------------------
# Curves
# ---------------------------------------------------------------------------------------------------------------------


def resample_by_arc_length(curve: ArrayLike, num_points: int = 100) -> FloatArray:
    """Points at equal distances along a polyline, both ends included.

    Two polylines with the same shape give the same points however their vertices are spread; repeated vertices do not
    matter. A single vertex, or a curve of length zero, gives that vertex `num_points` times.

    Args:
        curve (`ArrayLike` of shape `[n, 2]`): n >= 1 vertices in order.
        num_points (`int`): At least 2.

    Returns:
        `np.ndarray` of shape `[num_points, 2]`.
    """
    xy = _curve(curve)
    _check_num_points(num_points)
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(xy, axis=0), axis=1))])
    keep = np.concatenate([[True], np.diff(length) > 0])
    wanted = np.linspace(0.0, length[-1], num_points)
    return np.stack([np.interp(wanted, length[keep], xy[keep, axis]) for axis in (0, 1)], axis=1)


def resample_by_index(curve: ArrayLike, num_points: int) -> FloatArray:
    """Points at equal steps of the vertex index, whatever the distances: what Embodied-R1's published scorer does.

    Args:
        curve (`ArrayLike` of shape `[n, 2]`): n >= 1 vertices in order.
        num_points (`int`): At least 2.

    Returns:
        `np.ndarray` of shape `[num_points, 2]`.
    """
    xy = _curve(curve)
    _check_num_points(num_points)
    wanted = np.linspace(0, len(xy) - 1, num_points)
    return np.stack([np.interp(wanted, np.arange(len(xy)), xy[:, axis]) for axis in (0, 1)], axis=1)


def discrete_frechet(first: ArrayLike, second: ArrayLike) -> FloatArray:
    """Discrete Fréchet distance: the shortest leash for two walkers that go through the points in order, never back.

    `c[i, j] = max(d(p_i, q_j), min(c[i-1, j], c[i-1, j-1], c[i, j-1]))`, filled along anti-diagonals.

    Source: T. Eiter, H. Mannila, "Computing discrete Fréchet distance", TU Wien CD-TR 94/64 (1994).

    Args:
        first (`ArrayLike` of shape `[..., n, 2]`), second (`ArrayLike` of shape `[..., m, 2]`): Curves, n, m >= 1,
            with the same leading axes.

    Returns:
        `np.ndarray` of shape `[...]`, in the unit of the coordinates.
    """
    distance = _distances(first, second)
    n, m = distance.shape[-2:]
    # Diagonals are indexed by the row i + 1; column 0 and cells outside the table stay infinite.
    before_last = np.full((*distance.shape[:-2], n + 1), np.inf)
    last = before_last.copy()
    before_last[..., 0] = -np.inf  # the cell before the start
    for diagonal in range(n + m - 1):
        i = np.arange(max(0, diagonal - m + 1), min(n - 1, diagonal) + 1)
        best = np.minimum(np.minimum(last[..., i + 1], last[..., i]), before_last[..., i])
        current = np.full_like(last, np.inf)
        current[..., i + 1] = np.maximum(distance[..., i, diagonal - i], best)
        before_last, last = last, current
    return last[..., n]


def hausdorff(first: ArrayLike, second: ArrayLike) -> FloatArray:
    """Symmetric Hausdorff distance between two point sets: the farthest that any point is from the other set.

    Source: D. Huttenlocher, G. Klanderman, W. Rucklidge, "Comparing images using the Hausdorff distance", IEEE PAMI 15
    (1993) 850-863.

    Args:
        first (`ArrayLike` of shape `[..., n, 2]`), second (`ArrayLike` of shape `[..., m, 2]`).

    Returns:
        `np.ndarray` of shape `[...]`, in the unit of the coordinates.
    """
    distance = _distances(first, second)
    return np.maximum(distance.min(axis=-1).max(axis=-1), distance.min(axis=-2).max(axis=-1))


def _distances(first: ArrayLike, second: ArrayLike) -> FloatArray:
    p, q = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if p.ndim < 2 or q.ndim < 2 or p.shape[-1] != 2 or q.shape[-1] != 2 or 0 in p.shape or 0 in q.shape:
        raise ValueError(f"Curves have shape [..., n, 2], n >= 1; found {list(p.shape)} and {list(q.shape)}.")
    return np.linalg.norm(p[..., :, None, :] - q[..., None, :, :], axis=-1)


def _curve(curve: ArrayLike) -> FloatArray:
    xy = as_rows(curve, 2, "curve")
    if len(xy) == 0:
        raise ValueError("curve: at least one point is needed.")
    return xy


def _check_num_points(num_points: int) -> None:
    if num_points < 2:
        raise ValueError(f"`num_points` must be at least 2, found {num_points}.")
