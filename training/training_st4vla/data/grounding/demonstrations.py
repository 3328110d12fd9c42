"""Grounding data from annotated demonstrations: where is the object, where does it go, how will the gripper move."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from training_st4vla.data.annotations import IMAGE_LAG_FRAMES, AnnotatedBox, EpisodeAnnotations
from training_st4vla.data.errors import DataError, explain
from training_st4vla.data.keys import resolve_cameras
from training_st4vla.data.lerobot_metadata import Episode, open_dataset_info
from training_st4vla.data.readers import DatasetReader, open_reader

INSTRUCTIONS: Mapping[str, str] = MappingProxyType(
    {
        "pick": "the object to pick up for the task: {task}",
        "place": "the object to place it on for the task: {task}",
        "gripper": "{task}",
        "task": "{task}",
    }
)


_LABELS = {"pick": "object to pick up", "place": "place to put it", "gripper": "gripper"}


@dataclass(frozen=True)
class GroundingRowOptions:
    """What becomes a row and what is left out.

    Args:
        stride: Take every `stride`-th frame.
        gripper_key: Column whose change of sign ends a trace.
        max_points: Most points of a trace.
        min_box_side: Smallest accepted side of a box, pixels.
        max_occlusion: Largest accepted hidden share of an object, where known.
        min_trace_length: Shortest accepted path, pixels.
        instructions: Text per role (`pick`, `place`, `gripper`, `task`), with `{task}`; a role without a text gives no
            rows.
        source: What to record as source; None: the dataset's name.
        license: What to record as licence of the data.
    """

    stride: int = 1
    gripper_key: str = "action.gripper_close"
    max_points: int = 10
    min_box_side: float = 4.0
    max_occlusion: float = 0.8
    min_trace_length: float = 10.0
    instructions: Mapping[str, str] = INSTRUCTIONS
    source: str | None = None
    license: str = "unknown"


def grounding_rows(
    dataset_path: str | os.PathLike[str],
    camera: str,
    *,
    episodes: Sequence[int] | None = None,
    options: GroundingRowOptions | None = None,
    revision: str | None = None,
) -> Iterator[dict[str, Any]]:
    """Turn an InternData-M1 style dataset into rows of the grounding schema. No video is decoded.

    Every frame gives up to four rows, told apart by `role`: the box of the object to pick up (`pick`), the box of the
    object to place it on (`place`), both boxes as the answer to the spatial prompt that is used for acting (`task`),
    and the gripper's path for the task (`gripper`), with both boxes beside it: they are what it goes by. A box is the
    visible part of the object; hardly visible ones are left out.

    A path starts where the gripper is in this frame's picture and ends at the next opening or closing (or at the end
    of the episode). Its points are the tool centre points of the coming frames, shifted by the picture's lag,
    resampled to at most `max_points` points evenly spaced along the path. Points outside the image are cut: the path
    starts at the first point inside and stops before the first one outside after that. Cameras that move with the
    robot give no paths, as later pixels would not belong to this picture.

    Args:
        dataset_path: Folder or Hub id of the LeRobot dataset with `annotation.*` columns.
        camera: Camera, by full name or unambiguous last part.
        episodes: Episode numbers; None: all.
        options: Thresholds and texts.
        revision: Hub revision.

    Yields:
        Dicts with `dataset`, `camera`, `episode_index`, `frame_index`, `index` (the image reference), `image_width`,
        `image_height`, `instruction`, `question` (`"spatial"` for the role `task`, else `"kind"`), `role`, `kind`
        (`"box"` or `"trace"`), `points` (empty), `boxes` (list of [left, top, right, bottom]), `traces` (list of lists
        of [x, y]), `labels` (one per item), `coordinate_space` (`"pixel"`, of the recorded image), `source`,
        `license`.

    Raises:
        UntrustedPickleError: An annotation holds something other than arrays and plain containers.
        DataError: The dataset, camera or annotations are missing or damaged.
    """
    options = options or GroundingRowOptions()
    info = open_dataset_info(dataset_path, revision)
    (key,) = resolve_cameras(info, [camera])
    reader = open_reader(info, episodes=None if episodes is None else list(episodes), cameras=[key])
    for episode in reader.episodes:
        yield from _EpisodeRows(reader, episode, key, options).rows()


class _EpisodeRows:
    def __init__(self, reader: DatasetReader, episode: Episode, camera: str, options: GroundingRowOptions) -> None:
        self.reader, self.episode, self.camera, self.options = reader, episode, camera, options
        self.annotations = EpisodeAnnotations(reader, episode)
        self.name = camera.rpartition(".")[2]
        if self.name not in self.annotations.cameras:
            raise DataError(
                explain(
                    "The camera has no annotations",
                    where=f"dataset {reader.info.source}, {camera}",
                    expected=f"columns annotation.{self.name}.bbox2d_tight and annotation.{self.name}.tcp_2d_trace",
                    found=f"annotated cameras: {', '.join(self.annotations.cameras) or 'none'}",
                    remedy="Choose another camera or dataset.",
                )
            )
        self.height, self.width = reader.info.features[camera].shape[:2]

    def rows(self) -> Iterator[dict[str, Any]]:
        tasks = self._tasks()
        traces = self._traces()
        for frame in range(0, self.episode.length, self.options.stride):
            boxes = {role: list(box.xyxy) for role, box in self._boxes(frame).items()}
            answers: list[tuple[str, dict[str, Any]]] = [
                (role, {"kind": "box", "boxes": [box], "labels": [_LABELS[role]]}) for role, box in boxes.items()
            ]
            things, labels = list(boxes.values()), [_LABELS[role] for role in boxes]
            if things:
                answers.append(("task", {"kind": "box", "boxes": things, "labels": labels}))
            if traces is not None and (trace := traces(frame)) is not None:
                path = {"boxes": things, "traces": [trace.round(2).tolist()], "labels": [*labels, _LABELS["gripper"]]}
                answers.append(("gripper", {"kind": "trace", **path}))
            for role, answer in answers:
                if role in self.options.instructions:
                    yield self._row(frame, tasks[frame], role, answer)

    def _boxes(self, frame: int) -> dict[str, AnnotatedBox]:
        """The usable boxes of a frame, by role."""
        uids = {"pick": self.annotations.pick_uid(frame), "place": self.annotations.place_uid(frame)}
        boxes = {role: self.annotations.box_of(uid, self.name, frame) for role, uid in uids.items()}
        return {role: box for role, box in boxes.items() if box is not None and self._is_usable(box)}

    def _row(self, frame: int, task: str, role: str, answer: dict[str, Any]) -> dict[str, Any]:
        info = self.reader.info
        empty: dict[str, Any] = {"points": [], "boxes": [], "traces": []}
        return {
            "dataset": info.source,
            "camera": self.camera,
            "episode_index": self.episode.index,
            "frame_index": frame,
            "index": self.episode.start + frame,
            "image_width": self.width,
            "image_height": self.height,
            "instruction": self.options.instructions[role].format(task=task),
            "question": "spatial" if role == "task" else "kind",
            "role": role,
            **empty,
            **answer,
            "coordinate_space": "pixel",
            "source": self.options.source or info.source.rstrip("/\\").rpartition("/")[2],
            "license": self.options.license,
        }

    def _tasks(self) -> list[str]:
        column = self.reader.table(self.episode, ["task_index"]).column(0)
        return [self.reader.tasks[int(np.ravel(number)[0])] for number in column.to_pylist()]

    def _is_usable(self, box: AnnotatedBox) -> bool:
        left, top, right, bottom = box.xyxy
        large = min(right - left, bottom - top) >= self.options.min_box_side
        return large and (box.occlusion is None or box.occlusion <= self.options.max_occlusion)

    def _traces(self) -> Callable[[int], np.ndarray | None] | None:
        if not self.annotations.camera_is_static(self.name):
            return None
        pixels = self.annotations.tcp_pixels(self.name)
        in_picture = pixels[np.maximum(np.arange(len(pixels)) - IMAGE_LAG_FRAMES, 0)]
        column = self.reader.table(self.episode, [self.options.gripper_key]).column(0).to_pylist()
        ends = segment_ends(np.greater([float(np.ravel(value)[0]) for value in column], 0.0))

        def trace(frame: int) -> np.ndarray | None:
            path = on_screen_part(in_picture[frame : ends[frame]], self.width, self.height)
            return resample_path(path, self.options.max_points, self.options.min_trace_length)

        return trace


def segment_ends(closed: np.ndarray) -> np.ndarray:
    """For each frame, the exclusive end of its stretch of equal values.

    Args:
        closed: bool [L].

    Returns:
        int64 [L].
    """
    changes = np.flatnonzero(closed[1:] != closed[:-1]) + 1
    boundaries = np.append(changes, len(closed))
    return boundaries[np.searchsorted(boundaries, np.arange(len(closed)), side="right")]


def on_screen_part(path: np.ndarray, width: int, height: int) -> np.ndarray:
    """The first unbroken run of points inside the image.

    Args:
        path: float [n, 2], pixels.
        width: Image width.
        height: Image height.

    Returns:
        float [m, 2], m <= n, possibly 0.
    """
    inside = np.logical_and(path >= 0, path < [width, height]).all(axis=1)
    if not inside.any():
        return path[:0]
    start = int(inside.argmax())
    outside_after = np.flatnonzero(np.logical_not(inside)[start:])
    return path[start : start + int(outside_after[0]) if len(outside_after) else len(path)]


def resample_path(path: np.ndarray, max_points: int, min_length: float) -> np.ndarray | None:
    """Spread at most `max_points` points evenly along a path.

    Args:
        path: float [n, 2], pixels.
        max_points: Number of points of the result, if the path has at least as many.
        min_length: Paths shorter than this many pixels give None.

    Returns:
        float [m, 2] with the path's own first and last point, 2 <= m <= max_points, or None.
    """
    if len(path) < 2:
        return None
    along = np.append(0.0, np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1)))
    if along[-1] < max(min_length, 1e-6):
        return None
    targets = np.linspace(0.0, along[-1], min(max_points, len(path)))
    return np.stack([np.interp(targets, along, path[:, axis]) for axis in (0, 1)], axis=1)
