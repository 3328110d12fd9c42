"""Points, boxes and traces on an image, and every text form in which models write them.

All coordinates held here are pixels of the original image: continuous `float`, origin at the top left corner, x to the
right, y down, an image of width `w` spanning `[0, w]`. Other spaces exist only at the border, that is, in
[`GroundingResult.from_text`] and [`GroundingResult.to_text`].

    result = GroundingResult.from_text(
        '[{"bbox_2d": [304, 226, 345, 267], "label": "apple"}]', image_size=(640, 480), model_size=(644, 476)
    )
    result.boxes[0].xyxy  # (302.1..., 227.9..., 342.9..., 269.2...)
    result.to_text(dialect="gemini")
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from .coordinates import (
    PER_MILLE,
    PERCENT,
    UNIT,
    XYXY,
    CoordinateMap,
    Size,
    check_numbers,
    check_rectangle,
    check_size,
    check_xy,
    smart_resize,
)
from .spatial_dialects import DIALECTS, Dialect, WrittenItem, check_decimals, get_dialect
from .spatial_parsing import (
    DEFAULT_LIMITS,
    ParsedText,
    ParseLimits,
    RawItem,
    Rejected,
    RejectReason,
    excerpt,
)
from .spatial_types import Box, Item, Point, Trace, flat_coordinates, in_pairs, is_inside, kind_of

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "DIALECTS",
    "PERCENT",
    "PER_MILLE",
    "UNIT",
    "Box",
    "CoordinateMap",
    "Dialect",
    "GroundingResult",
    "ParseLimits",
    "Point",
    "RejectReason",
    "Rejected",
    "Trace",
    "get_dialect",
    "smart_resize",
]

AnswerKind = Literal["auto", "point", "box", "trace"]
"""What was asked for; see [`GroundingResult.from_text`]."""

JsonValue = None | bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"]

_CAMERA_PREFIX = "observation.images."


@dataclass(frozen=True, slots=True)
class GroundingResult:
    """What an answer, or an annotation, says about places in one image.

    Args:
        points (`tuple[Point, ...]`, *optional*): in the order of the text.
        boxes (`tuple[Box, ...]`, *optional*): in the order of the text.
        traces (`tuple[Trace, ...]`, *optional*): in the order of the text.
        image_size (`tuple[int, int]`): `(width, height)` of the original image in pixels.
        raw_text (`str`, *optional*): the text that was read, unchanged.
        rejected (`tuple[Rejected, ...]`, *optional*): everything that was read and is not part of the result as it was
            written, each with a reason; the original of a clipped box, too.

    Raises:
        ValueError: if an item lies outside the image; use [`GroundingResult.from_pixels`] to clip and reject instead.
    """

    points: tuple[Point, ...] = ()
    boxes: tuple[Box, ...] = ()
    traces: tuple[Trace, ...] = ()
    image_size: Size = field(kw_only=True)
    raw_text: str = ""
    rejected: tuple[Rejected, ...] = ()

    def __post_init__(self) -> None:
        size = check_size(self.image_size, "image_size")
        object.__setattr__(self, "image_size", size)
        for name in ("points", "boxes", "traces", "rejected"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for item in (*self.points, *self.boxes, *self.traces):
            if not is_inside(flat_coordinates(item), size):
                raise ValueError(
                    f"{item!r} lies outside the image of size {size}. Coordinates are pixels of the original image, "
                    "0 to width and 0 to height; `GroundingResult.from_pixels` clips boxes and rejects the rest."
                )

    @property
    def is_empty(self) -> bool:
        """Whether there is no point, box or trace."""
        return not (self.points or self.boxes or self.traces)

    @classmethod
    def from_pixels(
        cls,
        points: Iterable[Point] = (),
        boxes: Iterable[Box] = (),
        traces: Iterable[Trace] = (),
        *,
        image_size: Size,
        raw_text: str = "",
        rejected: Iterable[Rejected] = (),
    ) -> GroundingResult:
        """A result from items that may reach out of the image.

        A box is clipped to the image and its original listed as rejected with the reason `"clipped"`; a point, a trace
        with any point outside, and a box wholly outside are rejected. `rejected` entries given are kept in front.
        """
        placement = _Placement(check_size(image_size, "image_size"))
        placement.rejected.extend(rejected)
        for item in (*points, *boxes, *traces):
            placement.place(item, repr(item))
        return placement.result(raw_text)

    def mapped(self, coordinate_map: CoordinateMap, image_size: Size) -> GroundingResult:
        """The same items on another image, such as a crop, a padded or a resized version of this one.

        Args:
            coordinate_map ([`CoordinateMap`]): pixels of this image → pixels of the other.
            image_size (`tuple[int, int]`): `(width, height)` of the other image.

        Returns:
            [`GroundingResult`]: with what reaches out of the other image clipped or rejected, as in
            [`GroundingResult.from_pixels`]. Entries already rejected are kept, without their coordinates.
        """
        return GroundingResult.from_pixels(
            (Point(coordinate_map.point(item.xy), item.label, item.score) for item in self.points),
            (Box(coordinate_map.box(item.xyxy), item.label) for item in self.boxes),
            (Trace(coordinate_map.points(item.points), item.label) for item in self.traces),
            image_size=image_size,
            raw_text=self.raw_text,
            rejected=(Rejected(item.item, item.reason) for item in self.rejected),
        )

    @classmethod
    def from_text(
        cls,
        text: str,
        dialect: str = "qwen2_5_vl",
        *,
        image_size: Size,
        model_size: Size | None = None,
        kind: AnswerKind = "auto",
        limits: ParseLimits = DEFAULT_LIMITS,
    ) -> GroundingResult:
        """Reads the coordinates in an answer. Never raises on any `text`, and never guesses a space or an order.

        Args:
            text (`str`): the answer; prose, code fences and a cut-off end are fine.
            dialect (`str`, *optional*, defaults to `"qwen2_5_vl"`): how the model writes; a name in [`DIALECTS`].
            image_size (`tuple[int, int]`): `(width, height)` of the original image in pixels.
            model_size (`tuple[int, int]`, *optional*): `(width, height)` of the resized image that the model saw.
                Needed by `qwen2_5_vl`, whose coordinates are pixels of that image; ignored by relative dialects.
            kind (`str`, *optional*, defaults to `"auto"`): what was asked for. `"trace"` makes one ordered trace of
                the points written in one list, for dialects that write both alike, unless the text has a trace that
                says so itself; `"point"` keeps them apart, which only MolmoAct's lists do not do by themselves. Items
                that say what they are stay what they are.
            limits ([`ParseLimits`], *optional*): bounds on the text.

        Returns:
            [`GroundingResult`]: with everything that could not be used in `rejected`. A text without any coordinates
            gives an empty result with the reason `"no coordinates found"`, unless it is an explicit empty list.

        Raises:
            ValueError: on an unknown dialect or kind, a size that is not one, a missing `model_size`, or if `text` is
                not a `str`.
        """
        spec, size = get_dialect(dialect), check_size(image_size, "image_size")
        if model_size is not None:
            model_size = check_size(model_size, "model_size")
        to_pixels = spec.space(size, model_size).inverse
        parsed = _parse(text, spec, kind, limits)
        placement = _Placement(size)
        for item in parsed:
            if isinstance(item, Rejected):
                placement.rejected.append(item)
            else:
                placement.place_raw(item, to_pixels, spec.y_first)
        return placement.result(text)

    def to_text(
        self, dialect: str = "qwen2_5_vl", *, model_size: Size | None = None, decimals: int | None = None
    ) -> str:
        """Writes boxes, points and traces, in this order, as a model of this dialect would; always the same text.

        What a path is about, and single points of it, so stand before the path: a model that writes them first can
        go by them.

        Args:
            dialect (`str`, *optional*, defaults to `"qwen2_5_vl"`): a name in [`DIALECTS`].
            model_size (`tuple[int, int]`, *optional*): `(width, height)` of the resized image that the model sees.
                Needed by `qwen2_5_vl`.
            decimals (`int`, *optional*): decimals to write. By default whole pixels for `qwen2_5_vl`, as its models
                were trained; for relative dialects the native decimals (`DIALECTS[name].native_decimals`), and more
                where these would move a position by half a pixel or more. `Dialect.rounding_error` gives the bound.

        Returns:
            `str`: the answer; `"[]"` for an empty result. Scores and `rejected` are not part of it.

        Raises:
            ValueError: on an unknown dialect, a missing `model_size`, wrong `decimals`, or items that the dialect
                cannot express (boxes in Molmo, points and boxes in MolmoAct, traces together with others in RoboPoint,
                a label with tags in Florence-2).
        """
        spec = get_dialect(dialect)
        if model_size is not None:
            model_size = check_size(model_size, "model_size")
        space = spec.space(self.image_size, model_size)
        places = check_decimals(spec, decimals, self.image_size)
        extent = space.target[2:]
        items: list[WrittenItem] = []
        for item in (*self.boxes, *self.points, *self.traces):
            kind = kind_of(item)
            if kind not in spec.kinds:
                able = ", ".join(name for name, other in DIALECTS.items() if kind in other.kinds)
                raise ValueError(f"dialect '{spec.name}' cannot write a {kind}; dialects that can: {able}.")
            values = [value for xy in in_pairs(flat_coordinates(item)) for value in space.point(xy)]
            items.append(WrittenItem(kind, spec.format(kind, values, extent, places), item.label))
        return spec.write(items)

    def to_dict(self) -> dict[str, JsonValue]:
        """A value for JSON that [`GroundingResult.from_dict`] turns back into an equal result."""
        return {
            "image_size": list(self.image_size),
            "space": "px",
            "points": [{"xy": list(p.xy), "label": p.label, "score": p.score} for p in self.points],
            "boxes": [{"xyxy": list(box.xyxy), "label": box.label} for box in self.boxes],
            "traces": [{"points": [list(xy) for xy in t.points], "label": t.label} for t in self.traces],
            "raw_text": self.raw_text,
            "rejected": [
                {"item": entry.item, "reason": str(entry.reason), "coordinates": list(entry.coordinates)}
                for entry in self.rejected
            ],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, JsonValue]) -> GroundingResult:
        """The result that [`GroundingResult.to_dict`] wrote.

        Raises:
            ValueError: if a field is missing, unknown or of another type; the message names it.
        """
        keys = ("image_size", "space", "points", "boxes", "traces", "raw_text", "rejected")
        fields = _fields(data, "result", keys)
        if fields["space"] != "px":
            raise ValueError(f"`space` must be 'px', pixels of the original image; got {fields['space']!r}.")
        return cls(
            tuple(_point_from(_fields(row, "points", _POINT_KEYS)) for row in _list(fields, "points")),
            tuple(_box_from(_fields(row, "boxes", _BOX_KEYS)) for row in _list(fields, "boxes")),
            tuple(_trace_from(_fields(row, "traces", _TRACE_KEYS)) for row in _list(fields, "traces")),
            image_size=check_size(fields["image_size"], "image_size"),
            raw_text=_string(fields, "raw_text"),
            rejected=tuple(
                _rejected_from(_fields(row, "rejected", _REJECTED_KEYS)) for row in _list(fields, "rejected")
            ),
        )

    def draw(self, image: Image, scale: int | None = None) -> Image:
        """Draws the result on a copy of the image, in the colours of Okabe and Ito, one colour per label.

        Points are numbered rings around a dot, boxes are outlined and labelled, a trace runs from a ring at its start,
        pale to full colour, to an arrow head at its end.

        Args:
            image (`PIL.Image.Image`): the original image; it is not changed.
            scale (`int`, *optional*): how many times larger the picture is than the image, in each direction. By
                default 1, or as much as a small image needs to be at least 512 pixels long and its labels readable.

        Returns:
            `PIL.Image.Image`: RGB, of size `(width * scale, height * scale)`.

        Raises:
            ValueError: if the image has another size than this result, or `scale` is not a positive integer.
        """
        from .spatial_drawing import draw_grounding  # here, so that parsing does not load Pillow

        return draw_grounding(self, image, scale)

    def to_lerobot_events(self, camera: str, question: str | None = None) -> list[dict[str, JsonValue]]:
        """The rows of LeRobot's `language_events` column that say the same about one frame of one camera.

        Boxes become a `vqa` answer `{"detections": [{"label", "bbox_format": "xyxy", "bbox"}]}`, a point becomes
        `{"label", "point_format": "xy", "point"}`. LeRobot allows one `vqa` answer per frame and camera, so where the
        standard shape is too small, several points, or points beside boxes, are listed under an additional key
        `"keypoints"` of that one answer. Each trace is a row of the style `trace` with
        `{"label", "point_format": "xy", "points": [[x, y], ...]}`. Coordinates are pixels of the stored frame, which
        must be the original image; a missing label is `""`.

        Args:
            camera (`str`): the feature key of the camera, `"observation.images.<name>"`.
            question (`str`, *optional*): what was asked; adds a user row in front of each style.

        Returns:
            `list[dict]`: rows with the keys `role`, `content`, `style`, `camera`, `tool_calls`.

        Raises:
            ValueError: if `camera` is not such a key.
        """
        if not isinstance(camera, str) or not camera.startswith(_CAMERA_PREFIX) or camera == _CAMERA_PREFIX:
            raise ValueError(f"`camera` must be a feature key '{_CAMERA_PREFIX}<name>'; got {camera!r}.")
        answers = [("vqa", answer) for answer in _vqa_answers(self)]
        answers += [
            ("trace", {"label": t.label or "", "point_format": "xy", "points": [list(xy) for xy in t.points]})
            for t in self.traces
        ]
        rows: list[dict[str, JsonValue]] = []
        for index, (style, answer) in enumerate(answers):
            if question is not None and style not in (seen for seen, _ in answers[:index]):
                rows.append(_event("user", question, style, camera))
            rows.append(_event("assistant", json.dumps(answer, sort_keys=True, ensure_ascii=False), style, camera))
        return rows


# --- Reading ---------------------------------------------------------------------------------------------------------


def _parse(text: str, dialect: Dialect, kind: AnswerKind, limits: ParseLimits) -> list[RawItem | Rejected]:
    if not isinstance(text, str):
        raise ValueError(f"`text` must be a str; got {type(text).__name__}.")
    if kind not in ("auto", "point", "box", "trace"):
        raise ValueError(f"`kind` must be one of auto, point, box, trace; got {kind!r}.")
    parsed = dialect.read(text[: limits.max_chars], limits)
    if (kind == "trace" and not parsed.says_trace) or (dialect.lists_are_traces and kind != "point"):
        found = _join_traces(parsed)
    else:
        found = list(parsed.found)
    if len(text) > limits.max_chars:
        found.append(Rejected(excerpt(text, limits.max_chars, len(text)), RejectReason.TOO_LONG))
    if not found and not parsed.says_none:
        found.append(Rejected(excerpt(text, 0, len(text)), RejectReason.NO_COORDINATES))
    return found


def _join_traces(parsed: ParsedText) -> list[RawItem | Rejected]:
    """Makes one trace of the points of each list; a list that the text does not complete is rejected."""
    groups: dict[int, list[RawItem]] = {}
    order: list[RawItem | Rejected | int] = []
    for item in parsed.found:
        if isinstance(item, Rejected) or item.kind != "point":
            order.append(item)
        else:
            if item.group not in groups:
                order.append(item.group)
            groups.setdefault(item.group, []).append(item)
    return [
        _join(groups[entry], entry in parsed.broken_groups) if isinstance(entry, int) else entry for entry in order
    ]


def _join(points: list[RawItem], broken: bool) -> RawItem | Rejected:
    text = ", ".join(point.text for point in points)
    text = excerpt(text, 0, len(text))
    if broken:
        return Rejected(text, RejectReason.INCOMPLETE)
    labels = {point.label for point in points}
    values = tuple(value for point in points for value in point.values)
    return RawItem("trace", values, labels.pop() if len(labels) == 1 else None, text, points[0].group)


@dataclass
class _Placement:
    """Sorts items into those that lie in the image and those that do not."""

    size: Size
    points: list[Point] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)
    traces: list[Trace] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)

    def result(self, raw_text: str) -> GroundingResult:
        return GroundingResult(
            tuple(self.points),
            tuple(self.boxes),
            tuple(self.traces),
            image_size=self.size,
            raw_text=raw_text,
            rejected=tuple(self.rejected),
        )

    def place_raw(self, raw: RawItem, to_pixels: CoordinateMap, y_first: bool) -> None:
        """Places an item that was read from text."""
        pairs = [(b, a) if y_first else (a, b) for a, b in in_pairs(raw.values)]
        values = tuple(value for xy in to_pixels.points(pairs) for value in xy)
        if not all(map(math.isfinite, values)):
            self.rejected.append(Rejected(raw.text, RejectReason.NOT_FINITE))
        elif raw.kind == "point":
            self.place(Point((values[0], values[1]), raw.label), raw.text)
        elif raw.kind == "box":
            self._place_box((values[0], values[1], values[2], values[3]), raw)
        elif len(values) < 4:
            self.rejected.append(Rejected(raw.text, RejectReason.SHORT_TRACE, values))
        else:
            self.place(Trace(tuple(in_pairs(values)), raw.label), raw.text)

    def _place_box(self, xyxy: XYXY, raw: RawItem) -> None:
        x1, y1, x2, y2 = xyxy
        if x2 < x1 or y2 < y1:
            self.rejected.append(Rejected(raw.text, RejectReason.INVERTED_BOX, xyxy))
        elif x2 == x1 or y2 == y1:
            self.rejected.append(Rejected(raw.text, RejectReason.EMPTY_BOX, xyxy))
        else:
            self.place(Box(xyxy, raw.label), raw.text)

    def place(self, item: Item, text: str) -> None:
        """Places an item in pixels; `text` is what a rejection shows."""
        values = flat_coordinates(item)
        if isinstance(item, Box):
            self._clip(item, text)
        elif not is_inside(values, self.size):
            self.rejected.append(Rejected(text, RejectReason.OUTSIDE, values))
        elif isinstance(item, Point):
            self.points.append(item)
        else:
            self.traces.append(item)

    def _clip(self, box: Box, text: str) -> None:
        if is_inside(box.xyxy, self.size):
            self.boxes.append(box)
            return
        width, height = self.size
        x1, y1, x2, y2 = box.xyxy
        x1, x2 = (min(max(x, 0.0), float(width)) for x in (x1, x2))
        y1, y2 = (min(max(y, 0.0), float(height)) for y in (y1, y2))
        if x1 < x2 and y1 < y2:
            self.boxes.append(Box((x1, y1, x2, y2), box.label))
            self.rejected.append(Rejected(text, RejectReason.CLIPPED, box.xyxy))
        else:
            self.rejected.append(Rejected(text, RejectReason.OUTSIDE, box.xyxy))


# --- Dictionaries ----------------------------------------------------------------------------------------------------

_POINT_KEYS = ("xy", "label", "score")
_BOX_KEYS = ("xyxy", "label")
_TRACE_KEYS = ("points", "label")
_REJECTED_KEYS = ("item", "reason", "coordinates")


def _fields(value: object, name: str, keys: tuple[str, ...]) -> Mapping[str, JsonValue]:
    if not isinstance(value, Mapping) or set(value) != set(keys):
        found = sorted(map(str, value)) if isinstance(value, Mapping) else type(value).__name__
        raise ValueError(f"`{name}` must hold objects with the keys {', '.join(keys)}; got {found}.")
    return value


def _list(fields: Mapping[str, JsonValue], key: str) -> list[JsonValue]:
    value = fields[key]
    if not isinstance(value, list | tuple):
        raise ValueError(f"`{key}` must be a list; got {type(value).__name__}.")
    return list(value)


def _string(fields: Mapping[str, JsonValue], key: str) -> str:
    value = fields[key]
    if not isinstance(value, str):
        raise ValueError(f"`{key}` must be a str; got {value!r}.")
    return value


def _label_from(fields: Mapping[str, JsonValue]) -> str | None:
    return None if fields["label"] is None else _string(fields, "label")


def _point_from(fields: Mapping[str, JsonValue]) -> Point:
    score = fields["score"]
    score = None if score is None else check_numbers((score,), 1, "score")[0]
    return Point(check_xy(fields["xy"], "xy"), _label_from(fields), score)


def _box_from(fields: Mapping[str, JsonValue]) -> Box:
    return Box(check_rectangle(fields["xyxy"], "xyxy"), _label_from(fields))


def _trace_from(fields: Mapping[str, JsonValue]) -> Trace:
    return Trace(tuple(check_xy(xy, "points") for xy in _list(fields, "points")), _label_from(fields))


def _rejected_from(fields: Mapping[str, JsonValue]) -> Rejected:
    reason = _string(fields, "reason")
    if reason not in set(RejectReason):
        raise ValueError(f"`reason` must be one of {', '.join(RejectReason)}; got {reason!r}.")
    values = _list(fields, "coordinates")
    return Rejected(_string(fields, "item"), RejectReason(reason), check_numbers(values, len(values), "coordinates"))


# --- LeRobot ---------------------------------------------------------------------------------------------------------


def _vqa_answers(result: GroundingResult) -> list[dict[str, JsonValue]]:
    """At most one answer, as LeRobot demands."""
    keypoints: list[dict[str, JsonValue]] = [
        {"label": point.label or "", "point_format": "xy", "point": list(point.xy)} for point in result.points
    ]
    answer: dict[str, JsonValue] = {}
    if result.boxes:
        answer["detections"] = [
            {"label": box.label or "", "bbox_format": "xyxy", "bbox": list(box.xyxy)} for box in result.boxes
        ]
    elif keypoints:
        answer |= keypoints[0]
    if len(keypoints) > 1 or (keypoints and result.boxes):
        answer["keypoints"] = list(keypoints)
    return [answer] if answer else []


def _event(role: str, content: str, style: str, camera: str) -> dict[str, JsonValue]:
    return {"role": role, "content": content, "style": style, "camera": camera, "tool_calls": None}
