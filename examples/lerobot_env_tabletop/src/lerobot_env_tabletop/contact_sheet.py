"""``python -m lerobot_env_tabletop.contact_sheet FILE.png``: one picture of all tasks with their ground truth.

Each cell shows both cameras at the start of an episode and its instruction; drawn in are the box of the named object
(green), the place it has to go to (magenta cross) and the path that the expert will take (cyan).
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .env import make_env
from .labels import CameraLabels
from .scene import CAMERAS

CELLS: tuple[tuple[str, str, int], ...] = (
    ("pick_place", "easy", 1003),
    ("pick_place", "in_distribution", 1000),
    ("push", "interference", 1001),
    ("stack", "unseen_objects", 1002),
    ("next_to", "unseen_instructions", 1004),
    ("left_right", "distractors", 1004),
    ("between", "new_backgrounds", 1006),
    ("long_horizon", "long_horizon", 1005),
)
"""Task, split and seed of each cell."""
_COLUMNS = 2
_CAPTION = 48
_TARGET, _PLACE, _TRACE = (60, 255, 90), (255, 60, 255), (40, 220, 255)


def draw_labels(image: np.ndarray, labels: CameraLabels) -> Image.Image:
    """An image with the named object's box, its destination and the trace drawn in.

    Args:
        image: ``uint8 [size, size, 3]``.
        labels: Its ground truth, for instance from :meth:`TabletopEnv.ground_truth`.
    """
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    if labels.trace is not None:
        draw.line([(float(x), float(y)) for x, y in labels.trace], fill=_TRACE, width=2)
    if labels.target_box is not None:
        draw.rectangle(labels.target_box, outline=_TARGET, width=2)
    if labels.destination is not None:
        x, y = labels.destination
        draw.line([(x - 6, y), (x + 6, y)], fill=_PLACE, width=2)
        draw.line([(x, y - 6), (x, y + 6)], fill=_PLACE, width=2)
    return picture


def cell(task: str, split: str, seed: int, size: int) -> Image.Image:
    """Both views of the first frame of an episode, labelled, with the instruction below."""
    env = make_env(task, split, image_size=size)
    observation, info = env.reset(seed=seed)
    picture = Image.new("RGB", (2 * size, size + _CAPTION), "white")
    for index, camera in enumerate(CAMERAS):
        labels = env.ground_truth(camera, trace=True)
        picture.paste(draw_labels(observation["pixels"][camera], labels), (index * size, 0))
    env.close()
    lines = [f"{task} | {split}", *textwrap.wrap(info["instruction"], width=size // 3)]
    font = ImageFont.load_default(11)
    ImageDraw.Draw(picture).multiline_text((4, size + 2), "\n".join(lines[:3]), fill="black", font=font, spacing=2)
    return picture


def contact_sheet(size: int = 200) -> Image.Image:
    """All of :data:`CELLS`, views of ``size`` pixels, in 256 colours to keep the file small."""
    cells = [cell(*episode, size) for episode in CELLS]
    width, height = cells[0].size
    rows = -(-len(cells) // _COLUMNS)
    sheet = Image.new("RGB", (_COLUMNS * (width + 8) - 8, rows * height), "white")
    for index, picture in enumerate(cells):
        sheet.paste(picture, (index % _COLUMNS * (width + 8), index // _COLUMNS * height))
    return sheet.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m lerobot_env_tabletop.contact_sheet", description=__doc__)
    parser.add_argument("output", type=Path, help="PNG file to write")
    parser.add_argument("--image-size", type=int, default=200, help="width and height of a view in pixels (200)")
    arguments = parser.parse_args(argv)
    contact_sheet(arguments.image_size).save(arguments.output, optimize=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
