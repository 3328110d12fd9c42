"""The vocabulary of the tabletop: what can lie on it, how it is described, what is held out of training.

Lengths are metres. An item's pose is where it lies on the table: ``xy`` in the robot-base frame (x away from the
robot, y to the right as the front camera sees it) and ``yaw`` in radians about the vertical axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import hypot
from typing import Literal

Kind = Literal["object", "container", "zone"]

COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.82, 0.10, 0.10),
    "green": (0.10, 0.60, 0.18),
    "blue": (0.10, 0.25, 0.85),
    "yellow": (0.95, 0.82, 0.08),
    "purple": (0.50, 0.14, 0.65),
    "orange": (0.97, 0.47, 0.05),
    "white": (0.93, 0.93, 0.93),
    "pink": (0.98, 0.50, 0.70),
}
SIZES: dict[str, float] = {"small": 0.019, "large": 0.027}
"""Half of an object's nominal edge, in metres."""

MATERIALS: tuple[str, ...] = ("plastic", "wooden", "metal")


@dataclass(frozen=True)
class Part:
    """One primitive geom of a shape, in units of the item's half-edge (containers and zones: metres)."""

    geom: Literal["box", "cylinder", "sphere", "ellipsoid"]
    size: tuple[float, ...]
    position: tuple[float, float, float] = (0.0, 0.0, 0.0)
    yaw: float = 0.0


@dataclass(frozen=True)
class Shape:
    """Geometry of a shape and what the robot may do with it.

    Attributes:
        parts: Primitives in the shape's own frame (origin at its centre; containers and zones: at the table).
        half_height: Half of its vertical extent.
        radius: Radius of the circle around its footprint.
        grasp_width: Half-width between the fingers when they close along the shape's own y axis.
        symmetry: Rotation (rad) about the vertical after which the grasp is the same; 0 for round shapes.
        flat: Whether it stands still under another object and stays where it is set down.
    """

    parts: tuple[Part, ...]
    half_height: float
    radius: float
    grasp_width: float = 0.0
    symmetry: float = 0.0
    flat: bool = True


_QUARTER, _HALF = 1.5707963267948966, 3.141592653589793


def _walls(half: float, height: float, thickness: float = 0.004) -> tuple[Part, ...]:
    z = height / 2
    along_x = tuple(Part("box", (half, thickness, z), (0.0, sign * half, z)) for sign in (-1, 1))
    along_y = tuple(Part("box", (thickness, half, z), (sign * half, 0.0, z)) for sign in (-1, 1))
    return along_x + along_y


def _ring(radius: float, height: float, sides: int = 10, thickness: float = 0.004) -> tuple[Part, ...]:
    from math import cos, pi, sin, tan

    half = radius * tan(pi / sides) + thickness / 2
    angles = (2 * pi * i / sides for i in range(sides))
    return tuple(
        Part("box", (thickness, half, height / 2), (radius * cos(a), radius * sin(a), height / 2), a) for a in angles
    )


