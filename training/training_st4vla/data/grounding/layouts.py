"""What the rows of the known layouts mean: from a row as published to a `GroundingSample`.

| layout | row | space |
| --- | --- | --- |
| `grounding` | the schema of this project, DESIGN.md §5; see `_grounding` | `coordinate_space` of the row |
| `refcoco` | `image`, a text or several, one `bbox` | pixels, as published |
| `points` | Pixmo: `image`, `label`, `points` `[{"x", "y"}]` | must be given |
| `sharerobot` | `id` or `image`, `instruction`, `points` or `affordance`, `meta_data` | pixels of `meta_data`'s size |
| `vabench` | `problem`, `answer` (JSON with `bbox` or `trajectory`), `images` | pixels |
| `masks` | `question`, `text` or `prompt`, `image`, `mask` (Where2Place, RefSpatial-Bench) | a mask: evaluation only |

Conversations are in `conversations`, A0's episodes in `episodes`. LeRobot language columns and InternData-M1
annotations become rows of the layout `grounding`, in `lerobot` and `demonstrations`.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from training_st4vla.data.errors import DataError, explain
from training_st4vla.data.grounding.images import LeRobotFrames, image_reference
from training_st4vla.data.grounding.rows import Row
from training_st4vla.data.grounding.schema import (
    KINDS,
    QUESTIONS,
    GroundingSample,
    ImageReference,
    MaskAnswer,
    PlainAnswer,
    Size,
    coordinate_map,
    pixel_answer,
    require_space,
)

REFERRING_TEXTS = ("sent", "expression", "problem", "instruction", "caption", "phrase")
_SIZES = (("image_width", "image_height"), ("width", "height"))


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
class ReadOptions:
    """What the user says about rows that do not say it themselves.

    Args:
        image_roots: Folders of the image files, searched in this order.
        frames: Datasets of rows that point to video frames.
        coordinate_space: A key of `COORDINATE_SPACES`; for conversations also `resized`.
        dialect: How answers in text write coordinates; conversations only.
        answer_kind: `auto`, or `trace` where lists of points are paths, or `point` where they are not; conversations
            only.
        box_format: `xyxy`, `xywh`, or `auto`: `xywh` for lmms-lab's tables, else `xyxy`; `refcoco` only.
        max_points: Rows with more points are left out; `points` only.
        verbatim: Ask the published question as it is written, with its format instructions; benchmarks and
            conversations.
        min_pixels, max_pixels: Limits of the space `resized`, as the image processor had them when the file was
            written.
        source, license: What to record where the rows do not say it.
    """

    image_roots: tuple[Path, ...] = ()
    frames: FrameRoots = field(default_factory=FrameRoots)
    coordinate_space: str | None = None
    dialect: str | None = None
    answer_kind: Literal["auto", "point", "trace"] = "auto"
    box_format: Literal["auto", "xyxy", "xywh"] = "auto"
    max_points: int = 10
    verbatim: bool = False
    min_pixels: int = 56 * 56
    max_pixels: int = 14 * 14 * 4 * 1280
    source: str = ""
    license: str = "unknown"

    def provenance(self, row: Row) -> dict[str, str]:
        """`source` and `license` of a row."""
        return {
            "source": str(row.get("source") or self.source),
            "license": str(row.get("license") or self.license),
        }


@dataclass(frozen=True)
class Layout:
    """One kind of rows.

    Args:
        name: As `--layout` names it.
        matches: Whether a row looks like one of this layout.
        sample: `(row, number, where, options)` → the sample of that number; raises `DataError` for another layout.
        count: `(row, options)` → how many samples a row holds, 0 to leave it out; None: always one.
        columns: What `count` reads.
    """

    name: str
    matches: Callable[[Row], bool]
    sample: Callable[[Row, int, str, ReadOptions], GroundingSample]
    count: Callable[[Row, ReadOptions], int] | None = None
    columns: tuple[str, ...] = ()


# --- grounding ------------------------------------------------------------------------------------------------------


def _grounding(row: Row, number: int, where: str, options: ReadOptions) -> GroundingSample:
    """`image` (or `dataset`, `camera`, `episode_index`, `frame_index`), `image_width`, `image_height`, `instruction`,
    `kind`, `points` / `boxes` / `traces` (with `labels`, one per item) or `text`, `coordinate_space` (pixels may
    belong to an image of `coordinate_width` x `coordinate_height`), and optionally `question`, `role`, `source`,
    `license`.
    """
    kind = _choice(row.get("kind"), KINDS, "kind", where)
    question = _choice(row.get("question") or ("verbatim" if kind == "text" else "kind"), QUESTIONS, "question", where)
    image = _row_image(row, options, where)
    size = row_size(row) or image.size()
    if kind == "text":
        space, answer = None, PlainAnswer(_text(row, ("text", "answer"), where))
    else:
        space = require_space(_declared_space(row, options, where), where)
        answer = pixel_answer(
            points=_list(row, "points", where),
            boxes=_list(row, "boxes", where),
            traces=_list(row, "traces", where),
            labels=_list(row, "labels", where),
            to_pixels=coordinate_map(space, size, row_size(row, (("coordinate_width", "coordinate_height"),))),
            image_size=size,
            where=where,
        )
    return GroundingSample(
        image,
        size,
        _text(row, ("instruction",), where),
        kind,
        answer,
        space,
        **options.provenance(row),
        question=question,
        role=str(row.get("role") or ""),
        where=where,
    )


def _row_image(row: Row, options: ReadOptions, where: str) -> ImageReference:
    if row.get("image") is not None:
        return image_reference(row["image"], options.image_roots, where)
    if row.get("episode_index") is None or row.get("frame_index") is None or not row.get("camera"):
        return image_reference(None, options.image_roots, where)
    frames = options.frames[str(row.get("dataset") or "")]
    return frames.reference(str(row["camera"]), int(row["episode_index"]), int(row["frame_index"]))


def _declared_space(row: Row, options: ReadOptions, where: str) -> Any:
    declared = row.get("coordinate_space")
    if declared and options.coordinate_space and declared != options.coordinate_space:
        raise DataError(
            explain(
                "The coordinate space is declared twice",
                where=where,
                expected=f"--coordinate-space {declared}, as the row says",
                found=repr(options.coordinate_space),
                remedy="Leave --coordinate-space out: the rows declare it.",
            )
        )
    return declared or options.coordinate_space


# --- refcoco --------------------------------------------------------------------------------------------------------


def _refcoco(row: Row, number: int, where: str, options: ReadOptions) -> GroundingSample:
    """The Qwen-VL / InternVL files (`image`, `sent`, `bbox` as x1, y1, x2, y2, `width`, `height`), the tables of
    lmms-lab (`image`, `answer` as a list of texts, `bbox` as x, y, width, height), RoboRefIt's (`problem`, `bbox` as
    x1, y1, x2, y2)."""
    box = row.get("bbox")
    if not isinstance(box, Iterable) or len(values := list(box)) != 4:
        raise not_the_layout(where, "bbox with four numbers", box)
    if options.box_format == "xywh" or (options.box_format == "auto" and isinstance(row.get("answer"), list | tuple)):
        x, y, width, height = values
        values = [x, y, x + width, y + height]
    texts = _referring_texts(row)
    if not texts:
        raise not_the_layout(where, f"a text in {', '.join(REFERRING_TEXTS)} or answer", None)
    return _in_pixels(row, where, options, texts[number], "box", {"boxes": [values]})


def _referring_texts(row: Row) -> list[str]:
    if isinstance(row.get("answer"), list | tuple):
        return [str(text) for text in row["answer"]]
    text = next((row[key] for key in REFERRING_TEXTS if row.get(key)), None)
    return [str(text)] if text is not None else []


# --- points, ShareRobot, VABench ------------------------------------------------------------------------------------


def _points(row: Row, number: int, where: str, options: ReadOptions) -> GroundingSample:
    """(The card of Pixmo-Points says pixels and Molmo's own loader scales by 100: look before you choose.)"""
    require_space(options.coordinate_space, where)
    label, pairs = _text(row, ("label", "instruction"), where), _pairs(row.get("points"))
    return _in_pixels(row, where, options, label, "point", {"points": pairs, "labels": [label] * len(pairs)})


def _sharerobot(row: Row, number: int, where: str, options: ReadOptions) -> GroundingSample:
    """A path, or the box to touch, in pixels of an image of `meta_data.original_width` x `original_height`."""
    instruction = _text(row, ("instruction",), where)
    path = next((row[key] for key in ("points", "trajectory") if row.get(key)), None)
    if path is not None:
        return _in_pixels(row, where, options, instruction, "trace", {"traces": [_pairs(path)]})
    area = row.get("affordance")
    if not isinstance(area, Mapping) or not {"x", "y", "width", "height"} <= set(area):
        raise not_the_layout(where, "points, trajectory or affordance {x, y, width, height}", area)
    x, y = area["x"], area["y"]
    box = [x, y, x + area["width"], y + area["height"]]
    return _in_pixels(row, where, options, instruction, "box", {"boxes": [box]})


def _vabench(row: Row, number: int, where: str, options: ReadOptions) -> GroundingSample:
    """A box in which a point is right, or a path. The answer starts with a tag `<type>...</type>`."""
    answer = row.get("answer")
    try:
        found = json.loads(str(answer).rpartition("</type>")[2])
        box, path = found.get("bbox"), found.get("trajectory")
    except (ValueError, AttributeError):
        box = path = None
    instruction = _text(row, ("problem",), where)
    if not options.verbatim:
        instruction = instruction.replace("<image>", "").strip()
    if path is not None:
        return _in_pixels(row, where, options, instruction, "trace", {"traces": [path]})
    if box is None:
        raise not_the_layout(where, "answer with a JSON object that holds bbox or trajectory", answer)
    return _in_pixels(row, where, options, instruction, "point", {"boxes": [box]})


def _in_pixels(
    row: Row, where: str, options: ReadOptions, instruction: str, kind: Any, shapes: dict[str, Any]
) -> GroundingSample:
    """A sample of a set that is published in pixels, possibly of an image of `meta_data`'s or the row's size."""
    space = require_space(options.coordinate_space or "pixel", where)
    image = image_reference(_image_value(row), options.image_roots, where)
    declared = row.get("meta_data")
    meta: Any = declared if isinstance(declared, Mapping) else row
    original = row_size(meta, (("original_width", "original_height"),))
    size = image.size() if original else row_size(row) or image.size()
    return GroundingSample(
        image,
        size,
        instruction,
        kind,
        pixel_answer(**shapes, to_pixels=coordinate_map(space, size, original), image_size=size, where=where),
        space,
        **options.provenance(row),
        question="verbatim" if options.verbatim else "kind",
        where=where,
    )


def _image_value(row: Row) -> Any:
    value = next((row[key] for key in ("image", "image_path", "images", "id") if row.get(key) is not None), None)
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    return str(value) if isinstance(value, int) else value


# --- masks ----------------------------------------------------------------------------------------------------------

_FORMAT_REQUEST = re.compile(
    r"\s+(?:(?:your|the) answer should be formatted as|format (?:your|the) (?:answer|result)s? as"
    r"|(?:your|the) coordinates should be between)\b.*",
    re.IGNORECASE | re.DOTALL,
)


def without_format_request(question: str) -> str:
    """A published question without its closing instructions on how to write coordinates: answers are written as the
    model writes them."""
    return _FORMAT_REQUEST.sub("", question).strip()


def _masks(row: Row, number: int, where: str, options: ReadOptions) -> GroundingSample:
    """Where2Place as its authors publish it (`text`, `image`; masks named after the image or numbered), or as a table
    (`question`, `image`, `mask`); RefSpatial-Bench (`prompt`, `suffix`, `image` or `rgb_path`, `mask` or
    `mask_path`).

    Unless `verbatim`, the question comes without its instructions on how to write coordinates.
    """
    text = _text(row, ("question", "prompt", "text"), where)
    if options.verbatim:
        text = " ".join(part for part in (text, str(row.get("suffix") or "")) if part)
    else:
        text = without_format_request(text)
    image = _first(row, ("image", "rgb_path"))
    mask = _first(row, ("mask", "mask_path"))
    reference = image_reference(f"images/{image}" if mask is None else image, options.image_roots, where)
    if mask is None:  # named after the image in later copies, and numbered in the original
        numbered = int(row["question_id"]) if str(row.get("question_id", "")).isdigit() else -1
        names = [f"masks/{image}", f"masks/{numbered:02d}.jpg"]
        found = [name for name in names if any((root / name).is_file() for root in options.image_roots)]
        mask = found[0] if found else names[0]
    return GroundingSample(
        reference,
        reference.size(),
        text,
        "point",
        MaskAnswer(image_reference(mask, options.image_roots, where)),
        None,
        **options.provenance(row),
        question="verbatim" if options.verbatim else "kind",
        where=where,
    )


# --- The table ------------------------------------------------------------------------------------------------------


def _has(*keys: str) -> Callable[[Row], bool]:
    return lambda row: all(row.get(key) is not None for key in keys)


def _any(row: Row, *keys: str) -> bool:
    return any(row.get(key) is not None for key in keys)


def _is_mask_row(row: Row) -> bool:
    published = {"question_id", "text", "image"} <= set(row) and "conversations" not in row
    return _any(row, "mask", "mask_path") or (published and "bbox" not in row)


# The first that matches a file's first row is chosen: the more particular come first.
ROW_LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    {
        layout.name: layout
        for layout in (
            Layout("grounding", _has("kind", "instruction"), _grounding),
            Layout("vabench", _has("problem", "answer", "images"), _vabench),
            Layout("masks", _is_mask_row, _masks),
            Layout(
                "refcoco",
                lambda row: row.get("bbox") is not None and bool(_referring_texts(row)),
                _refcoco,
                lambda row, options: len(_referring_texts(row)) or 1,
                (*REFERRING_TEXTS, "answer"),
            ),
            Layout(
                "sharerobot",
                lambda row: (
                    row.get("instruction") is not None and _any(row, "affordance", "trajectory", "points", "meta_data")
                ),
                _sharerobot,
            ),
            Layout(
                "points",
                lambda row: row.get("label") is not None and row.get("points") is not None,
                _points,
                lambda row, options: int(0 < len(_pairs(row.get("points"))) <= options.max_points),
                ("points",),
            ),
        )
    }
)


