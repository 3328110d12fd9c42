"""What a LeRobot dataset says about itself: where it is, its format version, its features."""

import json
import os
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from training_st4vla.data.errors import DataError, explain

SUPPORTED_VERSIONS = ("v2.1", "v3.0")
INFO_PATH = "meta/info.json"
BOOKKEEPING = ("timestamp", "frame_index", "episode_index", "index", "task_index")

_NOT_NUMERIC = {"video", "image", "string", "binary", "language"}


@dataclass(frozen=True)
class Feature:
    """One column or camera of a dataset.

    Args:
        key: Full name, e.g. `"observation.state"`.
        dtype: LeRobot's dtype: `"float32"`, `"video"`, `"image"`, ...
        shape: Shape of one frame's value.
        names: Flat names of the dimensions, or None.
        is_depth: Whether a camera holds depth maps.
    """

    key: str
    dtype: str
    shape: tuple[int, ...]
    names: tuple[str, ...] | None = None
    is_depth: bool = False

    @property
    def dim(self) -> int:
        """Number of values per frame."""
        return prod(self.shape)

    @property
    def is_camera(self) -> bool:
        """Whether this feature is a colour camera, stored as video or as images."""
        return self.dtype in ("video", "image") and not self.is_depth

    @property
    def is_numeric(self) -> bool:
        """Whether this feature is a vector of numbers other than LeRobot's own bookkeeping."""
        return self.dtype not in _NOT_NUMERIC and self.key not in BOOKKEEPING


@dataclass(frozen=True)
class DatasetInfo:
    """The content of `meta/info.json` and where it came from.

    Args:
        source: Path or Hub id, as the user gave it.
        root: Local folder; None for a Hub dataset whose files are fetched by its reader.
        repo_id: Hub id, or None for a local folder.
        revision: Hub revision asked for, or None.
        version: `"v2.1"` or `"v3.0"`.
        fps: Frames per second.
        robot_type: As recorded, or None.
        features: Features by key, in the order of the file.
        raw: The whole file.
    """

    source: str
    root: Path | None
    repo_id: str | None
    revision: str | None
    version: str
    fps: float
    robot_type: str | None
    features: dict[str, Feature]
    raw: dict[str, Any] = field(repr=False, compare=False)

    @property
    def cameras(self) -> list[str]:
        """Keys of all colour cameras, in the order of the file."""
        return [key for key, feature in self.features.items() if feature.is_camera]


@dataclass(frozen=True)
class Episode:
    """One recorded episode: its number, its frames, the index of its first frame in the dataset, its instructions."""

    index: int
    length: int
    start: int
    tasks: tuple[str, ...]


def open_dataset_info(path_or_repo_id: str | os.PathLike[str], revision: str | None = None) -> DatasetInfo:
    """Find a LeRobot dataset and read its `meta/info.json`.

    A local folder comes first; then LeRobot's own cache (`$HF_LEROBOT_HOME/<id>`, unless a revision is asked for);
    then the Hub, through `huggingface_hub` and its cache.

    Args:
        path_or_repo_id: Folder that holds `meta/info.json`, or a Hub dataset id such as `"lerobot/pusht"`.
        revision: Branch, tag or commit on the Hub.

    Returns:
        The dataset's description.

    Raises:
        DataError: Nothing is found there, the file is not readable, or the version is neither v2.1 nor v3.0.
    """
    source = os.fspath(path_or_repo_id)
    root = _local_root(source, revision)
    if root is not None:
        return _parse(_read_json(root / INFO_PATH), source, root=root, repo_id=None, revision=None)
    if not _is_repo_id(source):
        raise DataError(
            explain(
                "No dataset was found",
                where=source,
                expected=f"a folder with {INFO_PATH}, or a Hub id of the form owner/name",
                found="an existing path without it" if Path(source).expanduser().exists() else "no such folder",
                remedy="Check the path: give the folder that contains meta/, data/ and videos/.",
            )
        )
    info_file = _download_info(source, revision)
    return _parse(_read_json(info_file), source, root=None, repo_id=source, revision=revision)


def select_episodes(episodes: list[Episode], wanted: list[int] | None, source: str) -> list[Episode]:
    """Pick episodes by number, in the order given; None keeps all.

    Raises:
        DataError: A number is unknown or named twice, or nothing is left.
    """
    by_index = {episode.index: episode for episode in episodes}
    numbers = list(by_index) if wanted is None else wanted
    unknown = [number for number in numbers if number not in by_index]
    if unknown or len(set(numbers)) != len(numbers) or not numbers:
        raise DataError(
            explain(
                "The selection of episodes does not fit the dataset",
                where=source,
                expected=f"distinct numbers among the {len(by_index)} recorded ones"
                + (f", {min(by_index)} to {max(by_index)}" if by_index else ""),
                found=f"{', '.join(map(str, unknown[:10]))}" if unknown else f"{numbers[:10]}",
                remedy="Change --episodes.",
            )
        )
    return [by_index[number] for number in numbers]


