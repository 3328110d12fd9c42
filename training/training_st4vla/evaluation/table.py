"""Result tables as aligned text, with the standard library alone.

The same [`ResultTable`] goes to the terminal (`to_text`) and to the HTML report (`Report.table`).
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

Cell = Any  # str, bool, int, float, None, or anything with estimate, low and high

MISSING = "n/a"


@runtime_checkable
class IntervalLike(Protocol):
    """What `intervals.Interval` offers to a table."""

    @property
    def estimate(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


@dataclass(frozen=True, slots=True)
class ResultTable:
    """One table of results, ready for the terminal and for a report.

    Args:
        headers (`Sequence[str]`): Column names, with units.
        rows (`Sequence[Sequence]`): Cells: text, numbers, None, or intervals.
        title (`str`, *optional*): One line above the table.
        note (`str`, *optional*): What a reader must know to read it, below the table.
        digits (`int`): Significant digits of a number.
    """

    headers: Sequence[str]
    rows: Sequence[Sequence[Cell]] = field(default_factory=tuple)
    title: str = ""
    note: str = ""
    digits: int = 3

    def to_text(self) -> str:
        """Aligned plain text; see [`format_table`]."""
        return format_table(self.headers, self.rows, title=self.title, note=self.note, digits=self.digits)


def format_table(
    headers: Sequence[str], rows: Sequence[Sequence[Cell]], *, title: str = "", note: str = "", digits: int = 3
) -> str:
    """Aligns a table for a fixed-width terminal.

    Numbers and intervals are right-aligned, text is left-aligned; wide characters take two columns; control
    characters in names (terminal escapes) are replaced.

    Args:
        headers (`Sequence[str]`): Column names.
        rows (`Sequence[Sequence]`): Cells, as many per row as headers.
        title (`str`), note (`str`): Lines above and below.
        digits (`int`): Significant digits of a number.

    Returns:
        `str`: lines joined by newlines, without trailing blanks.

    Raises:
        ValueError: where a row has another number of cells than there are headers.
    """
    check_rows(headers, rows)
    texts = [[plain_text(str(name)) for name in headers]]
    texts += [[format_cell(cell, digits=digits) for cell in row] for row in rows]
    widths = [max(display_width(row[i]) for row in texts) for i in range(len(headers))]
    right = numeric_columns(headers, rows)
    lines = [_line(row, widths, right) for row in texts]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join([*([plain_text(title)] if title else []), *lines, *([plain_text(note)] if note else [])])


def format_cell(value: Cell, *, digits: int = 3) -> str:
    """One cell as text: intervals as `0.650 [0.555, 0.734]`, None and NaN as `n/a`, booleans as yes / no."""
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, IntervalLike):
        return format_interval(value, digits=digits)
    if isinstance(value, str):
        return plain_text(value)
    if isinstance(value, int):
        return str(value)
    try:
        number = float(value)
    except (TypeError, ValueError):
        return plain_text(str(value))
    return format_number(number, digits=digits)


def format_number(value: float, *, digits: int = 3, like: float | None = None) -> str:
    """A number with `digits` significant digits and never fewer than its integer part.

    Args:
        value (`float`): The number; NaN becomes `n/a`.
        digits (`int`): Significant digits.
        like (`float`, *optional*): Take the number of decimals from this magnitude instead, so that numbers shown
            together line up.
    """
    if math.isnan(value):
        return MISSING
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    scale = abs(value if like is None else like)
    exponent = math.floor(math.log10(scale)) if scale > 0 and math.isfinite(scale) else 0
    decimals = max(0, digits - 1 - exponent)
    if decimals > 6 or exponent > 8:
        return f"{value:.{max(0, digits - 1)}e}"
    return f"{value:.{decimals}f}"


def format_interval(interval: IntervalLike, *, digits: int = 3, percent: bool = False) -> str:
    """`0.650 [0.555, 0.734]`, or `65.0 [55.5, 73.4]` in per cent; without bounds, `0.650 [n/a]`.

    Args:
        interval (`IntervalLike`): Anything with `estimate`, `low` and `high`.
        digits (`int`): Significant digits of the largest of the three.
        percent (`bool`): Multiply by 100; the header should say %.
    """
    factor = 100.0 if percent else 1.0
    values = [factor * v for v in (interval.estimate, interval.low, interval.high)]
    like = max((abs(v) for v in values if math.isfinite(v)), default=0.0)
    estimate, low, high = (format_number(v, digits=digits, like=like) for v in values)
    return f"{estimate} [{MISSING}]" if MISSING in (low, high) else f"{estimate} [{low}, {high}]"


def numeric_columns(headers: Sequence[str], rows: Sequence[Sequence[Cell]]) -> list[bool]:
    """Which columns hold numbers only, and so are right-aligned."""
    return [bool(rows) and all(_is_numeric(row[i]) for row in rows) for i in range(len(headers))]


def check_rows(headers: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """Raises `ValueError` where a row does not have one cell per header."""
    for number, row in enumerate(rows):
        if len(row) != len(headers):
            raise ValueError(f"Row {number} has {len(row)} cells for {len(headers)} headers.")


def plain_text(text: str) -> str:
    """Text on one line: line breaks and tabs become blanks, control characters and lone surrogates the mark U+FFFD."""
    spaced = "".join(" " if char in "\n\r\t" else char for char in text)
    return "".join("\ufffd" if unicodedata.category(char) in ("Cc", "Cs") else char for char in spaced)


def display_width(text: str) -> int:
    """Terminal columns that a text takes: two for wide characters, none for combining marks."""
    wide = sum(unicodedata.east_asian_width(char) in ("W", "F") for char in text)
    marks = sum(bool(unicodedata.combining(char)) for char in text)
    return len(text) + wide - marks


def _is_numeric(cell: Cell) -> bool:
    return cell is None or (isinstance(cell, (int, float, IntervalLike)) and not isinstance(cell, bool))


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    padded = []
    for cell, width, is_right in zip(cells, widths, right, strict=True):
        blank = " " * (width - display_width(cell))
        padded.append(blank + cell if is_right else cell + blank)
    return "  ".join(padded).rstrip()
