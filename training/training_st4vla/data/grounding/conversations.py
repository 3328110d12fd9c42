"""Conversation files of LLaVA, Qwen-VL and their kin: coordinates are read out of the answers, the rest stays words."""

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from processing_st4vla import GroundingResult
from processing_st4vla.spatial import DIALECTS, RejectReason, smart_resize
from training_st4vla.data.errors import DataError, explain
from training_st4vla.data.grounding.images import image_reference
from training_st4vla.data.grounding.layouts import Provenance
from training_st4vla.data.grounding.rows import Row
from training_st4vla.data.grounding_schema import COORDINATE_SPACES, GroundingSample, PlainAnswer, SampleKind, Size

TEXT_DIALECT = "text"
"""The dialect of answers that are words only: general visual question answering."""

RESIZED = "resized"
"""The coordinate space of pixels of the image that a Qwen2.5-VL sees (`smart_resize`)."""

_PLACEHOLDERS = re.compile(r"<image>\s*|<\|vision_start\|>(?:<\|image_pad\|>)+<\|vision_end\|>\s*")
_HUMAN, _MODEL = frozenset({"human", "user"}), frozenset({"gpt", "assistant", "model"})


@dataclass(frozen=True)
class ConversationLayout:
    """Rows `{"image" or "images", "conversations": [{"from": "human", "value"}, {"from": "gpt", "value"}]}`.

    `messages` with `role` and `content` are read as well, and conversations stored as one dict of lists. Each question
    with its answer is a sample of its own; earlier turns are not repeated. A row with several images is left out.

    An answer with coordinates becomes a box, point or trace sample; one without stays words (`kind` `text`). The
    question is asked as it is written.

    Args:
        dialect: How the answers write coordinates, a key of `DIALECTS`, or `text` for words only.
        coordinate_space: With `qwen2_5_vl` it must be given: `pixel` (original image), `resized` (what the model sees,
            by `smart_resize` with the limits below), or another key of `COORDINATE_SPACES`. The other dialects have
            one space.
        answer_kind: `auto`, or `trace` where lists of points are paths, or `point` where they are not.
        root: Folder of the image files.
        min_pixels, max_pixels: Limits of `resized`, as the image processor had them when the file was written.
        provenance: What to record as source and license.

    Raises:
        DataError: The dialect is unknown, or the space is missing or contradicts the dialect.
    """

    dialect: str
    coordinate_space: str | None = None
    answer_kind: str = "auto"
    root: Path | None = None
    min_pixels: int = 56 * 56
    max_pixels: int = 14 * 14 * 4 * 1280
    provenance: Provenance = Provenance()
    name: str = "conversations"
    columns: tuple[str, ...] = ("conversations", "messages", "image_count")

    def __post_init__(self) -> None:
        _check_space(self.dialect, self.coordinate_space)

    def count(self, row: Row) -> int:
        """One sample per question with an answer."""
        return len(_pairs_of_turns(row))

    def sample(self, row: Row, number: int, where: str) -> GroundingSample:
        """See `Layout.sample`."""
        question, text = _pairs_of_turns(row)[number]
        image = image_reference(_only_image(row, where), self.root, where)
        size = _declared_size(row) or image.size()
        result = self._parse(text, size)
        kind, answer = (_kind(result), result) if result is not None else ("text", PlainAnswer(text.strip()))
        return GroundingSample(
            image=image,
            image_size=size,
            instruction=question,
            kind=kind,
            answer=answer,
            coordinate_space=self.coordinate_space if kind != "text" else None,
            source=str(row.get("source") or self.provenance.source),
            license=self.provenance.license,
            verbatim=True,
            where=f"{where}, turn {number}",
        )

    def _parse(self, text: str, size: Size) -> GroundingResult | None:
        """The coordinates of an answer; None when it has none."""
        if self.dialect == TEXT_DIALECT:
            return None
        result = GroundingResult.from_text(
            text,
            self.dialect,
            image_size=size,
            model_size=self._model_size(size),
            kind=self.answer_kind,  # pyright: ignore[reportArgumentType]
        )
        has_coordinates = not result.is_empty or any(entry.coordinates for entry in result.rejected)
        says_none = result.is_empty and not result.rejected
        return result if has_coordinates or says_none or _looks_broken(result) else None

    def _model_size(self, size: Size) -> Size:
        if self.coordinate_space == RESIZED:
            return smart_resize(size, min_pixels=self.min_pixels, max_pixels=self.max_pixels)
        # The grammar of qwen2_5_vl in a relative space: "pixels" of an image that is as wide as the space.
        extent = COORDINATE_SPACES.get(self.coordinate_space or "pixel")
        return size if extent is None else (int(extent), int(extent))


