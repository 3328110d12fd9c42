"""Camera frames of a dataset, from video files or from images stored in the tables."""

import io
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np

from training_st4vla.data.errors import DataError, explain
from training_st4vla.data.lerobot_metadata import Episode
from training_st4vla.data.readers import DatasetReader, fetch_video
from training_st4vla.data.video import VideoCache

if TYPE_CHECKING:
    import pyarrow as pa

_TABLES_KEPT = 4


class FrameSource:
    """Gives the frame that a camera saw at one row of an episode.

    Args:
        reader: The dataset.
        max_open_videos: Number of video files kept open per process.
    """

    def __init__(self, reader: DatasetReader, max_open_videos: int = 16) -> None:
        self.reader = reader
        self._videos = VideoCache(max_open_videos)
        self._tables: OrderedDict[tuple[int, str], pa.Table] = OrderedDict()

    def frame(self, episode: Episode, camera: str, row: int, timestamp: float) -> np.ndarray:
        """Return one frame.

        Args:
            episode: The episode.
            camera: Full key of the camera.
            row: Frame number within the episode.
            timestamp: Seconds from the start of the episode (used for video).

        Returns:
            uint8 array [H, W, 3], RGB.

        Raises:
            DataError: The frame is missing or cannot be decoded.
        """
        if self.reader.info.features[camera].dtype == "video":
            segment = self.reader.video(episode, camera)
            path = fetch_video(self.reader.info, segment.path)
            return self._videos.frame_at(path, segment.start + timestamp)
        return self._stored_image(episode, camera, row)

    def _stored_image(self, episode: Episode, camera: str, row: int) -> np.ndarray:
        from PIL import Image

        key = (episode.index, camera)
        if key not in self._tables:
            self._tables[key] = self.reader.table(episode, [camera])
            while len(self._tables) > _TABLES_KEPT:
                self._tables.popitem(last=False)
        self._tables.move_to_end(key)
        cell = self._tables[key].column(0)[row].as_py()
        data = cell.get("bytes") if isinstance(cell, dict) else cell
        try:
            if not isinstance(data, bytes):
                raise TypeError("no image bytes in the cell")
            with Image.open(io.BytesIO(data)) as image:
                return np.array(image.convert("RGB"))
        except (OSError, TypeError, ValueError, Image.DecompressionBombError) as error:
            raise DataError(
                explain(
                    "A stored image cannot be read",
                    where=f"dataset {self.reader.info.source}, episode {episode.index}, frame {row}, {camera}",
                    expected="PNG or JPEG bytes",
                    found=str(error),
                    remedy="Repair this frame, or leave the episode out with --episodes.",
                )
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_tables": OrderedDict()}
