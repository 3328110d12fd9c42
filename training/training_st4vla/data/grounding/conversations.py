"""Conversation files of LLaVA, Qwen-VL and their kin: coordinates are read out of the answers, the rest stays words.

Rows are `{"image" or "images", "conversations": [{"from": "human", "value"}, {"from": "gpt", "value"}]}`; `messages`
with `role` and `content` are read as well, and conversations stored as one dict of lists. Each question with its
answer is a sample of its own; earlier turns are not repeated. An answer with coordinates becomes a box, point or
trace sample; one without stays words (kind `text`). The question is asked as it is written, but for instructions on
how to write coordinates ("Your answer should be formatted as a list of tuples ..."), unless `verbatim`.

The dialect must be declared. With `qwen2_5_vl` the space must be, too: `pixel` (original image), `resized` (what the
model sees, by `smart_resize`), or another of `COORDINATE_SPACES`; the other dialects have one space.
"""

import itertools
import re
from collections.abc import Iterable, Mapping
from typing import Any

from processing_st4vla import GroundingResult
from processing_st4vla.spatial import DIALECTS, RejectReason, smart_resize
from training_st4vla.data.errors import DataError, explain
from training_st4vla.data.grounding.images import image_reference
from training_st4vla.data.grounding.layouts import Layout, ReadOptions, row_size, without_format_request
from training_st4vla.data.grounding.rows import Row
from training_st4vla.data.grounding.schema import (
    COORDINATE_SPACES,
    GroundingSample,
    PlainAnswer,
    SampleKind,
    Size,
    UndeclaredSpaceError,
)

TEXT_DIALECT = "text"
"""The dialect of answers that are words only: general visual question answering."""

RESIZED = "resized"
"""The coordinate space of pixels of the image that a Qwen2.5-VL sees (`smart_resize`)."""

_PLACEHOLDERS = re.compile(r"<image>\s*|<\|vision_start\|>(?:<\|image_pad\|>)+<\|vision_end\|>\s*")
_HUMAN, _MODEL = frozenset({"human", "user"}), frozenset({"gpt", "assistant", "model"})


def _sample(row: Row, number: int, where: str, options: ReadOptions) -> GroundingSample:
    dialect = check_dialect(options.dialect, options.coordinate_space)
    question, text = turns(row)[number]
    image = image_reference(_only_image(row, where), options.image_roots, where)
    size = row_size(row) or image.size()
    result = None if dialect == TEXT_DIALECT else _read(text, dialect, size, options)
    kind: SampleKind = "text" if result is None else _kind(result)
    # The answer is written anew, in the model's own format: a question that asks for another would contradict it.
    asked = question if result is None or options.verbatim else without_format_request(question)
    return GroundingSample(
        image,
        size,
        asked,
        kind,
        PlainAnswer(text.strip()) if result is None else result,
        None if result is None else _own_space(dialect) or options.coordinate_space,
        **options.provenance(row),
        question="verbatim",
        where=f"{where}, turn {number}",
    )


def _read(text: str, dialect: str, size: Size, options: ReadOptions) -> GroundingResult | None:
    """The coordinates of an answer; None when it has none."""
    model_size = _model_size(size, options)
    result = GroundingResult.from_text(text, dialect, image_size=size, model_size=model_size, kind=options.answer_kind)
    has_coordinates = not result.is_empty or any(entry.coordinates for entry in result.rejected)
    says_none = result.is_empty and not result.rejected
    return result if has_coordinates or says_none or _looks_broken(result) else None


def _model_size(size: Size, options: ReadOptions) -> Size:
    if options.coordinate_space == RESIZED:
        return smart_resize(size, min_pixels=options.min_pixels, max_pixels=options.max_pixels)
    # The grammar of qwen2_5_vl in a relative space: "pixels" of an image that is as wide as the space.
    extent = COORDINATE_SPACES.get(options.coordinate_space or "pixel")
    return size if extent is None else (int(extent), int(extent))


def fitting_dialects(rows: Iterable[Row], size: Size) -> dict[str, float]:
    """For each dialect, the share of answers that it reads to the end with everything inside an image.

    Args:
        rows: Some rows of a file.
        size: `(width, height)` of an image; for dialects in pixels, of a typical one.

    Returns:
        Shares above 0, the largest first.
    """
    answers = [answer for row in rows for _, answer in turns(row)]
    shares: dict[str, float] = {}
    for name in DIALECTS:
        results = [GroundingResult.from_text(text, name, image_size=size, model_size=size) for text in answers]
        good = sum(not result.is_empty and not result.rejected for result in results)
        if good:
            shares[name] = good / len(answers)
    return dict(sorted(shares.items(), key=lambda entry: -entry[1]))


def check_dialect(dialect: str | None, space: str | None) -> str:
    """Returns a declared dialect whose space is declared as well.

    Raises:
        DataError: The dialect is unknown or missing, or the space contradicts it.
        UndeclaredSpaceError: The dialect needs a space.
    """
    if dialect is None or (dialect != TEXT_DIALECT and dialect not in DIALECTS):
        raise DataError(
            explain(
                "How the answers write coordinates is not declared",
                where="--dialect",
                expected=f"one of {', '.join(DIALECTS)}, or {TEXT_DIALECT} for answers in words only",
                found=repr(dialect) if dialect else "none",
                remedy="Look at an answer of the file. It is never guessed.",
            )
        )
    if dialect == TEXT_DIALECT:
        expected, allowed = "no coordinate space", (None,)
    elif dialect == "qwen2_5_vl":
        allowed = (*COORDINATE_SPACES, RESIZED)
        expected = f"one of {', '.join(allowed)}"
    else:
        own = _own_space(dialect)
        expected, allowed = f"{own or 'none'}, the space of {dialect}", (None, own)
    if space not in allowed:
        kind = UndeclaredSpaceError if space is None else DataError
        raise kind(
            explain(
                "The coordinate space is missing or does not fit the dialect",
                where=f"--coordinate-space with --dialect {dialect}",
                expected=expected,
                found=repr(space) if space else "none",
                remedy="Coordinates without a declared space are refused: say what the numbers of the file are.",
            )
        )
    return dialect


def _own_space(dialect: str) -> str | None:
    """The space that a relative dialect has by itself; Florence-2's bins are thousandths."""
    return next(
        (name for name, extent in COORDINATE_SPACES.items() if extent and extent == DIALECTS[dialect].extent), None
    )


def _looks_broken(result: GroundingResult) -> bool:
    """An answer that starts coordinates and does not complete them is a damaged answer, not words."""
    return any(entry.reason in (RejectReason.INCOMPLETE, RejectReason.NOT_COORDINATES) for entry in result.rejected)


def _kind(result: GroundingResult) -> SampleKind:
    if result.boxes:
        return "box"
    return "trace" if result.traces else "point"


def turns(row: Row) -> list[tuple[str, str]]:
    """Question and answer of every turn, without image placeholders."""
    spoken = [_turn(turn) for turn in _turns(row)]
    return [
        (_PLACEHOLDERS.sub("", question).strip(), answer)
        for (asker, question), (replier, answer) in itertools.pairwise(spoken)
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


CONVERSATIONS = Layout(
    "conversations",
    lambda row: row.get("conversations") is not None or row.get("messages") is not None,
    _sample,
    lambda row, options: len(turns(row)),
    ("conversations", "messages"),
)

__all__ = ["CONVERSATIONS", "RESIZED", "TEXT_DIALECT", "check_dialect", "fitting_dialects", "turns"]
