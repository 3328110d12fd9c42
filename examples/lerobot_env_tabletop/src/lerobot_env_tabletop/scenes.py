"""``python -m lerobot_env_tabletop.scenes --scenes N --output DIR``: labelled images of many scenes, for grounding.

A recording shows each of its scenes in dozens of frames that hardly differ. Here the same episodes are played, but
looked at only now and then, and every visible thing is asked for: many more scenes for the same time and space.
Writes into DIR ``grounding`` (parquet, a row per question), ``images`` (JPEG) and ``.scenes.json`` (settings, timing).
Interrupted, the same command goes on where it stopped; finished, it does nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from .annotations import frame_answers, grounding_row
from .record import LOCK, RecordingError, alone, in_workers, write_json
from .recording import demonstrate
from .scene import CAMERAS, MAX_IMAGE_SIZE
from .shards import grounding_schema
from .splits import SPLITS, get_split

_REPORT = ".scenes.json"
_PER_SHARD = 20


@dataclass(frozen=True)
class SceneSettings:
    """What is drawn.

    Attributes:
        scenes: Number of scenes; each is an episode of a recording with the same seed, split and tasks.
        seed: Number of the set; each gives other scenes.
        split: Where episodes are drawn from.
        tasks: Tasks, taking turns.
        image_size: Width and height of the images in pixels.
        stride: An image of each camera every so many steps.
        orders: Other orders that are asked about each image.
        named_orders: Orders made up of what an image shows, asked for their things.
        whole_paths: Whether paths are written as they are, or by their corners.
    """

    scenes: int
    seed: int
    split: str
    tasks: tuple[str, ...]
    image_size: int
    stride: int
    orders: int
    named_orders: int
    whole_paths: bool

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return {**asdict(self), "tasks": list(self.tasks)}


def write_scenes(
    output: str | os.PathLike[str],
    scenes: int,
    *,
    split: str = "train",
    seed: int = 0,
    image_size: int = 224,
    stride: int = 12,
    orders: int = 0,
    named_orders: int = 0,
    whole_paths: bool = True,
    workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Writes labelled images, or what is still missing of them.

    Args:
        output: Folder of the grounding dataset. An unfinished one of the same settings is completed, a finished one
            is left as it is.
        scenes: Number of scenes.
        split: Where scenes are drawn from.
        seed: Number of the set; each gives other scenes.
        image_size: Width and height of the images in pixels.
        stride: An image of each camera every so many steps of the episode.
        orders: How many orders that the episode does not give are asked about each image too, where one could be given
            (:func:`~.other_orders.other_orders`): what it is about, where that goes, and the expert's way.
        named_orders: How many orders made up of what an image shows are asked only for what they are about
            (:func:`~.other_orders.named_order`).
        whole_paths: Write paths as they are, to be scored by; or, to be learnt, by their few corners, always as many.
        workers: Processes; None takes one per core. More than one are started with ``spawn``: call this from under
            ``if __name__ == "__main__"``.
        progress: Show a progress bar on stderr.

    Returns:
        The folder.

    Raises:
        RecordingError: For impossible values, when the folder holds something else, or when another process writes
            into it.
    """
    folder = Path(output).expanduser()
    settings = _settings(scenes, split, seed, image_size, stride, orders, named_orders, whole_paths)
    with alone(folder):
        report = _claim(folder, settings)
        if not report["complete"]:
            _write_missing(folder, settings, workers or os.cpu_count() or 1, progress)
    return folder


def _settings(
    scenes: int,
    split: str,
    seed: int,
    image_size: int,
    stride: int,
    orders: int,
    named_orders: int,
    whole_paths: bool,
) -> SceneSettings:
    try:
        tasks = get_split(split).tasks
    except ValueError as error:
        raise RecordingError(str(error)) from error
    if min(scenes, stride) < 1 or min(seed, orders, named_orders) < 0 or not 16 <= image_size <= MAX_IMAGE_SIZE:
        raise RecordingError(
            "scenes and stride must be at least 1, seed, orders and named_orders at least 0, image_size from 16 to "
            f"{MAX_IMAGE_SIZE}; got {scenes}, {stride}, {seed}, {orders}, {named_orders}, {image_size}."
        )
    return SceneSettings(scenes, seed, split, tasks, image_size, stride, orders, named_orders, whole_paths)


def _claim(folder: Path, settings: SceneSettings) -> dict[str, Any]:
    """The report of an earlier run of the same settings, or a new one."""
    path = folder / _REPORT
    if path.is_file():
        report = json.loads(path.read_text())
        if report["settings"] != settings.to_dict():
            raise RecordingError(f"{folder} was written with other settings. Give the same, or another --output.")
        return report
    if any(entry.name != LOCK for entry in folder.iterdir()):
        raise RecordingError(f"{folder} holds something else; it is left alone. Choose another --output.")
    return _write_report(folder, settings, complete=False)


