"""Joins shards into one LeRobot v3.0 dataset with language columns, and a grounding dataset beside it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from .annotations import camera_key
from .control import ACTION_CONTRACT, ACTION_NAMES, CONTROL_HZ, STATE_CONTRACT, STATE_NAMES
from .scene import CAMERAS
from .shards import VIDEO_OPTIONS, Settings, shard_folder

ROBOT_TYPE = "tabletop_arm"
_FILES_PER_CHUNK = 1000
_LANGUAGE = ("language_persistent", "language_events")


def features(image_size: int) -> dict[str, dict[str, Any]]:
    """LeRobot features of the dataset, without the bookkeeping columns that LeRobot adds."""
    from lerobot.datasets.language import language_feature_info

    image = {"dtype": "video", "shape": (image_size, image_size, 3), "names": ["height", "width", "channels"]}
    return {
        "observation.state": {"dtype": "float32", "shape": (8,), "names": list(STATE_NAMES)},
        "action": {"dtype": "float32", "shape": (7,), "names": list(ACTION_NAMES)},
        **{camera_key(camera): dict(image) for camera in CAMERAS},
        **language_feature_info(),
    }


def action_declaration() -> dict[str, Any]:
    """What ``meta/action_contract.json`` tells trainers: the meaning of the numbers that the numbers cannot show."""
    shared = ("representation", "frame", "rotation", "gripper_dims", "gripper_polarity", "control_hz")
    return {
        "action_units": ACTION_CONTRACT["units"],
        "state_units": STATE_CONTRACT["units"],
        **{name: ACTION_CONTRACT[name] for name in shared},
        "normalization": "q99",
        "cameras": [camera_key(camera) for camera in CAMERAS],
    }


def _exact_stats(values: np.ndarray) -> dict[str, np.ndarray]:
    """LeRobot's statistics of ``[n, d]`` values, without approximation."""
    quantiles = {f"q{percent:02d}": np.quantile(values, percent / 100, axis=0) for percent in (1, 10, 50, 90, 99)}
    moments = {"min": values.min(0), "max": values.max(0), "mean": values.mean(0), "std": values.std(0)}
    return {**moments, "count": np.array([len(values)]), **quantiles}