def _local_root(source: str, revision: str | None) -> Path | None:
    folder = Path(source).expanduser()
    if (folder / INFO_PATH).is_file():
        return folder.resolve()
    if revision is None and _is_repo_id(source) and (_lerobot_home() / source / INFO_PATH).is_file():
        return (_lerobot_home() / source).resolve()
    return None


def _lerobot_home() -> Path:
    from huggingface_hub.constants import HF_HOME

    return Path(os.environ.get("HF_LEROBOT_HOME", os.path.join(HF_HOME, "lerobot"))).expanduser()


def _is_repo_id(source: str) -> bool:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    if source.count("/") != 1 or Path(source).expanduser().exists():
        return False
    try:
        validate_repo_id(source)
    except HFValidationError:
        return False
    return True


def _download_info(repo_id: str, revision: str | None) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repo_id, INFO_PATH, repo_type="dataset", revision=revision))
    except Exception as error:
        raise DataError(
            explain(
                "The dataset is neither a local folder nor reachable on the Hub",
                where=repo_id,
                expected=f"{INFO_PATH} in that dataset repository" + (f" at revision {revision}" if revision else ""),
                found=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
                remedy="Check the name, the network and your login (`hf auth login`), or give a local path.",
            )
        ) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise TypeError(f"a JSON {type(content).__name__}")
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            explain(
                "The dataset's description cannot be read",
                where=str(path),
                expected="a JSON object",
                found=str(error),
                remedy="Copy or download the meta/ folder again.",
            )
        ) from error
    return content


def _parse(
    raw: dict[str, Any], source: str, *, root: Path | None, repo_id: str | None, revision: str | None
) -> DatasetInfo:
    version = str(raw.get("codebase_version"))
    if version not in SUPPORTED_VERSIONS:
        raise DataError(_unsupported(version, source))
    try:
        features = {key: _feature(key, spec) for key, spec in raw["features"].items()}
        fps = float(raw["fps"])
        if not fps > 0:
            raise ValueError(f"fps is {fps}")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            explain(
                "The dataset's description is incomplete",
                where=f"{source}, {INFO_PATH}",
                expected="`fps` > 0 and `features` with dtype and shape each",
                found=f"{type(error).__name__}: {error}",
                remedy="Repair the file, or copy or download the meta/ folder again.",
            )
        ) from error
    return DatasetInfo(
        source=source,
        root=root,
        repo_id=repo_id,
        revision=revision,
        version=version,
        fps=fps,
        robot_type=raw.get("robot_type"),
        features=features,
        raw=raw,
    )


def _unsupported(version: str, source: str) -> str:
    if version.startswith(("v1", "v2")):
        remedy = (
            "Bring it to v2.1 first with the scripts of `lerobot==0.3.3`: "
            "`datasets/v2/convert_dataset_v1_to_v2.py`, then `datasets/v21/convert_dataset_v20_to_v21.py`."
        )
    else:
        remedy = "Update st4vla, or export the dataset as LeRobot v3.0."
    return explain(
        "This LeRobot format is not supported",
        where=f"{source}, {INFO_PATH}, codebase_version",
        expected=" or ".join(SUPPORTED_VERSIONS),
        found=version,
        remedy=remedy,
    )


def _feature(key: str, spec: dict[str, Any]) -> Feature:
    shape = spec.get("shape") or (1,)
    shape = tuple(int(size) for size in ([shape] if isinstance(shape, int) else shape))
    info = {**(spec.get("info") or {}), **(spec.get("video_info") or {})}
    is_depth = bool(info.get("video.is_depth_map") or info.get("is_depth_map"))
    return Feature(key, str(spec["dtype"]), shape, _flat_names(spec.get("names"), prod(shape)), is_depth)


def _flat_names(names: Any, dim: int) -> tuple[str, ...] | None:
    """Names of the dimensions from LeRobot's several spellings (list, nested list, dict of lists), if they fit."""
    if isinstance(names, dict):
        values = list(names.values())
        names = list(names) if all(isinstance(value, int) for value in values) else values
    while isinstance(names, list) and len(names) == 1 and isinstance(names[0], list):
        names = names[0]
    if not isinstance(names, list) or len(names) != dim or not all(isinstance(name, str) for name in names):
        return None
    return tuple(names)
