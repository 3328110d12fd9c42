"""Every dialect writes what it reads: property tests from 28 x 28 to 4096 x 3000 pixels, with honest bounds."""

import json
import math
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processing_st4vla.spatial import DIALECTS, Box, GroundingResult, Point, Trace, smart_resize

SETTINGS = settings(max_examples=100, deadline=None)
HALF_A_PIXEL = 0.5
RELATIVE = ("qwen3_vl", "gemini", "robopoint", "molmo", "molmoact")

Size = tuple[int, int]

sizes = st.one_of(
    st.tuples(st.integers(28, 4096), st.integers(28, 3000)),
    st.sampled_from([(28, 28), (4096, 3000), (4096, 28), (28, 3000), (224, 224), (640, 480), (1920, 1080)]),
)
# any text that is not white space at its ends; Florence-2 labels stay clear of tags
labels = st.none() | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
plain_labels = st.none() | st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=12)


shares = st.floats(0, 1)


def coordinates(limit: int) -> st.SearchStrategy[float]:
    return st.floats(0, limit) | st.integers(0, limit).map(float)


@st.composite
def results(draw: st.DrawFn, dialect: str, thinnest: Callable[[Size], float] = lambda size: 1.0) -> GroundingResult:
    """A result with only what the dialect can carry; boxes are at least `thinnest(size)` pixels wide and high."""
    size = draw(sizes)
    width, height = size
    kinds = DIALECTS[dialect].kinds
    xy = st.tuples(coordinates(width), coordinates(height))
    label = plain_labels if dialect == "florence2" else labels
    label = st.none() if dialect in ("robopoint", "molmoact") else label

    def boxes() -> st.SearchStrategy[Box]:
        thin = thinnest(size)
        sides = [
            st.tuples(shares, shares).map(lambda ab, n=n: (ab[0] * (n - thin), ab[0] * (n - thin) + thin, n, ab[1]))
            for n in size
        ]
        spans = [side.map(lambda s: (s[0], min(s[1] + s[3] * (s[2] - s[1]), s[2]))) for side in sides]
        return st.builds(lambda x, y, text: Box((x[0], y[0], x[1], y[1]), text), *spans, label)

    def some(items: st.SearchStrategy, kind: str) -> tuple:
        return tuple(draw(st.lists(items, max_size=3))) if kind in kinds else ()

    traces = some(st.builds(Trace, st.lists(xy, min_size=2, max_size=6).map(tuple), label), "trace")
    if dialect == "robopoint" and traces:  # a RoboPoint text holds traces or the rest
        return GroundingResult(traces=traces, image_size=size)
    points = some(st.builds(Point, xy, label), "point")
    return GroundingResult(points, some(boxes(), "box"), traces, image_size=size)


def reread(result: GroundingResult, dialect: str, model_size: Size | None, text: str) -> GroundingResult:
    kind = "trace" if dialect == "robopoint" and result.traces else "auto"
    again = GroundingResult.from_text(text, dialect, image_size=result.image_size, model_size=model_size, kind=kind)
    assert again.rejected == ()
    assert again.raw_text == text
    for name in ("points", "boxes", "traces"):
        ours, theirs = getattr(result, name), getattr(again, name)
        assert [item.label for item in ours] == [item.label for item in theirs]
    return again


def positions(result: GroundingResult) -> list[tuple[float, float]]:
    corners = [xy for box in result.boxes for xy in (box.xyxy[:2], box.xyxy[2:])]
    return [point.xy for point in result.points] + corners + [xy for t in result.traces for xy in t.points]


def largest_error(result: GroundingResult, again: GroundingResult) -> float:
    pairs = zip(positions(result), positions(again), strict=True)
    return max((math.dist(a, b) for a, b in pairs), default=0.0)


@pytest.mark.parametrize("dialect", RELATIVE)
@given(data=st.data())
@SETTINGS
def test_relative_dialects_keep_half_a_pixel(dialect: str, data: st.DataObject) -> None:
    result = data.draw(results(dialect))
    text = result.to_text(dialect)
    assert text == result.to_text(dialect)
    again = reread(result, dialect, None, text)
    assert largest_error(result, again) < HALF_A_PIXEL
    assert DIALECTS[dialect].rounding_error(result.image_size) < HALF_A_PIXEL


@given(data=st.data())
@SETTINGS
def test_qwen2_5_vl_keeps_half_a_pixel_with_decimals(data: st.DataObject) -> None:
    result = data.draw(results("qwen2_5_vl"))
    model_size = smart_resize(result.image_size)
    text = result.to_text("qwen2_5_vl", model_size=model_size, decimals=3)
    again = reread(result, "qwen2_5_vl", model_size, text)
    assert largest_error(result, again) < HALF_A_PIXEL


