"""Robot demonstrations in the LeRobot formats v2.1 and v3.0 as samples for action training."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from training_st4vla.data.episode_arrays import EpisodeArrays, EpisodeStore
from training_st4vla.data.errors import DataError, explain
from training_st4vla.data.frames import FrameSource
from training_st4vla.data.keys import dimension_names, resolve_action_keys, resolve_cameras, resolve_state_keys
from training_st4vla.data.lerobot_metadata import Episode, open_dataset_info
from training_st4vla.data.pauses import PauseFilter
from training_st4vla.data.readers import open_reader

# Episodes whose numbers are read and checked at once; the rest is checked when it is read (statistics read all).
_EPISODES_CHECKED_FIRST = 64
# From so many episodes on, reading all of their numbers shows a bar.
_EPISODES_WITH_A_BAR = 500


class LeRobotActionDataset(Dataset):
    """Frames of a LeRobot dataset, each with its instruction and the chunk of actions that starts there.

    Sample `i` is a dict of

    - `images`: list of uint8 [H, W, 3] RGB arrays, one per camera, in slot order;
    - `instruction`: str;
    - `actions`: float32 [chunk_size, A], raw environment units, the action keys joined in their order. Beyond the end
      of the episode the last action is repeated;
    - `action_is_pad`: bool [chunk_size], True for those repetitions;
    - `state`: float32 [S], or None without state keys;
    - `dataset_key`: str;
    - `index`: frame index in the whole dataset; `episode_index`; `frame_index` within the episode.

    A v2.1 dataset and its v3.0 conversion give the same samples. Picklable; works with `DataLoader` workers under fork
    and spawn. The dataset folder is never written to.

    Args:
        path_or_repo_id: Dataset folder, or Hub id.
        chunk_size: Number of actions per sample, in dataset frames.
        action_keys: Action columns, joined in this order. Found by itself if there is only one.
        state_keys: State columns, joined in this order. None: samples carry no state.
        cameras: Cameras in slot order, by full name or unambiguous last part. None: all, in the order of `info.json`.
        episodes: Episode numbers to use, in this order. None: all.
        max_frames: Use only the first `max_frames` frames of the selection as samples. Their action chunks may still
            reach beyond, into frames of the same episode.
        dataset_key: Name of the action contract these samples belong to. None: the folder's or repository's name.
        revision: Hub revision.
        delta_dims: Action dimensions that are replaced by their difference from the frame before (absolute targets to
            steps). The first frame of an episode has none before it, and is no sample then.
        pause_filter: Which frames are samples. None: all. Chunks hold what was recorded either way.
        stream: Do not download the videos of a Hub dataset now, but each when a sample first needs it. Samples are the
            same; see [`StreamedOrder`] for an order in which this makes sense.

    Attributes:
        info: The dataset's description.
        episodes: The selected episodes.
        frame_indices: int64 [N], index in the whole dataset of each sample's frame.
        paused: Number of frames of the selected episodes that the pause filter left out.

    Raises:
        DataError: The dataset is missing, damaged or incomplete, has no instructions, or does not have what was asked.
    """

    def __init__(
        self,
        path_or_repo_id: str | os.PathLike[str],
        *,
        chunk_size: int,
        action_keys: Sequence[str] | None = None,
        state_keys: Sequence[str] | None = None,
        cameras: Sequence[str] | None = None,
        episodes: Sequence[int] | None = None,
        max_frames: int | None = None,
        dataset_key: str | None = None,
        revision: str | None = None,
        delta_dims: Sequence[int] = (),
        pause_filter: PauseFilter | None = None,
        stream: bool = False,
    ) -> None:
        if chunk_size < 1 or (max_frames is not None and max_frames < 1):
            raise ValueError(f"chunk_size and max_frames must be at least 1, got {chunk_size} and {max_frames}")
        self.info = open_dataset_info(path_or_repo_id, revision)
        self.chunk_size = chunk_size
        self.action_keys = resolve_action_keys(self.info, action_keys)
        self.state_keys = resolve_state_keys(self.info, state_keys)
        self.cameras = resolve_cameras(self.info, cameras)
        self.dataset_key = dataset_key or Path(self.info.source.rstrip("/\\")).name or self.info.source
        selection = None if episodes is None else [int(number) for number in episodes]
        self.reader = open_reader(self.info, episodes=selection, cameras=self.cameras, stream=stream)
        self.episodes = self.reader.episodes
        self.delta_dims, self.pause_filter = tuple(delta_dims), pause_filter
        self._store = EpisodeStore(self.reader, self.action_keys, self.state_keys, self.delta_dims)
        self._frames = FrameSource(self.reader)
        self._index_frames(max_frames)
        self._check_languages()
        self._check_first_episodes()

    def __len__(self) -> int:
        return len(self.frame_indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        position = range(len(self))[int(index)]
        episode = self.episodes[int(self._episode_of[position])]
        row = int(self._row_of[position])
        arrays = self._store[episode]
        actions, is_pad = _chunk(arrays.actions, row, self.chunk_size)
        timestamp = float(arrays.timestamps[row])
        return {
            "images": [self._frames.frame(episode, camera, row, timestamp) for camera in self.cameras],
            "instruction": self.reader.tasks[int(arrays.task_index[row])],
            "actions": actions,
            "action_is_pad": is_pad,
            "state": None if arrays.state is None else arrays.state[row].copy(),
            "dataset_key": self.dataset_key,
            "index": int(self.frame_indices[position]),
            "episode_index": episode.index,
            "frame_index": row,
        }

    @property
    def fps(self) -> float:
        """Frames, and so actions, per second."""
        return self.info.fps

    @property
    def action_dim(self) -> int:
        """Number of values in one action."""
        return sum(self.info.features[key].dim for key in self.action_keys)

    @property
    def state_dim(self) -> int | None:
        """Number of values in the state, or None without state keys."""
        return sum(self.info.features[key].dim for key in self.state_keys) or None

    @property
    def action_names(self) -> list[str]:
        """One name per action dimension: the feature's own names, else `key[i]`."""
        return dimension_names(self.info, self.action_keys)

    @property
    def state_names(self) -> list[str]:
        """One name per state dimension; empty without state keys."""
        return dimension_names(self.info, self.state_keys)

    @property
    def episode_lengths(self) -> dict[int, int]:
        """Recorded frames of each selected episode, by episode number (`max_frames` does not shorten them)."""
        return {episode.index: episode.length for episode in self.episodes}

    @property
    def episode_numbers(self) -> np.ndarray:
        """Episode number of each sample, int64 [N]."""
        return np.array([episode.index for episode in self.episodes], dtype=np.int64)[self._episode_of]

    def files_of_samples(self) -> np.ndarray:
        """Number of the video file (of the first camera; of the episode, where images are stored) of each sample."""
        videos = [camera for camera in self.cameras if self.info.features[camera].dtype == "video"]
        names = [
            str(self.reader.video(episode, videos[0]).path) if videos else str(episode.index)
            for episode in self.episodes
        ]
        return np.unique(names, return_inverse=True)[1][self._episode_of]

    def values(self) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """Actions [n, A] and state [n, S] (or None) of the samples, episode by episode. No video is decoded."""
        for arrays, rows in self._selected_arrays():
            yield arrays.actions[rows], None if arrays.state is None else arrays.state[rows]

    def raw_actions(self) -> np.ndarray:
        """Actions of the selected frames, float32 [N, A], raw environment units. No video is decoded."""
        return np.concatenate([actions for actions, _ in self.values()])

    def raw_state(self) -> np.ndarray | None:
        """State of the selected frames, float32 [N, S], or None without state keys. No video is decoded."""
        if not self.state_keys:
            return None
        return np.concatenate([state for _, state in self.values() if state is not None])

    def describe(self) -> dict[str, Any]:
        """A small summary to print before training; plain values only."""
        tasks = list(dict.fromkeys(task for episode in self.episodes for task in episode.tasks))
        return {
            "dataset": self.info.source,
            "dataset_key": self.dataset_key,
            "version": self.info.version,
            "robot_type": self.info.robot_type,
            "fps": self.fps,
            "episodes": len(self.episodes),
            "frames": len(self),
            "paused": self.paused,
            "chunk_size": self.chunk_size,
            "cameras": {f"view {slot}": camera for slot, camera in enumerate(self.cameras)},
            "action": {key: self.info.features[key].dim for key in self.action_keys},
            "state": {key: self.info.features[key].dim for key in self.state_keys},
            "instructions": tasks[:3],
        }

    def fingerprint(self) -> str:
        """A hash of the dataset's files (path, size, time of change) and of the selection; names cached statistics."""
        digest = hashlib.sha256()
        facts = [self.info.source, self.info.revision, self.info.raw, self.action_keys, self.state_keys]
        facts += [self.delta_dims] if self.delta_dims else []
        digest.update(json.dumps(facts, sort_keys=True, default=str).encode())
        for path in self.reader.data_files():
            status = path.stat()
            digest.update(f"{path}:{status.st_size}:{status.st_mtime_ns};".encode())
        digest.update(self.frame_indices.tobytes())
        return digest.hexdigest()[:32]

    def _index_frames(self, max_frames: int | None) -> None:
        self.paused = 0
        quiet = self.pause_filter is None or len(self.episodes) < _EPISODES_WITH_A_BAR
        rows = [self._sample_rows(ep) for ep in tqdm(self.episodes, desc="looking for pauses", disable=quiet)]
        self._episode_of = np.repeat(np.arange(len(rows)), [len(found) for found in rows])[:max_frames]
        self._row_of = np.concatenate(rows)[:max_frames]
        starts = np.array([episode.start for episode in self.episodes])
        self.frame_indices = (starts[self._episode_of] + self._row_of).astype(np.int64)
        if not len(self.frame_indices):
            raise DataError(
                explain(
                    "The selection has no frames",
                    where=self.info.source,
                    expected="at least one frame",
                    found=f"{len(rows)} episodes without one, {self.paused} frames in pauses",
                    remedy="Choose other episodes with --episodes, or another pause filter.",
                )
            )
        self.episodes = self.episodes[: int(self._episode_of[-1]) + 1]

    def _sample_rows(self, episode: Episode) -> np.ndarray:
        """Rows of an episode at which samples start."""
        rows = np.arange(1 if self.delta_dims else 0, episode.length)
        if self.pause_filter is None:
            return rows
        moving = rows[self.pause_filter.moving(self._store[episode].actions)[rows]]
        self.paused += len(rows) - len(moving)
        return moving

    def _check_languages(self) -> None:
        silent = [ep.index for ep in self.episodes if not ep.tasks or not all(str(task).strip() for task in ep.tasks)]
        if silent:
            raise DataError(
                explain(
                    f"{len(silent)} of {len(self.episodes)} episodes have no instruction",
                    where=f"dataset {self.info.source}",
                    expected="a non-empty task text for every selected episode",
                    found="none for episodes "
                    + ", ".join(map(str, silent[:10]))
                    + (" ..." if len(silent) > 10 else ""),
                    remedy="Add the instructions to the dataset's tasks, or leave these episodes out with --episodes.",
                )
            )

    def _check_first_episodes(self) -> None:
        for episode in self.episodes[1:_EPISODES_CHECKED_FIRST]:
            self._store[episode]
        first = self.episodes[0]
        arrays = self._store[first]
        for camera in self.cameras:
            frame = self._frames.frame(first, camera, 0, float(arrays.timestamps[0]))
            expected = self.info.features[camera].shape
            if sorted(frame.shape) != sorted(expected):
                raise DataError(
                    explain(
                        "A camera's frames have the wrong size",
                        where=f"dataset {self.info.source}, episode {first.index}, {camera}",
                        expected=f"shape {list(expected)}, as meta/info.json says",
                        found=f"shape {list(frame.shape)}",
                        remedy="Repair meta/info.json or the video, or choose other cameras with --cameras.",
                    )
                )

    def _selected_arrays(self) -> Iterator[tuple[EpisodeArrays, np.ndarray]]:
        bounds = np.searchsorted(self._episode_of, np.arange(len(self.episodes) + 1))
        quiet = len(self.episodes) < _EPISODES_WITH_A_BAR
        for number, episode in enumerate(tqdm(self.episodes, desc="reading numbers", disable=quiet)):
            yield self._store[episode], self._row_of[bounds[number] : bounds[number + 1]]


def _chunk(actions: np.ndarray, row: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Actions `row ... row + size - 1`, the last one repeated past the end, and the flags of the repetitions."""
    rows = np.arange(row, row + size)
    return actions[np.minimum(rows, len(actions) - 1)], rows >= len(actions)
