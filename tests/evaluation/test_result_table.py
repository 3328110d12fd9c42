"""Tables for the terminal."""

import math
import subprocess
import sys

import pytest

from training_st4vla.evaluation.intervals import Interval
from training_st4vla.evaluation.table import (
    ResultTable,
    display_width,
    format_cell,
    format_interval,
    format_number,
    format_table,
    plain_text,
)


def test_a_table_is_aligned() -> None:
    text = format_table(
        ("task", "success [95 %]", "n"),
        [["stack", Interval(0.65, 0.5551, 0.7341, 100, "wilson"), 100], ["move near", None, 7]],
        title="Closed loop",
        note="Wilson.",
    )
    assert text.splitlines() == [
        "Closed loop",
        "task             success [95 %]    n",
        "---------  --------------------  ---",
        "stack      0.650 [0.555, 0.734]  100",
        "move near                   n/a    7",
        "Wilson.",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.65, "0.650"), (12.345, "12.3"), (1234.5, "1234"), (0.00123, "0.00123"), (0.0, "0.00"), (-0.5, "-0.500"),
        (1e-9, "1.00e-09"), (3e12, "3.00e+12"), (math.nan, "n/a"), (math.inf, "inf"), (-math.inf, "-inf"),
    ],
)  # fmt: skip
def test_numbers_keep_three_digits(value: float, text: str) -> None:
    assert format_number(value) == text


def test_intervals_share_their_decimals() -> None:
    assert format_interval(Interval(0.01, 0.001, 0.2, 9, "wilson")) == "0.010 [0.001, 0.200]"
    assert format_interval(Interval(0.65, 0.555, 0.734, 9, "wilson"), percent=True) == "65.0 [55.5, 73.4]"
    assert format_interval(Interval(0.5, math.nan, math.nan, 1, "cluster bootstrap")) == "0.500 [n/a]"
    assert format_interval(Interval(math.nan, 0.0, 1.0, 0, "wilson")) == "n/a [0.00, 1.00]"


def test_cells() -> None:
    assert [format_cell(v) for v in (True, False, None, 3, "x", [1, 2])] == ["yes", "no", "n/a", "3", "x", "[1, 2]"]


def test_names_cannot_drive_the_terminal() -> None:
    assert plain_text("\x1b[31mred\nline\x00\ud800") == "\ufffd[31mred line\ufffd\ufffd"
    assert "\x1b" not in format_table(("\x1b[1m",), [["\x1b]0;title\x07"]], title="\x1b", note="\x9b")


def test_wide_characters_take_two_columns() -> None:
    assert display_width("机器人") == 6
    assert display_width("e\u0301") == 1
    lines = format_table(("name", "n"), [["机器人", 1], ["arm", 22]]).splitlines()
    assert lines[2].endswith("机器人   1")
    assert lines[3] == "arm     22"


def test_rows_must_fit_the_headers() -> None:
    with pytest.raises(ValueError, match="Row 1 has 1 cells for 2 headers"):
        ResultTable(("a", "b"), [[1, 2], [3]]).to_text()


def test_an_empty_table_is_its_header() -> None:
    assert ResultTable(("a", "b")).to_text() == "a  b\n-  -"


def test_only_the_standard_library_is_imported() -> None:
    code = (
        "import sys; import training_st4vla.evaluation.table; print(any(m in sys.modules for m in ('numpy', 'torch')))"
    )
    path = [p for p in sys.path if p]
    found = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {path!r}; {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == "False"
