"""One self-contained HTML file per evaluation: opens offline, on a phone, by day and by night.

Nothing is fetched: styles are inline, images and films are embedded, and a content security policy forbids all the
rest. The one script moves the cursor of a film's plot; the policy admits it by its hash. All text is escaped: names,
model output and dataset text never become markup.

```python
report = Report("Open-loop evaluation", "tabletop, 20 episodes", info=RunInfo.collect(dtype="float32"))
report.section("Errors").table(result.summary_table())
report.figure(plot_actions(..., theme="light"), "Episode 3", dark=plot_actions(..., theme="dark"))
report.write("report.html")
```
"""

from __future__ import annotations

import html
import os
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from .report_film import POLICY, SCRIPT, film_figure, reduce_video, video_tag
from .report_pictures import encode_picture
from .report_style import STYLE
from .run_info import RunInfo
from .table import Cell, IntervalLike, ResultTable, check_rows, format_cell, numeric_columns

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .report_pictures import Picture

MAX_BYTES = 10_000_000
SCALES = (0.7, 0.5, 0.35, 0.25)
"""Shares of the resolution of pictures and films that are tried where a report is too large."""


class Report:
    """Builds one HTML file from sections, text, tables and figures; every method returns the report.

    Args:
        title (`str`): Heading and window title.
        subtitle (`str`): One line below it.
        info (`RunInfo`, *optional*): For the footer; collected at the time of writing when left out.
    """

    def __init__(self, title: str, subtitle: str = "", *, info: RunInfo | None = None) -> None:
        self.title = title
        self.subtitle = subtitle
        self.info = info
        self._sections: list[str] = []
        self._body: list[str | _Pictures] = []
        self._has_film = False

    def section(self, title: str) -> Self:
        """Starts a section; two or more are listed at the top."""
        self._sections.append(title)
        self._body.append(f'<h2 id="section-{len(self._sections)}">{escape(title)}</h2>')
        return self

    def text(self, text: str, *, kind: Literal["plain", "note", "warning"] = "plain") -> Self:
        """Adds paragraphs (separated by blank lines); `"note"` and `"warning"` stand in a frame.

        Args:
            text (`str`): Plain text; nothing in it is markup.
            kind (`str`): How it looks.
        """
        if kind not in ("plain", "note", "warning"):
            raise ValueError(f'`kind` must be "plain", "note" or "warning", found {kind!r}.')
        paragraphs = [f"<p>{escape(part.strip())}</p>" for part in text.split("\n\n") if part.strip()]
        joined = "".join(paragraphs)
        self._body.append(joined if kind == "plain" else f'<div class="{kind}">{joined}</div>')
        return self

    def code(self, text: str, caption: str = "") -> Self:
        """Adds preformatted text: a command, raw model output."""
        self._body.append(f"<figure><pre>{escape(text)}</pre>{_caption(caption)}</figure>")
        return self

    def table(
        self,
        table: ResultTable | None = None,
        *,
        headers: Sequence[str] = (),
        rows: Sequence[Sequence[Cell]] = (),
        caption: str = "",
        digits: int = 3,
    ) -> Self:
        """Adds a table: a `ResultTable`, or headers and rows. Intervals show as `0.650 [0.555, 0.734]`.

        Args:
            table (`ResultTable`, *optional*): A finished table; its title and note become the caption.
            headers (`Sequence[str]`), rows (`Sequence[Sequence]`): Columns and cells, where `table` is not given.
            caption (`str`): Above the table.
            digits (`int`): Significant digits of numbers.

        Raises:
            ValueError: where a row has another number of cells than there are headers.
        """
        shown = table if table is not None else ResultTable(headers, rows, title=caption, digits=digits)
        check_rows(shown.headers, shown.rows)
        self._body.append(_table(shown))
        return self

    def figure(
        self, image: Picture, caption: str = "", *, dark: Picture | None = None, alt: str = "", max_side: int = 1280
    ) -> Self:
        """Adds one image with a caption.

        Args:
            image (`bytes`, `PIL.Image`, `Figure` or uint8 array `[H, W, 3]`): PNG or JPEG bytes are embedded as they
                are; matplotlib figures become PNG; photographs become JPEG.
            caption (`str`): Below the image.
            dark (as `image`, *optional*): Shown instead where the reader prefers dark.
            alt (`str`): For readers who do not see it; the caption by default.
            max_side (`int`): PIL images and arrays are reduced to this length, in pixels.

        Raises:
            ValueError: for bytes that are neither PNG nor JPEG, or an array of another shape or type.
        """
        self._add(lambda scale: _figure(image, caption, dark=dark, alt=alt, max_side=max_side, scale=scale))
        return self

    def gallery(self, images: Sequence[tuple[Picture, str]], *, max_side: int = 512) -> Self:
        """Adds a grid of images, each with a caption: worst cases, failures.

        Args:
            images (`Sequence` of (image, caption)): As for [`figure`].
            max_side (`int`): Longest side in pixels after reduction.
        """
        for_all: dict[str, Any] = {"dark": None, "alt": "", "max_side": max_side}
        self._add(lambda scale: _grid(_figure(image, words, scale=scale, **for_all) for image, words in images))
        return self

    def films(self, videos: Sequence[tuple[bytes, str]]) -> Self:
        """Adds a grid of films, each with a caption, that play in the page.

        Args:
            videos (`Sequence` of (MP4 bytes, caption)).

        Raises:
            ValueError: for bytes that are no MP4.
        """
        self._add(
            lambda scale: _grid(
                f"<figure>{video_tag(reduce_video(video, scale))}{_caption(words)}</figure>" for video, words in videos
            )
        )
        return self

    def film(self, video: bytes, plot: Figure, fps: float, caption: str = "") -> Self:
        """Adds a film above a plot over the same time: a line in the plot follows the film, a click on it seeks.

        Args:
            video (`bytes`): MP4, one picture per control step.
            plot (`Figure`): All panels share one time axis, in seconds, that begins with the film.
            fps (`float`): Pictures per second.
            caption (`str`): Below both.
        """
        self._add(lambda scale: _film(video, plot, fps, caption, scale))
        self._has_film = True
        return self

    def to_html(self) -> str:
        """The whole document."""
        return self._html(1.0)

    def write(self, path: str | os.PathLike[str], *, overwrite: bool = False, max_bytes: int = MAX_BYTES) -> Path:
        """Writes the file in one step: readers see the old file or the whole new one, never a part.

        Pictures and films lose resolution until the document fits; its footer then says so.

        Args:
            path (`str` or `PathLike`): Target; missing folders are made.
            overwrite (`bool`): Replace a file that exists.
            max_bytes (`int`): Limit of the file's size, so that it can be mailed and opened on a phone.

        Returns:
            `Path`: the file written.

        Raises:
            FileExistsError: where the file exists and `overwrite` is false; it is left as it was.
            ValueError: where the document is larger than `max_bytes` with the smallest pictures, too; nothing is
                written.
        """
        target = Path(path)
        if target.exists() and not overwrite:
            raise FileExistsError(f"{target} exists; choose another name, or overwrite it explicitly.")
        content = self.to_html().encode("utf-8", "replace")
        for scale in SCALES if self._has_pictures else ():
            if len(content) <= max_bytes:
                break
            content = self._html(scale).encode("utf-8", "replace")
        if len(content) > max_bytes:
            raise ValueError(
                f"The report would take {len(content):,} bytes, more than {max_bytes:,}, with pictures and films at "
                f"{100 * SCALES[-1]:g} % of their resolution: leave some out."
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        _write_atomically(target, content, overwrite)
        return target

    @property
    def _has_pictures(self) -> bool:
        return any(isinstance(part, _Pictures) for part in self._body)

    def _add(self, render: Callable[[float], str]) -> None:
        self._body.append(_Pictures(render, render(1.0)))

    def _html(self, scale: float) -> str:
        info = self.info if self.info is not None else RunInfo.collect()
        footer = info.lines()
        if scale < 1:
            footer.append(("Resolution", f"pictures and films at {100 * scale:g} %, so that the file is small"))
        lines = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in footer)
        subtitle = f'<p class="subtitle">{escape(self.subtitle)}</p>' if self.subtitle else ""
        body = [part if isinstance(part, str) else part.at(scale) for part in self._body]
        return (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            '<meta name="color-scheme" content="light dark">\n'
            f"<title>{escape(self.title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
            f"<header><h1>{escape(self.title)}</h1>{subtitle}</header>\n{self._contents()}"
            + "\n".join(body)
            + f"\n</main>\n<footer><dl>{lines}</dl></footer>\n"
            + (f"<script>{SCRIPT}</script>\n" if self._has_film else "")
            + "</body>\n</html>\n"
        )

    def _contents(self) -> str:
        if len(self._sections) < 2:
            return ""
        links = (f'<li><a href="#section-{i}">{escape(name)}</a></li>' for i, name in enumerate(self._sections, 1))
        return f'<nav aria-label="Sections"><ul>{"".join(links)}</ul></nav>\n'


