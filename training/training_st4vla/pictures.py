"""Image files as people have them, made 8-bit RGB the way a viewer shows them, with a note on every change."""

from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from training_st4vla.errors import UserError

MAX_PIXELS = 40_000_000
_SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N", "I")
_ORIENTATION_TAG = 0x0112


@dataclass(frozen=True)
class Picture:
    """
    Args:
        image (`PIL.Image.Image`): RGB, upright: coordinates are pixels of this image.
        notes (`tuple[str, ...]`): what was changed to get there; empty for an ordinary RGB file.
    """

    image: Image.Image
    notes: tuple[str, ...]


def open_picture(path: str | Path, name: str = "the image", max_pixels: int = MAX_PIXELS) -> Picture:
    """
    Opens an image file of any common mode.

    The header is read first: a file with more than `max_pixels` is refused before anything is decoded. The EXIF
    rotation is applied, the first frame of an animation taken, transparency laid on white, 16-bit grey scaled to 8.

    Args:
        path (`str` or `Path`): the file. name (`str`): how messages call it.

    Raises:
        UserError: when it is no image, damaged, or too large.
    """
    try:
        with Image.open(path) as opened:
            _check_size(opened, name, max_pixels)
            return _as_rgb(opened)
    except UserError:
        raise
    except Image.DecompressionBombError as error:
        raise UserError(f"{name}: {error} At most {max_pixels / 1e6:.0f} megapixels are accepted.") from error
    except FileNotFoundError as error:
        raise UserError(f"{name}: there is no such file.") from error
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, EOFError) as error:
        raise UserError(
            f"{name} is not a readable image: it is damaged, incomplete, or of a format that cannot be read here. "
            "Use a PNG, JPEG or WebP file."
        ) from error


def _check_size(opened: Image.Image, name: str, max_pixels: int) -> None:
    width, height = opened.size
    if width * height > max_pixels:
        raise UserError(
            f"{name}: expected at most {max_pixels / 1e6:.0f} megapixels, found {width} x {height} = "
            f"{width * height / 1e6:.1f}. Scale it down first."
        )


def _as_rgb(opened: Image.Image) -> Picture:
    notes: list[str] = []
    frames = getattr(opened, "n_frames", 1)
    if frames > 1:
        notes.append(f"first of {frames} frames")
    opened.load()
    mode = opened.mode
    if opened.getexif().get(_ORIENTATION_TAG, 1) != 1:
        notes.append("rotated as its EXIF data say")
    image = ImageOps.exif_transpose(opened)
    if mode in _SIXTEEN_BIT:
        notes.append("16-bit values scaled to 8 bits")
        image = image.convert("I").point(lambda value: value / 257).convert("L")
    if image.has_transparency_data:
        notes.append("transparency laid on white")
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    elif mode not in ("RGB", *_SIXTEEN_BIT):
        notes.append(f"converted from {mode} to RGB")
    return Picture(image.convert("RGB"), tuple(notes))


__all__ = ["MAX_PIXELS", "Picture", "open_picture"]
