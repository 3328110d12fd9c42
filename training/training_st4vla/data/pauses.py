"""Frames in which nothing moves: found by an explicit rule, and left out as starting points of samples."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PauseFilter:
    """A frame is kept if a motion dimension moves by more than a threshold, or a gripper dimension changes.

    The official loader keeps frames with any |dx|, |dy| or |dz| above 5e-4, or a changed gripper value; chunks that
    start at a kept frame still hold every recorded action that follows, pauses included.

    Args:
        threshold: Largest absolute motion of a pause per frame, in the unit of the motion dimensions.
        motion: Action dimensions that are compared with the threshold.
        gripper: Action dimensions of which any change from the previous frame counts.
        absolute: Whether the motion dimensions hold targets, whose change from the previous frame is the motion; the
            first frame of an episode is kept then. Otherwise they hold the motion itself.

    Raises:
        ValueError: The threshold is negative, or there is no motion dimension.
    """

    threshold: float
    motion: tuple[int, ...]
    gripper: tuple[int, ...] = ()
    absolute: bool = False

    def __post_init__(self) -> None:
        if not self.threshold >= 0 or not self.motion:
            raise ValueError(
                f"pause filter: expected a threshold of at least 0 and motion dimensions, found {self.threshold} and "
                f"{self.motion}."
            )

    def moving(self, actions: np.ndarray) -> np.ndarray:
        """Which frames of an episode are kept: bool [L], from its actions [L, A]."""
        motion, gripper = actions[:, list(self.motion)], actions[:, list(self.gripper)]
        steps = np.diff(motion, axis=0, prepend=motion[:1]) if self.absolute else motion
        kept = np.array(np.any(np.abs(steps) > self.threshold, axis=1))
        kept[1:] |= np.any(gripper[1:] != gripper[:-1], axis=1)
        kept[:1] |= self.absolute
        return kept


__all__ = ["PauseFilter"]
