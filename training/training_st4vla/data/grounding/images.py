"""Images of grounding data: files, bytes in a table, frames of a LeRobot dataset; decoded when they are used."""

import hashlib
import io
import os
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from training_st4vla.data.episode_arrays import column_to_array
from training_st4vla.data.errors import DataError, explain
from training_st4vla.data.frames import FrameSource
from training_st4vla.data.grounding.schema import ImageReference, Size
from training_st4vla.data.keys import resolve_cameras
from training_st4vla.data.lerobot_metadata import Episode, open_dataset_info
from training_st4vla.data.readers import open_reader

_EPISODES_KEPT = 64
_UNREADABLE = (OSError, ValueError, UnidentifiedImageError, Image.DecompressionBombError)


@dataclass(frozen=True)
class ImageFile:
    """An image file.

    Args:
        path: PNG, JPEG or another format that Pillow reads.
    """

    path: Path

    @property
    def key(self) -> str:
        """The path."""
        return str(self.path)

    @property
    def group(self) -> str:
        """The image itself."""
        return self.key

    def size(self) -> Size:
        """`(width, height)` from the header."""
        return _read(self.path, self.key, load=False).size

    def load(self) -> Image.Image:
        """The image, RGB."""
        return _read(self.path, self.key)

    def digest(self) -> str:
        """Hash of the file."""
        try:
            return _hash(self.path.read_bytes())
        except OSError as error:
            raise _unreadable(self.key, str(error)) from error


@dataclass(frozen=True)
class ImageBytes:
    """An encoded image inside a table or a JSON file.

    Args:
        data: The encoded file.
        key: Names the image, for example its file name; the hash of the data if empty.
    """

    data: bytes
    key: str = ""

    def __post_init__(self) -> None:
        if not self.key:
            object.__setattr__(self, "key", self.digest())

    @property
    def group(self) -> str:
        """The image itself."""
        return self.key

    def size(self) -> Size:
        """`(width, height)` from the header."""
        return _read(io.BytesIO(self.data), self.key, load=False).size

    def load(self) -> Image.Image:
        """The image, RGB."""
        return _read(io.BytesIO(self.data), self.key)

    def digest(self) -> str:
        """Hash of the data."""
        return _hash(self.data)


@dataclass(frozen=True)
class DecodedImage:
    """An image that is decoded already, as a streaming dataset gives it."""

    image: Image.Image

    @cached_property
    def key(self) -> str:
        """Hash of the pixels."""
        return self.digest()

    @property
    def group(self) -> str:
        """The image itself."""
        return self.key

    def size(self) -> Size:
        """`(width, height)`."""
        return self.image.size

    def load(self) -> Image.Image:
        """The image, RGB."""
        return self.image.convert("RGB")

    def digest(self) -> str:
        """Hash of the pixels."""
        return _hash(self.image.convert("RGB").tobytes())


class LeRobotFrames:
    """Frames of a LeRobot dataset by episode and frame number. Can be pickled; safe with `DataLoader` workers.

    Args:
        path: Dataset folder or Hub id.
        cameras: Cameras that will be read; None: all.

    Raises:
        DataError: The dataset is missing, damaged or incomplete.
    """

    def __init__(self, path: str | Path, cameras: list[str] | None = None) -> None:
        self.info = open_dataset_info(path)
        self.cameras = resolve_cameras(self.info, cameras)
        self.reader = open_reader(self.info, episodes=None, cameras=self.cameras)
        self._episodes = {episode.index: episode for episode in self.reader.episodes}
        self._frames = FrameSource(self.reader)
        self._times: OrderedDict[int, np.ndarray] = OrderedDict()

    def reference(self, camera: str, episode_index: int, frame_index: int) -> "FrameReference":
        """One frame of one camera, by full name or unambiguous last part.

        Raises:
            DataError: There is no such camera, episode or frame.
        """
        episode = self._episodes.get(episode_index)
        if episode is None or not 0 <= frame_index < episode.length:
            expected = f"frame 0 to {episode.length - 1}" if episode else f"one of {len(self._episodes)} episodes"
            raise DataError(
                explain(
                    "A grounding row points to a frame that does not exist",
                    where=self.info.source,
                    expected=expected,
                    found=f"episode {episode_index}, frame {frame_index}",
                    remedy="The rows belong to another copy of the dataset: record or copy them together.",
                )
            )
        return FrameReference(self, self.camera(camera), episode_index, frame_index)

    def camera(self, name: str) -> str:
        """Full name of a camera. Raises `DataError` when there is no such one."""
        return name if name in self.cameras else resolve_cameras(self.info, [name])[0]

    def frame(self, camera: str, episode_index: int, frame_index: int) -> np.ndarray:
        """The frame, uint8 `[H, W, 3]`, RGB."""
        episode = self._episodes[episode_index]
        time = float(self._timestamps(episode)[frame_index])
        return self._frames.frame(episode, camera, frame_index, time)

    def image_size(self, camera: str) -> Size:
        """`(width, height)` of a camera, as the dataset's description says."""
        shape = self.info.features[camera].shape
        height, width = shape[1:] if shape[0] in (1, 3, 4) and shape[-1] not in (1, 3, 4) else shape[:2]
        return int(width), int(height)

    def _timestamps(self, episode: Episode) -> np.ndarray:
        if "timestamp" not in self.info.features:
            return np.arange(episode.length) / self.info.fps
        if episode.index not in self._times:
            where = f"dataset {self.info.source}, episode {episode.index}"
            table = self.reader.table(episode, ["timestamp"])
            self._times[episode.index] = column_to_array(table, "timestamp", 1, dtype=np.float64, where=where)[:, 0]
            while len(self._times) > _EPISODES_KEPT:
                self._times.popitem(last=False)
        return self._times[episode.index]


