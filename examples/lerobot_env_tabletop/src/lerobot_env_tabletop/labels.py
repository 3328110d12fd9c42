"""Ground truth of a frame, from the simulator: what is visible where, what to grasp, where to put it, what is free.

Pixel coordinates are continuous: x to the right, y down, (0, 0) the outer corner of the top left pixel, so the pixel
in column c and row r covers [c, c + 1] x [r, r + 1] and its centre is (c + 0.5, r + 0.5). Boxes are
``(x1, y1, x2, y2)`` around what is visible, to half a pixel: what another thing hides is not in the box.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from .objects import FLOOR, Item
from .other_orders import OtherOrder
from .paths import evenly
from .projection import CameraPose, camera_pose
from .rendering import Renderer
from .scene import FINE, FLOOR_GEOM, TABLE_GEOM, WORKSPACE
from .simulation import Simulation
from .tasks import Goal, place_point

Point = tuple[float, float]
Box = tuple[float, float, float, float]
TRACE_POINTS = 10
"""Longest trace, in points; evenly spaced along the path as the camera sees it."""
_MIN_PIXELS = 1 / 6000
_FREE_MARGIN = 0.045
_OTHER, _TABLE = -1, -2  # what a label image says of pixels that show no item


@dataclass(frozen=True)
class Visible:
    """One item as one camera sees it.

    Attributes:
        item: The item.
        box: Box around its visible part, from a rendering of :data:`FINE` times the size.
        point: Centre of the visible pixel nearest to the middle of them all.
        pixels: Number of visible pixels.
    """

    item: Item
    box: Box
    point: Point
    pixels: int


@dataclass(frozen=True)
class OtherOrderLabels:
    """Ground truth of one camera's image for an order that the episode does not give.

    Attributes:
        order: The order.
        destination, trace: As of :class:`CameraLabels`, for this order.
    """

    order: OtherOrder
    destination: Point | None
    trace: np.ndarray | None


@dataclass
class CameraLabels:
    """Ground truth of one camera's image.

    Attributes:
        camera: Name of the camera.
        goal: What is being done, None when everything is.
        visible: All visible items, by item name.
        target: A point of the object to be moved, None when hidden.
        destination: The point it has to go to, None when hidden.
        free: Points of the table with nothing near them.
        free_region: Box around the largest empty disc of the table, None when partly hidden.
        trace: Path of the tool point from this frame to the end of the current order, ``[n, 2]``; None when a part of
            it is outside the image. Filled in when the episode is over.
        others: Of other orders that could be given here.
    """

    camera: str
    goal: Goal | None = None
    visible: dict[str, Visible] = field(default_factory=dict)
    target: Point | None = None
    destination: Point | None = None
    free: list[Point] = field(default_factory=list)
    free_region: Box | None = None
    trace: np.ndarray | None = None
    others: list[OtherOrderLabels] = field(default_factory=list)

    @property
    def target_box(self) -> Box | None:
        """Box of the object to be moved, None when hidden."""
        return self._box(self.goal.target) if self.goal is not None else None

    @property
    def destination_box(self) -> Box | None:
        """Box of the (first) thing it has to go to, None when hidden."""
        return self._box(self.goal.destinations[0]) if self.goal is not None else None

    def _box(self, name: str) -> Box | None:
        return self.visible[name].box if name in self.visible else None


@dataclass(frozen=True)
class _View:
    """A segmentation with the means to ask about it; a pixel that shows several things belongs to none."""

    labels: np.ndarray
    table: np.ndarray
    pose: CameraPose
    items: tuple[Item, ...]

    def pixel(self, point: np.ndarray) -> tuple[int, int] | None:
        """Row and column under a projected point, None outside the image."""
        if not np.isfinite(point).all() or not bool(self.pose.contains(point)):
            return None
        return int(point[1]), int(point[0])

    def in_item(self, index: int, point: np.ndarray) -> Point | None:
        """The point if it lies in the item's visible part, else the centre of the nearest pixel that does."""
        pixel = self.pixel(point)
        if pixel is not None and self.labels[pixel] == index:
            return float(point[0]), float(point[1])
        rows, columns = np.nonzero(self.labels == index)
        if not len(rows) or not np.isfinite(point).all():
            return None
        best = int(np.argmin((columns + 0.5 - point[0]) ** 2 + (rows + 0.5 - point[1]) ** 2))
        return float(columns[best]) + 0.5, float(rows[best]) + 0.5

    def on_table(self, point: np.ndarray) -> bool:
        pixel = self.pixel(point)
        return pixel is not None and bool(self.table[pixel])


