"""The dialects: how each family of models writes points, boxes and traces, in one table.

| dialect | coordinates | points | boxes | traces |
| --- | --- | --- | --- | --- |
| `qwen2_5_vl` | pixels, resized image | `{"point_2d": [x, y]}` | `{"bbox_2d": [x1, ...]}` | `{"trace_2d": [[x, y]]}` |
| `qwen3_vl` | 0 to 1000 | same keys | same keys | same keys |
| `gemini` | 0 to 1000, y first | `{"point": [y, x]}` | `{"box_2d": [y1, ...]}` | `{"trace": [[y, x], ...]}` |
| `robopoint` | 0 to 1 | `[(x, y), ...]` | `[(x1, y1, x2, y2)]` | `[(x, y), ...]` |
| `molmo` | 0 to 100 | `<point x="" y="" alt="">` | none | `<trace x1="" y1="" x2="" ...>` |
| `molmoact` | 0 to 255 | none | none | `[[x, y], ...]` |
| `florence2` | 1000 bins | `<poly><loc_x>...</poly>` | `<loc_x1><loc_y1>...` | `<poly><loc_x>...</poly>` |

Read as well: `qwen*` bare lists and tuples, `<box>`, `<point>` and `<trace>` tags, and the keys of InternVLA-M1's
question-answer data; `molmo` `<points x1="" y1="" ...>`; several Florence-2 boxes behind one label. An empty answer is
`[]` in every dialect. `trace_2d`, `trace`, `<trace>` and the `<poly>` forms are ours, since these families have no
published form for ordered traces (Florence-2: nor for points). RoboPoint writes a trace like points: read it with
`kind="trace"`. RoboPoint and MolmoAct texts carry no labels.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from .coordinates import PER_MILLE, PERCENT, UNIT, CoordinateMap, Size, check_size
from .spatial_markup import FLORENCE_BINS, read_florence2, read_molmo
from .spatial_parsing import BracketGrammar, BracketReader, Kind, ParsedText, ParseLimits

MAX_DECIMALS = 9


@dataclass(frozen=True, slots=True)
class WrittenItem:
    """One item ready to be written: its coordinates as text, in the units and the axis order of the dialect."""

    kind: Kind
    numbers: tuple[str, ...]
    label: str | None

    @property
    def pairs(self) -> list[tuple[str, str]]:
        return list(zip(self.numbers[::2], self.numbers[1::2], strict=True))


Reader = Callable[[str, ParseLimits], ParsedText]
Writer = Callable[[Sequence[WrittenItem]], str]


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one family of models writes coordinates.

    Args:
        name (`str`): the name to pass as `dialect=`.
        read (`Callable`): text → items as written.
        write (`Callable`): items → text. Deterministic; raises `ValueError` for what the dialect cannot carry.
        extent (`float`, *optional*): the coordinate of the right and the bottom edge of the image. `None`: its size in
            pixels of the resized image that the model saw.
        native_decimals (`int`, *optional*, defaults to 0): the decimals that these models were trained to write.
        exact_by_default (`bool`, *optional*, defaults to `True`): whether decimals are added, when none are asked for,
            until a position is kept to less than half a pixel.
        y_first (`bool`, *optional*, defaults to `False`): whether a pair is `(y, x)`.
        kinds (`frozenset[Kind]`, *optional*): what `write` accepts.
        lists_are_traces (`bool`, *optional*, defaults to `False`): whether points of one list are one trace.
        bins (`int`, *optional*): coordinates are bin indices `0 ... bins - 1`, read as bin centres.
    """

    name: str
    read: Reader
    write: Writer
    extent: float | None = None
    native_decimals: int = 0
    exact_by_default: bool = True
    y_first: bool = False
    kinds: frozenset[Kind] = frozenset({"point", "box", "trace"})
    lists_are_traces: bool = False
    bins: int | None = None

    def space(self, image_size: Size, model_size: Size | None = None) -> CoordinateMap:
        """The map from pixels of the original image to the (x, y) coordinates of this dialect.

        Raises:
            ValueError: if this dialect writes pixels of the resized image and `model_size` is missing.
        """
        if self.extent is not None:
            return CoordinateMap.relative(image_size, self.extent)
        if model_size is None:
            raise ValueError(
                f"`model_size` is missing: dialect '{self.name}' writes pixels of the resized image that the model "
                "saw. Pass model_size=(width, height) of that image, for Qwen2.5-VL `smart_resize(image_size)` or "
                "`image_grid_thw` times the patch size."
            )
        return CoordinateMap.resize(image_size, model_size)

    def decimals(self, image_size: Size) -> int:
        """The decimals written unless others are asked for.

        The native ones; if these keep a position of this image only to half a pixel or worse, and the dialect allows
        decimals, as few more as keep it better. `qwen2_5_vl` stays with whole pixels, `florence2` with bins.
        """
        decimals = self.native_decimals
        if self.exact_by_default and self.bins is None:
            while decimals < MAX_DECIMALS and self.rounding_error(image_size, decimals=decimals) >= 0.5:
                decimals += 1
        return decimals

    def rounding_error(self, image_size: Size, model_size: Size | None = None, decimals: int | None = None) -> float:
        """The largest distance, in pixels of the original image, by which writing and reading moves a position."""
        x1, y1, x2, y2 = self.space(image_size, model_size).source
        _, _, width, height = self.space(image_size, model_size).target
        step = 10.0 ** -(self.decimals(image_size) if decimals is None else decimals)
        return 0.5 * step * math.hypot((x2 - x1) / width, (y2 - y1) / height)

    def format(self, kind: Kind, values: Sequence[float], size: tuple[float, float], decimals: int) -> tuple[str, ...]:
        """Coordinates of this dialect, `x, y, x, y, ...` within `size`, as the numbers to write.

        Rounded to the nearest; a box thinner than one step is widened to one, so that it never becomes empty.
        """
        steps = 1 if self.bins else 10**decimals
        limits = [round(side * steps) - (1 if self.bins else 0) for side in size]
        to_step = math.floor if self.bins else round
        ticks = [min(to_step(value * steps), limits[index % 2]) for index, value in enumerate(values)]
        if kind == "box":
            for axis in (0, 1):
                ticks[axis], ticks[axis + 2] = _separate(
                    ticks[axis], ticks[axis + 2], values[axis::2], steps, limits[axis]
                )
        if self.y_first:
            ticks = [ticks[index ^ 1] for index in range(len(ticks))]
        return tuple(f"{tick / steps:.{decimals}f}" for tick in ticks)


