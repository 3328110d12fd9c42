"""What the rows of the known layouts mean: from a row as published to `GroundingSample`s.

| layout | row | space |
| --- | --- | --- |
| `st4vla` | `image` (or `dataset`, `camera`, `episode_index`, `frame_index`), `image_width`, `image_height`, `instruction`, `kind`, `points` / `boxes` / `traces` / `text`, `coordinate_space`, `source`, `license` | `coordinate_space` |
| `referring` | RefCOCO-style: `image`, a text and one `bbox` | pixels, as published |
| `points` | Pixmo-style: `image`, `label`, `points` `[{"x", "y"}]` | must be given |
| `sharerobot` | `id`, `instruction`, `meta_data`, `points` or `affordance` | pixels of `meta_data`'s size |

Conversations are in `conversations`, A0 episodes in `episodes`, LeRobot columns in `lerobot`.
"""  # noqa: E501

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from training_st4vla.data.errors import DataError, explain
from training_st4vla.data.grounding.images import LeRobotFrames, image_reference
from training_st4vla.data.grounding.rows import Row
from training_st4vla.data.grounding_schema import (
    KINDS,
    GroundingSample,
    ImageReference,
    PlainAnswer,
    SampleKind,
    Size,
    coordinate_map,
    pixel_answer,
    require_space,
)

REFERRING_TEXTS = ("sent", "expression", "problem", "instruction", "caption", "phrase")


class Layout(Protocol):
    """How rows become samples. Instances can be pickled."""

    name: str
    """As `--layout` names it."""
    columns: tuple[str, ...]
    """What `count` needs."""

    def count(self, row: Row) -> int:
        """How many samples a row holds; 0 leaves it out."""
        ...

    def sample(self, row: Row, number: int, where: str) -> GroundingSample:
        """The sample of that number. Raises `DataError` when the row has not the layout."""
        ...


@dataclass(frozen=True)
class Provenance:
    """What a layout records where its rows do not say it.

    Args:
        source: Name of the data.
        license: Licence of the annotation.
    """

    source: str = ""
    license: str = "unknown"


class FrameRoots:
    """LeRobot datasets that rows refer to, opened when first needed.

    Args:
        root: Where to find frames whatever the row's `dataset` says; None: `dataset` is a path or Hub id.
    """

    def __init__(self, root: str | Path | None = None) -> None:
        self.root = root
        self._opened: dict[str, LeRobotFrames] = {}

    def __getitem__(self, dataset: str) -> LeRobotFrames:
        """The frames of a row's `dataset`. Raises `DataError` when there are none."""
        path = str(self.root) if self.root is not None else dataset
        if path not in self._opened:
            self._opened[path] = LeRobotFrames(path)
        return self._opened[path]


@dataclass(frozen=True)
class SchemaLayout:
    """The grounding schema of this project (DESIGN.md §5).

    Args:
        root: Folder of the image files.
        frames: Datasets of the rows that point to video frames.
        coordinate_space: The space of rows that declare none; rows that declare another are refused.
        provenance: Defaults of `source` and `license`.
    """

    root: Path | None = None
    frames: FrameRoots = field(default_factory=FrameRoots)
    coordinate_space: str | None = None
    provenance: Provenance = Provenance()
    name: str = "st4vla"
    columns: tuple[str, ...] = ("kind",)

    def count(self, row: Row) -> int:
        """One sample per row."""
        return 1

    def sample(self, row: Row, number: int, where: str) -> GroundingSample:
        """See `Layout.sample`."""
        kind = _kind(row.get("kind"), where)
        image = self._image(row, where)
        size = _row_size(row, image)
        if kind == "text":
            answer: Any = PlainAnswer(_text(row, ("text", "answer"), where))
            space = None
        else:
            space = self._space(row, where)
            answer = pixel_answer(
                points=row.get("points") or (),
                boxes=row.get("boxes") or (),
                traces=row.get("traces") or (),
                labels=row.get("labels") or (),
                to_pixels=coordinate_map(space, size, _coordinate_size(row)),
                image_size=size,
                where=where,
            )
        return GroundingSample(
            image=image,
            image_size=size,
            instruction=_text(row, ("instruction",), where),
            kind=kind,
            answer=answer,
            coordinate_space=space,
            source=str(row.get("source") or self.provenance.source),
            license=str(row.get("license") or self.provenance.license),
            verbatim=bool(row.get("verbatim") or kind == "text"),
            role=str(row.get("role") or ""),
            where=where,
        )

    def _image(self, row: Row, where: str) -> ImageReference:
        if row.get("image") is not None:
            return image_reference(row["image"], self.root, where)
        if row.get("episode_index") is None or row.get("frame_index") is None or not row.get("camera"):
            return image_reference(None, self.root, where)
        frames = self.frames[str(row.get("dataset") or "")]
        return frames.reference(str(row["camera"]), int(row["episode_index"]), int(row["frame_index"]))

    def _space(self, row: Row, where: str) -> str:
        declared = row.get("coordinate_space")
        if declared and self.coordinate_space and declared != self.coordinate_space:
            raise DataError(
                explain(
                    "The coordinate space is declared twice",
                    where=where,
                    expected=f"--coordinate-space {declared}, as the row says",
                    found=repr(self.coordinate_space),
                    remedy="Leave --coordinate-space out: the rows declare it.",
                )
            )
        return require_space(declared or self.coordinate_space, where)


