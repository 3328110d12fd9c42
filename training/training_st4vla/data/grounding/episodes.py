"""A0's episodes: a JSON file each, with the frames of a fixed camera and the path of the object's contact point.

A file holds `metadata` (`instructions`, `validRange` with `start` and `end`), `cam_highs` (image files, one per frame)
and `waypoints2d` (a position per frame). ManiSkill episodes lie in `<task>/label/out_*.json` and their image paths
start at `<task>`; the others lie beside their images. Positions are pixels in the ManiSkill part and shares of the
image elsewhere, and the files do not say so: the space must be given.
"""

import json
from pathlib import Path
from typing import Any

from training_st4vla.data.errors import DataError, explain
from training_st4vla.data.grounding.demonstrations import resample_path
from training_st4vla.data.grounding.images import image_reference
from training_st4vla.data.grounding.layouts import Layout, ReadOptions, not_the_layout
from training_st4vla.data.grounding.rows import Row, RowTable
from training_st4vla.data.grounding.schema import GroundingSample, coordinate_map, pixel_answer, require_space

MAX_POINTS = 10
_SPLIT_FILES = ("train_test_split.json", "train_test_split_droid.json")


def is_episode_folder(folder: Path) -> bool:
    """Whether a folder holds A0 episodes."""
    return any(_has_waypoints(path) for path in _episode_files(folder)[:1])


def open_episodes(folder: Path, split: str | None = None) -> RowTable:
    """The episodes of a folder, one row each.

    Args:
        folder: Where the episode files lie, themselves or in `<task>/label`.
        split: `train` or `test` of the folder's split file; None: all.

    Raises:
        DataError: There are none, a file is damaged, or there is no such split.
    """
    files = _episode_files(folder)
    if split is not None:
        chosen = {Path(name).as_posix() for name in _split(folder, split)}
        files = [
            file
            for file in files
            if any(name == file.as_posix() or file.as_posix().endswith(f"/{name}") for name in chosen)
        ]
    if not files:
        raise DataError(
            explain(
                "The folder holds no episodes",
                where=str(folder),
                expected="JSON files with waypoints2d and cam_highs",
                found="none",
                remedy="Give the folder of one part, such as maniskill/.",
            )
        )
    return RowTable([_read(file, folder) for file in files], str(folder), (folder,))


def _episode_files(folder: Path) -> list[Path]:
    nested = sorted(folder.glob("*/label/out*.json"))
    return nested or sorted(folder.glob("episode*.json"))


def _has_waypoints(path: Path) -> bool:
    try:
        return "waypoints2d" in json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


def _split(folder: Path, name: str) -> list[str]:
    for file in _SPLIT_FILES:
        if (folder / file).is_file():
            splits = json.loads((folder / file).read_text(encoding="utf-8"))
            if name in splits:
                return list(splits[name])
    raise DataError(
        explain(
            "There is no such split",
            where=str(folder),
            expected=f"{name!r} in {' or '.join(_SPLIT_FILES)}",
            found="none",
            remedy="Leave --split out to use all episodes.",
        )
    )


def _read(path: Path, folder: Path) -> Row:
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
        images = [str(name) for name in row["cam_highs"]]
        waypoints = row["waypoints2d"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            explain(
                "An episode file cannot be read",
                where=str(path),
                expected="JSON with cam_highs and waypoints2d",
                found=f"{type(error).__name__}: {error}",
                remedy="Copy it again.",
            )
        ) from error
    base = path.parent.parent if path.parent.name == "label" else path.parent
    prefix = base.relative_to(folder)
    return {
        "metadata": row.get("metadata") or {},
        "cam_highs": [str(prefix / name) for name in images],
        "waypoints2d": waypoints,
    }


def _sample(row: Row, number: int, where: str, options: ReadOptions) -> GroundingSample:
    """The path from the first valid frame on, as at most `MAX_POINTS` points evenly spaced along it."""
    space = require_space(options.coordinate_space, where)
    metadata, waypoints = row.get("metadata") or {}, row.get("waypoints2d") or []
    instruction = metadata.get("instructions")
    if not isinstance(instruction, str):
        raise not_the_layout(where, "a text in metadata.instructions", instruction)
    valid = metadata.get("validRange") or {}
    first, last = int(valid.get("start", 0)), int(valid.get("end", len(waypoints) - 1))
    # ManiSkill's lists begin at the first valid frame, the others' at the first frame.
    first = first if len(waypoints) > last else 0
    path = _flat(waypoints[first : last + 1])
    images = row.get("cam_highs") or [None]
    image = image_reference(images[min(first, len(images) - 1)], options.image_roots, where)
    size = image.size()
    to_pixels = coordinate_map(space, size)
    return GroundingSample(
        image,
        size,
        instruction,
        "trace",
        pixel_answer(traces=[_resampled(path)], to_pixels=to_pixels, image_size=size, where=where),
        space,
        **options.provenance(row),  # pyright: ignore[reportArgumentType]  # source and license
        where=where,
    )


def _flat(waypoints: Any) -> list[Any]:
    """`[[x, y], ...]`; the files also hold `[[[x, y]], ...]`."""
    return [point[0] if len(point) == 1 else point for point in waypoints]


def _resampled(path: list[Any]) -> Any:
    import numpy as np

    try:
        found = resample_path(np.asarray(path, dtype=np.float64).reshape(-1, 2), MAX_POINTS, 0.0)
    except (TypeError, ValueError):
        return path
    return path if found is None else found.tolist()


EPISODES = Layout("a0", lambda row: "waypoints2d" in row and "cam_highs" in row, _sample)

__all__ = ["EPISODES", "MAX_POINTS", "is_episode_folder", "open_episodes"]
