"""Coordinate maps: exact at the corners, inverse, composable, and Qwen's own resize rule."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processing_st4vla.spatial import PER_MILLE, PERCENT, UNIT, CoordinateMap, smart_resize

sizes = st.tuples(st.integers(28, 4096), st.integers(28, 3000))
small_sizes = st.tuples(st.integers(1, 4096), st.integers(1, 4096))
shares = st.floats(0, 1)
SETTINGS = settings(max_examples=200, deadline=None)


@st.composite
def maps(draw: st.DrawFn) -> CoordinateMap:
    size, other = draw(small_sizes), draw(small_sizes)
    kind = draw(st.sampled_from(["resize", "letterbox", "relative", "pad", "crop", "smart_resize"]))
    if kind == "resize":
        return CoordinateMap.resize(size, other)
    if kind == "letterbox":
        return CoordinateMap.letterbox(size, other)
    if kind == "relative":
        return CoordinateMap.relative(size, draw(st.sampled_from([UNIT, PERCENT, PER_MILLE, 255.0])))
    if kind == "pad":
        return CoordinateMap.pad(size, *other)
    if kind == "smart_resize":
        return CoordinateMap.smart_resize((max(size), max(size) // 3 + 1), draw(st.sampled_from([28, 32])))
    x, y = draw(st.floats(-500, 500)), draw(st.floats(-500, 500))
    return CoordinateMap.crop((x, y, x + other[0], y + other[1]))


@SETTINGS
@given(maps(), shares, shares)
def test_inverse(mapping: CoordinateMap, u: float, v: float) -> None:
    x1, y1, x2, y2 = mapping.source
    xy = (x1 + u * (x2 - x1), y1 + v * (y2 - y1))
    assert mapping.inverse.point(mapping.point(xy)) == pytest.approx(xy, abs=1e-6)
    assert mapping.inverse.inverse == mapping


@SETTINGS
@given(maps())
def test_exact_at_the_corners(mapping: CoordinateMap) -> None:
    assert mapping.box(mapping.source) == pytest.approx(mapping.target, rel=0, abs=1e-9)
    if all(side == round(side) for side in (*mapping.source, *mapping.target)):
        assert mapping.box(mapping.source) == mapping.target


@SETTINGS
@given(maps(), maps(), shares, shares)
def test_then_is_one_after_the_other(first: CoordinateMap, second: CoordinateMap, u: float, v: float) -> None:
    x1, y1, x2, y2 = first.source
    xy = (x1 + u * (x2 - x1), y1 + v * (y2 - y1))
    expected = second.point(first.point(xy))
    scale = max(1.0, *map(abs, expected))
    assert first.then(second).point(xy) == pytest.approx(expected, abs=1e-8 * scale)


def test_positions_scale_without_a_half_pixel_shift() -> None:
    mapping = CoordinateMap.resize((640, 480), (644, 476))
    assert mapping.point((320, 240)) == (322, 238)
    assert mapping.point((640, 480)) == (644, 476)
    assert mapping.points([(0, 0), (160, 120)]) == ((0, 0), (161, 119))


def test_relative_spaces() -> None:
    assert CoordinateMap.relative((640, 480), UNIT).point((160, 120)) == (0.25, 0.25)
    assert CoordinateMap.relative((640, 480), PERCENT).point((160, 120)) == (25, 25)
    assert CoordinateMap.relative((640, 480), PER_MILLE).box((160, 120, 640, 480)) == (250, 250, 1000, 1000)


def test_letterbox_keeps_the_shape_and_centres() -> None:
    mapping = CoordinateMap.letterbox((640, 480), (224, 224))
    assert mapping.target == (0, 28, 224, 196)
    assert mapping.point((320, 240)) == (112, 112)
    square = CoordinateMap.letterbox((640, 480), (640, 640))
    assert square == CoordinateMap.pad((640, 480), top=80)


@SETTINGS
@given(small_sizes, small_sizes)
def test_letterbox_fits(source: tuple[int, int], target: tuple[int, int]) -> None:
    x1, y1, x2, y2 = CoordinateMap.letterbox(source, target).target
    assert 0 <= x1 < x2 <= target[0]
    assert 0 <= y1 < y2 <= target[1]


def test_crop_then_resize() -> None:
    shown = CoordinateMap.crop((10, 20, 234, 244)).then(CoordinateMap.resize((224, 224), (448, 448)))
    assert shown.point((122, 132)) == (224, 224)
    assert shown.inverse.point((0, 0)) == (10, 20)


@pytest.mark.parametrize(
    ("size", "factor", "expected"),
    [
        ((224, 224), 28, (224, 224)),
        ((256, 256), 28, (252, 252)),
        ((640, 480), 28, (644, 476)),
        ((1920, 1080), 28, (1316, 728)),
        ((28, 28), 28, (56, 56)),
        ((640, 480), 32, (640, 480)),
        ((70, 4000), 28, (56, 4004)),
    ],
)
def test_smart_resize_known_sizes(size: tuple[int, int], factor: int, expected: tuple[int, int]) -> None:
    assert smart_resize(size, factor) == expected
    assert CoordinateMap.smart_resize(size, factor).target == (0, 0, *expected)


def test_smart_resize_agrees_with_transformers() -> None:
    qwen = pytest.importorskip("transformers.models.qwen2_vl.image_processing_qwen2_vl")
    rng = np.random.default_rng(0)
    for width, height in rng.integers(28, 4097, size=(2000, 2)).tolist():
        for factor, low, high in ((28, 3136, 1003520), (28, 3136, 12845056), (32, 65536, 16777216)):
            expected = qwen.smart_resize(height, width, factor, low, high)
            assert smart_resize((width, height), factor, low, high)[::-1] == tuple(expected)


def test_errors_name_the_argument() -> None:
    for bad in [(0, 4), (4,), (4, 4, 3), "ab", None, (4.5, 4), 7]:
        with pytest.raises(ValueError, match=r"`source_size` must be \(width, height\)"):
            CoordinateMap.resize(bad, (4, 4))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"`xyxy` must be .* x1 < x2"):
        CoordinateMap.crop((3, 0, 1, 2))
    with pytest.raises(ValueError, match="`target` must hold 4 finite numbers"):
        CoordinateMap((0, 0, 1, 1), (0, 0, math.nan, 1))
    with pytest.raises(ValueError, match="longer than 200 times"):
        smart_resize((10, 3000))
    with pytest.raises(ValueError, match="`factor`"):
        smart_resize((10, 30), factor=0)


def test_numpy_integers_are_sizes() -> None:
    size = tuple(np.array([640, 480]))
    assert CoordinateMap.resize(size, size).source == (0, 0, 640, 480)