@dataclass(frozen=True, slots=True)
class _Pictures:
    """Markup that holds pictures or films, and how to make it at a share of their resolution."""

    render: Callable[[float], str]
    full: str

    def at(self, scale: float) -> str:
        return self.full if scale >= 1 else self.render(scale)


def escape(text: str) -> str:
    """Text as HTML text or attribute value; control characters that HTML forbids become U+FFFD."""
    allowed = "".join(char if char >= " " or char in "\n\t" else "\ufffd" for char in str(text))
    return html.escape(allowed, quote=True)


# ---------------------------------------------------------------------------------------------------------------------
# Parts of the page
# ---------------------------------------------------------------------------------------------------------------------


def _table(table: ResultTable) -> str:
    right = numeric_columns(table.headers, table.rows)
    names = (escape(name).replace(" %", "\u00a0%") for name in table.headers)
    head = "".join(f'<th scope="col"{_number(r)}>{name}</th>' for name, r in zip(names, right, strict=True))
    cells = [[_cell(c, r, table.digits) for c, r in zip(row, right, strict=True)] for row in table.rows]
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in cells)
    title = f'<p class="title">{escape(table.title)}</p>' if table.title else ""
    note = f"<figcaption>{escape(table.note)}</figcaption>" if table.note else ""
    inner = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    # Focusable, so that a wide table can be scrolled with the keyboard.
    return f'<figure class="table">{title}<div class="scroll" tabindex="0">{inner}</div>{note}</figure>'


