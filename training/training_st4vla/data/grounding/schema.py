"""One grounding sample, whatever it was read from: an image, a question, and an answer in pixels of that image.

Every reader of `training_st4vla.data.grounding` ends here. Coordinates are accepted only with a declared space, are
converted to pixels of the original image (origin at the top left corner, x to the right, y down, continuous, an image
of width `w` spanning `[0, w]`), and what lies outside the image is refused when the sample is used.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, Protocol

from PIL import Image

from processing_st4vla import Box, GroundingResult, Point, Trace
from processing_st4vla.spatial import CoordinateMap, Rejected, RejectReason
from training_st4vla.data.errors import DataError, explain

Size = tuple[int, int]
SampleKind = Literal["box", "point", "trace", "text"]
KINDS: tuple[SampleKind, ...] = ("box", "point", "trace", "text")
Question = Literal["kind", "verbatim", "spatial"]
QUESTIONS: tuple[Question, ...] = ("kind", "verbatim", "spatial")
"""How a sample is asked: `kind`, its instruction in the processor's question for its kind; `verbatim`, the instruction
as it stands; `spatial`, the instruction in the processor's spatial prompt, exactly as it is used for acting."""

COORDINATE_SPACES: Mapping[str, float | None] = MappingProxyType(
    {"pixel": None, "unit": 1.0, "percent": 100.0, "byte": 255.0, "per_mille": 1000.0}
)
"""What `coordinate_space` may say, and the coordinate of the right and bottom edges. `pixel`: pixels of the original
image, or of an image of `coordinate_size`; `unit` 0 to 1; `percent` 0 to 100; `byte` 0 to 255; `per_mille` 0 to 1000.
All with x first."""

_CONTROL_TOKEN = re.compile(r"<\|[a-z0-9_]{1,40}\|>|<image>|<video>", re.IGNORECASE)
_FATAL = frozenset(RejectReason) - {RejectReason.CLIPPED}


class ImageReference(Protocol):
    """Where an image is. Instances can be pickled; nothing is decoded before `load`."""

    @property
    def key(self) -> str:
        """Names the image: equal for equal images of one dataset."""
        ...

    @property
    def group(self) -> str:
        """Names what the image belongs to: frames of one episode are alike, and share it."""
        ...

    def size(self) -> Size:
        """`(width, height)` in pixels, from the header alone. Raises `DataError` when it cannot be read."""
        ...

    def load(self) -> Image.Image:
        """The image, RGB. Raises `DataError` when it cannot be read."""
        ...

    def digest(self) -> str:
        """A fingerprint of the stored content (of the reference, for video frames); equal across datasets."""
        ...


@dataclass(frozen=True, slots=True)
class PlainAnswer:
    """An answer in words, with the one method of `GroundingResult` that training needs.

    Args:
        text: The answer, without special tokens.
    """

    text: str

    def to_text(self, dialect: str = "", *, model_size: Size | None = None) -> str:
        """The text itself, in every dialect."""
        return self.text


@dataclass(frozen=True, slots=True)
class MaskAnswer:
    """The right places of a benchmark's point question: any point on the white of a mask. For evaluation only.

    Args:
        mask: An image of the size of the question's image; white is right.
    """

    mask: ImageReference


