"""``python -m lerobot_env_tabletop.record --episodes N --output DIR``: labelled demonstrations as a LeRobot dataset.

Writes into DIR a LeRobot v3.0 dataset (``meta`` with ``action_contract.json``, ``data`` with language columns,
``videos``), the grounding dataset (``grounding``, parquet), a dataset card (``README.md``) and ``recording.json``
(settings, contracts, timing).
Interrupted, the same command goes on where it stopped; finished, it does nothing.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from .control import ACTION_CONTRACT, STATE_CONTRACT
from .scene import MAX_IMAGE_SIZE
from .shards import Settings, shard_folder, write_shard
from .splits import SPLITS, get_split

_SHARDS = ".shards"
_REPORT = "recording.json"
LOCK = ".recording.lock"
_PARTS = ("meta", "data", "videos", "grounding", _SHARDS)


class RecordingError(RuntimeError):
    """The recording cannot start; the message says why and what to do."""


def record(
    output: str | os.PathLike[str],
    episodes: int,
    *,
    tasks: Sequence[str] | None = None,
    split: str = "train",
    seed: int = 0,
    image_size: int = 224,
    noise: float = 1.0,
    workers: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Path:
    """Records demonstrations, or what is still missing of them.

    Args:
        output: Folder of the dataset. An unfinished recording of the same settings there is completed, a finished one
            is left as it is.
        episodes: Number of demonstrations.
        tasks: Tasks, taking turns; None takes all of the split.
        split: Where episodes are drawn from: ``train``, or ``train_easy`` for first experiments.
        seed: Number of the recording; each gives other episodes.
        image_size: Width and height of the images in pixels.
        noise: Scale of the perturbations, 0 for none.
        workers: Processes that simulate, render and encode; None takes one per core. More than one are started with
            ``spawn``: call this from under ``if __name__ == "__main__"``.
        overwrite: Delete an earlier recording in the folder.
        progress: Show a progress bar on stderr.

    Returns:
        The folder of the dataset. :func:`summary` tells how many frames it has and how long it took.

    Raises:
        RecordingError: For impossible values, when the folder holds something else, or when another process records
            into it.
    """
    folder = Path(output).expanduser()
    settings = _settings(folder.name, episodes, tasks, split, seed, image_size, noise)
    with alone(folder):
        if _prepare(folder, settings, overwrite):
            _write_missing(folder, settings, workers or os.cpu_count() or 1, progress)
    return folder


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One recording at a time in a folder: two would write the same shards into each other."""
    from filelock import FileLock, Timeout

    if folder.exists() and not folder.is_dir():
        raise _foreign(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise RecordingError(f"Another process is recording into {folder}. Wait for it, or stop it.") from None
    try:
        yield
    finally:
        (folder / LOCK).unlink(missing_ok=True)
        lock.release()


def summary(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Figures of a finished recording.

    Returns:
        ``episodes``, ``frames``, and of the run that finished it ``seconds``, ``workers``, ``frames_per_second``
        (joining included), ``recording_frames_per_second`` (without the joining); empty when none has.
    """
    return (_read_report(Path(folder)) or {}).get("summary", {})


def _settings(
    dataset: str,
    episodes: int,
    tasks: Sequence[str] | None,
    split: str,
    seed: int,
    image_size: int,
    noise: float,
) -> Settings:
    try:
        known = get_split(split).tasks
    except ValueError as error:
        raise RecordingError(str(error)) from error
    chosen = tuple(tasks) if tasks else known
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise RecordingError(f"Split {split!r} has no task {', '.join(unknown)}, only: {', '.join(known)}.")
    if episodes < 1 or seed < 0 or noise < 0 or not 16 <= image_size <= MAX_IMAGE_SIZE or image_size % 2:
        raise RecordingError(
            f"episodes must be at least 1, seed and noise at least 0, image_size an even number from 16 "
            f"to {MAX_IMAGE_SIZE}; got {episodes}, {seed}, {noise}, {image_size}."
        )
    shard_size = max(1, min(10, episodes // 8))
    return Settings(episodes, seed, split, chosen, image_size, noise, shard_size, dataset)


def _prepare(output: Path, settings: Settings, overwrite: bool) -> bool:
    """Readies the output folder; returns whether there is anything left to record."""
    report = _read_report(output)
    if report is None and any(path.name != LOCK for path in output.iterdir()):
        raise _foreign(output)
    if report is not None and overwrite:
        for part in _PARTS:
            shutil.rmtree(output / part, ignore_errors=True)
    elif report is not None:
        changed = [name for name, value in settings.to_dict().items() if report["settings"].get(name) != value]
        if changed:
            raise RecordingError(
                f"{output} was recorded with other settings ({', '.join(changed)}). Give the same settings to "
                "complete it, --overwrite to replace it, or another --output."
            )
        if report["complete"]:
            shutil.rmtree(output / _SHARDS, ignore_errors=True)
            return False
    (output / _SHARDS).mkdir(parents=True, exist_ok=True)
    _write_report(output, settings)
    return True


def _foreign(output: Path) -> RecordingError:
    return RecordingError(f"{output} holds no recording of this program; it is left alone. Choose another --output.")


def _read_report(output: Path) -> dict[str, Any] | None:
    path = output / _REPORT
    return json.loads(path.read_text()) if path.is_file() else None


def _write_report(output: Path, settings: Settings, **extra: Any) -> None:
    report = {
        "settings": settings.to_dict(),
        "action_contract": ACTION_CONTRACT,
        "state_contract": STATE_CONTRACT,
        "complete": False,
        **extra,
    }
    write_json(output / _REPORT, report)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a file whole or not at all."""
    temporary = path.with_name(f"{path.name}.partial")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    temporary.replace(path)


def _write_missing(output: Path, settings: Settings, workers: int, progress: bool) -> None:
    """Records the missing shards and joins all of them."""
    from tqdm import tqdm

    from .card import write_card
    from .dataset import assemble

    shards = output / _SHARDS
    missing = [shard for shard in range(settings.shards) if not shard_folder(shards, shard).is_dir()]
    started, fresh = time.monotonic(), 0
    done = settings.episodes - sum(len(settings.episode_range(shard)) for shard in missing)
    bar = tqdm(total=settings.episodes, initial=done, unit="episode", desc="recording", disable=not progress)
    with bar, in_workers(partial(write_shard, shards, settings), missing, workers) as finished:
        for shard, frames in finished:
            fresh += frames
            bar.set_postfix_str(f"{fresh / (time.monotonic() - started):.0f} labelled two-camera frames/s")
            bar.update(len(settings.episode_range(shard)))
    recorded = time.monotonic() - started
    frames = assemble(output, shards, settings)
    seconds = time.monotonic() - started
    figures = {
        "episodes": settings.episodes,
        "frames": frames,
        "seconds": round(seconds, 1),
        "frames_per_second": round(fresh / seconds, 1),
        "recording_frames_per_second": round(fresh / max(recorded, 1e-9), 1),
        "workers": workers,
    }
    write_card(output, settings, frames)
    _write_report(output, settings, complete=True, summary=figures)
    shutil.rmtree(shards)


@contextmanager
def in_workers[T](write: Callable[[int], T], missing: list[int], workers: int) -> Iterator[Iterator[T]]:
    """Writes shards, in this process or in several, as they are asked for."""
    if min(workers, len(missing)) < 2:
        yield map(write, missing)
        return
    context = multiprocessing.get_context("spawn")  # a forked process cannot use its parent's graphics
    ignore = partial(signal.signal, signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent to answer
    with context.Pool(min(workers, len(missing)), initializer=ignore) as pool:
        yield pool.imap_unordered(write, missing)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lerobot_env_tabletop.record", description=__doc__)
    parser.add_argument("--episodes", type=int, required=True, help="number of demonstrations")
    parser.add_argument("--output", type=Path, required=True, help="folder of the dataset")
    parser.add_argument("--seed", type=int, default=0, help="number of the recording; each gives other episodes (0)")
    parser.add_argument("--split", default="train", choices=list(SPLITS), help="where episodes are drawn from (train)")
    parser.add_argument("--tasks", default="all", help="task names separated by commas (all of the split)")
    parser.add_argument("--image-size", type=int, default=224, help="width and height in pixels (224)")
    parser.add_argument("--noise", type=float, default=1.0, help="scale of the perturbations, 0 for none (1.0)")
    parser.add_argument("--workers", type=int, help="processes (one per core)")
    parser.add_argument("--overwrite", action="store_true", help="delete an earlier recording in the folder")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    arguments = vars(_parser().parse_args(argv))
    names = arguments.pop("tasks")
    tasks = None if names == "all" else [name.strip() for name in names.split(",")]
    try:
        folder = record(tasks=tasks, **arguments)
    except RecordingError as error:
        print(f"record: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("record: interrupted; the same command goes on from here.", file=sys.stderr)
        return 130
    print(json.dumps({"output": str(folder), **summary(folder)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
