"""Drawing of points, boxes and traces on an image."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from .coordinates import XY, XYXY
    from .spatial import GroundingResult
    from .spatial_types import Box, Point, Trace

RGB = tuple[int, int, int]

# Okabe and Ito's colours, told apart with every kind of colour vision; black is left for the outlines
PALETTE: tuple[RGB, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
_WHITE: RGB = (255, 255, 255)
_BLACK: RGB = (0, 0, 0)

_READABLE_SIDE = 512
_SMOOTH_PIXELS = 4_000_000
_MAX_LABEL = 48
_MAX_CHIPS_KEPT_APART = 200
_GRADIENT_PIECES = 500


def draw_grounding(result: GroundingResult, image: Image.Image, scale: int | None = None) -> Image.Image:
    """Draws `result` on a copy of `image`; see `GroundingResult.draw`."""
    if image.size != result.image_size:
        raise ValueError(
            f"`image` has the size {image.size}, but the result belongs to an image of size {result.image_size}. "
            "Pass the original image, not the resized one; rotate it first if it has an EXIF orientation."
        )
    if scale is None:
        scale = max(1, math.ceil(_READABLE_SIDE / max(image.size)))
    if not isinstance(scale, int) or scale < 1:
        raise ValueError(f"`scale` must be a positive integer or None; got {scale!r}.")
    width, height = image.width * scale, image.height * scale
    picture = image.convert("RGB")
    picture = picture.resize((width, height), Image.Resampling.BICUBIC) if scale > 1 else picture.copy()
    smoothing = 2 if width * height <= _SMOOTH_PIXELS else 1
    overlay = _Overlay((width, height), scale, smoothing)
    overlay.draw(result)
    layer = overlay.layer.reduce(smoothing) if smoothing > 1 else overlay.layer
    picture.paste(layer, mask=layer.getchannel("A"))
    return picture


@dataclass
class _Overlay:
    """A transparent layer, drawn `smoothing` times larger than the picture."""

    size: tuple[int, int]
    scale: int
    smoothing: int
    colours: dict[str | None, RGB] = field(default_factory=dict)
    chips: list[XYXY] = field(default_factory=list)
    named: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        longest = max(self.size)
        self.stroke = max(2, round(longest / 300)) * self.smoothing
        self.font_size = max(13, min(longest / 48, min(self.size) / 5)) * self.smoothing
        self.font = ImageFont.load_default(self.font_size)
        self.layer = Image.new("RGBA", (self.size[0] * self.smoothing, self.size[1] * self.smoothing))
        self.pen = ImageDraw.Draw(self.layer)

    def draw(self, result: GroundingResult) -> None:
        for box in result.boxes:
            self._box(box)
        for trace in result.traces:
            self._trace(trace)
        for point in result.points:
            self._point(point)
        # chips last, so that nothing is drawn over a label
        for box in result.boxes:
            self._chip(box.label, self._place(box.xyxy[:2]), self.stroke, self._colour(box.label))
        for trace in result.traces:
            self._chip(trace.label, self._place(trace.points[0]), 4 * self.stroke, self._colour(trace.label))
        for number, point in enumerate(result.points, start=1):
            text = self._point_text(number, point.label)
            self._chip(text, self._place(point.xy), 4 * self.stroke, self._colour(point.label))

    # Positions and colours

    def _place(self, xy: XY) -> XY:
        """Original pixels → layer; Pillow counts from the middle of a pixel, so half a pixel less."""
        factor = self.scale * self.smoothing
        return xy[0] * factor - 0.5, xy[1] * factor - 0.5

    def _colour(self, label: str | None) -> RGB:
        return self.colours.setdefault(label, PALETTE[len(self.colours) % len(PALETTE)])

    def _point_text(self, number: int, label: str | None) -> str:
        """The number, with the label where it appears first."""
        if label is None or label in self.named:
            return str(number)
        self.named.add(label)
        return f"{number} {label}"

    # Marks

    def _disc(self, centre: XY, radius: float, fill: RGB | None, outline: RGB | None = None, width: float = 0) -> None:
        x, y = centre
        bounds = (x - radius, y - radius, x + radius, y + radius)
        self.pen.ellipse(bounds, fill=fill, outline=outline, width=round(width))

    def _box(self, box: Box) -> None:
        half, rim = self.stroke / 2, self.stroke / 4
        self._frame(box.xyxy, half + rim, _BLACK)
        self._frame(box.xyxy, half, self._colour(box.label))

    def _frame(self, xyxy: XYXY, reach: float, colour: RGB) -> None:
        """A rectangle whose line reaches equally far to both sides of the edges; whole pixels, else Pillow's rounding
        would make one side thinner."""
        factor = self.scale * self.smoothing
        x1, y1 = (round(value * factor - reach) for value in xyxy[:2])
        x2, y2 = (round(value * factor + reach) - 1 for value in xyxy[2:])
        self.pen.rectangle((x1, y1, x2, y2), outline=colour, width=round(2 * reach))

    def _point(self, point: Point) -> None:
        colour, centre = self._colour(point.label), self._place(point.xy)
        self._disc(centre, 3.6 * self.stroke, None, _BLACK, 2 * self.stroke)
        self._disc(centre, 3.2 * self.stroke, None, colour, 1.2 * self.stroke)
        self._disc(centre, 1.4 * self.stroke, _BLACK)
        self._disc(centre, self.stroke, colour)

    def _trace(self, trace: Trace) -> None:
        colour = self._colour(trace.label)
        path = [self._place(xy) for xy in trace.points]
        self.pen.line(path, fill=_BLACK, width=round(2.4 * self.stroke), joint="curve")
        self._gradient(path, colour)
        for index, vertex in enumerate(path[1:-1], start=1):
            self._disc(vertex, 1.2 * self.stroke, _tint(colour, index / (len(path) - 1)), _BLACK, self.stroke / 4)
        self._arrow(path, colour)
        self._disc(path[0], 2.4 * self.stroke, _BLACK)
        self._disc(path[0], 2 * self.stroke, _WHITE)
        self._disc(path[0], 1.2 * self.stroke, colour)

    def _gradient(self, path: list[XY], colour: RGB) -> None:
        """The line itself, by length from a pale tint to the full colour."""
        lengths = [math.dist(a, b) for a, b in pairwise(path)]
        total = sum(lengths) or 1.0
        piece = max(4 * self.stroke, total / _GRADIENT_PIECES)
        done = 0.0
        for (ax, ay), (bx, by), length in zip(path, path[1:], lengths, strict=False):
            steps = max(1, math.ceil(length / piece))
            for step in range(steps):
                t0, t1 = step / steps, (step + 1) / steps
                ends = (ax + (bx - ax) * t0, ay + (by - ay) * t0, ax + (bx - ax) * t1, ay + (by - ay) * t1)
                self.pen.line(ends, fill=_tint(colour, (done + length * t1) / total), width=round(1.4 * self.stroke))
            done += length

    def _arrow(self, path: list[XY], colour: RGB) -> None:
        """A head whose tip is the last point; none for a path that does not move."""
        tip = path[-1]
        back = next((xy for xy in reversed(path) if math.dist(xy, tip) > self.stroke), None)
        if back is None:
            return
        angle = math.atan2(tip[1] - back[1], tip[0] - back[0])
        for length, fill in ((6.4 * self.stroke, _BLACK), (5 * self.stroke, colour)):
            shift = 0.4 * (length - 5 * self.stroke)
            nose = (tip[0] + shift * math.cos(angle), tip[1] + shift * math.sin(angle))
            wings = [
                (nose[0] - length * math.cos(angle + turn), nose[1] - length * math.sin(angle + turn))
                for turn in (-0.45, 0.45)
            ]
            self.pen.polygon([nose, *wings], fill=fill)

    # Labels

    def _chip(self, label: str | None, anchor: XY, distance: float, colour: RGB) -> None:
        """A filled label near `anchor`, inside the picture, away from other labels where there is room."""
        text = self._fitting("".join(char if char.isprintable() else " " for char in label or "").strip())
        if not text:
            return
        margin = 0.28 * self.font_size
        left, _, right, _ = self.pen.textbbox((0, 0), text, font=self.font, anchor="ls")
        width, height = right - left + 2 * margin, 1.25 * self.font_size
        x1, y1 = self._chip_corner(anchor, distance, width, height)
        self.pen.rectangle((x1, y1, x1 + width, y1 + height), fill=colour, outline=_BLACK, width=self.smoothing)
        ink = _BLACK if _luminance(colour) > 0.3 else _WHITE
        self.pen.text((x1 + margin - left, y1 + 0.92 * self.font_size), text, fill=ink, font=self.font, anchor="ls")

    def _fitting(self, text: str) -> str:
        room = self.layer.width - self.font_size
        text = text if len(text) <= _MAX_LABEL else text[: _MAX_LABEL - 1] + "…"
        while len(text) > 1 and self.pen.textlength(text, font=self.font) > room:
            text = text[:-2].rstrip() + "…"
        return text

    def _chip_corner(self, anchor: XY, distance: float, width: float, height: float) -> XY:
        x, y = anchor
        above, below = y - distance - height, y + distance
        corners = [
            (min(max(left, 0), self.layer.width - width), min(max(top, 0), self.layer.height - height))
            for left in (x - self.stroke, x - width + self.stroke)
            for top in (above, below, above - height, below + height)
        ]
        taken = self.chips if len(self.chips) < _MAX_CHIPS_KEPT_APART else []
        boxes = [(left, top, left + width, top + height) for left, top in corners]
        best = min(boxes, key=lambda box: sum(_overlap(box, other) for other in taken))
        self.chips.append(best)
        return best[:2]


def _overlap(a: XYXY, b: XYXY) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _tint(colour: RGB, share: float) -> RGB:
    """From a pale tint at 0 to the full colour at 1."""
    weight = 0.25 + 0.75 * min(1.0, share)
    r, g, b = (round(255 + (channel - 255) * weight) for channel in colour)
    return r, g, b


def _luminance(colour: RGB) -> float:
    r, g, b = ((channel / 255) ** 2.2 for channel in colour)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b
