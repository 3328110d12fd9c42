"""From action chunks to one action per control step: open-loop execution, adaptive ensembling, gripper hold."""

from collections import deque

import numpy as np


class AdaptiveEnsemble:
    """
    Averages what the last chunks say about the current step, each weighted by its agreement with the newest.

    The weight of a prediction is `exp(alpha * cosine(prediction, newest prediction))`, normalised to sum 1. Source:
    CogACT (arXiv 2411.19650), adaptive action ensemble, which InternVLA-M1's SimplerEnv evaluation uses with horizon 7
    (WidowX) or 2 (Google Robot) and `alpha` 0.1.

    Args:
        horizon (`int`): most chunks that take part.
        alpha (`float`): 0 is the plain mean; larger values trust disagreeing chunks less.
    """

    def __init__(self, horizon: int, alpha: float = 0.1) -> None:
        if horizon < 1:
            raise ValueError(f"horizon: expected at least 1 chunk, found {horizon}.")
        self.alpha = alpha
        self._chunks: deque[np.ndarray] = deque(maxlen=horizon)

    def step(self, chunks: np.ndarray) -> np.ndarray:
        """
        Args:
            chunks (`np.ndarray` of shape `[B, T, A]`): predicted at this control step, its first action for now.

        Returns:
            `np.ndarray` of shape `[B, A]`: the action for now.
        """
        self._chunks = deque((chunk[:, 1:] for chunk in self._chunks), maxlen=self._chunks.maxlen)
        self._chunks.append(chunks)
        current = np.stack(
            [chunk[:, 0] for chunk in self._chunks if chunk.shape[1]], axis=1
        )  # [B, K, A], oldest first
        newest = current[:, -1:]
        norms = np.linalg.norm(current, axis=-1) * np.linalg.norm(newest, axis=-1)
        cosine = (current * newest).sum(axis=-1) / np.maximum(norms, 1e-9)
        weights = np.exp(self.alpha * cosine)
        weights /= weights.sum(axis=1, keepdims=True)
        return (weights[:, :, None] * current).sum(axis=1)


class ChunkQueue:
    """
    Executes the first `n_action_steps` of a chunk before the next is asked for.

    Args:
        n_action_steps (`int`).
    """

    def __init__(self, n_action_steps: int) -> None:
        if n_action_steps < 1:
            raise ValueError(f"n_action_steps: expected at least 1, found {n_action_steps}.")
        self.n_action_steps = n_action_steps
        self._pending: list[np.ndarray] = []

    @property
    def is_empty(self) -> bool:
        """Whether a new chunk is needed before the next `pop`."""
        return not self._pending

    def push(self, chunks: np.ndarray) -> None:
        """Takes chunks of shape `[B, T, A]`; raises ValueError where they are shorter than `n_action_steps`."""
        if chunks.shape[1] < self.n_action_steps:
            raise ValueError(
                f"n_action_steps: expected at most the model's chunk of {chunks.shape[1]} steps, found "
                f"{self.n_action_steps}."
            )
        self._pending = list(np.moveaxis(chunks[:, : self.n_action_steps], 1, 0))

    def pop(self) -> np.ndarray:
        """The next actions, `[B, A]`."""
        return self._pending.pop(0)


class GripperHold:
    """
    Keeps a new gripper command for at least `steps` control steps, so that a flickering prediction drops nothing.

    Args:
        dims (`tuple[int, ...]`): gripper dimensions of the action. steps (`int`): 0 changes nothing.
    """

    def __init__(self, dims: tuple[int, ...], steps: int) -> None:
        if steps < 0:
            raise ValueError(f"gripper_hold: expected 0 or more control steps, found {steps}.")
        self.dims, self.steps = list(dims), steps
        self._held: np.ndarray | None = None
        self._age: np.ndarray | None = None

    def step(self, actions: np.ndarray) -> np.ndarray:
        """Actions `[B, A]` with the gripper dimensions held."""
        if not self.steps or not self.dims:
            return actions
        wanted = actions[:, self.dims]
        if self._held is None or self._age is None:
            # The first command was not switched to: it may change at once.
            self._held, self._age = wanted.copy(), np.full(wanted.shape, self.steps)
        switch = (wanted != self._held) & (self._age >= self.steps)
        self._held = np.where(switch, wanted, self._held)
        self._age = np.where(switch, 1, self._age + 1)
        actions = actions.copy()
        actions[:, self.dims] = self._held
        return actions


__all__ = ["AdaptiveEnsemble", "ChunkQueue", "GripperHold"]