def _cell(cell: Cell, is_number: bool, digits: int) -> str:
    """One cell; the bounds of an interval can move to a second line on a phone."""
    text = escape(format_cell(cell, digits=digits))
    if isinstance(cell, IntervalLike):
        estimate, bounds = text.split(" ", 1)
        text = f'{estimate} <span class="bounds">{bounds}</span>'
    return f"<td{_number(is_number)}>{text}</td>"


def _number(is_number: bool) -> str:
    return ' class="number"' if is_number else ""


def _caption(caption: str) -> str:
    return f"<figcaption>{escape(caption)}</figcaption>" if caption else ""


def _grid(figures: Iterable[str]) -> str:
    return f'<div class="gallery">{"".join(figures)}</div>'


def _figure(image: Picture, caption: str, *, dark: Picture | None, alt: str, max_side: int, scale: float) -> str:
    data, width, height = encode_picture(image, max_side, scale)
    described = escape(alt or caption)
    size = f' width="{width}" height="{height}"' if width else ""
    picture = f'<img src="{data}" alt="{described}"{size}>'
    if dark is not None:
        source, _, _ = encode_picture(dark, max_side, scale)
        picture = f'<picture><source media="(prefers-color-scheme: dark)" srcset="{source}">{picture}</picture>'
    return f"<figure>{picture}{_caption(caption)}</figure>"


def _film(video: bytes, plot: Figure, fps: float, caption: str, scale: float) -> str:
    axes = plot.get_axes()[0]
    image, width, height = encode_picture(plot, 0, scale)  # draws, so that the panels have their places
    place = axes.get_position()
    start, end = axes.get_xlim()
    extent = (float(place.x0), float(place.x1), float(start), float(end))
    picture = f'<img src="{image}" alt="{escape(caption)}" width="{width}" height="{height}">'
    return film_figure(reduce_video(video, scale), picture, extent, fps, _caption(caption))


# ---------------------------------------------------------------------------------------------------------------------
# The file
# ---------------------------------------------------------------------------------------------------------------------


def _write_atomically(target: Path, content: bytes, overwrite: bool) -> None:
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if overwrite or not _link(temporary, target):
            temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _link(source: Path, target: Path) -> bool:
    """Claims the name without ever replacing a file; False where the file system has no hard links."""
    try:
        os.link(source, target)
    except FileExistsError:
        raise FileExistsError(f"{target} exists; choose another name, or overwrite it explicitly.") from None
    except OSError:
        return False
    return True


__all__ = ["MAX_BYTES", "Report", "RunInfo", "escape"]