def _separate(low: int, high: int, values: Sequence[float], steps: int, limit: int) -> tuple[int, int]:
    if low < high:
        return low, high
    low = min(math.floor(values[0] * steps), limit - 1)
    return low, max(low + 1, min(math.ceil(values[1] * steps), limit))


# --- Writers ---------------------------------------------------------------------------------------------------------


def _json_writer(keys: Mapping[Kind, str]) -> Writer:
    def write(items: Sequence[WrittenItem]) -> str:
        return "[" + ", ".join(_json_object(keys[item.kind], item) for item in items) + "]"

    return write


def _json_object(key: str, item: WrittenItem) -> str:
    value = _json_pairs(item) if item.kind == "trace" else f"[{', '.join(item.numbers)}]"
    if item.label is None:
        return f'{{"{key}": {value}}}'
    # "<" is escaped, so that no label can spell a special token of a tokenizer
    label = json.dumps(item.label, ensure_ascii=False).replace("<", "\\u003c")
    return f'{{"{key}": {value}, "label": {label}}}'


def _json_pairs(item: WrittenItem) -> str:
    return "[" + ", ".join(f"[{a}, {b}]" for a, b in item.pairs) + "]"


def _write_robopoint(items: Sequence[WrittenItem]) -> str:
    traces = [item for item in items if item.kind == "trace"]
    if traces and len(traces) < len(items):
        raise ValueError(
            "dialect 'robopoint' writes a trace like a list of points; a trace together with points or boxes could "
            "not be told apart again. Write them as two texts, or choose a dialect with keys, such as 'qwen3_vl'."
        )
    if traces:
        return "\n".join("[" + ", ".join(f"({x}, {y})" for x, y in item.pairs) + "]" for item in traces)
    return "[" + ", ".join(f"({', '.join(item.numbers)})" for item in items) + "]"


def _write_molmoact(items: Sequence[WrittenItem]) -> str:
    return "\n".join(_json_pairs(item) for item in items) or "[]"


def _write_molmo(items: Sequence[WrittenItem]) -> str:
    return "\n".join(_molmo_tag(item) for item in items) or "[]"