@dataclass(frozen=True)
class FrameReference:
    """One frame of a LeRobot dataset; see `LeRobotFrames.reference`."""

    frames: LeRobotFrames
    camera: str
    episode_index: int
    frame_index: int

    @property
    def key(self) -> str:
        """Dataset, camera, episode and frame."""
        return f"{self.frames.info.source}#{self.camera}#{self.episode_index}#{self.frame_index}"

    @property
    def group(self) -> str:
        """Dataset and episode."""
        return f"{self.frames.info.source}#{self.episode_index}"

    def size(self) -> Size:
        """`(width, height)`, as the dataset's description says."""
        return self.frames.image_size(self.camera)

    def load(self) -> Image.Image:
        """The frame, RGB."""
        return Image.fromarray(self.frames.frame(self.camera, self.episode_index, self.frame_index))

    def digest(self) -> str:
        """The key: a frame is not decoded to be compared."""
        return self.key


def image_reference(value: Any, roots: Sequence[Path], where: str) -> ImageReference:
    """An image as tables and JSON files hold it.

    Args:
        value: A path relative to one of `roots`, encoded bytes, a dict with `bytes` or `path` (Hugging Face), or a PIL
            image.
        roots: Folders of the image files, searched in this order; paths may not lead out of them.
        where: Place named in errors.

    Raises:
        DataError: The value is none of these, or the path leads out of the folders.
    """
    if isinstance(value, dict):
        data, name = value.get("bytes"), value.get("path")
        if isinstance(data, bytes | bytearray):
            return ImageBytes(bytes(data), str(name or ""))
        value = name
    if isinstance(value, bytes | bytearray):
        return ImageBytes(bytes(value))
    if isinstance(value, Image.Image):
        return DecodedImage(value)  # pyright: ignore[reportReturnType]  # `key` is a cached property
    if isinstance(value, str | Path) and str(value) and not str(value).startswith(("http://", "https://")):
        return ImageFile(_find(Path(value), roots, where))
    raise DataError(
        explain(
            "A row has no image",
            where=where,
            expected="a file name, encoded bytes, or a dataset key with episode_index and frame_index",
            found=repr(value)[:120] if value is not None else "none",
            remedy="Rows that hold only an image URL must be downloaded first.",
        )
    )


def _find(path: Path, roots: Sequence[Path], where: str) -> Path:
    """The first existing candidate below `roots`; the first candidate when none exists."""
    # Strings, not paths: every row of a large set comes through here, and paths take ten times as long.
    folders = [_resolved(os.fspath(root)) for root in roots] or [os.path.realpath(os.getcwd())]
    # Not `realpath`: a link inside the folder may lead to a data disk, which its owner wants.
    candidates = [(folder, os.path.normpath(os.path.join(folder, path))) for folder in folders]
    inside = [target for folder, target in candidates if target == folder or target.startswith(folder + os.sep)]
    if not inside:
        raise DataError(
            explain(
                "An image path leads out of the image folder",
                where=where,
                expected=f"a file below {' or '.join(map(str, folders))}",
                found=str(path),
                remedy="Pass the folder that holds all images with --image-root.",
            )
        )
    return Path(next((target for target in inside if os.path.isfile(target)), inside[0]))


@lru_cache(maxsize=64)
def _resolved(root: str) -> str:
    return os.path.realpath(root)


def _read(source: Any, name: str, *, load: bool = True) -> Image.Image:
    try:
        with Image.open(source) as image:
            return image.convert("RGB") if load else image
    except _UNREADABLE as error:
        raise _unreadable(name, str(error) or type(error).__name__) from error


def _unreadable(name: str, found: str) -> DataError:
    return DataError(
        explain(
            "An image cannot be read",
            where=name[:200],
            expected="an intact image file",
            found=found,
            remedy="Copy or download it again, give its folder with --image-root, or leave the row out.",
        )
    )


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


__all__ = [
    "DecodedImage",
    "FrameReference",
    "ImageBytes",
    "ImageFile",
    "LeRobotFrames",
    "image_reference",
]