def whole_pixel(size: Size) -> float:
    """Side in original pixels of one pixel of the image that Qwen2.5-VL sees."""
    model_size = smart_resize(size)
    return max(1.0, size[0] / model_size[0], size[1] / model_size[1])


@given(result=results("qwen2_5_vl", whole_pixel))
@SETTINGS
def test_qwen2_5_vl_whole_pixels_are_those_of_the_resized_image(result: GroundingResult) -> None:
    """The default, as these models were trained: half a pixel of the resized image."""
    model_size = smart_resize(result.image_size)
    text = result.to_text("qwen2_5_vl", model_size=model_size)
    json.loads(text, parse_float=pytest.fail)  # integers only
    bound = DIALECTS["qwen2_5_vl"].rounding_error(result.image_size, model_size)
    assert bound == pytest.approx(
        math.hypot(result.image_size[0] / model_size[0], result.image_size[1] / model_size[1]) / 2
    )
    assert largest_error(result, reread(result, "qwen2_5_vl", model_size, text)) <= bound + 1e-6


@given(result=results("florence2", lambda size: max(1.0, max(size) / 1000)))
@SETTINGS
def test_florence2_keeps_half_a_bin(result: GroundingResult) -> None:
    """1000 bins cannot do better; below half a pixel only up to about 700 x 700 pixels."""
    bound = DIALECTS["florence2"].rounding_error(result.image_size)
    assert bound == pytest.approx(math.hypot(*result.image_size) / 2000)
    again = reread(result, "florence2", None, result.to_text("florence2"))
    assert largest_error(result, again) <= bound + 1e-6


@pytest.mark.parametrize("dialect", [name for name, spec in DIALECTS.items() if "box" in spec.kinds])
@given(data=st.data())
@SETTINGS
def test_thin_boxes_never_vanish(dialect: str, data: st.DataObject) -> None:
    """A box thinner than one step is written one step wide, and still touches the box that was meant."""
    size = data.draw(sizes)
    x, y = data.draw(coordinates(size[0] - 1)), data.draw(coordinates(size[1] - 1))
    box = Box((x, y, x + data.draw(st.floats(1e-6, 0.5)), y + data.draw(st.floats(1e-6, 0.5))))
    model_size = smart_resize(size)
    result = GroundingResult(boxes=(box,), image_size=size)
    again = reread(result, dialect, model_size, result.to_text(dialect, model_size=model_size))
    step = 2 * DIALECTS[dialect].rounding_error(size, model_size)
    assert largest_error(result, again) <= 1.5 * step + 1e-6


@pytest.mark.parametrize("dialect", DIALECTS)
@given(data=st.data())
@SETTINGS
def test_writing_what_was_read_changes_nothing(dialect: str, data: st.DataObject) -> None:
    """Text → result → text is the identity on texts that we write, so golden texts are stable."""
    result = data.draw(results(dialect, lambda size: max(size) / 200 + 1))
    model_size = smart_resize(result.image_size)
    text = result.to_text(dialect, model_size=model_size)
    assert reread(result, dialect, model_size, text).to_text(dialect, model_size=model_size) == text


@pytest.mark.parametrize("dialect", DIALECTS)
@given(data=st.data())
@SETTINGS
def test_a_cut_off_text_keeps_only_complete_items(dialect: str, data: st.DataObject) -> None:
    """Any prefix gives a prefix of the items, nothing invented, and says what is missing."""
    result = data.draw(results(dialect, lambda size: max(size) / 200 + 1))
    model_size = smart_resize(result.image_size)
    text = result.to_text(dialect, model_size=model_size)
    cut = text[: data.draw(st.integers(0, len(text) - 1))]
    kind = "trace" if dialect == "robopoint" and result.traces else "auto"
    arguments = {"image_size": result.image_size, "model_size": model_size, "kind": kind}
    full = GroundingResult.from_text(text, dialect, **arguments)
    partial = GroundingResult.from_text(cut, dialect, **arguments)
    for name in ("points", "boxes", "traces"):
        found = getattr(partial, name)
        assert found == getattr(full, name)[: len(found)]
    between_items = partial.to_text(dialect, model_size=model_size) == cut.strip()
    assert between_items or partial.rejected or len(positions(partial)) == len(positions(full))


@given(result=results("qwen2_5_vl"), text=st.text(max_size=40))
@SETTINGS
def test_dictionaries_and_json_are_exact(result: GroundingResult, text: str) -> None:
    noisy = GroundingResult.from_text(text + "[[-5, 5, 10, 10]]", "qwen3_vl", image_size=result.image_size)
    for original in (result, noisy):
        assert GroundingResult.from_dict(original.to_dict()) == original
        assert GroundingResult.from_dict(json.loads(json.dumps(original.to_dict()))) == original