def _molmo_tag(item: WrittenItem) -> str:
    if item.kind == "point":
        name, attributes = "point", f' x="{item.numbers[0]}" y="{item.numbers[1]}"'
    else:
        name = "trace"
        attributes = "".join(f' x{index}="{x}" y{index}="{y}"' for index, (x, y) in enumerate(item.pairs, start=1))
    if item.label is None:
        return f"<{name}{attributes}></{name}>"
    label = html.escape(item.label)
    return f'<{name}{attributes} alt="{label}">{label}</{name}>'


def _write_florence2(items: Sequence[WrittenItem]) -> str:
    parts: list[str] = []
    for item in items:
        label = item.label or ""
        if "<" in label or ">" in label or label != label.strip():
            raise ValueError(
                f"label {label!r} cannot be written in dialect 'florence2': it holds '<' or '>', or starts or ends "
                "with white space. Change the label."
            )
        tokens = "".join(f"<loc_{number}>" for number in item.numbers)
        separator = "<sep>" if parts and not label else ""
        parts.append(separator + label + (tokens if item.kind == "box" else f"<poly>{tokens}</poly>"))
    return "".join(parts) or "[]"


# --- The table -------------------------------------------------------------------------------------------------------


def _bracket_reader(grammar: BracketGrammar) -> Reader:
    return lambda text, limits: BracketReader(text, grammar, limits).read()


_QWEN_KEYS: Mapping[str, Kind] = {
    "bbox_2d": "box",
    "point_2d": "point",
    "trace_2d": "trace",
    # the simulated question-answer data of InternVLA-M1
    "future_traj": "trace",
    "current_bbox": "box",
    "target_bbox": "box",
    "pick_object_bbox": "box",
    "place_area_bbox": "box",
}
_GEMINI_KEYS: Mapping[str, Kind] = {"point": "point", "box_2d": "box", "trace": "trace"}

_read_qwen = _bracket_reader(BracketGrammar(_QWEN_KEYS, tags=True))
_write_qwen = _json_writer({"point": "point_2d", "box": "bbox_2d", "trace": "trace_2d"})
_read_bare = _bracket_reader(BracketGrammar())

DIALECTS: Mapping[str, Dialect] = MappingProxyType(
    {
        dialect.name: dialect
        for dialect in (
            Dialect("qwen2_5_vl", _read_qwen, _write_qwen, exact_by_default=False),
            Dialect("qwen3_vl", _read_qwen, _write_qwen, PER_MILLE),
            Dialect("robopoint", _read_bare, _write_robopoint, UNIT, native_decimals=3),
            Dialect(
                "molmo", read_molmo, _write_molmo, PERCENT, native_decimals=1, kinds=frozenset({"point", "trace"})
            ),
            Dialect("molmoact", _read_bare, _write_molmoact, 255.0, kinds=frozenset({"trace"}), lists_are_traces=True),
            Dialect(
                "gemini",
                _bracket_reader(BracketGrammar(_GEMINI_KEYS)),
                _json_writer({"point": "point", "box": "box_2d", "trace": "trace"}),
                PER_MILLE,
                y_first=True,
            ),
            Dialect("florence2", read_florence2, _write_florence2, float(FLORENCE_BINS), bins=FLORENCE_BINS),
        )
    }
)


def get_dialect(name: str) -> Dialect:
    """Looks a dialect up by name.

    Raises:
        ValueError: if there is none of this name; the message lists all names.
    """
    dialect = DIALECTS.get(name) if isinstance(name, str) else None
    if dialect is None:
        raise ValueError(f"`dialect` must be one of {', '.join(DIALECTS)}; got {name!r}.")
    return dialect


def check_decimals(dialect: Dialect, decimals: int | None, image_size: Size) -> int:
    """The decimals to write: those asked for, or the dialect's choice for this image.

    Raises:
        ValueError: if `decimals` is not between 0 and 9, or is asked of a dialect that writes bins.
    """
    if decimals is None:
        return dialect.decimals(check_size(image_size, "image_size"))
    if dialect.bins is not None and decimals != 0:
        raise ValueError(
            f"`decimals` must be None for dialect '{dialect.name}', which writes bins 0 to {dialect.bins - 1}; "
            f"got {decimals!r}."
        )
    if not isinstance(decimals, int) or not 0 <= decimals <= MAX_DECIMALS:
        raise ValueError(f"`decimals` must be None or an integer from 0 to {MAX_DECIMALS}; got {decimals!r}.")
    return decimals
