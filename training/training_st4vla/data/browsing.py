"""Looking into a LeRobot dataset: any frame of any camera, what is annotated there, what was done from there."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from processing_st4vla import ActionContract, GroundingResult
from training_st4vla.data.errors import DataError, explain
from training_st4vla.data.grounding.dataset import GroundingDataset, open_grounding_dataset
from training_st4vla.data.grounding.images import LeRobotFrames
from training_st4vla.data.keys import dimension_names
from training_st4vla.data.lerobot_metadata import Episode

_PLACE = ("episode_index", "frame_index", "camera", "kind", "instruction", "question")


@dataclass(frozen=True)
class Annotation:
    """
    One annotated question about a frame.

    Args:
        index (`int`): of the sample in the grounding data. kind (`str`): how it is asked, for `processor.ground`.
        instruction (`str`): what is asked.
    """

    index: int
    kind: str
    instruction: str


class DatasetBrowser:
    """
    A LeRobot dataset, v2.1 or v3.0.

    Args:
        path (`str`): folder or Hub id.

    Raises:
        DataError: when it is missing, damaged or incomplete, or has no cameras.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.frames = LeRobotFrames(path)
        if not self.frames.cameras:
            raise DataError(
                explain(
                    "The dataset has no camera",
                    where=path,
                    expected="at least one image or video feature",
                    found="none",
                    remedy="Choose a dataset with images.",
                )
            )
        self.episodes: dict[int, Episode] = {one.index: one for one in self.frames.reader.episodes}
        self._acting: dict[str, Any] = {}

    @property
    def name(self) -> str:
        """The folder's or repository's name."""
        return Path(self.path.rstrip("/\\")).name or self.path

    def image(self, camera: str, episode: int, frame: int) -> Image.Image:
        """One frame, RGB. Raises `DataError` when there is no such camera, episode or frame."""
        return self.frames.reference(camera, episode, frame).load()

    def task(self, episode: int) -> str:
        """The episode's first instruction, or an empty text."""
        tasks = self.episodes[episode].tasks
        return tasks[0] if tasks else ""

    @cached_property
    def grounding(self) -> GroundingDataset | None:
        """The dataset's grounding annotations, or `None` when it has none."""
        try:
            return open_grounding_dataset(self.path, check_first=False)
        except DataError as error:
            if "holds no grounding data" in str(error):
                return None
            raise

    @cached_property
    def _places(self) -> Mapping[tuple[int, int, str], list[Annotation]]:
        places: dict[tuple[int, int, str], list[Annotation]] = defaultdict(list)
        if self.grounding is not None:
            for index, row in enumerate(self.grounding.table.columns(_PLACE)):
                if row["kind"] in ("box", "point", "trace"):
                    kind = "spatial" if row.get("question") == "spatial" else row["kind"]
                    place = (row["episode_index"], row["frame_index"], self.frames.camera(row["camera"]))
                    places[place].append(Annotation(index, kind, row["instruction"]))
        return places

    def annotations(self, camera: str, episode: int, frame: int) -> list[Annotation]:
        """What is asked and answered about one frame; empty where nothing is."""
        return self._places.get((episode, frame, camera), [])

    def annotated_frames(self, camera: str, episode: int) -> list[int]:
        """The frames of an episode that have annotations."""
        return sorted(frame for number, frame, key in self._places if number == episode and key == camera)

    def answer(self, annotation: Annotation) -> GroundingResult:
        """What is annotated, in pixels of the frame. Raises `DataError` when the row cannot be used."""
        if self.grounding is None:
            raise DataError(f"{self.path} holds no grounding annotations.")
        sample = self.grounding.sample(annotation.index)
        answer = sample.learnt_answer()
        if not isinstance(answer, GroundingResult):
            raise DataError(f"{sample.where}: expected points, boxes or traces, found words.")
        return answer

    def _state_keys(self, contract: ActionContract) -> list[str] | None:
        if contract.state is None:
            return None
        features, wanted = self.frames.info.features, list(contract.state.names)
        vectors = [key for key in features if key.startswith("observation.") and key not in self.frames.info.cameras]
        found = [key for key in vectors if dimension_names(self.frames.info, [key]) == wanted]
        if not found:
            raise DataError(
                explain(
                    "The dataset has not the state that the model takes",
                    where=self.path,
                    expected=f"a column with the dimensions {wanted}",
                    found=", ".join(vectors) or "no state column",
                    remedy="Choose a dataset of the robot that the model was trained on.",
                )
            )
        return found[:1]

    def acting(self, contract: ActionContract, dataset_key: str, chunk_size: int) -> Any:
        """
        The dataset as samples for a model of that contract; opened once.

        Raises:
            DataError: when its columns or cameras do not fit the contract.
        """
        from training_st4vla.data.action_dataset import LeRobotActionDataset

        if dataset_key not in self._acting:
            data = LeRobotActionDataset(
                self.path,
                chunk_size=chunk_size,
                state_keys=self._state_keys(contract),
                cameras=list(contract.cameras) or None,
                dataset_key=dataset_key,
            )
            if data.action_names != list(contract.action.names):
                raise DataError(
                    explain(
                        "The dataset's actions are not those of the model",
                        where=self.path,
                        expected=f"{list(contract.action.names)}, of the contract {dataset_key!r}",
                        found=str(data.action_names),
                        remedy="Choose a dataset of the robot that the model was trained on.",
                    )
                )
            self._acting[dataset_key] = data
        return self._acting[dataset_key]


__all__ = ["Annotation", "DatasetBrowser"]
