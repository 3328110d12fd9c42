"""Reader of LeRobot v3.0 through `LeRobotDataset`, behind the same interface as the v2.1 reader."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from training_st4vla.data.errors import DataError, explain
from training_st4vla.data.lerobot_metadata import DatasetInfo, Episode, select_episodes
from training_st4vla.data.readers import VideoSegment, require_files

if TYPE_CHECKING:
    import pyarrow as pa


class LeRobotV30Reader:
    """Opens a v3.0 dataset with `LeRobotDataset`, which finds or downloads it and maps its tables.

    Rows come from its Hugging Face dataset and frames from the video file and offset it names. They are not taken from
    its items: those decode every camera of the dataset and reopen the files for each sample. A test compares the two.

    Args:
        info: From `open_dataset_info`.
        episodes: Episode numbers in the wanted order, or None for all.
        download_videos: Whether to bring the videos of a Hub dataset.

    Raises:
        DataError: LeRobot cannot open the dataset, or the selection does not fit.
    """

    def __init__(self, info: DatasetInfo, episodes: list[int] | None, download_videos: bool = True) -> None:
        self.info = info
        if info.root is not None:
            _require_metadata(info.root)
        meta = _call_lerobot(info, _open_metadata)
        rows = _without_stats(meta.episodes)
        self.root = Path(meta.root)
        self.tasks = {int(number): str(task) for task, number in meta.tasks["task_index"].items()}
        self.episodes = select_episodes([_episode(row) for row in rows], episodes, info.source)
        wanted = {episode.index for episode in self.episodes}
        self._rows = {int(row["episode_index"]): row for row in rows if int(row["episode_index"]) in wanted}
        if info.root is not None:
            # LeRobot would look for missing files on the Hub and write them into the folder.
            cameras = [key for key, feature in info.features.items() if feature.dtype == "video"]
            require_files(self, cameras, remedy="LeRobot needs the videos of all cameras: copy the dataset again.")
        dataset = _call_lerobot(info, _open_dataset, None if episodes is None else sorted(episodes), download_videos)
        self.root = Path(dataset.root)
        self._data = dataset.hf_dataset.with_format("arrow")
        self._first_row = _first_rows(self._data)

    def table(self, episode: Episode, columns: Sequence[str]) -> "pa.Table":
        """Slice one episode out of LeRobot's memory-mapped table. See `DatasetReader.table`."""
        missing = [column for column in columns if column not in self._data.column_names]
        first = self._first_row.get(episode.index)
        if missing or first is None:
            raise DataError(
                explain(
                    "The dataset's tables are incomplete",
                    where=f"{self.info.source}, episode {episode.index}",
                    expected=", ".join(missing) or "frames of this episode",
                    found=", ".join(self._data.column_names) if missing else "none",
                    remedy="The metadata and the data files disagree: copy or download the dataset again.",
                )
            )
        return self._data.select_columns(list(columns))[first : first + episode.length]

    def video(self, episode: Episode, camera: str) -> VideoSegment:
        """Locate the shared video file and the time at which the episode starts in it."""
        row = self._rows[episode.index]
        path = str(self.info.raw["video_path"]).format(
            video_key=camera,
            chunk_index=int(row[f"videos/{camera}/chunk_index"]),
            file_index=int(row[f"videos/{camera}/file_index"]),
        )
        return VideoSegment(self.root / path, float(row[f"videos/{camera}/from_timestamp"]))

    def data_files(self) -> list[Path]:
        """The parquet files that hold the selected episodes."""
        template = str(self.info.raw["data_path"])
        pairs = {(int(row["data/chunk_index"]), int(row["data/file_index"])) for row in self._rows.values()}
        return [self.root / template.format(chunk_index=chunk, file_index=file) for chunk, file in sorted(pairs)]


def _open_metadata(info: DatasetInfo) -> Any:
    from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata

    return LeRobotDatasetMetadata(_repo_id(info), root=info.root, revision=info.revision)


def _open_dataset(info: DatasetInfo, episodes: list[int] | None, download_videos: bool) -> Any:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    return LeRobotDataset(
        _repo_id(info),
        root=info.root,
        episodes=episodes,
        revision=info.revision,
        video_backend="pyav",
        return_uint8=True,
        download_videos=download_videos,
    )


def _repo_id(info: DatasetInfo) -> str:
    """The Hub id; for a local folder its path, which is none, so that LeRobot cannot turn to the Hub for it."""
    return info.repo_id or str(info.root)


def _call_lerobot(info: DatasetInfo, function: Callable[..., Any], *args: Any) -> Any:
    try:
        return function(info, *args)
    except Exception as error:
        raise DataError(
            explain(
                "LeRobot could not open the dataset",
                where=info.source,
                expected="a complete v3.0 dataset",
                found=f"{type(error).__name__}: {error}",
                remedy="Copy or download the dataset again, with all its videos. One-element columns stored as lists "
                "(left by the v2.1 converter) must be rewritten as scalars; a v2.1 original can be read directly.",
            )
        ) from error


def _require_metadata(root: Path) -> None:
    for name in ("meta/tasks.parquet", "meta/episodes/*/*.parquet"):
        if not any(root.glob(name)):
            raise DataError(
                explain(
                    "The dataset's metadata is incomplete",
                    where=str(root),
                    expected=name,
                    found="nothing there",
                    remedy="Copy or download the meta/ folder again; a new recording ends with `finalize()`.",
                )
            )


def _without_stats(episodes: Any) -> list[dict[str, Any]]:
    columns = [name for name in episodes.column_names if not name.startswith("stats/")]
    return episodes.select_columns(columns).with_format(None).to_list()


def _episode(row: dict[str, Any]) -> Episode:
    tasks = row.get("tasks") or ()
    return Episode(
        int(row["episode_index"]),
        int(row["length"]),
        int(row["dataset_from_index"]),
        (tasks,) if isinstance(tasks, str) else tuple(tasks),
    )


def _first_rows(data: Any) -> dict[int, int]:
    """Row at which each loaded episode starts. LeRobot keeps an episode's frames together."""
    numbers = np.asarray(data.select_columns(["episode_index"])[:].column(0).to_numpy()).astype(np.int64)
    starts = np.flatnonzero(np.diff(numbers, prepend=-1))
    return {int(numbers[start]): int(start) for start in starts}
