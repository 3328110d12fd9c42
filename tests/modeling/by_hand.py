"""What the tests of this folder compute independently of the package."""

import math

import numpy as np
import torch

FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000}


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    """Normal numbers, the same on every call."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def squared_cosine_alphas(steps: int = 100) -> np.ndarray:
    """Cumulative products of alpha of the squared-cosine schedule (Nichol and Dhariwal, 2021), from its definition."""

    def level(share: float) -> float:
        return math.cos((share + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [min(1 - level((step + 1) / steps) / level(step / steps), 0.999) for step in range(steps)]
    return np.cumprod(1 - np.array(betas))
