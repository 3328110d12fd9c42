"""InternData-M1 annotations of one episode: boxes, object ids, gripper keypoints; the pickles are not trusted.

What the `annotation.*` columns of an InternData-M1 episode hold, one pickled value per frame (measured on one episode
of the simulated pick-and-place set, Franka with a Robotiq gripper):

- `<camera>.bbox2d_tight`, `<camera>.bbox2d_loose`: record array with `semanticId`, `x_min`, `y_min`, `x_max`, `y_max`
  (pixel indices, both ends included) and `occlusionRatio` (hidden share; -1 where the simulator gives none). Tight
  boxes enclose the visible part and are absent for an object that is not seen. Ids differ between cameras and between
  tight and loose.
- `<camera>.bbox2d_*_id2labels`: `{"80": {"class": "<object uid>"}}`. The uid is a hash, not a readable name; it
  changes from frame to frame which objects are listed.
- `pick_obj_uid`, `place_obj_uid`: the uid of the object to pick up, and of the one to place it on.
- `<camera>.tcp_2d_trace`: float64 [11, 2], pixels, not clipped to the image. These are keypoints of this one frame,
  not a trajectory. Point 0 is a fixed point of the world; 1 to 5 lie on one finger pad and 6 to 10 on the other, 1 and
  6 being the lowest (about 2 cm above the fingertips). The tool centre point is taken as the middle of 1 and 6.
  `tcp_3d_trace` [11, 3] are the same points in metres in the world frame.
- `bbox3d`, `bbox3d_id2labels`, `rewrite_instructions`: not read here.

Time: the keypoints agree with `state.*` of the same row (to 1 micrometre). The picture is one frame behind: image
`t` shows keypoints `t - 1`. Boxes agree with the picture of the same row (to half a frame). See
`IMAGE_LAG_FRAMES`.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from training_st4vla.data.errors import DataError, explain
from training_st4vla.data.lerobot_metadata import Episode
from training_st4vla.data.readers import DatasetReader
from training_st4vla.data.safe_pickle import load_untrusted_pickle

# The picture at row t shows the gripper where the keypoints put it at row t - IMAGE_LAG_FRAMES.
IMAGE_LAG_FRAMES = 1

_PREFIX = "annotation."
_KEYPOINTS = 11
_FINGERTIPS = (1, 6)
_STATIC_PIXELS = 1.0


@dataclass(frozen=True)
class AnnotatedBox:
    """One object's box in one frame.

    Args:
        uid: The object's id.
        xyxy: Left, top, right, bottom edges in pixels of the recorded image; right and bottom edges are exclusive, so
            a box over a whole 640 x 480 image is (0, 0, 640, 480).
        occlusion: Hidden share of the object in [0, 1], or None where the simulator gives none.
    """

    uid: str
    xyxy: tuple[float, float, float, float]
    occlusion: float | None


class EpisodeAnnotations:
    """The annotations of one episode. Columns are read and unpickled when first asked for.

    Args:
        reader: A dataset opened with `open_reader`.
        episode: One of its episodes.
    """

    def __init__(self, reader: DatasetReader, episode: Episode) -> None:
        self.reader = reader
        self.episode = episode
        self._columns: dict[str, list[Any]] = {}
        self._values: dict[tuple[str, int], Any] = {}

    def boxes(self, camera: str, frame: int, kind: str = "tight") -> list[AnnotatedBox]:
        """All objects' boxes in one frame.

        Args:
            camera: Name without prefix, e.g. `"base_view"`.
            frame: Frame number within the episode.
            kind: `"tight"` (visible part) or `"loose"` (whole object).

        Raises:
            UntrustedPickleError: The column holds something other than arrays and plain containers.
            DataError: The column is missing, damaged, or has another layout.
        """
        column = f"{camera}.bbox2d_{kind}"
        records = self._value(column, frame)
        labels = self._value(f"{column}_id2labels", frame)
        try:
            uids = {int(number): str(entry["class"]) for number, entry in labels.items()}
            return [_box(record, uids) for record in records if int(record["semanticId"]) in uids]
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise self._unexpected(column, "records with semanticId, x_min ... and id labels", str(error)) from error

    def box_of(self, uid: str, camera: str, frame: int, kind: str = "tight") -> AnnotatedBox | None:
        """The box of one object in one frame, or None if it is not seen. See `boxes`."""
        return next((box for box in self.boxes(camera, frame, kind) if box.uid == uid), None)

    def pick_uid(self, frame: int) -> str:
        """Id of the object to pick up."""
        return str(self._value("pick_obj_uid", frame))

    def place_uid(self, frame: int) -> str:
        """Id of the object to place it on."""
        return str(self._value("place_obj_uid", frame))

    def tcp_pixels(self, camera: str) -> np.ndarray:
        """The tool centre point in every frame.

        Returns:
            float64 [L, 2], pixels of the recorded image, possibly outside of it. Row `t` belongs to the robot's state
            of row `t`; the picture lags `IMAGE_LAG_FRAMES` behind.

        Raises:
            UntrustedPickleError, DataError: As for `boxes`.
        """
        return self._keypoints(camera)[:, _FINGERTIPS, :].mean(axis=1)

    def camera_is_static(self, camera: str) -> bool:
        """Whether the camera stands still: the fixed point of the world keeps its pixel."""
        fixed = self._keypoints(camera)[:, 0, :]
        return bool(np.ptp(fixed, axis=0).max() <= _STATIC_PIXELS)

    @cached_property
    def cameras(self) -> list[str]:
        """Names of the cameras that have box and keypoint annotations, without prefix."""
        features = self.reader.info.features
        names = [
            key.removeprefix(_PREFIX).removesuffix(".tcp_2d_trace") for key in features if key.endswith("tcp_2d_trace")
        ]
        return [name for name in names if f"{_PREFIX}{name}.bbox2d_tight" in features]

    def _keypoints(self, camera: str) -> np.ndarray:
        column = f"{camera}.tcp_2d_trace"
        frames = [np.asarray(self._value(column, frame)) for frame in range(self.episode.length)]
        shapes = {points.shape for points in frames}
        if shapes != {(_KEYPOINTS, 2)}:
            raise self._unexpected(column, f"shape ({_KEYPOINTS}, 2) in every frame", f"shapes {sorted(shapes)}")
        keypoints = np.stack(frames).astype(np.float64)
        if not np.isfinite(keypoints).all():
            raise self._unexpected(column, "finite pixels", "NaN or infinity")
        return keypoints

    def _value(self, name: str, frame: int) -> Any:
        column = _PREFIX + name
        key = (column, frame)
        if key not in self._values:
            if column not in self._columns:
                self._columns[column] = self._read(column)
            where = f"dataset {self.reader.info.source}, episode {self.episode.index}, frame {frame}, {column}"
            self._values[key] = load_untrusted_pickle(self._columns[column][frame], where=where)
        return self._values[key]

    def _read(self, column: str) -> list[Any]:
        cells = self.reader.table(self.episode, [column]).column(0).to_pylist()
        return [cell[0] if isinstance(cell, list) and len(cell) == 1 else cell for cell in cells]

    def _unexpected(self, column: str, expected: str, found: str) -> DataError:
        return DataError(
            explain(
                "An annotation has an unknown layout",
                where=f"dataset {self.reader.info.source}, episode {self.episode.index}, {_PREFIX}{column}",
                expected=expected,
                found=found,
                remedy="Only the layout of InternData-M1's Franka/Robotiq episodes is known; leave this episode out.",
            )
        )


def _box(record: Any, uids: dict[int, str]) -> AnnotatedBox:
    left, top, right, bottom = (float(record[name]) for name in ("x_min", "y_min", "x_max", "y_max"))
    occlusion = float(record["occlusionRatio"])
    known = np.isfinite(occlusion) and occlusion >= 0
    return AnnotatedBox(
        uids[int(record["semanticId"])], (left, top, right + 1, bottom + 1), occlusion if known else None
    )
