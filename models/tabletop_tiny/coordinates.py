"""Coordinate spaces of an image and the exact maps between them.

Convention, the same everywhere in ST4VLA: coordinates are continuous, the origin is the top left corner of the image,
x runs right and y runs down. Pixel `i` covers the interval `[i, i + 1)`, so an image of width `w` spans `[0, w]` and
its centre is `w / 2`. A resize therefore maps a position by `x * new_width / old_width`, without any half-pixel shift.

Sizes are always `(width, height)`, in this order.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self, SupportsFloat

Size = tuple[int, int]
"""`(width, height)` in pixels."""
XY = tuple[float, float]
"""A position `(x, y)`."""
XYXY = tuple[float, float, float, float]
"""A rectangle `(x1, y1, x2, y2)` with `x1 < x2` and `y1 < y2`."""

UNIT = 1.0
PERCENT = 100.0
PER_MILLE = 1000.0

_MAX_ASPECT_RATIO = 200


def check_size(value: object, field: str) -> Size:
    """Returns `value` as a `(width, height)` tuple of positive `int`.

    Args:
        value (`Sequence[int]`): the size to check; numpy integers are accepted.
        field (`str`): the name of the argument, for the error message.

    Raises:
        ValueError: if `value` is not a pair of positive integers.
    """
    sides: list[int] = []
    if isinstance(value, Iterable):
        try:
            sides = [operator.index(side) for side in value]
        except TypeError:
            sides = []
    width, height = sides if len(sides) == 2 else (0, 0)
    if width < 1 or height < 1:
        raise ValueError(
            f"`{field}` must be (width, height) in pixels, two positive integers; got {value!r}. "
            "For a PIL image pass `image.size`; for an array of shape [height, width, 3] pass (width, height)."
        )
    return width, height


def check_numbers(values: object, count: int, field: str) -> tuple[float, ...]:
    """Returns `values` as a tuple of `count` finite `float`.

    Raises:
        ValueError: if there are not exactly `count` numbers, or if one is NaN or infinite.
    """
    numbers: tuple[float, ...] = ()
    if isinstance(values, Iterable) and not isinstance(values, str | bytes):
        try:
            numbers = tuple(_as_float(value) for value in values)
        except (TypeError, ValueError):
            numbers = ()
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise ValueError(f"`{field}` must hold {count} finite numbers; got {values!r}.")
    return numbers


def check_xy(value: object, field: str) -> XY:
    """Returns `value` as a position `(x, y)` of two finite `float`, or raises `ValueError`."""
    x, y = check_numbers(value, 2, field)
    return x, y


def check_rectangle(value: object, field: str) -> XYXY:
    """Returns `value` as a rectangle of four finite `float`.

    Raises:
        ValueError: if it is not one, or is empty or inverted.
    """
    x1, y1, x2, y2 = check_numbers(value, 4, field)
    if not (x1 < x2 and y1 < y2):
        raise ValueError(f"`{field}` must be (x1, y1, x2, y2) with x1 < x2 and y1 < y2; got {value!r}.")
    return x1, y1, x2, y2


def _as_float(value: SupportsFloat) -> float:
    if isinstance(value, str | bytes):
        raise ValueError(f"expected a number, got the text {value!r}")
    return float(value)


def smart_resize(
    size: Size, factor: int = 28, min_pixels: int = 56 * 56, max_pixels: int = 14 * 14 * 4 * 1280
) -> Size:
    """The size to which the Qwen image processors resize an image, by their own rounding rule.

    Both sides become multiples of `factor` (rounded to the nearest, halves to even), and the area is brought into
    `[min_pixels, max_pixels]` (rounded down from above, up from below).

    Args:
        size (`tuple[int, int]`): `(width, height)` of the original image.
        factor (`int`, *optional*, defaults to 28): patch size times merge size; 28 for Qwen2.5-VL, 32 for Qwen3-VL.
        min_pixels (`int`, *optional*, defaults to 3136): the image processor's `size["shortest_edge"]`.
        max_pixels (`int`, *optional*, defaults to 1003520): the image processor's `size["longest_edge"]`.

    Returns:
        `tuple[int, int]`: `(width, height)` of the image that the model sees.

    Raises:
        ValueError: if a limit is not a positive integer, or if one side is more than 200 times the other.
    """
    width, height = check_size(size, "size")
    if factor < 1 or min_pixels < 1 or max_pixels < min_pixels:
        raise ValueError(
            "`factor`, `min_pixels` and `max_pixels` must be positive, with min_pixels <= max_pixels; "
            f"got factor={factor}, min_pixels={min_pixels}, max_pixels={max_pixels}."
        )
    if max(width, height) / min(width, height) > _MAX_ASPECT_RATIO:
        raise ValueError(
            f"`size` must not be longer than {_MAX_ASPECT_RATIO} times its shorter side; got {(width, height)}."
        )
    new_width = round(width / factor) * factor
    new_height = round(height / factor) * factor
    if new_width * new_height > max_pixels:
        beta = math.sqrt((height * width) / max_pixels)
        new_width = max(factor, math.floor(width / beta / factor) * factor)
        new_height = max(factor, math.floor(height / beta / factor) * factor)
    elif new_width * new_height < min_pixels:
        beta = math.sqrt(min_pixels / (height * width))
        new_width = math.ceil(width * beta / factor) * factor
        new_height = math.ceil(height * beta / factor) * factor
    return new_width, new_height


@dataclass(frozen=True, slots=True)
class CoordinateMap:
    """A map from one coordinate space to another: the rectangle `source` lands exactly on the rectangle `target`.

    Resizing, padding, cropping and relative coordinates are all of this form. Maps are exact at the corners of the
    rectangles, compose with [`then`][CoordinateMap.then] and invert with [`inverse`][CoordinateMap.inverse]:

        shown = CoordinateMap.crop((10, 20, 234, 244)).then(CoordinateMap.resize((224, 224), (448, 448)))
        shown.point((122.0, 132.0))  # (224.0, 224.0)

    Args:
        source (`tuple[float, float, float, float]`): `(x1, y1, x2, y2)` in the space that the map reads.
        target (`tuple[float, float, float, float]`): where this rectangle lies in the space that the map writes.

    Raises:
        ValueError: if a rectangle is not finite, or is empty or inverted.
    """

    source: XYXY
    target: XYXY

    def __post_init__(self) -> None:
        object.__setattr__(self, "source", check_rectangle(self.source, "source"))
        object.__setattr__(self, "target", check_rectangle(self.target, "target"))

    @classmethod
    def resize(cls, source_size: Size, target_size: Size) -> Self:
        """Pixels of an image → pixels of the same image resized to `target_size` (each axis by its own factor)."""
        return cls(_full(source_size, "source_size"), _full(target_size, "target_size"))

    @classmethod
    def smart_resize(
        cls, size: Size, factor: int = 28, min_pixels: int = 56 * 56, max_pixels: int = 14 * 14 * 4 * 1280
    ) -> Self:
        """Pixels of an image → pixels of the image that a Qwen model sees. Arguments as in [`smart_resize`]."""
        return cls.resize(size, smart_resize(size, factor, min_pixels, max_pixels))

    @classmethod
    def letterbox(cls, source_size: Size, target_size: Size) -> Self:
        """Pixels of an image → pixels of a `target_size` canvas that holds it whole, undistorted and centred.

        The resized image has the sides `round(side * scale)`, at least 1, and its top left corner is at
        `(canvas - side) // 2`; `.target` is the rectangle to paste into. `target_size=(m, m)` with
        `m = max(source_size)` is the plain padding to a square.
        """
        width, height = check_size(source_size, "source_size")
        canvas_width, canvas_height = check_size(target_size, "target_size")
        scale = min(canvas_width / width, canvas_height / height)
        new_width = max(1, round(width * scale))
        new_height = max(1, round(height * scale))
        left, top = (canvas_width - new_width) // 2, (canvas_height - new_height) // 2
        return cls((0, 0, width, height), (left, top, left + new_width, top + new_height))

    @classmethod
    def pad(cls, size: Size, left: float = 0, top: float = 0) -> Self:
        """Pixels of an image → pixels of that image with `left` and `top` pixels of border added."""
        width, height = check_size(size, "size")
        return cls((0, 0, width, height), (left, top, left + width, top + height))

    @classmethod
    def crop(cls, xyxy: XYXY) -> Self:
        """Pixels of an image → pixels of the crop `(x1, y1, x2, y2)` of it."""
        x1, y1, x2, y2 = check_rectangle(xyxy, "xyxy")
        return cls((x1, y1, x2, y2), (0, 0, x2 - x1, y2 - y1))

    @classmethod
    def relative(cls, size: Size, extent: float) -> Self:
        """Pixels of an image → coordinates that run from 0 to `extent` on both axes.

        `extent` is [`UNIT`] (1), [`PERCENT`] (100), [`PER_MILLE`] (1000) or any other positive number.
        """
        return cls(_full(size, "size"), (0, 0, extent, extent))

    @property
    def inverse(self) -> Self:
        """The map back."""
        return type(self)(self.target, self.source)

    def then(self, other: CoordinateMap) -> Self:
        """The map that applies this one first and `other` to its result."""
        return type(self)(self.source, other.box(self.target))

    def point(self, xy: Sequence[float]) -> XY:
        """Maps one position `(x, y)`."""
        x, y = xy
        sx1, sy1, sx2, sy2 = self.source
        tx1, ty1, tx2, ty2 = self.target
        return (
            tx1 + (x - sx1) * (tx2 - tx1) / (sx2 - sx1),
            ty1 + (y - sy1) * (ty2 - ty1) / (sy2 - sy1),
        )

    def points(self, points: Iterable[Sequence[float]]) -> tuple[XY, ...]:
        """Maps `n` positions, an iterable of shape `[n, 2]`; their order is kept."""
        return tuple(self.point(xy) for xy in points)

    def box(self, xyxy: Sequence[float]) -> XYXY:
        """Maps a box `(x1, y1, x2, y2)` by its two corners."""
        x1, y1, x2, y2 = xyxy
        return *self.point((x1, y1)), *self.point((x2, y2))


def _full(size: Size, field: str) -> XYXY:
    width, height = check_size(size, field)
    return 0.0, 0.0, float(width), float(height)
