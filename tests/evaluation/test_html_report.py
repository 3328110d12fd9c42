"""The report: self-contained, escaped, small, written in one step."""

import base64
import io
import os
import re
import stat
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training_st4vla.evaluation.intervals import Interval
from training_st4vla.evaluation.plots import plot_actions, plot_loss_curve
from training_st4vla.evaluation.report import Report, RunInfo
from training_st4vla.evaluation.rollout_video import Film
from training_st4vla.evaluation.table import ResultTable

EVIL = "<img src=x onerror=alert(1)>\"'&</title></style><script>alert(2)</script>\x00\ud800"
INFO = RunInfo(EVIL, {"torch": EVIL}, EVIL, 2, EVIL, EVIL, {EVIL: EVIL})


class Page(HTMLParser):
    """Collects tags and attributes, and checks that elements close in order."""

    VOID = ("meta", "img", "source", "br", "link", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def picture(mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> Image.Image:
    return Image.new(mode, size, 0)


def png_bytes() -> bytes:
    buffer = io.BytesIO()
    picture().save(buffer, format="PNG")
    return buffer.getvalue()


def full_report() -> Report:
    figure = plot_loss_curve([1, 2, 3], {"train": [3, 2, 1]})
    dark = plot_loss_curve([1, 2, 3], {"train": [3, 2, 1]}, theme="dark")
    return (
        Report(EVIL, EVIL, info=INFO)
        .section(EVIL)
        .text(f"{EVIL}\n\nSecond paragraph.")
        .text(EVIL, kind="warning")
        .code(EVIL, EVIL)
        .table(ResultTable((EVIL, "score"), [[EVIL, Interval(0.5, 0.4, 0.6, 9, "wilson")]], title=EVIL, note=EVIL))
        .section("Second")
        .figure(figure, EVIL, dark=dark)
        .figure(png_bytes(), alt=EVIL)
        .gallery([(picture(), EVIL), (np.zeros((8, 9, 3), dtype=np.uint8), "array")])
    )


def test_text_never_becomes_markup() -> None:
    page = Page(full_report().to_html())
    assert page.open == []
    tags = {tag for tag, _ in page.tags}
    assert "script" not in tags
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    visible = "".join(page.words)
    assert visible.count("<script>alert(2)</script>") >= 12  # shown as text
    assert "\x00" not in visible


def test_nothing_is_fetched() -> None:
    text = full_report().to_html()
    page = Page(text)
    for tag, attributes in page.tags:
        assert tag not in ("link", "script", "iframe", "object", "base", "form")
        for name in ("src", "srcset"):
            assert attributes.get(name, "data:image/").startswith("data:image/")
        assert attributes.get("href", "#").startswith("#")
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    assert style is not None
    assert not re.search(r"url\(|@import|https?:", style.group(1))
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_structure() -> None:
    page = Page(full_report().to_html())
    sections = [a["id"] for t, a in page.tags if t == "h2"]
    links = [a["href"] for t, a in page.tags if t == "a"]
    assert links == [f"#{name}" for name in sections] == ["#section-1", "#section-2"]
    assert [t for t, _ in page.tags].count("picture") == 1
    assert all("alt" in a for t, a in page.tags if t == "img")
    visible = "".join(page.words)
    assert "0.500 [0.400, 0.600]" in visible
    for name in ("Command", "Versions", "Machine", "Threads", "Dtype", "Date"):
        assert name in page.words


def test_images_are_embedded_by_kind() -> None:
    text = Report("t", info=INFO).figure(picture(), "photo").figure(picture("RGBA"), "drawing").to_html()
    kinds = re.findall(r"data:image/(\w+);base64,([^\"]+)", text)
    assert [kind for kind, _ in kinds] == ["jpeg", "png"]
    for _, data in kinds:
        Image.open(io.BytesIO(base64.b64decode(data))).verify()


def test_large_images_are_reduced_and_the_original_is_kept() -> None:
    image = picture(size=(3000, 1500))
    text = Report("t", info=INFO).figure(image, max_side=600).to_html()
    assert 'width="600" height="300"' in text
    assert image.size == (3000, 1500)


@pytest.mark.parametrize(
    ("image", "message"),
    [(b"GIF89a", "PNG or JPEG"), (np.zeros((2, 2)), "uint8"), (np.zeros((2, 2, 2), dtype=np.uint8), "uint8")],
)
def test_other_images_are_refused(image: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Report("t").figure(image)  # type: ignore[arg-type]


def test_write_makes_folders_and_never_overwrites_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.html"
    assert Report("first", info=INFO).write(path) == path
    with pytest.raises(FileExistsError, match="overwrite"):
        Report("second", info=INFO).write(path)
    assert "<title>first</title>" in path.read_text(encoding="utf-8")
    Report("third", info=INFO).write(path, overwrite=True)
    assert "<title>third</title>" in path.read_text(encoding="utf-8")
    assert os.listdir(path.parent) == ["report.html"]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


def test_a_file_that_appears_meanwhile_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    report = Report("mine", info=INFO)
    whole = report.to_html()

    def slow() -> str:
        path.write_text("theirs")
        return whole

    monkeypatch.setattr(report, "to_html", slow)
    with pytest.raises(FileExistsError):
        report.write(path)
    assert path.read_text() == "theirs"
    assert os.listdir(tmp_path) == ["report.html"]


def test_file_systems_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    Report("t", info=INFO).write(tmp_path / "report.html")
    assert os.listdir(tmp_path) == ["report.html"]


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        Report("t", info=INFO).write(tmp_path / "report.html")
    assert os.listdir(tmp_path) == []


def noise(side: int = 400) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, size=(side, side, 3), dtype=np.uint8)


def test_too_large_a_report_loses_resolution_until_it_fits(tmp_path: Path) -> None:
    """Pictures, PNG bytes, plots and films alike; what the reader sees keeps its size on the page."""
    buffer = io.BytesIO()
    Image.fromarray(noise()).save(buffer, format="PNG")
    film = Film("noise", fps=5, frames=[noise(64)] * 3)
    plot = plot_actions(np.zeros((4, 1)), np.zeros((4, 1)), fps=5.0)
    report = Report("t", info=INFO).figure(noise(), "array").gallery([(buffer.getvalue(), "bytes")])
    report.films([(film.video, "film")]).film(film.video, plot, 5.0)
    whole = len(report.to_html())
    path = report.write(tmp_path / "report.html", max_bytes=whole // 4)
    text = path.read_text(encoding="utf-8")
    assert len(text.encode()) <= whole // 4
    share = re.search(r"pictures and films at (\d+) %", text)
    assert share is not None
    assert int(share[1]) in (70, 50, 35, 25)
    assert 'width="400" height="400"' in text
    (array, *_) = re.findall(r"data:image/jpeg;base64,([^\"]+)", text)
    with Image.open(io.BytesIO(base64.b64decode(array))) as smaller:
        assert smaller.size == (4 * int(share[1]),) * 2
    import av

    for video in re.findall(r"data:video/mp4;base64,([^\"]+)", text):
        with av.open(io.BytesIO(base64.b64decode(video))) as container:
            shown = list(container.decode(video=0))
        assert len(shown) == 3 + 5
        assert shown[0].width == round(film.picture(0).width * int(share[1]) / 200) * 2
    assert "pictures and films at" not in report.to_html()


def test_a_report_that_cannot_be_small_enough_is_not_written(tmp_path: Path) -> None:
    for report in (
        Report("t", info=INFO).figure(noise()).text("x" * 60_000),
        Report("t", info=INFO).text("x" * 60_000),
    ):
        with pytest.raises(ValueError, match="at 25 % of their resolution: leave some out"):
            report.write(tmp_path / "report.html", max_bytes=50_000)
    assert os.listdir(tmp_path) == []


def test_table_from_headers_and_rows() -> None:
    text = Report("t", info=INFO).table(headers=("name", "n"), rows=[["a", 1]], caption="Counts").to_html()
    assert '<td class="number">1</td>' in text
    with pytest.raises(ValueError, match="Row 0"):
        Report("t").table(headers=("a",), rows=[[1, 2]])
    with pytest.raises(ValueError, match="kind"):
        Report("t").text("x", kind="loud")  # type: ignore[arg-type]


def test_run_info_is_collected() -> None:
    info = RunInfo.collect(dtype="bfloat16", command=["st4vla", "evaluate-actions", "--model", "my model"])
    assert info.command == "st4vla evaluate-actions --model 'my model'"
    assert {"Python", "numpy"} <= set(info.versions)
    assert info.dtype == "bfloat16"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d", info.date)
    assert "cores" in info.machine
