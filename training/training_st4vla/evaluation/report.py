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

import base64
import html
import io
import os
import platform
import shlex
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from .report_film import POLICY, SCRIPT, film_figure, video_tag
from .report_style import STYLE
from .table import Cell, IntervalLike, ResultTable, check_rows, format_cell, numeric_columns

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

    Picture = bytes | Image | Figure | np.ndarray[Any, Any]

MAX_BYTES = 10_000_000
VERSIONED = ("st4vla", "torch", "transformers", "diffusers", "lerobot", "trl", "numpy")

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What a reader needs to run it again; printed in the footer.

    Args:
        command (`str`): Exact command line.
        versions (`Mapping[str, str]`): Package versions, Python included.
        machine (`str`): Processor or accelerator, and number of cores.
        threads (`int` or None): Threads used for computing.
        dtype (`str`): Number format of the model, such as `"float32"`.
        date (`str`): ISO 8601 with time zone.
        extra (`Mapping[str, str]`): Anything else: seed, dataset revision, duration.
    """

    command: str
    versions: Mapping[str, str]
    machine: str
    threads: int | None
    dtype: str
    date: str
    extra: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def collect(
        cls, *, dtype: str = "not stated", command: Sequence[str] | None = None, extra: Mapping[str, str] | None = None
    ) -> RunInfo:
        """Reads what can be read from this process. Imports nothing; asks torch only if it is already imported.

        Args:
            dtype (`str`): Number format of the model.
            command (`Sequence[str]`, *optional*): Arguments; `sys.argv` with the program's base name by default.
            extra (`Mapping[str, str]`, *optional*): Further lines.
        """
        arguments = list(command) if command is not None else [Path(sys.argv[0] or "python").name, *sys.argv[1:]]
        torch = sys.modules.get("torch")
        return cls(
            command=shlex.join(arguments),
            versions=_versions(),
            machine=_machine(torch),
            threads=None if torch is None else int(torch.get_num_threads()),
            dtype=dtype,
            date=datetime.now(UTC).astimezone().isoformat(timespec="seconds"),
            extra=dict(extra or {}),
        )

    def lines(self) -> list[tuple[str, str]]:
        """Name and value of each footer line."""
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        threads = "not stated" if self.threads is None else str(self.threads)
        fixed = [("Command", self.command), ("Versions", versions), ("Machine", self.machine), ("Threads", threads)]
        return [*fixed, ("Dtype", self.dtype), ("Date", self.date), *self.extra.items()]


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
        self._body: list[str] = []
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
        self._body.append(_figure(image, caption, dark=dark, alt=alt, max_side=max_side))
        return self

    def gallery(self, images: Sequence[tuple[Picture, str]], *, max_side: int = 512) -> Self:
        """Adds a grid of images, each with a caption: worst cases, failures.

        Args:
            images (`Sequence` of (image, caption)): As for [`figure`].
            max_side (`int`): Longest side in pixels after reduction.
        """
        figures = "".join(_figure(image, caption, dark=None, alt="", max_side=max_side) for image, caption in images)
        self._body.append(f'<div class="gallery">{figures}</div>')
        return self

    def films(self, videos: Sequence[tuple[bytes, str]]) -> Self:
        """Adds a grid of films, each with a caption, that play in the page.

        Args:
            videos (`Sequence` of (MP4 bytes, caption)).

        Raises:
            ValueError: for bytes that are no MP4.
        """
        figures = (f"<figure>{video_tag(video)}{_caption(caption)}</figure>" for video, caption in videos)
        self._body.append(f'<div class="gallery">{"".join(figures)}</div>')
        return self

    def film(self, video: bytes, plot: Figure, fps: float, caption: str = "") -> Self:
        """Adds a film above a plot over the same time: a line in the plot follows the film, a click on it seeks.

        Args:
            video (`bytes`): MP4, one picture per control step.
            plot (`Figure`): All panels share one time axis, in seconds, that begins with the film.
            fps (`float`): Pictures per second.
            caption (`str`): Below both.
        """
        axes = plot.get_axes()[0]
        image, width, height = _encode(plot, 0)  # draws, so that the panels have their places
        place = axes.get_position()
        start, end = axes.get_xlim()
        extent = (float(place.x0), float(place.x1), float(start), float(end))
        picture = f'<img src="{image}" alt="{escape(caption)}" width="{width}" height="{height}">'
        self._body.append(film_figure(video, picture, extent, fps, _caption(caption)))
        self._has_film = True
        return self

    def to_html(self) -> str:
        """The whole document."""
        info = self.info if self.info is not None else RunInfo.collect()
        lines = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in info.lines())
        subtitle = f'<p class="subtitle">{escape(self.subtitle)}</p>' if self.subtitle else ""
        return (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            '<meta name="color-scheme" content="light dark">\n'
            f"<title>{escape(self.title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
            f"<header><h1>{escape(self.title)}</h1>{subtitle}</header>\n{self._contents()}"
            + "\n".join(self._body)
            + f"\n</main>\n<footer><dl>{lines}</dl></footer>\n"
            + (f"<script>{SCRIPT}</script>\n" if self._has_film else "")
            + "</body>\n</html>\n"
        )

    def write(self, path: str | os.PathLike[str], *, overwrite: bool = False, max_bytes: int = MAX_BYTES) -> Path:
        """Writes the file in one step: readers see the old file or the whole new one, never a part.

        Args:
            path (`str` or `PathLike`): Target; missing folders are made.
            overwrite (`bool`): Replace a file that exists.
            max_bytes (`int`): Limit of the file's size, so that it can be mailed and opened on a phone.

        Returns:
            `Path`: the file written.

        Raises:
            FileExistsError: where the file exists and `overwrite` is false; it is left as it was.
            ValueError: where the document is larger than `max_bytes`; nothing is written.
        """
        target = Path(path)
        if target.exists() and not overwrite:
            raise FileExistsError(f"{target} exists; choose another name, or overwrite it explicitly.")
        content = self.to_html().encode("utf-8", "replace")
        if len(content) > max_bytes:
            raise ValueError(
                f"The report would take {len(content):,} bytes, more than {max_bytes:,}: "
                "leave out images or reduce them with `max_side`."
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        _write_atomically(target, content, overwrite)
        return target

    def _contents(self) -> str:
        if len(self._sections) < 2:
            return ""
        links = (f'<li><a href="#section-{i}">{escape(name)}</a></li>' for i, name in enumerate(self._sections, 1))
        return f'<nav aria-label="Sections"><ul>{"".join(links)}</ul></nav>\n'


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


def _figure(image: Picture, caption: str, *, dark: Picture | None, alt: str, max_side: int) -> str:
    data, width, height = _encode(image, max_side)
    described = escape(alt or caption)
    size = f' width="{width}" height="{height}"' if width else ""
    picture = f'<img src="{data}" alt="{described}"{size}>'
    if dark is not None:
        source, _, _ = _encode(dark, max_side)
        picture = f'<picture><source media="(prefers-color-scheme: dark)" srcset="{source}">{picture}</picture>'
    return f"<figure>{picture}{_caption(caption)}</figure>"


def _encode(image: Picture, max_side: int) -> tuple[str, int, int]:
    """Data URI, and width and height in CSS pixels (0 where unknown)."""
    if isinstance(image, (bytes, bytearray)):
        data = bytes(image)
        return _data_uri(data), 0, 0
    if isinstance(image, np.ndarray):
        image = _from_array(image)
    savefig = getattr(image, "savefig", None)
    if savefig is not None:
        inches = image.get_size_inches()  # pyright: ignore[reportAttributeAccessIssue]
        buffer = io.BytesIO()
        savefig(buffer, format="png", dpi=160, facecolor=image.get_facecolor())  # pyright: ignore
        return _data_uri(buffer.getvalue()), round(96 * inches[0]), round(96 * inches[1])
    return _encode_pil(image, max_side)  # pyright: ignore[reportArgumentType]


def _encode_pil(image: Image, max_side: int) -> tuple[str, int, int]:
    if max_side < 1:
        raise ValueError(f"`max_side` must be at least 1 pixel, found {max_side}.")
    has_alpha = "A" in image.getbands() or image.info.get("transparency") is not None
    reduced = image.convert("RGBA" if has_alpha else "RGB")
    reduced.thumbnail((max_side, max_side))
    buffer = io.BytesIO()
    if has_alpha:
        reduced.save(buffer, format="PNG", optimize=True)
    else:
        reduced.save(buffer, format="JPEG", quality=88, optimize=True)
    return _data_uri(buffer.getvalue()), reduced.width, reduced.height


def _from_array(array: np.ndarray[Any, Any]) -> Image:
    from PIL import Image

    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise ValueError(f"An image array is uint8 [H, W], [H, W, 3] or [H, W, 4], found {array.dtype} {array.shape}.")
    return Image.fromarray(array)


def _data_uri(data: bytes) -> str:
    if data.startswith(_PNG):
        kind = "png"
    elif data.startswith(_JPEG):
        kind = "jpeg"
    else:
        raise ValueError("Image bytes must be PNG or JPEG.")
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


# ---------------------------------------------------------------------------------------------------------------------
# The machine and the file
# ---------------------------------------------------------------------------------------------------------------------


def _versions() -> dict[str, str]:
    found = {"Python": platform.python_version()}
    for name in VERSIONED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _machine(torch: Any) -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parts = [f"{_processor()}, {cores} cores", f"{platform.system()} {platform.machine()}"]
    if torch is not None and torch.cuda.is_initialized():
        parts.insert(0, torch.cuda.get_device_name())
    return "; ".join(parts)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name") and ":" in line]
    return names[0] if names else platform.processor() or platform.machine() or "unknown processor"


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