def _check_space(dialect: str, space: str | None) -> None:
    if dialect == TEXT_DIALECT:
        expected = "no coordinate space" if space is not None else None
    elif dialect not in DIALECTS:
        raise DataError(
            explain(
                "How the answers write coordinates is not declared",
                where="--dialect",
                expected=f"one of {', '.join(DIALECTS)}, or {TEXT_DIALECT} for answers in words only",
                found=repr(dialect) if dialect else "none",
                remedy="Look at an answer of the file. It is never guessed.",
            )
        )
    elif dialect == "qwen2_5_vl":
        spaces = (*COORDINATE_SPACES, RESIZED)
        expected = f"one of {', '.join(spaces)}" if space not in spaces else None
    else:
        own = next((name for name, extent in COORDINATE_SPACES.items() if extent == DIALECTS[dialect].extent), None)
        expected = f"{own or 'none'}, the space of {dialect}" if space not in (None, own) else None
    if expected is not None:
        raise DataError(
            explain(
                "The coordinate space is missing or does not fit the dialect",
                where=f"--coordinate-space with --dialect {dialect}",
                expected=expected,
                found=repr(space) if space else "none",
                remedy="Coordinates without a declared space are refused: say what the numbers of the file are.",
            )
        )


def _looks_broken(result: GroundingResult) -> bool:
    """An answer that starts coordinates and does not complete them is a damaged answer, not words."""
    return any(entry.reason in (RejectReason.INCOMPLETE, RejectReason.NOT_COORDINATES) for entry in result.rejected)


def _kind(result: GroundingResult) -> SampleKind:
    if result.boxes:
        return "box"
    return "trace" if result.traces else "point"


def _pairs_of_turns(row: Row) -> list[tuple[str, str]]:
    """Question and answer of every turn, without image placeholders."""
    turns = [_turn(turn) for turn in _turns(row)]
    return [
        (_PLACEHOLDERS.sub("", question).strip(), answer)
        for (asker, question), (replier, answer) in itertools.pairwise(turns)
        if asker in _HUMAN and replier in _MODEL
    ]


def _turns(row: Row) -> list[Mapping[str, Any]]:
    found = row.get("conversations") if row.get("conversations") is not None else row.get("messages")
    if isinstance(found, Mapping):
        keys = list(found)
        return [dict(zip(keys, values, strict=True)) for values in zip(*found.values(), strict=True)]
    return [turn for turn in found or () if isinstance(turn, Mapping)]


def _turn(turn: Mapping[str, Any]) -> tuple[str, str]:
    speaker = str(turn.get("from") or turn.get("role") or "").lower()
    content = turn.get("value") if turn.get("value") is not None else turn.get("content")
    if isinstance(content, list):
        content = "\n".join(str(part.get("text") or "") for part in content if isinstance(part, Mapping))
    return speaker, str(content or "")


def _only_image(row: Row, where: str) -> Any:
    images = row.get("images") if row.get("image") is None else row["image"]
    if isinstance(images, list | tuple):
        if len(images) == 1:
            return images[0]
        raise DataError(
            explain(
                "A row has not one image",
                where=where,
                expected="one image: coordinates belong to one, and the text does not say to which",
                found=f"{len(images)} images",
                remedy="Leave such rows out with skip_invalid=True.",
            )
        )
    return images


def _declared_size(row: Row) -> Size | None:
    for width, height in (("image_width", "image_height"), ("width", "height")):
        if isinstance(row.get(width), int) and isinstance(row.get(height), int):
            return row[width], row[height]
    return None


__all__ = ["RESIZED", "TEXT_DIALECT", "ConversationLayout"]