def _write_report(folder: Path, settings: SceneSettings, **extra: Any) -> dict[str, Any]:
    report = {"settings": settings.to_dict(), **extra}
    write_json(folder / _REPORT, report)
    return report


def _shard_file(folder: Path, shard: int) -> Path:
    return folder / "grounding" / f"file-{shard:05d}.parquet"


def _write_missing(folder: Path, settings: SceneSettings, workers: int, progress: bool) -> None:
    from tqdm import tqdm

    (folder / "grounding").mkdir(exist_ok=True)
    shards = range(-(-settings.scenes // _PER_SHARD))
    missing = [shard for shard in shards if not _shard_file(folder, shard).is_file()]
    done = settings.scenes - sum(len(_scenes_of(settings, shard)) for shard in missing)
    started, images, questions = time.monotonic(), 0, 0
    bar = tqdm(total=settings.scenes, initial=done, unit="scene", desc="drawing", disable=not progress)
    with bar, in_workers(partial(_write_shard, folder, settings), missing, workers) as finished:
        for shard, new_images, new_questions in finished:
            images, questions = images + new_images, questions + new_questions
            bar.set_postfix_str(f"{images / (time.monotonic() - started):.0f} labelled images/s")
            bar.update(len(_scenes_of(settings, shard)))
    seconds = time.monotonic() - started
    figures = {"new_images": images, "new_questions": questions, "seconds": round(seconds, 1), "workers": workers}
    _write_report(folder, settings, complete=True, summary=figures)


def _scenes_of(settings: SceneSettings, shard: int) -> range:
    return range(shard * _PER_SHARD, min((shard + 1) * _PER_SHARD, settings.scenes))


def _write_shard(folder: Path, settings: SceneSettings, shard: int) -> tuple[int, int, int]:
    """Plays a few episodes; the table appears last, so a shard that has one is whole."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    names = f"images/{shard:05d}"
    (folder / names).mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    images = 0
    for index in _scenes_of(settings, shard):
        demo = demonstrate(
            index,
            settings.seed,
            settings.split,
            settings.tasks,
            settings.image_size,
            stride=settings.stride,
            orders=settings.orders,
        )
        for at, frame in enumerate(demo.seen):
            for camera in CAMERAS:
                name = f"{names}/{index:06d}-{frame:03d}-{camera}.jpg"
                Image.fromarray(demo.images[camera][at]).save(folder / name, quality=95, subsampling=0)
                images += 1
                label = demo.labels[camera][at]
                answers = frame_answers(demo, frame, label, None, settings.whole_paths, settings.named_orders)
                where = grounding_row(demo, index, frame, camera, settings.image_size)
                rows += [{**where, "image": name, **answer} for answer in answers]
    schema = grounding_schema().append(pa.field("image", pa.string()))
    schema = schema.remove(schema.get_field_index("dataset"))
    partial_file = _shard_file(folder, shard).with_suffix(".partial")
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), partial_file)
    partial_file.replace(_shard_file(folder, shard))
    return shard, images, len(rows)


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m lerobot_env_tabletop.scenes", description=__doc__)
    parser.add_argument("--scenes", type=int, required=True, help="number of scenes")
    parser.add_argument("--output", type=Path, required=True, help="folder of the grounding dataset")
    parser.add_argument("--seed", type=int, default=0, help="number of the set; each gives other scenes (0)")
    parser.add_argument("--split", default="train", choices=list(SPLITS), help="where scenes are drawn from (train)")
    parser.add_argument("--image-size", type=int, default=224, help="width and height in pixels (224)")
    parser.add_argument("--stride", type=int, default=12, help="an image of each camera every so many steps (12)")
    parser.add_argument("--orders", type=int, default=0, help="other orders that are asked about each image (0)")
    parser.add_argument(
        "--named-orders", type=int, default=0, help="made-up orders that each image is asked for their things (0)"
    )
    parser.add_argument(
        "--corners",
        dest="whole_paths",
        action="store_false",
        help="paths by their corners, to be learnt (whole paths)",
    )
    parser.add_argument("--workers", type=int, help="processes (one per core)")
    try:
        folder = write_scenes(**vars(parser.parse_args(argv)))
    except RecordingError as error:
        print(f"scenes: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("scenes: interrupted; the same command goes on from here.", file=sys.stderr)
        return 130
    print(json.dumps({"output": str(folder), **json.loads((folder / _REPORT).read_text())["summary"]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
