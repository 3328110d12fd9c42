"""How many processes read and preprocess the training data, where the user does not say."""

import os
from typing import Any

MOST = 8


def settle_workers(args: Any) -> None:
    """
    Fills in `dataloader_num_workers` where it is None. They do not stay between epochs: torch then draws one number
    less, and a run resumed at the start of an epoch would differ from one that was not interrupted.

    Args:
        args (`TrainingArguments`): with `use_cpu` as it will be.
    """
    if args.dataloader_num_workers is None:
        sharing = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        args.dataloader_num_workers = default_workers(args.use_cpu, usable_cores() // sharing)


def default_workers(use_cpu: bool, cores: int) -> int:
    """
    None where training itself needs the cores: there they only get in each other's way. Else all cores of this process
    but one, at least one and at most eight.
    """
    return 0 if use_cpu else min(MOST, max(1, cores - 1))


def usable_cores() -> int:
    """Cores that this process may run on; containers and schedulers grant fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


__all__ = ["default_workers", "settle_workers", "usable_cores"]
