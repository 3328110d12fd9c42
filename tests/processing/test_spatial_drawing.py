"""Drawing: marks sit on the right pixels, the original stays, every size works."""

import numpy as np
import pytest
from PIL import Image

from processing_st4vla.spatial import Box, GroundingResult, Point, Trace
from processing_st4vla.spatial_drawing import PALETTE

GREY = (128, 128, 128)


def blank(size: tuple[int, int]) -> Image.Image:
    return Image.new("RGB", size, GREY)


def colour_at(picture: Image.Image, xy: tuple[float, float]) -> tuple[int, int, int]:
    """The colour of the pixel that holds the position `xy`."""
    return picture.getpixel((int(xy[0]), int(xy[1])))


def near(colour: tuple[int, int, int], expected: tuple[int, int, int], tolerance: int = 24) -> bool:
    return max(abs(a - b) for a, b in zip(colour, expected, strict=True)) <= tolerance


def centre_of(picture: Image.Image, colour: tuple[int, int, int]) -> tuple[float, float]:
    """The continuous centre of all pixels of about this colour."""
    pixels = np.asarray(picture).astype(int)
    rows, columns = np.nonzero(np.abs(pixels - colour).max(axis=-1) < 24)
    return columns.mean() + 0.5, rows.mean() + 0.5


@pytest.mark.parametrize("size", [(640, 480), (1920, 1080), (4096, 3000)])
def test_points_are_centred_on_their_position(size: tuple[int, int]) -> None:
    xy = (size[0] * 0.41, size[1] * 0.63)
    picture = GroundingResult((Point(xy, ""),), image_size=size).draw(blank(size), scale=1)
    assert picture.size == size
    assert near(colour_at(picture, xy), PALETTE[0])
    # without its number the mark alone is symmetric
    left, top = int(xy[0]) - size[0] // 60, int(xy[1]) - size[1] // 90
    mark = picture.crop((left, top, left + 2 * (size[0] // 60) + 1, int(xy[1]) + size[1] // 60))
    x, y = centre_of(mark, PALETTE[0])
    assert abs(x + left - xy[0]) < 1.5
    assert abs(y + top - xy[1]) < size[1] / 200


def test_boxes_are_outlined_on_their_edges_and_empty_inside() -> None:
    size = (640, 480)
    picture = GroundingResult(boxes=(Box((200, 150, 420, 330), "cup"),), image_size=size).draw(blank(size))
    for xy in [(200, 240), (420, 240), (310, 330), (300, 150)]:
        around = [colour_at(picture, (xy[0] + dx, xy[1] + dy)) for dx in (-2, -1, 0, 1) for dy in (-2, -1, 0, 1)]
        assert any(near(colour, PALETTE[0]) for colour in around), xy
    assert colour_at(picture, (310, 240)) == GREY
    assert colour_at(picture, (100, 400)) == GREY
    x, _ = centre_of(picture.crop((0, 200, 640, 300)), PALETTE[0])
    assert abs(x - 310) < 1


def test_a_trace_runs_from_pale_to_full_colour_with_an_arrow() -> None:
    size = (640, 480)
    trace = Trace(((100, 240), (300, 240), (540, 240)), None)
    picture = GroundingResult(traces=(trace,), image_size=size).draw(blank(size))
    assert near(colour_at(picture, (100, 240)), PALETTE[0])  # the dot in the ring at the start
    assert near(colour_at(picture, (103, 240)), (255, 255, 255), 40)
    distances = [
        max(abs(a - b) for a, b in zip(colour_at(picture, (x, 240)), PALETTE[0], strict=True))
        for x in (120, 200, 400, 500)
    ]
    assert distances == sorted(distances, reverse=True)
    assert distances[0] > 100 > 40 > distances[-1]
    columns = [np.asarray(picture)[:, x] for x in (531, 536, 400)]
    widths = [int((np.abs(column.astype(int) - GREY).max(axis=-1) > 40).sum()) for column in columns]
    assert widths[0] > widths[1] > 0  # the head narrows towards the tip
    assert widths[0] > widths[2]
    assert colour_at(picture, (546, 240)) == GREY


def test_labels_share_colours_and_numbers_follow_the_order() -> None:
    size = (640, 480)
    result = GroundingResult((Point((100, 300), "a"), Point((300, 300), "b"), Point((500, 300), "a")), image_size=size)
    picture = result.draw(blank(size))
    assert [near(colour_at(picture, p.xy), PALETTE[i]) for p, i in zip(result.points, (0, 1, 0), strict=True)]
    assert not near(PALETTE[0], PALETTE[1], 60)


@pytest.mark.parametrize("size", [(28, 28), (224, 224), (40, 3000), (4096, 28), (1, 1), (513, 513)])
def test_every_size_and_odd_labels(size: tuple[int, int]) -> None:
    width, height = size
    odd = ["", "a" * 300, "日本語 😀\x00\n<b>", "\u202e", None, "\ud800"]
    result = GroundingResult(
        tuple(Point((width * i / 5, height * i / 5), label) for i, label in enumerate(odd)),
        (Box((0, 0, width, height), "all"), Box((0, 0, width / 1000, height / 1000))),
        (Trace(((0, 0), (0, 0)), "still"), Trace(((0, 0), (width, height), (0, height))), Trace(((0, 0), (1e-9, 0)))),
        image_size=size,
    )
    picture = result.draw(blank(size))
    scale = picture.width // width
    assert picture.size == (width * scale, height * scale)
    assert max(picture.size) >= 512
    assert scale == 1 or max(size) * (scale - 1) < 512
    assert result.draw(blank(size), scale=1).size == size


def test_the_original_is_not_touched() -> None:
    for mode in ("RGB", "RGBA", "L", "P", "1"):
        image = blank((640, 480)).convert(mode)
        before = image.tobytes()
        picture = GroundingResult((Point((100, 100)),), image_size=(640, 480)).draw(image)
        assert image.tobytes() == before
        assert image.mode == mode
        assert picture.mode == "RGB"
        assert picture is not image
    empty = GroundingResult(image_size=(640, 480)).draw(blank((640, 480)))
    assert empty.tobytes() == blank((640, 480)).tobytes()


def test_small_images_are_enlarged_around_their_content() -> None:
    picture = GroundingResult((Point((168, 56)),), image_size=(224, 224)).draw(blank((224, 224)))
    assert picture.size == (672, 672)
    assert near(colour_at(picture, (504, 168)), PALETTE[0])


def test_many_items_stay_quick() -> None:
    points = tuple(Point((i % 640, i // 640 * 3), f"label {i % 7}") for i in range(1000))
    path = tuple((float(i % 640), float(i * 7 % 480)) for i in range(5000))
    GroundingResult(points, (), (Trace(path),), image_size=(640, 480)).draw(blank((640, 480)))


def test_errors() -> None:
    result = GroundingResult(image_size=(640, 480))
    with pytest.raises(ValueError, match=r"`image` has the size \(480, 640\)"):
        result.draw(blank((480, 640)))
    for bad in (0, -1, 1.5):
        with pytest.raises(ValueError, match="`scale` must be a positive integer or None"):
            result.draw(blank((640, 480)), scale=bad)
