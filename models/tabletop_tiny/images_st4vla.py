"""Camera images at the edge of the model: accept what users have, refuse what would be guessed, resize once."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

# The normalisation DINOv2 was trained with.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def to_rgb_image(image: Any, where: str) -> Image.Image:
    """
    One image as 8-bit RGB.

    Args:
        image: a `PIL.Image` of mode RGB; a uint8 `np.ndarray` `(height, width, 3)`; or a `torch.Tensor`
            `(3, height, width)`, uint8 or float in [0, 1] (what LeRobot datasets give).
        where (`str`): how error messages name this image.

    Raises:
        ValueError: for another mode, dtype, layout or range, or an image without pixels.
    """
    if isinstance(image, torch.Tensor):
        image = _tensor_to_array(image, where)
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
            raise ValueError(
                f"{where}: expected a uint8 array of shape (height, width, 3), found {image.dtype} {image.shape}."
            )
        _require_pixels(image.shape[1], image.shape[0], where)
        return Image.fromarray(image)
    if not isinstance(image, Image.Image):
        raise ValueError(f"{where}: expected a PIL image, numpy array or torch tensor, found {type(image).__name__}.")
    _require_pixels(*image.size, where)
    if image.mode != "RGB":
        raise ValueError(
            f"{where}: expected an RGB image, found mode {image.mode!r}. Convert it first, for example "
            "image.convert('RGB'), and decide what becomes of an alpha channel."
        )
    return image


def _tensor_to_array(image: torch.Tensor, where: str) -> np.ndarray:
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"{where}: expected a tensor of shape (3, height, width), found {tuple(image.shape)}.")
    array = image.detach().cpu().permute(1, 2, 0)
    if array.is_floating_point():
        if array.numel() and not (array.min() >= 0 and array.max() <= 1):
            raise ValueError(
                f"{where}: expected float values in [0, 1], found a range of [{array.min():.3g}, {array.max():.3g}]."
            )
        array = (array.float() * 255).round().to(torch.uint8)
    return np.ascontiguousarray(array.numpy())


def _require_pixels(width: int, height: int, where: str) -> None:
    if width < 1 or height < 1:
        raise ValueError(f"{where}: expected an image with pixels, found {width} x {height}.")


def nest_views(images: Any, num_texts: int) -> list[list[Any]]:
    """
    Groups images into samples of views: `[[front, wrist], ...]`.

    A nested sequence is taken as it is; a flat one holds the views of one sample when there is one text, and one view
    per sample when there are as many images as texts.

    Raises:
        ValueError: when the grouping does not follow from the numbers.
    """
    if not isinstance(images, Sequence):
        images = [images]
    nested = [isinstance(item, Sequence) for item in images]
    if all(nested) and images:
        samples = [list(item) for item in images]
    elif any(nested):
        raise ValueError("images: expected either images or lists of images, found both in one list.")
    elif num_texts == 1:
        samples = [list(images)]
    else:
        samples = [[image] for image in images]
    if len(samples) != num_texts:
        raise ValueError(f"images: expected one list of views per text, found {len(samples)} for {num_texts} texts.")
    empty = [index for index, views in enumerate(samples) if not views]
    if empty:
        raise ValueError(f"images: expected at least one view per sample, found none in samples {empty}.")
    return samples


def resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Bicubic PIL resize to `size` = (height, width), the resampling the method was trained with."""
    height, width = size
    if image.size == (width, height):
        return image
    return image.resize((width, height), Image.Resampling.BICUBIC)


def stack_views(samples: list[list[Image.Image]]) -> tuple[torch.Tensor, torch.Tensor]:
    """
    ImageNet-normalised views for the DINOv2 encoder, padded with zeros to the largest number of views.

    Returns:
        `(pixels, mask)`: float32 `(batch, views, 3, height, width)` and bool `(batch, views)`, True at real views.
    """
    mean = torch.tensor(IMAGENET_MEAN).view(3, 1, 1)
    std = torch.tensor(IMAGENET_STD).view(3, 1, 1)
    most = max(len(views) for views in samples)
    width, height = samples[0][0].size
    pixels = torch.zeros(len(samples), most, 3, height, width)
    mask = torch.zeros(len(samples), most, dtype=torch.bool)
    for row, views in enumerate(samples):
        raw = torch.from_numpy(np.stack([np.asarray(view) for view in views])).permute(0, 3, 1, 2)
        pixels[row, : len(views)] = (raw.float() / 255 - mean) / std
        mask[row, : len(views)] = True
    return pixels, mask


__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "nest_views", "resize", "stack_views", "to_rgb_image"]
