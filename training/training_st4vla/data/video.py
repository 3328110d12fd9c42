"""Exact video frames: the frame shown at the asked time, never the key frame before it."""

import os
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from training_st4vla.data.errors import VideoReadError, explain

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame

# How far, in frame periods, the nearest frame may lie from the asked time. Below one half, so that it is the only
# candidate; well above rounding (timestamps are stored as float32).
_TOLERANCE_PERIODS = 0.25

# How far before the target to start when a seek has led past it.
_STEP_BACK_S = 10.0

# Readers that came over a fork. Freeing them would touch decoder threads that do not exist in the child.
_INHERITED: list[Any] = []


class VideoReader:
    """Random and sequential access to the frames of one video file, decoded by PyAV on one thread.

    A request for the next frame, or for one that is not further ahead than the longest group of pictures seen so far,
    decodes forward without seeking. Any other request seeks to the key frame at or before the asked time and decodes
    up to it. Not for use from several threads at once.

    Args:
        path: The video file.

    Raises:
        VideoReadError: The file is missing, empty, damaged, or has no video stream.
    """

    def __init__(self, path: Path | str) -> None:
        from av.video.reformatter import VideoReformatter

        self.path = Path(path)
        self._container = _open(self.path)
        self._stream = self._container.streams.video[0]
        self._stream.codec_context.thread_count = 1
        # Without this FFmpeg paints over damaged parts and reports nothing.
        self._stream.codec_context.options = {"err_detect": "explode"}
        if self._stream.time_base is None:
            raise VideoReadError(_unreadable(self.path, "a video stream without a time base"))
        self._time_base = float(self._stream.time_base)
        rate = self._stream.average_rate or self._stream.guessed_rate
        self._period = 1.0 / float(rate) if rate else self._time_base
        self._reformatter = VideoReformatter()
        self._decoder: Iterator[VideoFrame] | None = None
        self._current: VideoFrame | None = None
        self._longest_run = 1

    def frame_at(self, timestamp: float, tolerance: float | None = None) -> np.ndarray:
        """Decode the frame whose presentation time is nearest to `timestamp`.

        Args:
            timestamp: Seconds from the start of the file.
            tolerance: Largest accepted distance in seconds, below half a frame period. Default: a quarter of one.

        Returns:
            uint8 array [H, W, 3], RGB.

        Raises:
            VideoReadError: No frame lies within the tolerance, or the data cannot be decoded.
        """
        from av.error import FFmpegError

        limit = _TOLERANCE_PERIODS * self._period if tolerance is None else tolerance
        if not 0 < limit < 0.5 * self._period:
            raise ValueError(
                f"tolerance must lie between 0 and half a frame period ({0.5 * self._period:.4g} s), got {limit:.4g}"
            )
        try:
            frame = self._frame_near(timestamp, limit)
            rgb = self._reformatter.reformat(frame, format="rgb24").to_ndarray()
        except (FFmpegError, OSError, ValueError) as error:
            self._rewind()
            if isinstance(error, VideoReadError):
                raise
            raise VideoReadError(_unreadable(self.path, f"at {timestamp:.6f} s: {error}")) from error
        return rgb

    def close(self) -> None:
        """Release the file and the decoder."""
        self._rewind()
        self._container.close()

    def _frame_near(self, timestamp: float, limit: float) -> "VideoFrame":
        if self._current is not None and abs(self._time(self._current) - timestamp) <= limit:
            return self._current
        sought = not self._reachable(timestamp)
        if sought:
            self._seek(timestamp)
        frame, decoded = self._decode_until(timestamp - limit)
        if sought and frame is not None and decoded == 1 and self._time(frame) > timestamp + limit:
            # The file's index led past the target (open group of pictures, wrong index): start earlier.
            self._seek(timestamp - _STEP_BACK_S)
            frame, decoded = self._decode_until(timestamp - limit)
        self._longest_run = max(self._longest_run, decoded)
        if frame is None or abs(self._time(frame) - timestamp) > limit:
            raise VideoReadError(self._no_frame(timestamp, limit, frame))
        return frame

    def _reachable(self, timestamp: float) -> bool:
        if self._current is None or self._decoder is None:
            return False
        ahead = (timestamp - self._time(self._current)) / self._period
        return 0 < ahead <= self._longest_run + 0.5

    def _seek(self, timestamp: float) -> None:
        self._rewind()
        self._container.seek(max(0, round(timestamp / self._time_base)), stream=self._stream, backward=True)
        self._decoder = self._container.decode(self._stream)

    def _decode_until(self, earliest: float) -> tuple["VideoFrame | None", int]:
        """Decode forward to the first frame at or after `earliest` seconds; also return how many frames that took."""
        decoded = 0
        for frame in self._decoder or ():
            if frame.pts is None:
                continue
            decoded += 1
            self._current = frame
            if self._time(frame) >= earliest:
                if frame.is_corrupt:
                    raise VideoReadError(_unreadable(self.path, f"a damaged frame at {self._time(frame):.6f} s"))
                return frame, decoded
        self._decoder = None
        return None, decoded

    def _time(self, frame: "VideoFrame") -> float:
        return float(frame.pts or 0) * self._time_base

    def _rewind(self) -> None:
        self._decoder = None
        self._current = None

    def _no_frame(self, timestamp: float, limit: float, frame: "VideoFrame | None") -> str:
        if frame is None:
            last = "no frame" if self._current is None else f"a last frame at {self._time(self._current):.6f} s"
        else:
            last = f"a next frame at {self._time(frame):.6f} s"
        return explain(
            "The video has no frame at the asked time",
            where=str(self.path),
            expected=f"a frame within {limit:.4g} s of {timestamp:.6f} s",
            found=last,
            remedy="The video is shorter than its episode or frames were dropped: copy or record the episode again, "
            "or leave it out with --episodes.",
        )


