"""``python -m lerobot_env_tabletop.record --episodes N --output DIR``: labelled demonstrations as a LeRobot dataset.

Writes into DIR a LeRobot v3.0 dataset (``meta``, ``data`` with language columns, ``videos``), the grounding dataset
(``grounding``, parquet) and ``recording.json`` (settings, action and state contract, timing). Killed, it goes on with
``--resume`` where it stopped.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from .control import ACTION_CONTRACT, STATE_CONTRACT
from .scene import MAX_IMAGE_SIZE
from .shards import Settings, shard_folder, write_shard
from .splits import SPLITS, get_split

_SHARDS = ".shards"
_REPORT = "recording.json"


class RecordingError(RuntimeError):
    """The recording cannot start; the message says why and what to do."""


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
    temporary = output / f"{_REPORT}.partial"
    temporary.write_text(json.dumps(report, indent=2) + "\n")
    temporary.rename(output / _REPORT)


def prepare(output: Path, settings: Settings, resume: bool = False, overwrite: bool = False) -> bool:
    """Readies the output folder.

    Args:
        output: Folder of the dataset.
        settings: What is to be recorded.
        resume: Go on with an unfinished recording of the same settings.
        overwrite: Delete an earlier recording there.

    Returns:
        Whether there is anything left to record.

    Raises:
        RecordingError: If the folder holds something that neither flag allows for.
    """
    report = _read_report(output)
    if output.exists() and any(output.iterdir()) and not overwrite:
        if report is None:
            raise RecordingError(f"{output} is not empty and holds no recording. Choose another --output.")
        if not resume:
            state = "a finished" if report["complete"] else "an unfinished"
            raise RecordingError(
                f"{output} holds {state} recording. --resume goes on with it, --overwrite starts again."
            )
        if report["settings"] != settings.to_dict():
            changed = [k for k, v in settings.to_dict().items() if report["settings"].get(k) != v]
            raise RecordingError(
                f"{output} was recorded with other settings ({', '.join(changed)}). Use the same, or --overwrite."
            )
        if report["complete"]:
            return False
    elif report is not None and overwrite:
        for part in ("meta", "data", "videos", "grounding", _SHARDS):
            shutil.rmtree(output / part, ignore_errors=True)
    elif overwrite and output.exists() and any(output.iterdir()):
        raise RecordingError(f"{output} holds no recording; --overwrite deletes recordings only.")
    (output / _SHARDS).mkdir(parents=True, exist_ok=True)
    _write_report(output, settings)
    return True


def record(output: Path, settings: Settings, workers: int = 1, progress: bool = True) -> dict[str, Any]:
    """Records what is still missing and joins everything.

    Args:
        output: A folder readied by :func:`prepare`.
        settings: What to record.
        workers: Processes that simulate, render and encode.
        progress: Show a progress bar on stderr.

    Returns:
        ``episodes``, ``frames``, ``seconds``, ``frames_per_second`` (of this run, joining included) and
        ``recording_frames_per_second`` (without the joining).
    """
    from tqdm import tqdm

    from .dataset import assemble

    shards = output / _SHARDS
    missing = [shard for shard in range(settings.shards) if not shard_folder(shards, shard).is_dir()]
    started, fresh = time.monotonic(), 0
    done = settings.episodes - sum(len(settings.episode_range(shard)) for shard in missing)
    bar = tqdm(total=settings.episodes, initial=done, unit="episode", desc="recording", disable=not progress)
    context = multiprocessing.get_context("spawn")
    with context.Pool(min(workers, max(len(missing), 1))) as pool:
        for shard, frames in pool.imap_unordered(partial(write_shard, shards, settings), missing):
            fresh += frames
            rate = fresh / (time.monotonic() - started)
            bar.set_postfix_str(f"{rate:.0f} labelled two-camera frames/s")
            bar.update(len(settings.episode_range(shard)))
    bar.close()
    recorded = time.monotonic() - started
    frames = assemble(output, shards, settings)
    seconds = time.monotonic() - started
    summary = {
        "episodes": settings.episodes,
        "frames": frames,
        "seconds": round(seconds, 1),
        "frames_per_second": round(fresh / seconds, 1),
        "recording_frames_per_second": round(fresh / max(recorded, 1e-9), 1),
        "workers": workers,
    }
    _write_report(output, settings, complete=True, summary=summary)
    shutil.rmtree(shards)
    return summary


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lerobot_env_tabletop.record", description=__doc__)
    parser.add_argument("--episodes", type=int, required=True, help="number of demonstrations")
    parser.add_argument("--output", type=Path, required=True, help="folder of the dataset")
    parser.add_argument("--seed", type=int, default=0, help="number of the recording; each gives other episodes (0)")
    parser.add_argument("--split", default="train", choices=list(SPLITS), help="where episodes are drawn from (train)")
    parser.add_argument("--tasks", default="all", help="task names separated by commas (all of the split)")
    parser.add_argument("--image-size", type=int, default=224, help="width and height in pixels (224)")
    parser.add_argument("--noise", type=float, default=1.0, help="scale of the perturbations, 0 for none (1.0)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (one per core)")
    parser.add_argument("--resume", action="store_true", help="go on with a recording that was interrupted")
    parser.add_argument("--overwrite", action="store_true", help="delete an earlier recording in the folder")
    return parser


def settings_from(arguments: argparse.Namespace) -> Settings:
    """The settings that the flags ask for.

    Raises:
        RecordingError: For impossible values.
    """
    known = get_split(arguments.split).tasks
    tasks = known if arguments.tasks == "all" else tuple(name.strip() for name in arguments.tasks.split(","))
    unknown = [name for name in tasks if name not in known]
    if unknown:
        raise RecordingError(f"Split {arguments.split!r} has no task {', '.join(unknown)}, only: {', '.join(known)}.")
    if arguments.episodes < 1 or arguments.workers < 1 or not 16 <= arguments.image_size <= MAX_IMAGE_SIZE:
        raise RecordingError(
            f"--episodes and --workers must be at least 1 and --image-size 16 to {MAX_IMAGE_SIZE}; got "
            f"{arguments.episodes}, {arguments.workers}, {arguments.image_size}."
        )
    return Settings(
        episodes=arguments.episodes,
        seed=arguments.seed,
        split=arguments.split,
        tasks=tasks,
        image_size=arguments.image_size,
        noise=arguments.noise,
        shard_size=max(1, min(10, arguments.episodes // 8)),
        dataset=arguments.output.name,
    )


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        settings = settings_from(arguments)
        if prepare(arguments.output, settings, arguments.resume, arguments.overwrite):
            summary = record(arguments.output, settings, arguments.workers)
        else:
            summary = (_read_report(arguments.output) or {}).get("summary", {})
    except RecordingError as error:
        print(f"record: {error}", file=sys.stderr)
        return 2
    print(json.dumps({"output": str(arguments.output), **summary}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
