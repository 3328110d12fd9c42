"""Policies that need no learning, for scoring and for checking the benchmark itself.

The expert and its misreading twin look at the simulator, so they are made for an environment, not from observations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from .env import TabletopEnv
from .episodes import Episode, start_positions
from .language import Order, Reference
from .scene import Scene
from .tasks import TASKS, Goal, feasible, possible_goals

PolicyName = Literal["expert", "random", "shuffled"]
Act = Callable[[], np.ndarray]


def random_policy(env: TabletopEnv, rng: np.random.Generator) -> Act:
    """Moves at random, as far per step as the controller allows, and opens and closes the gripper at random."""
    del env
    scale = np.array([0.04, 0.04, 0.04, 0.1, 0.1, 0.3])
    return lambda: np.append(rng.normal(0.0, scale), rng.random() < 0.5).astype(np.float32)


def _guess(reference: Reference, scene: Scene, rng: np.random.Generator) -> str:
    """What somebody would take who heard this reference in this scene; anything of that kind when nothing fits."""
    fitting = reference.matches(scene.items) or [i for i in scene.items if i.kind == reference.kind]
    return fitting[int(rng.integers(len(fitting)))].name


def misread(episode: Episode, orders: tuple[Order, ...], rng: np.random.Generator) -> tuple[Goal, ...]:
    """The goals of somebody who was told other ``orders`` in this episode's scene.

    References that fit nothing, and orders that cannot be done here, become a uniform guess among what can.
    """
    positions = start_positions(episode.scene)
    goals: list[Goal] = []
    for order in orders:
        target = _guess(order.target, episode.scene, rng)
        places = tuple(_guess(place, episode.scene, rng) for place in order.destinations)
        goal = Goal(order.action, target, tuple(sorted(places)) if order.action == "between" else places)
        if len({target, *places}) <= len(places) or not feasible(goal, episode.scene, positions):
            possible = possible_goals(TASKS[episode.task].actions, episode.scene, positions)
            goal = possible[int(rng.integers(len(possible)))]
        goals.append(goal)
    return tuple(goals)


def run_episode(env: TabletopEnv, act: Act) -> bool:
    """Plays the running episode to its end; returns whether it succeeded."""
    while True:
        _, _, terminated, truncated, info = env.step(act())
        if terminated or truncated or env.simulation.failed:
            return bool(info["is_success"])
