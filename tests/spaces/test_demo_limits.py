"""What people upload and type: taken as a viewer shows it, or refused in words before anything is decoded."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training_st4vla.errors import UserError
from training_st4vla.pictures import Picture, open_picture

pytest.importorskip("gradio", reason="the demo needs gradio")
from grounding_demo.ground_tab import save
from grounding_demo.grounder import explain
from grounding_demo.limits import MAX_PICTURES, MAX_PROMPT, check_prompt, check_tokens, open_pictures, open_upload


def png_header(path: Path, width: int, height: int) -> Path:
    """A PNG file that says its size and holds nothing."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    end = struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + end)
    return path


def save_rgb(path: Path) -> None:
    Image.new("RGB", (8, 6), (200, 10, 10)).save(path)


def save_cmyk(path: Path) -> None:
    Image.new("RGB", (8, 6), (200, 10, 10)).convert("CMYK").save(path, "JPEG", quality=95)


def save_rgba(path: Path) -> None:
    Image.new("RGBA", (8, 6), (200, 10, 10, 0)).save(path)


def save_palette(path: Path) -> None:
    Image.new("RGB", (8, 6), (200, 10, 10)).convert("P", palette=Image.Palette.ADAPTIVE).save(path)


def save_16_bit(path: Path) -> None:
    Image.fromarray(np.full((6, 8), 257 * 100, dtype=np.uint16)).save(path)


def save_grey(path: Path) -> None:
    Image.new("L", (8, 6), 100).save(path)


def save_animation(path: Path) -> None:
    frames = [Image.new("RGB", (8, 6), colour) for colour in ((200, 10, 10), (0, 0, 255))]
    frames[0].save(path, "GIF", save_all=True, append_images=frames[1:])


def save_turned(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (6, 8), (200, 10, 10)).save(path, exif=exif)


@pytest.mark.parametrize(
    ("name", "save", "colour", "note"),
    [
        ("a.png", save_rgb, (200, 10, 10), None),
        ("a.jpg", save_cmyk, (200, 10, 10), "converted from CMYK to RGB"),
        ("a.png", save_rgba, (255, 255, 255), "transparency laid on white"),
        ("a.png", save_palette, (200, 10, 10), "converted from P to RGB"),
        ("a.png", save_16_bit, (100, 100, 100), "16-bit values scaled to 8 bits"),
        ("a.png", save_grey, (100, 100, 100), "converted from L to RGB"),
        ("a.gif", save_animation, (200, 10, 10), "first of 2 frames"),
        ("a.jpg", save_turned, (200, 10, 10), "rotated as its EXIF data say"),
    ],
)
def test_pictures_become_upright_rgb_and_say_so(
    tmp_path: Path, name: str, save: Callable[[Path], None], colour: tuple[int, int, int], note: str | None
) -> None:
    save(tmp_path / name)
    picture = open_picture(tmp_path / name)
    assert (picture.image.mode, picture.image.size) == ("RGB", (8, 6))
    assert np.abs(np.asarray(picture.image)[3, 4].astype(int) - colour).max() <= 4
    assert note is None if not picture.notes else note in picture.notes


def test_a_huge_picture_is_refused_from_its_header(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"big.png: expected at most 40 megapixels, found 10000 x 10001 = 100.0"):
        open_upload(png_header(tmp_path / "big.png", 10_000, 10_001))
    with pytest.raises(UserError, match=r"big\.png"):  # Pillow's own limit, reached while opening
        open_upload(png_header(tmp_path / "big.png", 60_000, 60_000))


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n" + b"\0" * 40, b"GIF89a"])
def test_a_damaged_file_is_refused_in_words(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.png is not a readable image"):
        open_upload(tmp_path / "a.png")


def test_a_truncated_file_is_refused_in_words(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    for name in ("a.png", "a.jpg"):
        Image.fromarray(noise).save(tmp_path / name)
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:900])
        with pytest.raises(UserError, match="is not a readable image"):
            open_upload(tmp_path / name)


def test_a_large_file_and_too_many_files_are_refused(tmp_path: Path) -> None:
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(21_000_000)
    with pytest.raises(UserError, match=r"expected at most 20 MB, found 21\.0"):
        open_upload(tmp_path / "a.png")
    with pytest.raises(UserError, match=f"at most {MAX_PICTURES} images at once, found {MAX_PICTURES + 1}"):
        open_pictures(["a.png"] * (MAX_PICTURES + 1))
    with pytest.raises(UserError, match="Choose an image first"):
        open_pictures([None])


def test_prompts(tmp_path: Path) -> None:
    assert (
        check_prompt("  le bloc rouge, 紅色方塊, الكتلة الحمراء 🟥 ") == "le bloc rouge, 紅色方塊, الكتلة الحمراء 🟥"
    )
    for empty in ("", " \n ", None):
        with pytest.raises(UserError, match="Write what to find"):
            check_prompt(empty)
    with pytest.raises(UserError, match=f"at most {MAX_PROMPT:,} characters, found 10,000"):
        check_prompt("x" * 10_000)
    assert check_tokens(12.0) == 12
    for number in (0, 1e9, None, float("nan")):
        with pytest.raises(UserError, match="Longest answer"):
            check_tokens(number)


def test_what_nobody_foresaw_tells_no_secrets() -> None:
    assert "secret" not in explain(RuntimeError("a secret path"))
    assert explain(UserError("in words")) == "in words"


def test_pictures_are_shown_whole_however_long() -> None:
    for size, suffix in (((64, 48), ".webp"), ((17_000, 2), ".png")):
        path = save(Picture(Image.new("RGB", size), ()))
        assert path.suffix == suffix
        assert Image.open(path).size == size