# --- Fields of a row ------------------------------------------------------------------------------------------------


def row_size(row: Mapping[str, Any], names: Iterable[tuple[str, str]] = _SIZES) -> Size | None:
    """`(width, height)` as a row declares it; None when it does not."""
    for width, height in names:
        if row.get(width) and row.get(height):
            return int(row[width]), int(row[height])
    return None


def not_the_layout(where: str, expected: str, found: Any) -> DataError:
    """The error for a row that is not of its layout."""
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


def _choice(value: Any, allowed: Iterable[str], name: str, where: str) -> Any:
    if value not in allowed:
        raise not_the_layout(where, f"{name}, one of {', '.join(allowed)}", value)
    return value


def _text(row: Row, keys: tuple[str, ...], where: str) -> str:
    found = _first(row, keys)
    if not isinstance(found, str):
        raise not_the_layout(where, f"a text in {' or '.join(keys)}", found)
    return found


def _first(row: Row, keys: Iterable[str]) -> Any:
    return next((row[key] for key in keys if row.get(key) is not None), None)


def _list(row: Row, key: str, where: str) -> list[Any]:
    value = row.get(key)
    if value is None:
        return []
    if not isinstance(value, list | tuple):
        raise not_the_layout(where, f"a list in {key}", value)
    return list(value)


def _pairs(points: Any) -> list[list[Any]]:
    """Points as `[[x, y], ...]`, from pairs, from dicts, or from a dict of lists."""
    if isinstance(points, Mapping):
        return [list(pair) for pair in zip(points.get("x") or (), points.get("y") or (), strict=False)]
    return [[p.get("x"), p.get("y")] if isinstance(p, Mapping) else list(p) for p in points or ()]


__all__ = [
    "ROW_LAYOUTS",
    "FrameRoots",
    "Layout",
    "ReadOptions",
    "not_the_layout",
    "row_size",
    "without_format_request",
]