SHAPES: dict[str, Shape] = {
    "cube": Shape((Part("box", (1, 1, 1)),), 1.0, 1.41, 1.0, _QUARTER),
    "cylinder": Shape((Part("cylinder", (0.9, 1.15)),), 1.15, 0.9, 0.9),
    "ball": Shape((Part("sphere", (1,)),), 1.0, 1.0, 1.0, flat=False),
    "brick": Shape((Part("box", (1.6, 0.8, 0.75)),), 0.75, 1.79, 0.8, _HALF),
    "puck": Shape((Part("cylinder", (1.2, 0.6)),), 0.6, 1.2, 1.2),
    "cross": Shape((Part("box", (1.4, 0.5, 0.7)), Part("box", (0.5, 1.4, 0.7))), 0.7, 1.49, 1.4, _QUARTER),
    "pillar": Shape((Part("box", (0.75, 0.75, 1.4)),), 1.4, 1.06, 0.75, _QUARTER),
    "egg": Shape((Part("ellipsoid", (1.35, 0.9, 0.9)),), 0.9, 1.35, 0.9, _HALF, flat=False),
    "plate": Shape((Part("cylinder", (0.07, 0.004), (0, 0, 0.004)),), 0.004, 0.07),
    "tray": Shape((Part("box", (0.058, 0.058, 0.003), (0, 0, 0.003)), *_walls(0.058, 0.020)), 0.010, 0.085),
    "bowl": Shape((Part("cylinder", (0.058, 0.003), (0, 0, 0.003)), *_ring(0.058, 0.024)), 0.012, 0.065),
    "basket": Shape((Part("box", (0.066, 0.066, 0.003), (0, 0, 0.003)), *_walls(0.066, 0.032)), 0.016, 0.095),
    "zone": Shape((Part("cylinder", (0.06, 0.0004), (0, 0, 0.0004)),), 0.0004, 0.06),
}
TRAIN_SHAPES: tuple[str, ...] = ("cube", "cylinder", "ball", "brick", "puck")
UNSEEN_SHAPES: tuple[str, ...] = ("cross", "pillar", "egg")
SIMPLE_SHAPES: tuple[str, ...] = ("cube", "cylinder")
SIMPLE_COLORS: tuple[str, ...] = ("red", "green", "blue", "yellow")
CONTAINERS: tuple[str, ...] = ("plate", "tray", "bowl")
UNSEEN_CONTAINERS: tuple[str, ...] = ("basket",)
UNSEEN_PAIRS: frozenset[tuple[str, str]] = frozenset(
    {
        ("purple", "cube"),
        ("orange", "cylinder"),
        ("green", "ball"),
        ("pink", "brick"),
        ("yellow", "puck"),
        ("white", "cube"),
        ("blue", "cylinder"),
        ("red", "brick"),
    }
)
"""(colour, shape) pairs that no training episode shows; each colour and each shape is trained in other pairs."""

INNER_RADIUS: dict[str, float] = {"plate": 0.06, "tray": 0.05, "bowl": 0.05, "basket": 0.055, "zone": 0.05}
"""How far from a destination's centre an object's centre may lie to count as on or in it, in metres."""

FLOOR: dict[str, float] = {"plate": 0.008, "tray": 0.006, "bowl": 0.006, "basket": 0.006, "zone": 0.0}
"""Height of the surface an object rests on, in metres above the table."""


@dataclass(frozen=True)
class Item:
    """One thing on the table.

    Attributes:
        name: Body name in the simulation, unique in the scene.
        kind: ``object`` (can be moved), ``container`` or ``zone`` (a painted disc).
        shape, color, size, material: Words of the vocabulary; containers and zones are always large and plastic.
        xy: Where it lies at the start of the episode, metres, robot-base frame.
        yaw: Its rotation about the vertical at the start, radians.
        mentionable: Whether an instruction may refer to it (the added clutter of a split may not).
    """

    name: str
    kind: Kind
    shape: str
    color: str
    size: str = "large"
    material: str = "plastic"
    xy: tuple[float, float] = (0.0, 0.0)
    yaw: float = 0.0
    mentionable: bool = True

    @property
    def scale(self) -> float:
        """Metres per unit of the shape's geometry."""
        return SIZES[self.size] if self.kind == "object" else 1.0

    @property
    def geometry(self) -> Shape:
        """The shape's geometry, in units of :attr:`scale`."""
        return SHAPES[self.shape]

    @property
    def half_height(self) -> float:
        """Half of the vertical extent, metres."""
        return self.geometry.half_height * self.scale

    @property
    def radius(self) -> float:
        """Radius of the circle around the footprint, metres."""
        return self.geometry.radius * self.scale

    @property
    def label(self) -> str:
        """The full description used as the label of boxes and points, e.g. ``small wooden red cube``."""
        if self.kind != "object":
            return f"{self.color} {self.shape}"
        return f"{self.size} {self.material} {self.color} {self.shape}"

    def distance(self, other: Item) -> float:
        """Horizontal distance between the two centres at the start, metres."""
        return hypot(self.xy[0] - other.xy[0], self.xy[1] - other.xy[1])
