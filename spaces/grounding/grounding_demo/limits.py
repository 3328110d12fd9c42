"""What the demo accepts, and the words in which it refuses."""

from collections.abc import Sequence
from pathlib import Path

from training_st4vla.errors import UserError
from training_st4vla.pictures import MAX_PIXELS, Picture, open_picture

MAX_FILE_MB = 20
MAX_PICTURES = 6
MAX_PROMPT = 1000  # characters
MAX_NEW_TOKENS = 512
MAX_QUEUE = 16  # waiting requests, of all users
MAX_NAME = 80


def check_prompt(text: str | None) -> str:
    """
    The question without surrounding space.

    Raises:
        UserError: when it is empty or longer than `MAX_PROMPT` characters.
    """
    text = (text or "").strip()
    if not text:
        raise UserError("Write what to find, for example: the red block.")
    if len(text) > MAX_PROMPT:
        raise UserError(
            f"The question is too long: expected at most {MAX_PROMPT:,} characters, found {len(text):,}. Shorten it."
        )
    return text


def check_tokens(number: float | None) -> int:
    """
    The longest answer, in tokens.

    Raises:
        UserError: outside 1 to `MAX_NEW_TOKENS`.
    """
    if number is None or not 1 <= number <= MAX_NEW_TOKENS:
        raise UserError(f"Longest answer: expected 1 to {MAX_NEW_TOKENS} tokens, found {number}.")
    return int(number)


def open_pictures(paths: Sequence[str | None]) -> list[tuple[str, Picture]]:
    """
    The uploaded files as `(name, picture)`, refused before decoding when they are too many or too large.

    Raises:
        UserError: naming the file and what is wrong with it.
    """
    files = [Path(path) for path in paths if path]
    if not files:
        raise UserError("Choose an image first: drop a file, paste one, take a photo, or click an example.")
    if len(files) > MAX_PICTURES:
        raise UserError(f"Expected at most {MAX_PICTURES} images at once, found {len(files)}.")
    return [(short_name(file), open_upload(file)) for file in files]


def open_upload(file: Path) -> Picture:
    """One uploaded file. Raises `UserError` naming it and what is wrong with it."""
    name = short_name(file)
    if file.is_file() and file.stat().st_size > MAX_FILE_MB * 1_000_000:
        raise UserError(
            f"{name}: expected at most {MAX_FILE_MB} MB, found {file.stat().st_size / 1e6:.1f}. Save it smaller."
        )
    return open_picture(file, name, MAX_PIXELS)


def short_name(file: Path) -> str:
    """A file's name for display; uploads can have names of any length."""
    return file.name if len(file.name) <= MAX_NAME else file.name[: MAX_NAME - 1] + "…"


__all__ = [
    "MAX_FILE_MB",
    "MAX_NEW_TOKENS",
    "MAX_PICTURES",
    "MAX_PIXELS",
    "MAX_PROMPT",
    "MAX_QUEUE",
    "check_prompt",
    "check_tokens",
    "open_pictures",
    "open_upload",
    "short_name",
]