def _whole_pixels(fine: np.ndarray) -> np.ndarray:
    """From a label image of :data:`FINE` times the size to one of the size; other where a pixel shows several."""
    first = fine[::FINE, ::FINE]
    alike = np.ones(first.shape, bool)
    for row, column in np.ndindex(FINE, FINE):  # whole images at a time are fast
        alike &= fine[row::FINE, column::FINE] == first
    return np.where(alike, first, _OTHER)


def _places(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Label, row and column of the pixels that show an item."""
    flat = labels.ravel()
    at = np.flatnonzero(flat >= 0)
    rows, columns = np.divmod(at, labels.shape[1])
    return flat[at], rows, columns


def visible_items(labels: np.ndarray, whole: np.ndarray, items: tuple[Item, ...]) -> dict[str, Visible]:
    """Visible boxes from a label image.

    Args:
        labels: ``[FINE * H, FINE * W]``, the index into ``items`` of what each fine pixel shows, negative for anything
            else. A sharp corner may cover no pixel's centre: boxes of whole pixels miss it by more than a pixel.
        whole: ``[H, W]``, the same of the pixels that show one thing alone.
        items: The scene's items.
    """
    shown, rows, columns = _places(labels)
    shown_whole, rows_whole, columns_whole = _places(whole)
    pixels = np.bincount(shown, minlength=len(items)) / FINE**2
    found: dict[str, Visible] = {}
    for index in np.nonzero(pixels >= max(6, labels.size / FINE**2 * _MIN_PIXELS))[0]:
        mine = shown == index
        x, y = columns[mine], rows[mine]
        edges = (x.min(), y.min(), x.max() + 1, y.max() + 1)
        box: Box = tuple(float(edge) / FINE for edge in edges)  # type: ignore[assignment]
        mine = shown_whole == index
        if not mine.any():  # a sliver that fills no pixel: nothing to point at
            continue
        x, y = columns_whole[mine] + 0.5, rows_whole[mine] + 0.5
        middle = int(np.argmin((x - x.mean()) ** 2 + (y - y.mean()) ** 2))
        point = (float(x[middle]), float(y[middle]))
        found[items[index].name] = Visible(items[index], box, point, round(float(pixels[index])))
    return found


def _free_grid() -> np.ndarray:
    (x0, x1), (y0, y1) = WORKSPACE
    x, y = np.meshgrid(np.linspace(x0, x1, 7), np.linspace(y0, y1, 10), indexing="ij")
    return np.stack([x.ravel(), y.ravel(), np.zeros(x.size)], axis=-1)


class Labeler:
    """Labels the frames of one running episode.

    Args:
        simulation: The running episode.
        renderer: Its renderer; label images have its size.
        rng: Picks which of the free points are reported.
    """

    def __init__(self, simulation: Simulation, renderer: Renderer, rng: np.random.Generator) -> None:
        self._sim, self._renderer = simulation, renderer
        self._items = simulation.episode.scene.items
        model = simulation.model
        by_body = np.full(model.nbody, _OTHER, np.int16)
        for index, item in enumerate(self._items):
            by_body[simulation.body_id(item.name)] = index
        self._by_geom = np.append(by_body[model.geom_bodyid], np.int16(_OTHER))  # the last entry is for geom id -1
        self._by_geom[model.geom(TABLE_GEOM).id] = _TABLE
        self._hides_nothing = {model.geom(FLOOR_GEOM).id}
        self._grid = _free_grid()
        self._order = rng.permutation(len(self._grid))
        self._radii = np.array([item.radius for item in self._items])

    def label(self, camera: str, goal: Goal | None, others: Sequence[OtherOrder] = ()) -> CameraLabels:
        """Labels the view last given to ``renderer.update``, which must be that of ``camera``.

        Args:
            camera: Name of the camera.
            goal: What is being done; None leaves target and destination out.
            others: Orders that could be given here instead.
        """
        labels = self._renderer.segmentation(FINE, self._by_geom, self._hides_nothing)
        pose = camera_pose(self._sim.model, self._sim.data, camera, self._renderer.size)
        whole = _whole_pixels(labels)
        view = _View(whole, whole == _TABLE, pose, self._items)
        result = CameraLabels(camera, goal, visible_items(labels, whole, self._items))
        positions = self._sim.positions()
        if goal is not None:
            result.target = self._target(view, result, goal, positions)
            result.destination = self._destination(view, result, goal, positions)
        for other in others:
            destination = self._destination(view, result, other.goal, positions)
            result.others.append(OtherOrderLabels(other, destination, trace_in_view(pose, other.path)))
        self._free_space(view, result, positions)
        return result

    def _index(self, name: str) -> int:
        return next(index for index, item in enumerate(self._items) if item.name == name)

    def _target(self, view: _View, result: CameraLabels, goal: Goal, positions: dict[str, np.ndarray]) -> Point | None:
        if goal.target not in result.visible:
            return None
        return view.in_item(self._index(goal.target), view.pose.project(positions[goal.target]))

    def _destination(
        self, view: _View, result: CameraLabels, goal: Goal, positions: dict[str, np.ndarray]
    ) -> Point | None:
        first = self._items[self._index(goal.destinations[0])]
        place = place_point(goal, self._sim.episode.scene, positions)
        if goal.action in ("put", "push", "stack"):
            height = positions[first.name][2] + first.half_height if goal.action == "stack" else FLOOR[first.shape]
            if first.name not in result.visible:
                return None
            return view.in_item(self._index(first.name), view.pose.project(np.array([*place[:2], height])))
        pixel = view.pose.project(np.array([*place[:2], 0.0]))
        return (float(pixel[0]), float(pixel[1])) if view.on_table(pixel) else None

    def _free_space(self, view: _View, result: CameraLabels, positions: dict[str, np.ndarray]) -> None:
        centres = np.stack([positions[item.name][:2] for item in self._items])
        apart = np.linalg.norm(self._grid[:, None, :2] - centres[None], axis=-1) - self._radii
        room = apart.min(axis=1)
        pixels = view.pose.project(self._grid)
        for index in self._order:
            if len(result.free) == 3:
                break
            if room[index] > _FREE_MARGIN and view.on_table(pixels[index]):
                result.free.append((float(pixels[index][0]), float(pixels[index][1])))
        best = int(np.argmax(room))
        angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
        disc = 0.9 * room[best] * np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=-1)
        rim = view.pose.project(self._grid[best] + disc)
        if room[best] > _FREE_MARGIN and all(view.on_table(pixel) for pixel in rim):
            low, high = rim.min(axis=0), rim.max(axis=0)
            result.free_region = (float(low[0]), float(low[1]), float(high[0]), float(high[1]))


def trace_in_view(pose: CameraPose, path: np.ndarray) -> np.ndarray | None:
    """The future path of the tool point as pixels, ``[n, 2]``, or None when a part of it is outside the image.

    Args:
        pose: The camera at the frame that is labelled.
        path: Tool points ``[m, 3]`` in metres, from that frame on; the first and the last are kept exactly.
    """
    pixels = pose.project(path)
    if len(path) < 2 or not bool(pose.contains(pixels).all()):
        return None
    return evenly(pixels, min(TRACE_POINTS, len(path)))