class _Assembly:
    """Writes the parts of the dataset, shard by shard, into a folder that is moved into place at the end."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
        from lerobot.datasets.feature_utils import get_hf_features_from_features

        self._folder = folder
        self._meta = LeRobotDatasetMetadata.create(
            settings.dataset, CONTROL_HZ, features(settings.image_size), ROBOT_TYPE, folder, metadata_buffer_size=200
        )
        self._schema = get_hf_features_from_features(self._meta.features).arrow_schema
        self.frames = 0
        self._vectors: dict[str, list[np.ndarray]] = {"observation.state": [], "action": []}

    def register_tasks(self, instructions: list[str]) -> None:
        """Gives every instruction its task index."""
        self._meta.save_episode_tasks(list(dict.fromkeys(instructions)))

    def add(self, source: Path, number: int) -> None:
        """Adds a shard as file ``number``: its videos, its frames, its episodes' metadata, its grounding rows."""
        with np.load(source / "episodes.npz") as summary:
            episodes = {name: summary[name] for name in summary.files}
        for camera in CAMERAS:
            shutil.copyfile(source / f"{camera}.mp4", self._file(f"videos/{camera_key(camera)}", number, "mp4"))
        shutil.copyfile(source / "grounding.parquet", self._file("grounding", number, "parquet"))
        states, actions = self._write_frames(source, number, episodes)
        self._save_episodes(number, episodes, states, actions)

    def finish(self) -> None:
        """Writes what is only known at the end."""
        from lerobot.configs import RGBEncoderConfig
        from lerobot.datasets.io_utils import write_info, write_stats

        encoder = RGBEncoderConfig(
            vcodec="h264", g=int(VIDEO_OPTIONS["g"]), crf=int(VIDEO_OPTIONS["crf"]), preset=VIDEO_OPTIONS["preset"]
        )
        self._meta.update_video_info(video_encoder=encoder)
        write_info(self._meta.info, self._folder)
        stats = dict(self._meta.stats or {})
        for name, pieces in self._vectors.items():  # exact over all frames, where LeRobot's running merge approximates
            stats[name] = _exact_stats(np.concatenate(pieces))
        write_stats(stats, self._folder)
        self._meta.finalize()
        (self._folder / "meta" / "action_contract.json").write_text(json.dumps(action_declaration(), indent=2) + "\n")

    def _file(self, kind: str, number: int, suffix: str) -> Path:
        chunk, file = divmod(number, _FILES_PER_CHUNK)
        path = self._folder / kind / f"chunk-{chunk:03d}" / f"file-{file:03d}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _write_frames(self, source: Path, number: int, episodes: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pq.read_table(source / "frames.parquet")
        indices = [self._meta.get_task_index(str(text)) or 0 for text in episodes["instructions"]]
        table = table.append_column("index", pa.array(np.arange(self.frames, self.frames + table.num_rows)))
        table = table.append_column("task_index", pa.array(np.repeat(indices, episodes["lengths"])))
        for name in table.schema.names:  # LeRobot reads the language columns as Arrow inferred them
            if name not in _LANGUAGE:
                index = table.schema.get_field_index(name)
                table = table.set_column(index, name, table[name].cast(self._schema.field(name).type))
        pq.write_table(table, self._file("data", number, "parquet"), compression="snappy")
        states = np.array(table["observation.state"].to_pylist(), np.float32)
        actions = np.array(table["action"].to_pylist(), np.float32)
        self._vectors["observation.state"].append(states)
        self._vectors["action"].append(actions)
        return states, actions

    def _save_episodes(self, number: int, episodes: dict[str, Any], states: np.ndarray, actions: np.ndarray) -> None:
        chunk, file = divmod(number, _FILES_PER_CHUNK)
        start = 0
        for index, length in enumerate(int(value) for value in episodes["lengths"]):
            instruction = str(episodes["instructions"][index])
            metadata: dict[str, Any] = {
                "data/chunk_index": chunk,
                "data/file_index": file,
                "dataset_from_index": self.frames,
                "dataset_to_index": self.frames + length,
            }
            for camera in CAMERAS:
                key = camera_key(camera)
                metadata[f"videos/{key}/chunk_index"] = chunk
                metadata[f"videos/{key}/file_index"] = file
                metadata[f"videos/{key}/from_timestamp"] = start / CONTROL_HZ
                metadata[f"videos/{key}/to_timestamp"] = (start + length) / CONTROL_HZ
            stats = self._episode_stats(
                {"observation.state": states[start : start + length], "action": actions[start : start + length]},
                {camera_key(camera): episodes[camera][index] for camera in CAMERAS},
                length,
                self._meta.get_task_index(instruction) or 0,
            )
            self._meta.save_episode(self._meta.total_episodes, length, [instruction], stats, metadata)
            self.frames += length
            start += length

    def _episode_stats(
        self, vectors: dict[str, np.ndarray], images: dict[str, np.ndarray], length: int, task_index: int
    ) -> dict[str, dict[str, np.ndarray]]:
        from lerobot.datasets.compute_stats import compute_episode_stats, get_feature_stats

        frames = np.arange(length)
        columns = {
            **vectors,
            "timestamp": (frames / CONTROL_HZ).astype(np.float32),
            "frame_index": frames,
            "episode_index": np.full(length, self._meta.total_episodes),
            "index": frames + self.frames,
            "task_index": np.full(length, task_index),
        }
        stats = compute_episode_stats(columns, self._meta.features)
        for key, thumbnails in images.items():
            raw = get_feature_stats(thumbnails, axis=(0, 2, 3), keepdims=True)
            stats[key] = {k: v if k == "count" else np.squeeze(v / 255.0, axis=0) for k, v in raw.items()}
        return stats


def assemble(output: Path, shards: Path, settings: Settings) -> int:
    """Joins the complete shards into ``output``.

    Args:
        output: Folder of the dataset; ``meta``, ``data``, ``videos`` and ``grounding`` appear in it all at once.
        shards: Folder of the shards.
        settings: What was recorded.

    Returns:
        The number of frames.
    """
    folder = shards / "assembly"
    shutil.rmtree(folder, ignore_errors=True)
    instructions: list[str] = []
    for shard in range(settings.shards):
        with np.load(shard_folder(shards, shard) / "episodes.npz") as summary:
            instructions += [str(text) for text in summary["instructions"]]
    assembly = _Assembly(folder, settings)
    assembly.register_tasks(instructions)
    for shard in range(settings.shards):
        assembly.add(shard_folder(shards, shard), shard)
    assembly.finish()
    for part in sorted(folder.iterdir()):
        target = output / part.name
        if target.exists():
            shutil.rmtree(target)
        part.rename(target)
    return assembly.frames