@dataclass(frozen=True)
class ReferringLayout:
    """RefCOCO-style rows: an image, one box, and one text or several for the same box.

    Read are the Qwen-VL / InternVL files (`image`, `sent`, `bbox` as x1, y1, x2, y2, `width`, `height`), the tables of
    lmms-lab on the Hub (`image`, `answer` as a list of texts, `bbox` as x, y, width, height), and RoboRefIt's
    (`image`, `problem`, `bbox` as x1, y1, x2, y2).

    Args:
        root: Folder of the image files.
        box_format: `xyxy`, `xywh`, or `auto`: `xywh` for lmms-lab's tables, else `xyxy`.
        coordinate_space: All of these sets are published in pixels.
        provenance: What to record as source and license.
    """

    root: Path | None = None
    box_format: Literal["auto", "xyxy", "xywh"] = "auto"
    coordinate_space: str = "pixel"
    provenance: Provenance = Provenance()
    name: str = "referring"
    columns: tuple[str, ...] = (*REFERRING_TEXTS, "answer")

    def count(self, row: Row) -> int:
        """One sample per text."""
        return len(self._texts(row))

    def sample(self, row: Row, number: int, where: str) -> GroundingSample:
        """See `Layout.sample`."""
        image = image_reference(row.get("image"), self.root, where)
        size = _row_size(row, image)
        text = self._texts(row)[number]
        return GroundingSample(
            image=image,
            image_size=size,
            instruction=text,
            kind="box",
            answer=pixel_answer(
                boxes=[self._box(row, where)],
                to_pixels=coordinate_map(require_space(self.coordinate_space, where), size),
                image_size=size,
                where=where,
            ),
            coordinate_space=self.coordinate_space,
            source=self.provenance.source,
            license=self.provenance.license,
            where=where,
        )

    def _texts(self, row: Row) -> list[str]:
        if isinstance(row.get("answer"), list | tuple):
            return [str(text) for text in row["answer"]]
        text = next((row[key] for key in REFERRING_TEXTS if row.get(key)), None)
        return [str(text)] if text is not None else []

    def _box(self, row: Row, where: str) -> list[Any]:
        box = row.get("bbox")
        if not isinstance(box, Iterable) or len(values := list(box)) != 4:
            raise _not_the_layout(where, "bbox with four numbers", box)
        is_xywh = self.box_format == "xywh" or (
            self.box_format == "auto" and isinstance(row.get("answer"), list | tuple)
        )
        if not is_xywh:
            return values
        x, y, width, height = values
        return [x, y, x + width, y + height]


@dataclass(frozen=True)
class PointsLayout:
    """Pixmo-style rows: an image, a label, and points `[{"x", "y"}, ...]`. Their space must be given.

    (The card of Pixmo-Points says pixels and Molmo's own loader scales by 100: look before you choose.)

    Args:
        coordinate_space: Space of `points`.
        root: Folder of the image files.
        max_points: Rows with more points are left out.
        max_side: Rows with a longer image side, in pixels, are left out.
        provenance: What to record as source and license.
    """

    coordinate_space: str | None
    root: Path | None = None
    max_points: int | None = 10
    max_side: int | None = None
    provenance: Provenance = Provenance()
    name: str = "points"
    columns: tuple[str, ...] = ("points", "image_width", "image_height", "width", "height")

    def count(self, row: Row) -> int:
        """One sample, none for a row without points or beyond the limits."""
        found = len(_pairs(row.get("points")))
        sides = [row[key] for key in ("image_width", "image_height", "width", "height") if row.get(key)]
        too_large = self.max_side is not None and any(side > self.max_side for side in sides)
        return int(0 < found <= (self.max_points or found) and not too_large)

    def sample(self, row: Row, number: int, where: str) -> GroundingSample:
        """See `Layout.sample`."""
        space = require_space(self.coordinate_space, where)
        image = image_reference(row.get("image") or row.get("image_path"), self.root, where)
        size = _row_size(row, image)
        label = _text(row, ("label", "instruction"), where)
        pairs = _pairs(row.get("points"))
        return GroundingSample(
            image=image,
            image_size=size,
            instruction=label,
            kind="point",
            answer=pixel_answer(
                points=pairs,
                labels=[label] * len(pairs),
                to_pixels=coordinate_map(space, size),
                image_size=size,
                where=where,
            ),
            coordinate_space=space,
            source=str(row.get("source") or self.provenance.source),
            license=self.provenance.license,
            where=where,
        )


