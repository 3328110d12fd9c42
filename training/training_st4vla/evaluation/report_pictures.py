"""Pictures as data URIs, at full resolution or less."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

    Picture = bytes | Image | Figure | np.ndarray[Any, Any]

DPI = 160
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"


def encode_picture(image: Picture, max_side: int, scale: float = 1.0) -> tuple[str, int, int]:
    """
    Data URI, and width and height in CSS pixels (0 where unknown), which do not depend on `scale`.

    Args:
        image: PNG or JPEG bytes, a PIL image, a matplotlib figure, or a uint8 array.
        max_side (`int`): PIL images and arrays are reduced to this length, in pixels.
        scale (`float`): share of the resolution that is kept.

    Raises:
        ValueError: for bytes that are neither PNG nor JPEG, or an array of another shape or type.
    """
    if isinstance(image, (bytes, bytearray)):
        return _encode_bytes(bytes(image), scale)
    if isinstance(image, np.ndarray):
        image = _from_array(image)
    savefig = getattr(image, "savefig", None)
    if savefig is not None:
        inches = image.get_size_inches()  # pyright: ignore[reportAttributeAccessIssue]
        buffer = io.BytesIO()
        savefig(buffer, format="png", dpi=DPI * scale, facecolor=image.get_facecolor())  # pyright: ignore
        return _data_uri(buffer.getvalue()), round(96 * inches[0]), round(96 * inches[1])
    return _encode_pil(image, max_side, scale)  # pyright: ignore[reportArgumentType]


def _encode_bytes(data: bytes, scale: float) -> tuple[str, int, int]:
    if scale >= 1 or not data.startswith((_PNG, _JPEG)):
        return _data_uri(data), 0, 0
    from PIL import Image

    image = Image.open(io.BytesIO(data))
    return _encode_pil(image, max(image.size), scale)


def _encode_pil(image: Image, max_side: int, scale: float) -> tuple[str, int, int]:
    if max_side < 1:
        raise ValueError(f"`max_side` must be at least 1 pixel, found {max_side}.")
    has_alpha = "A" in image.getbands() or image.info.get("transparency") is not None
    reduced = image.convert("RGBA" if has_alpha else "RGB")
    reduced.thumbnail((max_side, max_side))
    width, height = reduced.size
    reduced.thumbnail((max(1, round(width * scale)), max(1, round(height * scale))))
    buffer = io.BytesIO()
    if has_alpha:
        reduced.save(buffer, format="PNG", optimize=True)
    else:
        reduced.save(buffer, format="JPEG", quality=88, optimize=True)
    return _data_uri(buffer.getvalue()), width, height


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


__all__ = ["encode_picture"]