class VideoCache:
    """Keeps the most recently used video files open, per process.

    Safe to pickle and to carry over a fork: a worker process starts with an empty cache and opens its own files.

    Args:
        max_open: Number of files kept open.
    """

    def __init__(self, max_open: int = 16) -> None:
        self.max_open = max_open
        self._readers: OrderedDict[Path, VideoReader] = OrderedDict()
        self._pid = os.getpid()

    def frame_at(self, path: Path, timestamp: float) -> np.ndarray:
        """Return the frame at `timestamp` seconds, uint8 RGB [H, W, 3]. See `VideoReader.frame_at`."""
        reader = self._reader(path)
        try:
            return reader.frame_at(timestamp)
        except VideoReadError:
            self._readers.pop(path, None)
            raise

    def _reader(self, path: Path) -> VideoReader:
        if self._pid != os.getpid():
            _INHERITED.append(self._readers)
            self._readers = OrderedDict()
            self._pid = os.getpid()
        reader = self._readers.get(path)
        if reader is None:
            reader = self._readers[path] = VideoReader(path)
            while len(self._readers) > self.max_open:
                self._readers.popitem(last=False)[1].close()
        self._readers.move_to_end(path)
        return reader

    def __getstate__(self) -> dict[str, int]:
        return {"max_open": self.max_open}

    def __setstate__(self, state: dict[str, int]) -> None:
        self.__init__(state["max_open"])


def _open(path: Path) -> "InputContainer":
    import av
    from av.error import FFmpegError

    if not path.is_file():
        raise VideoReadError(
            explain(
                "A video file is missing",
                where=str(path),
                expected="an mp4 file there",
                found="none",
                remedy="Copy or download it, leave its episode out with --episodes, or its camera with --cameras.",
            )
        )
    try:
        container = av.open(str(path))
    except (FFmpegError, OSError, ValueError) as error:
        raise VideoReadError(_unreadable(path, str(error))) from error
    if not container.streams.video:
        container.close()
        raise VideoReadError(_unreadable(path, "no video stream"))
    return container


def _unreadable(path: Path, found: str) -> str:
    return explain(
        "A video cannot be read",
        where=str(path),
        expected="an intact video that FFmpeg can decode",
        found=found,
        remedy="The file is damaged: copy or download it again, or leave its episode out with --episodes.",
    )
