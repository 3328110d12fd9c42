"""Open-loop predictions of a model on recorded frames, as the arrays that `open_loop` scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Subset
from tqdm.auto import tqdm

from training_st4vla.evaluation.open_loop import ActionArrays, OpenLoopResult, evaluate_open_loop, previous_actions


@dataclass(frozen=True)
class Predictions:
    """
    Args:
        predicted, recorded (`np.ndarray` of shape `[N, T, A]`): environment units.
        action_is_pad (`np.ndarray` of shape `[N, T]`), previous (shape `[N, A]`, NaN at an episode's first frame).
        episodes, frames (`np.ndarray` of shape `[N]`): where each chunk starts.
    """

    predicted: np.ndarray
    recorded: np.ndarray
    action_is_pad: np.ndarray
    previous: np.ndarray
    episodes: np.ndarray
    frames: np.ndarray


class _Collator:
    """Keeps the raw samples beside the processor's inputs."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def __call__(self, samples: list[dict[str, Any]]) -> tuple[Any, list[dict[str, Any]]]:
        states = [sample["state"] for sample in samples]
        inputs = self.processor(
            images=[sample["images"] for sample in samples],
            text=[sample["instruction"] for sample in samples],
            state=None if states[0] is None else states,
            dataset_key=[sample["dataset_key"] for sample in samples],
        )
        return inputs, [{key: value for key, value in sample.items() if key != "images"} for sample in samples]


def predict_actions(
    model: Any,
    processor: Any,
    dataset: Any,
    positions: Sequence[int],
    *,
    batch_size: int = 8,
    seed: int = 0,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    progress: bool = True,
) -> Predictions:
    """
    Samples one chunk per frame.

    Args:
        positions (`Sequence[int]`): which samples of `dataset`. seed (`int`): with the frame's index it decides the
            initial noise, so that a prediction depends neither on the batch size nor on the other frames.
        progress (`bool`): show a bar.
    """
    shape = (model.config.chunk_size, model.config.action_dim)
    loader = DataLoader(Subset(dataset, list(positions)), batch_size=batch_size, collate_fn=_Collator(processor))
    predicted, samples = [], []
    for inputs, raw in tqdm(loader, desc="predicting", unit="batch", disable=not progress):
        noise = torch.stack(
            [torch.randn(shape, generator=torch.Generator().manual_seed(seed + sample["index"])) for sample in raw]
        )
        actions = model.sample_actions(
            **inputs.to(model.device),
            noise=noise.to(model.device),
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
        )
        predicted.append(processor.post_process_actions(actions, dataset.dataset_key))
        samples.extend(raw)
    every_previous = previous_actions(dataset.raw_actions(), dataset.episode_numbers)
    return Predictions(
        predicted=np.concatenate(predicted),
        recorded=np.stack([sample["actions"] for sample in samples]),
        action_is_pad=np.stack([sample["action_is_pad"] for sample in samples]),
        previous=every_previous[list(positions)],
        episodes=np.array([sample["episode_index"] for sample in samples]),
        frames=np.array([sample["frame_index"] for sample in samples]),
    )


def score_predictions(predictions: Predictions, contract: Any) -> OpenLoopResult:
    """Errors in environment units and in the contract's normalised units, beside the trivial baselines."""
    action = contract.action
    mean = np.array(action.statistics["mean"])
    has_previous = ~np.isnan(predictions.previous).any(axis=1)
    previous = np.full_like(predictions.previous, np.nan)
    previous[has_previous] = action.normalize(predictions.previous[has_previous])
    return evaluate_open_loop(
        environment=ActionArrays(predictions.predicted, predictions.recorded, predictions.previous, mean),
        normalized=ActionArrays(
            action.normalize(predictions.predicted),
            action.normalize(predictions.recorded),
            previous,
            action.normalize(mean),
        ),
        episodes=predictions.episodes,
        action_is_pad=predictions.action_is_pad,
        names=action.names,
        units=action.units,
    )


def executed_trajectory(predictions: Predictions, episode: Any) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """
    What a robot would be sent in one episode if every chunk were executed to its end.

    Returns:
        `(recorded, predicted, boundaries)`: `[n, A]` each, in time order from the first evaluated frame (NaN where no
        evaluated chunk covers a frame), and the rows where a chunk starts.
    """
    rows = np.flatnonzero(predictions.episodes == episode)
    first, horizon = predictions.frames[rows].min(), predictions.predicted.shape[1]
    length = predictions.frames[rows].max() - first + horizon
    recorded = np.full((length, predictions.predicted.shape[2]), np.nan)
    predicted = recorded.copy()
    boundaries: list[int] = []
    free_from = 0
    for row in rows[np.argsort(predictions.frames[rows])]:
        start = predictions.frames[row] - first
        valid = int((~predictions.action_is_pad[row]).sum())
        recorded[start : start + valid] = predictions.recorded[row, :valid]
        if start >= free_from:
            predicted[start : start + valid] = predictions.predicted[row, :valid]
            boundaries.append(int(start))
            free_from = start + horizon
    filled = ~np.isnan(recorded).all(axis=1)
    last = int(np.flatnonzero(filled).max()) + 1
    return recorded[:last], predicted[:last], boundaries


__all__ = ["Predictions", "executed_trajectory", "predict_actions", "score_predictions"]
