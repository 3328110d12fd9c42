"""Small grounding data of every published layout, drawn so that the truth can be seen: a square on grey."""

import io
import json
from pathlib import Path
from typing import Any

from PIL import Image

SIZE = (64, 48)
BOX = (10.0, 8.0, 30.0, 28.0)
GREY, GREEN = (128, 128, 128), (0, 158, 115)


def picture(shade: int = 0, size: tuple[int, int] = SIZE, box: tuple[float, ...] = BOX) -> Image.Image:
    """A green square in `box` on a ground of a grey that differs by `shade`."""
    image = Image.new("RGB", size, tuple(channel + shade for channel in GREY))
    x1, y1, x2, y2 = (int(value) for value in box)
    image.paste(GREEN, (x1, y1, x2, y2))
    return image


def encoded(image: Image.Image) -> bytes:
    """PNG bytes."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def save(path: Path, image: Image.Image) -> str:
    """Writes a PNG and returns its file name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path.name


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Writes JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def schema_row(image: Any = "0.png", **fields: Any) -> dict[str, Any]:
    """A box row of the project's schema in pixels."""
    row = {
        "image": image,
        "image_width": SIZE[0],
        "image_height": SIZE[1],
        "instruction": "the green square",
        "kind": "box",
        "points": [],
        "boxes": [list(BOX)],
        "traces": [],
        "labels": ["square"],
        "coordinate_space": "pixel",
        "source": "toy",
        "license": "Apache-2.0",
    }
    return {**row, **fields}


def write_schema_set(folder: Path, count: int = 6, name: str = "train.jsonl", first: int = 0) -> Path:
    """`count` images with one question of each kind about each."""
    rows: list[dict[str, Any]] = []
    for number in range(first, first + count):
        shift = 2 * (number % 8)
        box = (BOX[0] + shift, BOX[1], BOX[2] + shift, BOX[3])
        image = save(folder / f"{number}.png", picture(number, box=box))
        centre = [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]
        rows += [
            schema_row(image, boxes=[list(box)]),
            schema_row(image, kind="point", points=[centre], boxes=[list(box)], labels=[]),
            schema_row(image, kind="trace", boxes=[], traces=[[[1, 1], centre, [60, 40]]], labels=[]),
            schema_row(
                image, kind="text", instruction="What colour is the square?", boxes=[], labels=[], text="green"
            ),
        ]
    return write_lines(folder / name, rows)
