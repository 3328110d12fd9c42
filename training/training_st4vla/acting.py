"""One action chunk for one observation, in the robot's units, with what the planner wrote on the way."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from processing_st4vla import ActionContract, GroundingResult


@dataclass(frozen=True)
class ActionAnswer:
    """
    Args:
        actions (`np.ndarray` of shape `(chunk, action_dim)`): float32, units of the contract.
        clipped (`np.ndarray` of shape `(chunk, action_dim)`): bool, where the model went beyond the range that the
            contract clips to, so that `actions` holds its edge.
        result (`GroundingResult`): what the planner wrote, in pixels of the first view.
        contract (`ActionContract`), dataset_key (`str`): what the numbers mean.
        seconds (`float`): of wall-clock time, all stages.
    """

    actions: np.ndarray
    clipped: np.ndarray
    result: GroundingResult
    contract: ActionContract
    dataset_key: str
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `grounding` is [`GroundingResult.to_dict`]'s."""
        contract = self.contract
        return {
            "actions": [[float(value) for value in step] for step in self.actions],
            "names": list(contract.action.names),
            "units": list(contract.action.units),
            "representation": contract.representation,
            "frame": contract.frame,
            "rotation": contract.rotation,
            "gripper_polarity": contract.gripper_polarity,
            "control_hz": contract.control_hz,
            "dataset_key": self.dataset_key,
            "clipped": int(self.clipped.sum()),
            "grounding": self.result.to_dict(),
            "total_s": round(self.seconds, 4),
        }


def act(
    model: Any,
    processor: Any,
    views: Sequence[Image.Image],
    text: str,
    state: Sequence[float] | None = None,
    dataset_key: str | None = None,
    seed: int = 0,
    max_new_tokens: int = 96,
) -> ActionAnswer:
    """
    Samples one chunk, and lets the planner write, from one prefill.

    Args:
        model, processor: of [`training_st4vla.loading.load_model`].
        views (`Sequence[PIL.Image.Image]`): RGB, in the contract's camera order. text (`str`): the task.
        state (`Sequence[float]`, *optional*): raw units of the contract, for a model that takes one.
        dataset_key (`str`, *optional*): whose contract. seed (`int`): of the initial noise.

    Raises:
        ValueError: for views, words, a state or a key that do not fit the contract.
    """
    started = time.perf_counter()
    contract = processor.contract(dataset_key)
    key = dataset_key or next(iter(processor.action_contracts))
    _check_state(model, contract, state)
    values = {} if state is None else {"state": [list(state)]}
    inputs = processor(images=[list(views)], text=[text], dataset_key=key, **values).to(model.device)
    shape = (1, model.config.chunk_size, model.config.action_dim)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(model.device)
    with torch.no_grad():
        plan = model.plan(**inputs, noise=noise, max_new_tokens=max_new_tokens, do_sample=False)
    normalized = plan.actions[0].float().cpu().numpy()
    return ActionAnswer(
        actions=processor.post_process_actions(normalized, key),
        clipped=_clipped(normalized, contract),
        result=processor.post_process_grounding(plan.sequences.cpu(), inputs)[0],
        contract=contract,
        dataset_key=key,
        seconds=time.perf_counter() - started,
    )


@dataclass(frozen=True)
class RecordedActions:
    """
    Args:
        predicted, recorded (`np.ndarray` of shape `(steps, action_dim)`): float, units of the contract; NaN where no
            predicted chunk covers a step.
        contract (`ActionContract`).
    """

    predicted: np.ndarray
    recorded: np.ndarray
    contract: ActionContract


def act_on_episode(model: Any, processor: Any, data: Any, episode: int, frame: int, whole: bool) -> RecordedActions:
    """
    Predicted against recorded actions: the chunk from `frame` on, or a whole episode, every chunk executed to its end.

    Args:
        data ([`training_st4vla.data.browsing.DatasetBrowser`]): the dataset; the contract of its name counts, or the
            model's only one.

    Raises:
        ValueError: when the dataset does not fit the contract, or there is no such frame.
    """
    from training_st4vla.evaluation.action_predictions import executed_trajectory, predict_actions

    key = data.name if data.name in processor.action_contracts else None
    contract = processor.contract(key)
    samples = data.acting(contract, key or next(iter(processor.action_contracts)), model.config.chunk_size)
    start, length = data.episodes[episode].start, data.episodes[episode].length
    if not 0 <= frame < length:
        raise ValueError(f"frame: expected 0 to {length - 1} in episode {episode}, found {frame}.")
    first = int(np.flatnonzero(samples.frame_indices == start)[0])
    positions = range(first, first + length, model.config.chunk_size) if whole else [first + frame]
    found = predict_actions(model, processor, samples, list(positions))
    recorded, predicted, _ = executed_trajectory(found, episode)
    return RecordedActions(predicted, recorded, contract)


def _check_state(model: Any, contract: ActionContract, state: Sequence[float] | None) -> None:
    wanted = model.config.state_dim
    if wanted is None and state is not None:
        raise ValueError(f"state: this model takes none, found {len(state)} numbers. Leave it empty.")
    if wanted is not None and state is None:
        raise ValueError(f"state: this model needs {wanted} numbers, found none.")
    if wanted is not None and state is not None and len(state) != wanted:
        names = list(contract.state.names) if contract.state is not None else wanted
        raise ValueError(f"state: expected {wanted} numbers {names}, found {len(state)}.")


def _clipped(normalized: np.ndarray, contract: ActionContract) -> np.ndarray:
    bounded = [mode in ("q99", "min_max") for mode in contract.action.normalization]
    return (np.abs(normalized) > 1.0) & np.array(bounded) & contract.action.clip


__all__ = ["ActionAnswer", "RecordedActions", "act", "act_on_episode"]
