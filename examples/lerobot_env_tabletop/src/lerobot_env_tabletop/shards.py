"""A shard: a few consecutive demonstrations, written by one worker, whole or not at all.

A shard's folder holds one video per camera, ``frames.parquet`` (a row per frame), ``grounding.parquet`` (a row per
question) and ``episodes.npz``. It appears under its final name only when complete, so a killed recording resumes at
the first missing shard.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .annotations import episode_answers, grounding_rows, language_events, language_persistent
from .control import CONTROL_HZ
from .recording import Demonstration, demonstrate
from .scene import CAMERAS

_THUMBNAILS = 4
VIDEO_OPTIONS = {"preset": "ultrafast", "crf": "18", "g": "2"}
"""H.264 settings: about 1 ms per 224 x 224 frame, a key frame every second frame for fast random access."""


@dataclass(frozen=True)
class Settings:
    """What is recorded.

    Attributes:
        episodes: Number of demonstrations.
        seed: Number of the recording; each gives other episodes.
        split: Where episodes are drawn from.
        tasks: Tasks, taking turns.
        image_size: Width and height of the images in pixels.
        noise: Scale of the perturbations.
        shard_size: Demonstrations per shard.
        dataset: Name by which grounding rows refer to the dataset.
    """

    episodes: int
    seed: int
    split: str
    tasks: tuple[str, ...]
    image_size: int
    noise: float
    shard_size: int
    dataset: str

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-self.episodes // self.shard_size)

    def episode_range(self, shard: int) -> range:
        """Which demonstrations a shard holds."""
        return range(shard * self.shard_size, min((shard + 1) * self.shard_size, self.episodes))

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return {**asdict(self), "tasks": list(self.tasks)}


class _VideoWriter:
    """Appends frames to an H.264 file."""

    def __init__(self, path: Path, size: int) -> None:
        import av

        self._av = av
        self._container = av.open(str(path), "w")
        self._stream: Any = self._container.add_stream("libx264", rate=CONTROL_HZ, options=dict(VIDEO_OPTIONS))
        self._stream.width = self._stream.height = size
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.thread_count = 1

    def write(self, images: np.ndarray) -> None:
        for image in images:
            frame = self._av.VideoFrame.from_ndarray(image, format="rgb24")
            for packet in self._stream.encode(frame):
                self._container.mux(packet)

    def close(self) -> None:
        for packet in self._stream.encode():
            self._container.mux(packet)
        self._container.close()


def shard_folder(root: Path, shard: int) -> Path:
    """Where a complete shard lies."""
    return root / f"shard-{shard:05d}"


def write_shard(root: Path, settings: Settings, shard: int) -> tuple[int, int]:
    """Records one shard.

    Returns:
        The shard's number and its number of frames.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    final = shard_folder(root, shard)
    folder = final.with_suffix(".partial")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    frames: list[dict[str, Any]] = []
    grounding: list[dict[str, Any]] = []
    summary: dict[str, list[Any]] = {"lengths": [], "instructions": [], "tasks": []}
    summary |= {camera: [] for camera in CAMERAS}
    writers = {camera: _VideoWriter(folder / f"{camera}.mp4", settings.image_size) for camera in CAMERAS}
    for index in settings.episode_range(shard):
        demo = demonstrate(index, settings.seed, settings.split, settings.tasks, settings.image_size, settings.noise)
        for camera, writer in writers.items():
            writer.write(demo.images[camera])
            summary[camera].append(_thumbnails(demo.images[camera]))
        answers = episode_answers(demo)
        frames += _frame_rows(demo, answers, index)
        grounding += grounding_rows(demo, answers, index, settings.dataset, settings.image_size)
        summary["lengths"].append(len(demo))
        summary["instructions"].append(demo.episode.instruction)
        summary["tasks"].append(demo.episode.task)
    for writer in writers.values():
        writer.close()
    pq.write_table(pa.Table.from_pylist(frames), folder / "frames.parquet")
    pq.write_table(pa.Table.from_pylist(grounding, schema=grounding_schema()), folder / "grounding.parquet")
    arrays: dict[str, Any] = {name: np.array(values) for name, values in summary.items()}
    np.savez(folder / "episodes.npz", **arrays)
    shutil.rmtree(final, ignore_errors=True)
    folder.rename(final)
    return shard, len(frames)


def grounding_schema() -> Any:
    """Arrow schema of the grounding rows."""
    import pyarrow as pa

    numbers = pa.list_(pa.float32())
    text = (
        "dataset",
        "camera",
        "instruction",
        "question",
        "role",
        "kind",
        "coordinate_space",
        "source",
        "license",
        "phase",
        "subtask",
    )
    whole = ("episode_index", "frame_index", "image_width", "image_height")
    return pa.schema(
        [
            *(pa.field(name, pa.int64()) for name in whole),
            *(pa.field(name, pa.string()) for name in text),
            pa.field("points", pa.list_(numbers)),
            pa.field("boxes", pa.list_(numbers)),
            pa.field("traces", pa.list_(pa.list_(numbers))),
            pa.field("labels", pa.list_(pa.string())),
        ]
    )


def _thumbnails(images: np.ndarray) -> np.ndarray:
    """A few small frames, ``uint8 [4, 3, h, w]``, for the dataset's pixel statistics."""
    chosen = np.linspace(0, len(images) - 1, _THUMBNAILS).astype(int)
    return images[chosen, ::3, ::3].transpose(0, 3, 1, 2)


def _frame_rows(demo: Demonstration, answers: dict[str, Any], index: int) -> list[dict[str, Any]]:
    persistent = language_persistent(demo, CONTROL_HZ)
    return [
        {
            "observation.state": demo.states[frame].tolist(),
            "action": demo.actions[frame].tolist(),
            "timestamp": frame / CONTROL_HZ,
            "frame_index": frame,
            "episode_index": index,
            "language_persistent": persistent,
            "language_events": language_events(answers, frame),
        }
        for frame in range(len(demo))
    ]