@dataclass(frozen=True, slots=True)
class GroundingSample:
    """One question about one image.

    Args:
        image: Where the image is.
        image_size: `(width, height)` of it in pixels.
        instruction: What to find, or the task, or the whole question; see `question`.
        kind: What the answer is: `box`, `point`, `trace`, or `text` for visual question answering.
        answer: In pixels of the image, with everything that could not be used under `rejected`; or words; or a mask.
            Boxes beside the points of a `point` sample are the region in which a point is right: they are no part of
            the answer that is learnt, and evaluation scores points by them. Boxes and points beside the trace of a
            `trace` sample are what the path goes by: they are learnt, written before it, and not scored.
        coordinate_space: The space in which the source wrote it, a key of `COORDINATE_SPACES`; None for words.
        source: Where it comes from.
        license: Licence of the annotation; `"unknown"` where nobody says.
        question: How it is asked, one of `QUESTIONS`.
        role: What the answer is in its task (`pick`, `place`, `gripper`, ...), or empty.
        where: File and row, for errors.
    """

    image: ImageReference
    image_size: Size
    instruction: str
    kind: SampleKind
    answer: GroundingResult | PlainAnswer | MaskAnswer
    coordinate_space: str | None
    source: str
    license: str = "unknown"
    question: Question = "kind"
    role: str = ""
    where: str = ""

    def problem(self, *, training: bool = True) -> str | None:
        """Why this sample cannot be used, in a few words; None when it can. The image is not read.

        Args:
            training: Whether a model is to learn the answer. A mask, or a region without a point, can be evaluated
                only.
        """
        for field, text in (("instruction", self.instruction), ("answer", self._words())):
            if field == "instruction" and not text.strip():
                return "empty instruction"
            found = _CONTROL_TOKEN.search(text)
            if found:
                return f"special token {found.group()} in the {field}"
        if isinstance(self.answer, PlainAnswer):
            return None if self.answer.text.strip() else "empty answer"
        if isinstance(self.answer, MaskAnswer):
            return "a mask instead of a point" if training else None
        return self._coordinate_problem(self.answer, training)

    def check(self, *, training: bool = True) -> None:
        """Refuses a sample that cannot be used; see `problem`.

        Raises:
            DataError: For an empty instruction or answer, special tokens, coordinates outside the image, or malformed
                ones. A box that reaches out of the image is accepted with its visible part.
        """
        problem = self.problem(training=training)
        if problem is not None:
            width, height = self.image_size
            raise DataError(
                explain(
                    "A grounding sample cannot be used",
                    where=self.where or self.source,
                    expected=f"a question and a {self.kind} inside its image of {width} x {height} pixels",
                    found=problem,
                    remedy="Correct or remove this row; `st4vla check` lists all such rows, and skip_invalid=True "
                    "leaves them out.",
                )
            )

    def to_item(self, image: Image.Image | None = None) -> dict[str, Any]:
        """What `GroundingCollator` takes: the question of `to_question`, and `answer` in pixels of the image.

        Args:
            image: The sample's image, where it is decoded already; None: it is decoded.

        Raises:
            DataError: As for `check`, or when the image is missing, damaged, or has another size than declared.
        """
        self.check()
        return {**self.to_question(image), "answer": self.learnt_answer()}

    def to_question(self, image: Image.Image | None = None) -> dict[str, Any]:
        """What `predict_grounding` takes: `image` (PIL, RGB), `instruction`, `kind` (of the processor's question:
        `auto` for a verbatim one, `spatial` for a spatial prompt), `answer_kind`, `source`.

        Args:
            image: The sample's image, where it is decoded already; None: it is decoded.

        Raises:
            DataError: The image is missing, damaged, or has another size than declared.
        """
        image = self.image.load() if image is None else image
        if image.size != self.image_size:
            raise DataError(
                explain(
                    "An image has another size than its row says",
                    where=self.where or self.source,
                    expected=f"{self.image_size[0]} x {self.image_size[1]} pixels",
                    found=f"{image.size[0]} x {image.size[1]}",
                    remedy="If the coordinates belong to the declared size, store it as coordinate_width and "
                    "coordinate_height, and the size of the stored image as image_width and image_height.",
                )
            )
        return {
            "image": image,
            "instruction": self.instruction,
            "kind": {"kind": self.kind, "verbatim": "auto", "spatial": "spatial"}[self.question],
            "answer_kind": self.kind,
            "source": self.source,
        }

    def learnt_answer(self) -> GroundingResult | PlainAnswer | MaskAnswer:
        """The answer without what does not belong into its text: the region beside a point, rejected items."""
        if not isinstance(self.answer, GroundingResult) or self.question == "verbatim":
            return self.answer
        kept = {"point": ("points",), "box": ("boxes",), "trace": ("boxes", "points", "traces")}[self.kind]
        return GroundingResult(
            **{name: getattr(self.answer, name) for name in kept}, image_size=self.answer.image_size
        )

    def length(self) -> int:
        """Characters of the question and of the answer that is learnt."""
        answer = self.learnt_answer()
        written = 0 if isinstance(answer, MaskAnswer) else len(answer.to_text(model_size=self.image_size))
        return len(self.instruction) + written

    def _words(self) -> str:
        if isinstance(self.answer, PlainAnswer):
            return self.answer.text
        if isinstance(self.answer, MaskAnswer):
            return ""
        items = (*self.answer.points, *self.answer.boxes, *self.answer.traces)
        return " ".join(item.label or "" for item in items)

    def _coordinate_problem(self, answer: GroundingResult, training: bool) -> str | None:
        bad = [entry for entry in answer.rejected if entry.reason in _FATAL]
        if bad:
            first = bad[0]
            hint = _fitting_space(first, self.coordinate_space, self.image_size)
            return f"{first.reason}: {first.item}" + (f"; it would fit coordinate_space {hint!r}" if hint else "")
        items = {"point": answer.points, "box": answer.boxes, "trace": answer.traces}
        if not (items.get(self.kind) or (self.kind == "point" and answer.boxes and not training)):
            return f"no {self.kind}" if not answer.is_empty else "empty answer"
        return None


def coordinate_map(space: str, image_size: Size, coordinate_size: Size | None = None) -> CoordinateMap:
    """The map from a declared space to pixels of the original image.

    Args:
        space: A key of `COORDINATE_SPACES`.
        image_size: `(width, height)` of the original image.
        coordinate_size: For `pixel`: `(width, height)` of the image that the coordinates belong to, if another.
    """
    extent = COORDINATE_SPACES[space]
    if extent is not None:
        return CoordinateMap.relative(image_size, extent).inverse
    return CoordinateMap.resize(coordinate_size or image_size, image_size)


class UndeclaredSpaceError(DataError):
    """Coordinates come without a declared space, or with an unknown one."""


