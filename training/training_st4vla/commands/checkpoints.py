"""Which checkpoint an interrupted run goes on from: the newest that is whole."""

import json
import zipfile
from itertools import count
from pathlib import Path

from safetensors import SafetensorError, safe_open

from training_st4vla.commands.console import say

# Any one of the names will do: transformers', accelerate's for FSDP, DeepSpeed's.
PARTS = {
    "trainer_state.json": ("trainer_state.json",),
    "weights": ("*model*.safetensors", "pytorch_model*", "latest"),
    "optimizer state": ("optimizer*", "latest"),
    "random state": ("rng_state*.pth",),
}


def last_complete_checkpoint(output: Path, *needs: str) -> Path | None:
    """
    The newest whole checkpoint of a run; newer ones that are not are said, and moved out of the trainer's way.

    Args:
        output (`Path`): the run's folder. needs (`str`): files that this run's checkpoints hold beside the usual ones.

    Returns:
        None when there is no whole one.
    """
    numbered = {
        int(path.name.removeprefix("checkpoint-")): path
        for path in output.glob("checkpoint-*")
        if path.name.removeprefix("checkpoint-").isdigit()
    }
    for step in sorted(numbered, reverse=True):
        fault = find_fault(numbered[step], *needs)
        if fault is None:
            return numbered[step]
        aside = _free_name(output / f"incomplete-{step}")
        say(f"{numbered[step]}: incomplete ({fault}), passed over and kept as {aside.name}.")
        numbered[step].rename(aside)
    return None


def find_fault(checkpoint: Path, *needs: str) -> str | None:
    """
    What keeps a checkpoint from being resumed, or None.

    The trainer writes `trainer_state.json` last, and only then deletes older checkpoints: one whose state can be read
    was written to its end. The other files are looked at too, for what was lost later; none is read but the JSON.
    """
    for part, names in {**PARTS, **{name: (name,) for name in needs}}.items():
        if not any(any(checkpoint.glob(name)) for name in names):
            return f"no {part}"
    for path in sorted(checkpoint.iterdir()):
        if path.is_file() and not _is_whole(path):
            return f"{path.name} cannot be read to its end"
    return None


def _is_whole(path: Path) -> bool:
    try:
        if path.suffix == ".json":
            content = json.loads(path.read_text())
            shards = content["weight_map"].values() if path.name.endswith(".index.json") else ()
            return all((path.parent / shard).is_file() for shard in shards)
        if path.suffix == ".safetensors":  # the header says how long the file is
            with safe_open(path, framework="np"):
                return True
        # torch writes zip archives, whose directory lies at the end.
        return path.suffix not in (".pt", ".pth", ".bin") or zipfile.is_zipfile(path)
    except (ValueError, OSError, SafetensorError):
        return False


def _free_name(path: Path) -> Path:
    names = (path if number == 1 else path.with_name(f"{path.name}-{number}") for number in count(1))
    return next(name for name in names if not name.exists())


__all__ = ["find_fault", "last_complete_checkpoint"]
