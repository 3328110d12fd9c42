"""Draws that leave no trace."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def same_draws(seed: int) -> Iterator[None]:
    """Within it torch draws from `seed`; afterwards it goes on as if nothing had been drawn."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield


__all__ = ["same_draws"]
