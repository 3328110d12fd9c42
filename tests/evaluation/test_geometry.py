"""Overlaps and curve distances against hand computation and naive definitions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from training_st4vla.evaluation.geometry import (
    as_rows,
    box_iou,
    discrete_frechet,
    hausdorff,
    mask_to_float,
    mask_values,
    match_boxes,
    points_in_boxes,
    resample_by_arc_length,
    resample_by_index,
)

coordinate = st.floats(-1e3, 1e3, allow_nan=False).map(lambda v: round(v, 3))


def curves(max_size: int = 9) -> st.SearchStrategy:
    return st.integers(1, max_size).flatmap(lambda n: arrays(np.float64, (n, 2), elements=coordinate))


def naive_frechet(p: np.ndarray, q: np.ndarray) -> float:
    table = np.zeros((len(p), len(q)))
    for i in range(len(p)):
        for j in range(len(q)):
            before = [table[a, b] for a, b in ((i - 1, j), (i, j - 1), (i - 1, j - 1)) if a >= 0 and b >= 0]
            table[i, j] = max(np.hypot(*(p[i] - q[j])), min(before) if before else 0.0)
    return float(table[-1, -1])


def test_iou_by_hand() -> None:
    iou = box_iou([[0, 0, 10, 10], [0, 0, 4, 2]], [[5, 5, 15, 15], [0, 0, 10, 10], [20, 20, 30, 30]])
    np.testing.assert_allclose(iou, [[25 / 175, 1, 0], [0, 8 / 100, 0]], atol=1e-12, rtol=0)


def test_iou_of_boxes_without_area_is_zero() -> None:
    flat, swapped, whole = [3, 3, 3, 8], [8, 8, 2, 2], [0, 0, 10, 10]
    np.testing.assert_array_equal(box_iou([flat, swapped, flat], [whole, swapped, flat]), np.zeros((3, 3)))
    np.testing.assert_array_equal(box_iou([[0, 0, 1, 1]], [[1, 0, 2, 1]]), [[0.0]])


@given(arrays(np.float64, (3, 4), elements=coordinate), arrays(np.float64, (2, 4), elements=coordinate))
def test_iou_is_symmetric_and_bounded(a: np.ndarray, b: np.ndarray) -> None:
    iou = box_iou(a, b)
    assert ((iou >= 0) & (iou <= 1 + 1e-12)).all()
    np.testing.assert_array_equal(iou, box_iou(b, a).T)
    np.testing.assert_allclose(iou, box_iou(a + 7.0, b + 7.0), atol=1e-6)


def test_matching_takes_the_best_pair_first_and_each_box_once() -> None:
    iou = np.array([[0.6, 0.9], [0.8, 0.7], [0.0, 0.0]])
    assert match_boxes(iou) == [(0, 1), (1, 0)]
    assert match_boxes(np.full((2, 2), 0.5)) == [(0, 0), (1, 1)]
    assert match_boxes(np.zeros((0, 3))) == []


def test_points_in_boxes_include_edges() -> None:
    inside = points_in_boxes([[0, 0], [10, 5], [10.01, 5], [25, 25]], [[0, 0, 10, 10], [20, 20, 30, 30]])
    assert inside.tolist() == [True, True, False, True]


def test_mask_values_look_up_the_pixel() -> None:
    mask = mask_to_float(np.array([[0, 255], [128, 64]], dtype=np.uint8))
    points = [[0.0, 0.0], [1.99, 0.5], [0.5, 1.0], [2.0, 0.0], [-0.5, 0.0], [0.0, 2.0]]
    np.testing.assert_allclose(mask_values(points, mask), [0, 1, 128 / 255, 0, 0, 0], atol=1e-12)
    assert mask_values([[-0.5, 1.0]], mask, truncate=True).tolist() == [128 / 255]


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.ones((2, 2), dtype=np.uint8), "0 and 1"),
        (np.zeros((2, 2), dtype=bool), "empty"),
        (np.full((2, 2), 2.0), r"\[0, 1\]"),
        (np.full((2, 2), np.nan), r"\[0, 1\]"),
        (np.ones((2, 2), dtype=np.int64), "int64"),
        (np.ones((2, 2, 3), dtype=bool), "H, W"),
    ],
)
def test_doubtful_masks_are_refused(mask: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mask_to_float(mask)


def test_arc_length_resampling_ignores_how_vertices_are_spread() -> None:
    corner = [[0, 0], [30, 0], [30, 40]]
    crowded = [[0, 0], [1, 0], [2, 0], [2, 0], [30, 0], [30, 39], [30, 40], [30, 40]]
    first = resample_by_arc_length(corner, 8)
    np.testing.assert_allclose(first, resample_by_arc_length(crowded, 8), atol=1e-12)
    np.testing.assert_allclose(first, [[0, 0], [10, 0], [20, 0], [30, 0], [30, 10], [30, 20], [30, 30], [30, 40]])


def test_index_resampling_depends_on_it() -> None:
    np.testing.assert_allclose(resample_by_index([[0, 0], [10, 0], [100, 0]], 5)[:, 0], [0, 5, 10, 55, 100])


def test_a_standing_curve_repeats_its_point() -> None:
    np.testing.assert_array_equal(resample_by_arc_length([3.0, 4.0], 3), [[3, 4]] * 3)
    np.testing.assert_array_equal(resample_by_arc_length([[3, 4], [3, 4]], 3), [[3, 4]] * 3)


@given(curves(), st.integers(2, 40))
def test_resampling_keeps_the_ends(curve: np.ndarray, n: int) -> None:
    for resample in (resample_by_arc_length, resample_by_index):
        found = resample(curve, n)
        assert found.shape == (n, 2)
        np.testing.assert_allclose(found[[0, -1]], curve[[0, -1]], atol=1e-9)


@settings(max_examples=60)
@given(curves(), curves())
def test_curve_distances_equal_their_definitions(p: np.ndarray, q: np.ndarray) -> None:
    assert float(discrete_frechet(p, q)) == pytest.approx(naive_frechet(p, q), abs=1e-9)
    distance = np.linalg.norm(p[:, None] - q[None], axis=-1)
    naive = max(max(min(row) for row in distance), max(min(column) for column in distance.T))
    assert float(hausdorff(p, q)) == pytest.approx(naive, abs=1e-9)
    assert float(hausdorff(p, q)) <= float(discrete_frechet(p, q)) + 1e-9


def test_curve_distances_work_in_batches() -> None:
    rng = np.random.default_rng(0)
    p, q = rng.normal(size=(4, 6, 2)), rng.normal(size=(4, 5, 2))
    for distance in (discrete_frechet, hausdorff):
        np.testing.assert_array_equal(distance(p, q), [distance(a, b) for a, b in zip(p, q, strict=True)])


def test_frechet_sees_direction_and_hausdorff_does_not() -> None:
    line = np.array([[0.0, 0.0], [10.0, 0.0]])
    assert float(discrete_frechet(line, line[::-1])) == 10.0
    assert float(hausdorff(line, line[::-1])) == 0.0


def test_malformed_coordinates_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        as_rows([[np.inf, 0]], 2, "points")
    with pytest.raises(ValueError, match=r"\[n, 4\]"):
        as_rows([[1, 2, 3]], 4, "boxes")
    with pytest.raises(ValueError, match="at least one point"):
        resample_by_arc_length([], 3)
    with pytest.raises(ValueError, match="at least 2"):
        resample_by_arc_length([[0, 0]], 1)
    with pytest.raises(ValueError, match="Curves"):
        discrete_frechet(np.zeros((0, 2)), np.zeros((1, 2)))
