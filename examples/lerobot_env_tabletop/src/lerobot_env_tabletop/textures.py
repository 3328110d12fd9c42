"""Textures made in code: table tops, and the grain or gleam that tells the materials apart."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache

import numpy as np
from PIL import Image

_SIZE = 64
RGB = tuple[float, float, float]


def _grid() -> tuple[np.ndarray, np.ndarray]:
    axis = (np.arange(_SIZE) + 0.5) / _SIZE
    x, y = np.meshgrid(axis, axis, indexing="xy")
    return x, y


def _blend(weight: np.ndarray, low: RGB, high: RGB) -> np.ndarray:
    weight = np.clip(weight, 0.0, 1.0)[..., None]
    return (1 - weight) * np.asarray(low) + weight * np.asarray(high)


def _noise(seed: int, cells: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).random((cells, cells)).astype(np.float32)
    return np.asarray(Image.fromarray(coarse).resize((_SIZE, _SIZE), Image.Resampling.BICUBIC))


def _planks(low: RGB, high: RGB) -> np.ndarray:
    x, y = _grid()
    grain = 0.5 + 0.3 * np.sin(2 * np.pi * (9 * y + 0.6 * np.sin(2 * np.pi * x))) + 0.3 * (_noise(1, 16) - 0.5)
    return _blend(np.where((4 * y) % 1.0 < 0.06, 0.0, grain), low, high)


def _plain(low: RGB, high: RGB) -> np.ndarray:
    return _blend(_noise(2, 24), low, high)


def _checks(low: RGB, high: RGB) -> np.ndarray:
    x, y = _grid()
    return _blend((np.floor(8 * x) + np.floor(8 * y)) % 2, low, high)


def _stripes(low: RGB, high: RGB) -> np.ndarray:
    x, _ = _grid()
    return _blend((np.floor(10 * x) % 2).astype(float), low, high)


def _marble(low: RGB, high: RGB) -> np.ndarray:
    x, y = _grid()
    return _blend(np.abs(np.sin(2 * np.pi * (x + y) + 5 * _noise(3, 6))) ** 0.4, low, high)


def _speckles(low: RGB, high: RGB) -> np.ndarray:
    return _blend((np.random.default_rng(4).random((_SIZE, _SIZE)) > 0.8).astype(float), low, high)


_PATTERNS: dict[str, Callable[[RGB, RGB], np.ndarray]] = {
    "planks": _planks,
    "plain": _plain,
    "checks": _checks,
    "stripes": _stripes,
    "marble": _marble,
    "speckles": _speckles,
}

TABLES: dict[str, tuple[str, RGB, RGB]] = {
    "oak": ("planks", (0.50, 0.36, 0.22), (0.68, 0.52, 0.34)),
    "walnut": ("planks", (0.26, 0.17, 0.11), (0.40, 0.27, 0.18)),
    "grey": ("plain", (0.44, 0.45, 0.47), (0.54, 0.55, 0.57)),
    "sand": ("plain", (0.70, 0.64, 0.52), (0.79, 0.73, 0.62)),
    "slate": ("plain", (0.20, 0.23, 0.26), (0.28, 0.31, 0.34)),
    "linen": ("checks", (0.58, 0.60, 0.62), (0.66, 0.68, 0.70)),
    "marble": ("marble", (0.46, 0.48, 0.52), (0.80, 0.80, 0.82)),
    "granite": ("speckles", (0.22, 0.22, 0.24), (0.56, 0.55, 0.52)),
    "deckchair": ("stripes", (0.30, 0.44, 0.48), (0.72, 0.74, 0.70)),
    "chessboard": ("checks", (0.26, 0.22, 0.20), (0.72, 0.68, 0.60)),
    "moss": ("plain", (0.24, 0.34, 0.22), (0.34, 0.44, 0.30)),
    "terracotta": ("stripes", (0.52, 0.30, 0.24), (0.60, 0.38, 0.30)),
}
"""Table tops by name: pattern, dark colour, light colour."""
TRAIN_TABLES: tuple[str, ...] = ("oak", "walnut", "grey", "sand", "slate", "linen")
UNSEEN_TABLES: tuple[str, ...] = ("marble", "granite", "deckchair", "chessboard", "moss", "terracotta")


def _wood() -> np.ndarray:
    x, y = _grid()
    rings = 0.5 + 0.5 * np.sin(2 * np.pi * (5 * y + 0.5 * np.sin(2 * np.pi * x)))
    return _blend(rings, (0.55, 0.42, 0.30), (1.25, 1.15, 1.0))


def _brushed() -> np.ndarray:
    x, y = _grid()
    gleam = np.exp(-(((x + 0.5 * y - 0.75) / 0.16) ** 2))
    return _blend(0.30 + 0.70 * gleam, (0.25, 0.25, 0.28), (1.45, 1.45, 1.45))


def _png(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray((255 * np.clip(values, 0, 1)).astype(np.uint8)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


@cache
def table_texture(name: str) -> bytes:
    """PNG of a table top of :data:`TABLES`."""
    pattern, low, high = TABLES[name]
    return _png(_PATTERNS[pattern](low, high))


@cache
def material_texture(material: str, color: RGB) -> bytes:
    """PNG of a material (``wooden`` or ``metal``) in one colour."""
    base = _wood() if material == "wooden" else _brushed()
    return _png(base * np.asarray(color) if material == "wooden" else 0.08 * base + 0.92 * base * np.asarray(color))
