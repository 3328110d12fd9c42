"""``python -m lerobot_env_tabletop.verify``: measures what the benchmark promises and writes it as JSON.

Checks: ``expert`` (success per task and split), ``random`` and ``shuffled`` (a policy that does not see, and one that
was told the wrong sentence: no scene may be solvable without reading), ``labels``, ``determinism``, ``speed``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .env import make_env
from .episodes import make_episode
from .label_checks import check_frames
from .policies import PolicyName, misread, random_policy, run_episode
from .record import record, summary
from .recording import demonstrate
from .splits import EVALUATION_SPLITS, FIRST_SEED, SPLITS
from .tasks import TASKS

CHECKS = ("determinism", "labels", "expert", "random", "shuffled", "speed")


def score(split: str, task: str, policy: PolicyName, seeds: Sequence[int]) -> dict[str, Any]:
    """Success of a scripted policy over seeds.

    Returns:
        ``successes``, ``found`` (episodes in which the gripper first came down to the named object), ``episodes``,
        ``steps`` (of successes), ``chance`` (summed over episodes), ``failed`` (seeds).
    """
    env = make_env(task, split, pixels=False)
    result: dict[str, Any] = dict.fromkeys(("successes", "found", "steps"), 0)
    result |= {"episodes": len(seeds), "chance": 0.0, "failed": []}
    for seed in seeds:
        env.reset(seed=seed)
        rng = np.random.default_rng([seed, 99])
        if policy == "random":
            act = random_policy(env, rng)
        elif policy == "shuffled":
            other = make_episode(task, split, seed + 500_000)
            act = env.expert(misread(env.episode, other.orders, rng)).act
        else:
            act = env.expert().act
        success = run_episode(env, act)
        result["successes"] += success
        result["found"] += env.simulation.found_target
        result["steps"] += env.simulation.steps if success else 0
        result["chance"] += 1.0 / env.episode.alternatives
        if not success:
            result["failed"].append(seed)
    env.close()
    return result


def _score_job(job: tuple[str, str, PolicyName, range]) -> tuple[str, str, dict[str, Any]]:
    split, task, policy, seeds = job
    return split, task, score(split, task, policy, seeds)


def score_all(policy: PolicyName, splits: Sequence[str], episodes: int | None, workers: int) -> dict[str, Any]:
    """Scores a scripted policy on every task of the splits.

    Args:
        policy: Which one.
        splits: Names of splits.
        episodes: Per task; None takes each split's pinned seeds.
        workers: Processes.

    Returns:
        ``{split: {task: {success, found_target, episodes, mean_steps, chance, failed_seeds}}}``, rates in 0..1.
    """
    jobs: list[Any] = []
    for split in splits:
        count = episodes or SPLITS[split].episodes_per_task
        for task in SPLITS[split].tasks:
            seeds = range(FIRST_SEED, FIRST_SEED + count)
            jobs += [(split, task, policy, seeds[start : start + 25]) for start in range(0, count, 25)]
    merged: dict[str, dict[str, dict[str, Any]]] = {}
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for split, task, part in pool.imap(_score_job, jobs):
            total = merged.setdefault(split, {}).setdefault(task, dict.fromkeys(part, 0) | {"failed": []})
            for name, value in part.items():
                total[name] = total[name] + value
    return {split: {task: _rates(total) for task, total in tasks.items()} for split, tasks in merged.items()}


def _rates(total: dict[str, Any]) -> dict[str, Any]:
    return {
        "success": round(total["successes"] / total["episodes"], 4),
        "found_target": round(total["found"] / total["episodes"], 4),
        "episodes": total["episodes"],
        "mean_steps": round(total["steps"] / max(total["successes"], 1), 1),
        "chance": round(total["chance"] / total["episodes"], 4),
        "failed_seeds": total["failed"][:20],
    }


def fingerprint(index: int, seed: int = 0, tasks: tuple[str, ...] = tuple(TASKS)) -> str:
    """Hash of every byte of the states and actions of one demonstration."""
    demo = demonstrate(index, seed, tasks=tasks, pixels=False)
    return hashlib.sha256(demo.states.tobytes() + demo.actions.tobytes()).hexdigest()


def check_determinism(demonstrations: int) -> dict[str, Any]:
    """Records the same demonstrations in two fresh processes and compares the bytes of states and actions."""
    prints: list[list[str]] = []
    for _ in range(2):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            prints.append(pool.map(fingerprint, range(demonstrations)))
    return {"demonstrations": demonstrations, "identical": prints[0] == prints[1]}


def check_labels(frames: int, workers: int) -> dict[str, Any]:
    """Checks the labels of random frames of every task; see :mod:`.label_checks`."""
    tasks = tuple(TASKS)
    per_task = -(-frames // len(tasks))
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        parts = pool.map(partial(check_frames, frames=per_task), tasks, chunksize=1)
    total = parts[0]
    for part in parts[1:]:
        total = {k: max(v, part[k]) if k.startswith("worst") else v + part[k] for k, v in total.items()}
    return total


def measure_speed(episodes: int, workers: int, image_size: int = 224) -> dict[str, Any]:
    """Records demonstrations of all tasks into a temporary folder and reports the recorder's own figures."""
    with tempfile.TemporaryDirectory() as folder:
        output = record(Path(folder) / "speed", episodes, image_size=image_size, workers=workers, progress=False)
        return {**summary(output), "image_size": image_size}


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m lerobot_env_tabletop.verify", description=__doc__)
    parser.add_argument("--checks", default=",".join(CHECKS), help="which checks, separated by commas (all)")
    parser.add_argument("--splits", default=",".join(EVALUATION_SPLITS), help="splits of the policy scores (all)")
    parser.add_argument("--episodes", type=int, help="episodes per task of the policy scores (the pinned seeds)")
    parser.add_argument("--frames", type=int, default=1000, help="frames of the label check (1000)")
    parser.add_argument("--speed-episodes", type=int, default=70, help="demonstrations of the speed check (70)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (one per core)")
    parser.add_argument("--output", type=Path, help="JSON file to write as well")
    arguments = parser.parse_args(argv)
    splits = tuple(arguments.splits.split(","))
    workers = arguments.workers
    runs: dict[str, Any] = {
        "determinism": partial(check_determinism, 7),
        "labels": partial(check_labels, arguments.frames, workers),
        "expert": partial(score_all, "expert", splits, arguments.episodes, workers),
        "random": partial(score_all, "random", splits, arguments.episodes, workers),
        "shuffled": partial(score_all, "shuffled", splits, arguments.episodes, workers),
        "speed": partial(measure_speed, arguments.speed_episodes, workers),
    }
    report: dict[str, Any] = {}
    for name in arguments.checks.split(","):
        if name not in runs:
            parser.error(f"no check {name!r}; choose from {', '.join(CHECKS)}")
        started = time.monotonic()
        print(f"{name} ...", file=sys.stderr, flush=True)
        report[name] = {"result": runs[name](), "seconds": round(time.monotonic() - started, 1)}
        report["load_average"] = round(os.getloadavg()[0], 1)
        if arguments.output is not None:
            arguments.output.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
