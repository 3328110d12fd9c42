"""Direct reader of LeRobot v2.1: jsonl metadata, one parquet file and one video per camera for each episode."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training_st4vla.data.errors import DataError, explain
from training_st4vla.data.lerobot_metadata import INFO_PATH, DatasetInfo, Episode, select_episodes
from training_st4vla.data.readers import VideoSegment

if TYPE_CHECKING:
    import pyarrow as pa

_DATA_PATH = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
_VIDEO_PATH = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"


class LeRobotV21Reader:
    """Reads a v2.1 dataset as it lies on disk. No conversion and no `modality.json` is needed; nothing is written.

    Args:
        info: From `open_dataset_info`; a Hub dataset is downloaded (metadata, then the selected episodes and cameras).
        episodes: Episode numbers in the wanted order, or None for all.
        cameras: Cameras whose videos a Hub dataset must be downloaded with.

    Raises:
        DataError: Metadata is missing or damaged, or the selection does not fit.
    """

    def __init__(self, info: DatasetInfo, episodes: list[int] | None, cameras: Sequence[str]) -> None:
        self.info = info
        root = info.root or _download(info, ["meta/*"])
        self.tasks = {
            int(row["task_index"]): str(row["task"]) for row in _jsonl(root, "tasks.jsonl", "task_index", "task")
        }
        self.episodes = select_episodes(_episodes(root), episodes, info.source)
        self.root = root
        if info.root is None:
            self.root = _download(info, self._patterns(cameras, everything=episodes is None))

    def table(self, episode: Episode, columns: Sequence[str]) -> "pa.Table":
        """Read columns of one episode's parquet file on the calling thread. See `DatasetReader.table`."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = self._data_path(episode)
        try:
            with pq.ParquetFile(path, pre_buffer=False) as file:
                present = file.schema_arrow.names
                missing = [column for column in columns if column not in present]
                table = None if missing else file.read(columns=list(columns), use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                explain(
                    "A data file cannot be read",
                    where=str(path),
                    expected="an intact parquet file",
                    found=f"{type(error).__name__}: {error}",
                    remedy="Copy or download it again, or leave the episode out with --episodes.",
                )
            ) from error
        if table is None:
            raise DataError(
                explain(
                    "A data file lacks columns",
                    where=str(path),
                    expected=", ".join(missing),
                    found=", ".join(present),
                    remedy=f"The features in {INFO_PATH} and the file disagree: repair the dataset.",
                )
            )
        return table.select(list(columns))

    def video(self, episode: Episode, camera: str) -> VideoSegment:
        """Locate the episode's own video file; it starts at 0 s."""
        template = self.info.raw.get("video_path") or _VIDEO_PATH
        return VideoSegment(self.root / template.format(video_key=camera, **self._numbers(episode)), 0.0)

    def data_files(self) -> list[Path]:
        """The parquet files of the selected episodes."""
        return [self._data_path(episode) for episode in self.episodes]

    def _data_path(self, episode: Episode) -> Path:
        return self.root / (self.info.raw.get("data_path") or _DATA_PATH).format(**self._numbers(episode))

    def _numbers(self, episode: Episode) -> dict[str, int]:
        chunk = episode.index // int(self.info.raw.get("chunks_size") or 1000)
        return {"episode_chunk": chunk, "episode_index": episode.index}

    def _patterns(self, cameras: Sequence[str], *, everything: bool) -> list[str]:
        videos = [camera for camera in cameras if self.info.features[camera].dtype == "video"]
        if everything:
            return ["meta/*", "data/*", *(f"videos/*/{camera}/*" for camera in videos)]
        files = self.data_files() + [
            self.video(episode, camera).path for episode in self.episodes for camera in videos
        ]
        return ["meta/*", *(file.relative_to(self.root).as_posix() for file in files)]


def _episodes(root: Path) -> list[Episode]:
    rows = sorted(_jsonl(root, "episodes.jsonl", "episode_index", "length"), key=lambda row: row["episode_index"])
    episodes, start = [], 0
    for row in rows:
        episodes.append(Episode(int(row["episode_index"]), int(row["length"]), start, tuple(row.get("tasks") or ())))
        start += int(row["length"])
    return episodes


def _jsonl(root: Path, name: str, *fields: str) -> list[dict[str, Any]]:
    path = root / "meta" / name
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        lacking = next(
            (number for number, row in enumerate(rows, 1) if any(field not in row for field in fields)), None
        )
        if lacking is not None:
            raise ValueError(f"row {lacking} without {' or '.join(fields)}")
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            explain(
                "The dataset's metadata cannot be read",
                where=str(path),
                expected=f"one JSON object per line with {', '.join(fields)}",
                found=str(error),
                remedy="Copy or download the meta/ folder again.",
            )
        ) from error
    return rows


def _download(info: DatasetInfo, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(str(info.repo_id), repo_type="dataset", revision=info.revision, allow_patterns=patterns)
        )
    except Exception as error:
        raise DataError(
            explain(
                "The dataset could not be downloaded",
                where=str(info.repo_id),
                expected="a reachable Hub or a complete local cache",
                found=f"{type(error).__name__}: {error}",
                remedy="Check the network and your login (`hf auth login`), or give a local path.",
            )
        ) from error
