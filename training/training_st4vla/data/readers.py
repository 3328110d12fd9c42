"""The one interface through which both LeRobot formats are read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from training_st4vla.data.errors import DataError, explain
from training_st4vla.data.lerobot_metadata import DatasetInfo, Episode

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class VideoSegment:
    """Where an episode's video lies: the file, and the time in seconds at which the episode starts in it."""

    path: Path
    start: float


class DatasetReader(Protocol):
    """Reads the selected episodes of one LeRobot dataset. Instances can be pickled.

    Attributes:
        info: The dataset's description.
        episodes: The selected episodes, in order.
        tasks: Instruction text by task number.
    """

    info: DatasetInfo
    episodes: list[Episode]
    tasks: dict[int, str]

    def table(self, episode: Episode, columns: Sequence[str]) -> "pa.Table":
        """Read columns of one episode: one row per frame, in time order. A missing column raises `DataError`."""
        ...

    def video(self, episode: Episode, camera: str) -> VideoSegment:
        """Locate the video of one episode and camera."""
        ...

    def data_files(self) -> list[Path]:
        """All files that hold the columns of the selected episodes."""
        ...


def open_reader(
    info: DatasetInfo, *, episodes: list[int] | None, cameras: Sequence[str], stream: bool = False
) -> DatasetReader:
    """Open the reader for the dataset's version, downloading what is needed of a Hub dataset.

    Args:
        info: From `open_dataset_info`.
        episodes: Episode numbers to read, in this order; None for all.
        cameras: Full keys of the cameras that will be read.
        stream: Leave the videos of a Hub dataset where they are; [`fetch_video`] brings one when it is needed.

    Returns:
        The reader; every file it needs exists, but the videos of a streamed dataset.

    Raises:
        DataError: The dataset is damaged or incomplete, or the selection does not fit it.
    """
    stream = stream and info.root is None
    if info.version == "v2.1":
        from training_st4vla.data.lerobot_v21 import LeRobotV21Reader

        reader: DatasetReader = LeRobotV21Reader(info, episodes, () if stream else cameras)
    else:
        from training_st4vla.data.lerobot_v30 import LeRobotV30Reader

        reader = LeRobotV30Reader(info, episodes, download_videos=not stream)
    videos = [] if stream else [camera for camera in cameras if info.features[camera].dtype == "video"]
    require_files(
        reader, videos, remedy="Copy or download the dataset again, or leave them out with --episodes or --cameras."
    )
    return reader


def fetch_video(info: DatasetInfo, path: Path) -> Path:
    """The video at `path` of a dataset's local snapshot; downloaded into it if it is still on the Hub.

    Several processes may ask for the same file: the Hub's client locks it, and one of them downloads.

    Raises:
        DataError: It cannot be downloaded.
    """
    if path.is_file() or info.repo_id is None:
        return path
    from huggingface_hub import hf_hub_download

    snapshot = next(parent for parent in path.parents if parent.parent.name == "snapshots")
    name = path.relative_to(snapshot).as_posix()
    try:
        # The snapshot's own commit: the same recording, whatever was pushed since.
        fetched = hf_hub_download(
            info.repo_id, name, repo_type="dataset", revision=snapshot.name, cache_dir=snapshot.parents[2]
        )
    except Exception as error:
        raise DataError(
            explain(
                "A video could not be downloaded",
                where=f"{info.repo_id}, {name}",
                expected="a reachable Hub while a dataset is streamed",
                found=f"{type(error).__name__}: {error}",
                remedy="Check the network and resume the run, or train without --stream.",
            )
        ) from error
    return Path(fetched)


def require_files(reader: DatasetReader, cameras: Sequence[str], *, remedy: str) -> None:
    """Check that the tables of the selected episodes and their videos of these cameras exist.

    Raises:
        DataError: Some are missing or empty; names the first, and says `remedy`.
    """
    videos = {reader.video(episode, camera).path for episode in reader.episodes for camera in cameras}
    for kind, paths in (("data", set(reader.data_files())), ("video", videos)):
        missing = sorted(path for path in paths if not path.is_file() or path.stat().st_size == 0)
        if missing:
            raise DataError(
                explain(
                    f"{len(missing)} of {len(paths)} {kind} files are missing or empty",
                    where=f"dataset {reader.info.source}",
                    expected=f"the {kind} file of every selected episode",
                    found=f"nothing at {missing[0]}" + (" and others" if len(missing) > 1 else ""),
                    remedy=remedy,
                )
            )
