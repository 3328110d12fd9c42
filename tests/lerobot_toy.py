"""A tiny LeRobot v2.1 dataset whose frames carry their own number."""

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

FPS = 10
SIDE = 64


def numbered_image(number: int) -> np.ndarray:
    """A 64 x 64 picture whose 4 x 4 black and white blocks spell `number` in binary; survives lossy coding."""
    bits = np.array([(number >> bit) & 1 for bit in range(16)], dtype=np.uint8).reshape(4, 4) * 200 + 20
    return np.repeat(np.kron(bits, np.ones((16, 16), dtype=np.uint8))[:, :, None], 3, axis=2)


def read_number(image: np.ndarray) -> int:
    """The number in a picture made by `numbered_image`."""
    blocks = image.reshape(4, 16, 4, 16, 3).mean(axis=(1, 3, 4)).ravel() > 120
    return int(sum(1 << bit for bit, is_set in enumerate(blocks) if is_set))


def write_video(path: Path, numbers: Sequence[int], *, gop: int = 12, fps: int = FPS) -> None:
    """Write an H.264 file with B frames, one numbered picture per frame."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"g": str(gop), "bf": "2", "crf": "20"})
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        for number in numbers:
            for packet in stream.encode(av.VideoFrame.from_ndarray(numbered_image(number), format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def write_dataset(
    root: Path,
    *,
    lengths: Sequence[int] = (30, 20),
    cameras: Sequence[str] = ("observation.images.front", "observation.images.wrist"),
    stored_images: bool = False,
    tasks: Sequence[str] = ("push the red block", "open the drawer"),
    columns: dict[str, int] | None = None,
    names: dict[str, Any] | None = None,
    edit: Callable[[int, dict[str, Any]], None] | None = None,
    fps: int = FPS,
) -> Path:
    """Write a v2.1 dataset: one parquet file and one video per camera for each episode.

    Camera `c` of global frame `i` shows the number `i + 1000 * c`. Column `k` of global frame `i` holds
    `i + j / 10` in dimension `j`; one-element columns are written as scalars. `edit(episode, columns)` may change the
    columns of an episode before they are written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = columns or {"action": 3, "observation.state": 2}
    kind = "image" if stored_images else "video"
    start, episode_rows, stats_rows = 0, [], []
    for episode, length in enumerate(lengths):
        frames = np.arange(start, start + length)
        data: dict[str, Any] = {key: _ramp(frames, dim) for key, dim in columns.items()}
        data |= {
            "timestamp": pa.array((np.arange(length) / fps).astype(np.float32)),
            "frame_index": list(range(length)),
            "episode_index": [episode] * length,
            "index": frames.tolist(),
            "task_index": [episode % len(tasks)] * length,
        }
        for slot, camera in enumerate(cameras):
            numbers = (frames + 1000 * slot).tolist()
            if stored_images:
                data[camera] = [{"bytes": _png(numbered_image(number)), "path": None} for number in numbers]
            else:
                write_video(root / f"videos/chunk-000/{camera}/episode_{episode:06d}.mp4", numbers, fps=fps)
        if edit is not None:
            edit(episode, data)
        path = root / f"data/chunk-000/episode_{episode:06d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(data), path)
        episode_rows.append({"episode_index": episode, "tasks": [tasks[episode % len(tasks)]], "length": length})
        stats_rows.append(
            {"episode_index": episode, "stats": {key: _stats(frames, dim) for key, dim in columns.items()}}
        )
        start += length

    features: dict[str, Any] = {
        key: {"dtype": "float32", "shape": [dim], "names": (names or {}).get(key)} for key, dim in columns.items()
    }
    features |= {
        camera: {"dtype": kind, "shape": [SIDE, SIDE, 3], "names": ["height", "width", "channels"]}
        for camera in cameras
    }
    features |= {"timestamp": {"dtype": "float32", "shape": [1], "names": None}}
    features |= {
        key: {"dtype": "int64", "shape": [1], "names": None}
        for key in ("frame_index", "episode_index", "index", "task_index")
    }
    write_metadata(
        root,
        info={
            "codebase_version": "v2.1",
            "robot_type": "toy_arm",
            "total_episodes": len(lengths),
            "total_frames": start,
            "total_tasks": len(tasks),
            "total_videos": 0 if stored_images else len(lengths) * len(cameras),
            "total_chunks": 1,
            "chunks_size": 1000,
            "fps": fps,
            "splits": {"train": f"0:{len(lengths)}"},
            "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
            "video_path": None
            if stored_images
            else "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
            "features": features,
        },
        episodes=episode_rows,
        stats=stats_rows,
        tasks=[{"task_index": number, "task": task} for number, task in enumerate(tasks)],
    )
    return root


def write_metadata(root: Path, *, info: dict[str, Any], episodes: list, stats: list, tasks: list) -> None:
    """Write the four files of a v2.1 `meta/` folder."""
    meta = root / "meta"
    meta.mkdir(parents=True, exist_ok=True)
    (meta / "info.json").write_text(json.dumps(info))
    for name, rows in (("episodes", episodes), ("episodes_stats", stats), ("tasks", tasks)):
        (meta / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _ramp(frames: np.ndarray, dim: int) -> Any:
    if dim == 1:
        return frames.astype(np.float32)
    return [(frame + np.arange(dim, dtype=np.float32) / 10).tolist() for frame in frames]


def _stats(frames: np.ndarray, dim: int) -> dict[str, Any]:
    values = frames[:, None] + np.arange(dim) / 10
    summary = {name: getattr(values, name)(axis=0).tolist() for name in ("min", "max", "mean", "std")}
    return {**summary, "count": [len(frames)]}


def _png(image: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()