def require_space(space: Any, where: str) -> str:
    """Returns a declared coordinate space.

    Raises:
        UndeclaredSpaceError: It is missing or unknown. It is never guessed.
    """
    if isinstance(space, str) and space in COORDINATE_SPACES:
        return space
    missing = space is None or space == ""
    raise UndeclaredSpaceError(
        explain(
            "The coordinate space is not declared" if missing else "The coordinate space is unknown",
            where=where,
            expected=f"coordinate_space, one of {', '.join(COORDINATE_SPACES)}",
            found="none" if missing else repr(space),
            remedy="Say in which space the coordinates are written: in the column `coordinate_space`, or with "
            "--coordinate-space.",
        )
    )


def pixel_answer(
    *,
    points: Sequence[Any] = (),
    boxes: Sequence[Any] = (),
    traces: Sequence[Any] = (),
    labels: Sequence[str | None] = (),
    to_pixels: CoordinateMap,
    image_size: Size,
    where: str,
) -> GroundingResult:
    """Coordinates of any space as a result in pixels of the original image.

    Args:
        points: `[[x, y], ...]` in the declared space.
        boxes: `[[x1, y1, x2, y2], ...]` in the declared space.
        traces: `[[[x, y], ...], ...]` in the declared space.
        labels: One per item, points first, then boxes, then traces; or empty.
        to_pixels: From `coordinate_map`.
        image_size: `(width, height)`.
        where: Place named in errors.

    Returns:
        The result. Items that are malformed or outside are under `rejected`, with their reason and, where they have
        one, their position in pixels.

    Raises:
        DataError: There are labels, but not one per item.
    """
    items: list[tuple[str, Any]] = [
        *(("point", value) for value in points),
        *(("box", value) for value in boxes),
        *(("trace", value) for value in traces),
    ]
    if len(labels) and len(labels) != len(items):
        raise DataError(
            explain(
                "Labels and coordinates do not match",
                where=where,
                expected=f"one label for each of {len(items)} points, boxes and traces",
                found=f"{len(labels)} labels",
                remedy="Correct the row, or leave `labels` empty.",
            )
        )
    names = list(labels) or [None] * len(items)
    built = [_item(kind, value, name, to_pixels) for (kind, value), name in zip(items, names, strict=True)]
    return GroundingResult.from_pixels(
        (item for item in built if isinstance(item, Point)),
        (item for item in built if isinstance(item, Box)),
        (item for item in built if isinstance(item, Trace)),
        image_size=image_size,
        rejected=[item for item in built if isinstance(item, Rejected)],
    )


def _item(kind: str, value: Any, label: str | None, to_pixels: CoordinateMap) -> Point | Box | Trace | Rejected:
    numbers = _numbers(value, pairs=kind == "trace")
    if numbers is None:
        return Rejected(_shown(value), RejectReason.NOT_COORDINATES)
    if not all(map(math.isfinite, numbers)):
        return Rejected(_shown(value), RejectReason.NOT_FINITE)
    wanted = {"point": 2, "box": 4}.get(kind)
    if wanted is not None and len(numbers) != wanted:
        return Rejected(_shown(value), RejectReason.WRONG_COUNT)
    positions = to_pixels.points(zip(numbers[::2], numbers[1::2], strict=True))
    flat = tuple(number for xy in positions for number in xy)
    if kind == "point":
        return Point(positions[0], label or None)
    if kind == "trace":
        return (
            Trace(positions, label or None)
            if len(positions) > 1
            else Rejected(_shown(value), RejectReason.SHORT_TRACE, flat)
        )
    x1, y1, x2, y2 = flat
    if x2 < x1 or y2 < y1:
        return Rejected(_shown(value), RejectReason.INVERTED_BOX, flat)
    if x2 == x1 or y2 == y1:
        return Rejected(_shown(value), RejectReason.EMPTY_BOX, flat)
    return Box((x1, y1, x2, y2), label or None)


def _numbers(value: Any, *, pairs: bool) -> list[float] | None:
    try:
        if pairs:
            rows = [[float(number) for number in row] for row in value]
            return [number for row in rows for number in row] if all(len(row) == 2 for row in rows) else None
        return [float(number) for number in value]
    except (TypeError, ValueError):
        return None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."


def _fitting_space(entry: Rejected, declared: str | None, image_size: Size) -> str | None:
    """The narrowest other space in which an item that is outside would be inside."""
    if declared is None or declared not in COORDINATE_SPACES:
        return None
    if entry.reason != RejectReason.OUTSIDE or not entry.coordinates:
        return None
    back = coordinate_map(declared, image_size).inverse
    raw = back.points(zip(entry.coordinates[::2], entry.coordinates[1::2], strict=True))
    for space in sorted(COORDINATE_SPACES, key=lambda name: COORDINATE_SPACES[name] or math.inf):
        placed = coordinate_map(space, image_size).points(raw)
        if space != declared and all(0 <= x <= image_size[0] and 0 <= y <= image_size[1] for x, y in placed):
            return space
    return None


__all__ = [
    "COORDINATE_SPACES",
    "KINDS",
    "QUESTIONS",
    "GroundingSample",
    "ImageReference",
    "MaskAnswer",
    "PlainAnswer",
    "Question",
    "SampleKind",
    "Size",
    "UndeclaredSpaceError",
    "coordinate_map",
    "pixel_answer",
    "require_space",
]