@dataclass(frozen=True)
class ShareRobotLayout:
    """ShareRobot's rows: a trajectory (`points`, or `trajectory`) or an `affordance` box, in pixels.

    The pixels are those of an image of `meta_data.original_width` x `original_height`; where the stored image has
    another size they are scaled to it. The image's path is `id`, `image_path` or `image`.

    Args:
        root: Folder of the image files.
        provenance: What to record as source and license.
    """

    root: Path | None = None
    provenance: Provenance = Provenance("ShareRobot")
    name: str = "sharerobot"
    columns: tuple[str, ...] = ("id",)
    coordinate_space: ClassVar[str] = "pixel"

    def count(self, row: Row) -> int:
        """One sample per row."""
        return 1

    def sample(self, row: Row, number: int, where: str) -> GroundingSample:
        """See `Layout.sample`."""
        name = next((row[key] for key in ("image", "image_path", "id") if row.get(key) is not None), None)
        image = image_reference(name if not isinstance(name, int) else str(name), self.root, where)
        size = image.size()
        kind, shapes = self._shapes(row, where)
        return GroundingSample(
            image=image,
            image_size=size,
            instruction=_text(row, ("instruction",), where),
            kind=kind,
            answer=pixel_answer(
                **shapes,
                to_pixels=coordinate_map("pixel", size, _original_size(row)),
                image_size=size,
                where=where,
            ),
            coordinate_space="pixel",
            source=self.provenance.source,
            license=self.provenance.license,
            where=where,
        )

    def _shapes(self, row: Row, where: str) -> tuple[SampleKind, dict[str, Any]]:
        path = next((row[key] for key in ("points", "trajectory") if row.get(key)), None)
        if path is not None:
            return "trace", {"traces": [_pairs(path)]}
        area = row.get("affordance")
        if not isinstance(area, dict) or not {"x", "y", "width", "height"} <= set(area):
            raise _not_the_layout(where, "points, trajectory or affordance {x, y, width, height}", area)
        x, y = area["x"], area["y"]
        return "box", {"boxes": [[x, y, x + area["width"], y + area["height"]]]}


def _kind(value: Any, where: str) -> SampleKind:
    if value not in KINDS:
        raise _not_the_layout(where, f"kind, one of {', '.join(KINDS)}", value)
    return value


def _text(row: Row, keys: tuple[str, ...], where: str) -> str:
    found = next((row[key] for key in keys if isinstance(row.get(key), str)), None)
    if found is None:
        raise _not_the_layout(where, f"a text in {' or '.join(keys)}", row.get(keys[0]))
    return found


def _row_size(row: Row, image: ImageReference) -> Size:
    for width, height in (("image_width", "image_height"), ("width", "height")):
        if row.get(width) and row.get(height):
            return int(row[width]), int(row[height])
    return image.size()


def _coordinate_size(row: Row) -> Size | None:
    width, height = row.get("coordinate_width"), row.get("coordinate_height")
    return (int(width), int(height)) if width and height else None


def _original_size(row: Row) -> Size | None:
    meta = row.get("meta_data") or row
    width, height = meta.get("original_width"), meta.get("original_height")
    return (int(width), int(height)) if width and height else None


def _pairs(points: Any) -> list[list[Any]]:
    """Points as `[[x, y], ...]`, from pairs, from dicts, or from a dict of lists."""
    if isinstance(points, dict):
        return [list(pair) for pair in zip(points.get("x") or (), points.get("y") or (), strict=False)]
    return [[p.get("x"), p.get("y")] if isinstance(p, dict) else list(p) for p in points or ()]


def _not_the_layout(where: str, expected: str, found: Any) -> DataError:
    shown = repr(found)
    return DataError(
        explain(
            "A row has another layout",
            where=where,
            expected=expected,
            found=shown if len(shown) <= 120 else shown[:117] + "...",
            remedy="Choose the layout with --layout, or correct the row.",
        )
    )


__all__ = [
    "REFERRING_TEXTS",
    "FrameRoots",
    "Layout",
    "PointsLayout",
    "Provenance",
    "ReferringLayout",
    "SchemaLayout",
    "ShareRobotLayout",
]
