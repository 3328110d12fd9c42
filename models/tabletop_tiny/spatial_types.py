"""What lies on an image: points, boxes and traces, in pixels of the original image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .coordinates import XY, XYXY, Size, check_numbers, check_rectangle, check_xy
from .spatial_parsing import Kind


@dataclass(frozen=True, slots=True)
class Point:
    """A position.

    Args:
        xy (`tuple[float, float]`): `(x, y)` in pixels of the original image.
        label (`str`, *optional*): what is there.
        score (`float`, *optional*): a confidence, for callers that have one; texts do not carry it.

    Raises:
        ValueError: if a value has another type or is not finite.
    """

    xy: XY
    label: str | None = None
    score: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "xy", check_xy(self.xy, "xy"))
        _check_label(self.label)
        if self.score is not None:
            object.__setattr__(self, "score", check_numbers((self.score,), 1, "score")[0])


@dataclass(frozen=True, slots=True)
class Box:
    """An axis-aligned rectangle.

    Args:
        xyxy (`tuple[float, float, float, float]`): `(x1, y1, x2, y2)` in pixels of the original image, with `x1 < x2`
            and `y1 < y2`.
        label (`str`, *optional*): what it encloses.

    Raises:
        ValueError: if a value has another type or is not finite, or if the box is empty or inverted.
    """

    xyxy: XYXY
    label: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "xyxy", check_rectangle(self.xyxy, "xyxy"))
        _check_label(self.label)


@dataclass(frozen=True, slots=True)
class Trace:
    """An ordered path, such as the way of a gripper in the image.

    Args:
        points (`tuple[tuple[float, float], ...]`): `n >= 2` positions `(x, y)`, shape `[n, 2]`, in pixels of the
            original image, first to last.
        label (`str`, *optional*): what moves.

    Raises:
        ValueError: if a value has another type or is not finite, or if there are fewer than two points.
    """

    points: tuple[XY, ...]
    label: str | None = None

    def __post_init__(self) -> None:
        given = self.points if isinstance(self.points, Iterable) else ()
        points = tuple(check_xy(xy, f"points[{index}]") for index, xy in enumerate(given))
        if len(points) < 2:
            raise ValueError(f"`points` must hold at least two positions (x, y); got {self.points!r}.")
        object.__setattr__(self, "points", points)
        _check_label(self.label)


Item = Point | Box | Trace


def is_inside(values: Sequence[float], size: Size) -> bool:
    width, height = size
    return all(0 <= x <= width and 0 <= y <= height for x, y in in_pairs(values))


def in_pairs(values: Sequence[float]) -> list[XY]:
    return list(zip(values[::2], values[1::2], strict=True))


def flat_coordinates(item: Item) -> tuple[float, ...]:
    if isinstance(item, Point):
        return item.xy
    return item.xyxy if isinstance(item, Box) else tuple(value for xy in item.points for value in xy)


def kind_of(item: Item) -> Kind:
    if isinstance(item, Point):
        return "point"
    return "box" if isinstance(item, Box) else "trace"


def _check_label(label: str | None) -> None:
    """Raises `ValueError` unless the label is text or `None`."""
    if label is not None and not isinstance(label, str):
        raise ValueError(f"`label` must be a str or None; got {label!r}.")
