"""What goes wrong while a demonstration is recorded: jitter, bursts of drift, a slipped grasp.

The expert's clean action is what gets recorded; the perturbed one is what the robot does (as in DART,
https://arxiv.org/abs/1703.09327), so that the demonstrations show how to come back from states it would never visit.
"""

from __future__ import annotations

import numpy as np

_FREE_PHASES = ("reach", "carry", "retreat")


class Perturbation:
    """Perturbs the executed actions of one episode.

    Args:
        rng: Source of randomness.
        scale: 0 changes nothing; 1 is the recorder's default.
    """

    def __init__(self, rng: np.random.Generator, scale: float = 1.0) -> None:
        self._rng, self._scale = rng, scale
        self._burst = 0
        self._drift = np.zeros(7)
        self._slip = 2 if scale > 0 and rng.random() < 0.05 else 0

    def __call__(self, action: np.ndarray, phase: str) -> np.ndarray:
        """The action to execute instead of the clean ``action [7]`` in this phase of the expert."""
        if self._scale <= 0:
            return action
        noise = np.zeros(7)
        noise[:3] = self._rng.normal(0.0, 0.001 * self._scale, 3)
        if self._burst == 0 and phase in _FREE_PHASES and self._rng.random() < 0.06:
            self._burst = int(self._rng.integers(2, 4))
            self._drift[:3] = self._rng.normal(0.0, 0.016 * self._scale, 3) * (1, 1, 0.5)
            self._drift[5] = self._rng.normal(0.0, 0.08 * self._scale)
        if self._burst > 0:
            self._burst -= 1
            if phase in _FREE_PHASES:
                noise += self._drift
        perturbed = (action + noise).astype(np.float32)
        perturbed[6] = action[6]
        if self._slip and phase == "lift":
            self._slip -= 1
            perturbed[6] = 1.0
        return perturbed
