"""One episode of an open-loop evaluation to look at: film, prediction against recording, where the model looked."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training_st4vla.evaluation.action_predictions import Predictions, executed_trajectory, predict_actions
from training_st4vla.evaluation.grounding_predictions import predict_grounding
from training_st4vla.evaluation.rollout_video import Film

MAX_FRAMES = 1200
_SEED_STEP = 1_000_003


@dataclass(frozen=True)
class EpisodeView:
    """
    Args:
        recorded, predicted (`np.ndarray` of shape `[n, A]`): what a robot would be sent, every chunk to its end.
        samples (`np.ndarray` of shape `[S, n, A]`, *optional*): the same from other initial noise.
        boundaries (`list[int]`): rows where a chunk starts. video (`bytes`): MP4, one picture per row.
    """

    recorded: np.ndarray
    predicted: np.ndarray
    samples: np.ndarray | None
    boundaries: list[int]
    video: bytes


def view_episode(
    model: Any,
    processor: Any,
    dataset: Any,
    predictions: Predictions,
    positions: np.ndarray,
    episode: Any,
    *,
    num_samples: int,
    grounding: bool,
    fps: float,
    **sampling: Any,
) -> EpisodeView:
    """
    Args:
        predictions: of `positions` of `dataset`. episode: which one. fps (`float`): control rate.
        num_samples (`int`): further samples of each chunk; below 2 there is no band.
        grounding (`bool`): ask the spatial prompt where a chunk starts, and draw the answer on the first view.
        sampling: as in `predict_actions`.
    """
    recorded, predicted, boundaries = executed_trajectory(predictions, episode)
    rows = np.flatnonzero(predictions.episodes == episode)
    first = rows[np.argmin(predictions.frames[rows])]
    recorded, predicted = recorded[:MAX_FRAMES], predicted[:MAX_FRAMES]
    boundaries = [row for row in boundaries if row < len(recorded)]
    starts = [int(positions[first]) + row for row in boundaries]
    samples = None
    if num_samples > 1:
        drawn = [
            executed_trajectory(
                predict_actions(
                    model, processor, dataset, starts, seed=number * _SEED_STEP, progress=False, **sampling
                ),
                episode,
            )[1]
            for number in range(1, num_samples + 1)
        ]
        samples = np.full((num_samples, *predicted.shape), np.nan)
        for number, trajectory in enumerate(drawn):
            samples[number, : len(trajectory)] = trajectory[: len(predicted)]
    looks = _looks(model, processor, dataset, starts) if grounding else {}
    start = int(positions[first])
    return EpisodeView(recorded, predicted, samples, boundaries, _film(dataset, start, len(recorded), looks, fps))


def _looks(model: Any, processor: Any, dataset: Any, starts: list[int]) -> dict[int, Any]:
    from PIL import Image

    samples = [dataset[position] for position in starts]
    questions = [
        {"image": Image.fromarray(sample["images"][0]), "instruction": sample["instruction"], "kind": "spatial"}
        for sample in samples
    ]
    return dict(zip(starts, predict_grounding(model, processor, questions), strict=True))


def _film(dataset: Any, start: int, length: int, looks: dict[int, Any], fps: float) -> bytes:
    film = Film(dataset[start]["instruction"], fps)
    for position in range(start, min(start + length, len(dataset))):
        film.add(dataset[position]["images"][0], looks.get(position))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        film.write(path)
        return path.read_bytes()


__all__ = ["EpisodeView", "view_episode"]
