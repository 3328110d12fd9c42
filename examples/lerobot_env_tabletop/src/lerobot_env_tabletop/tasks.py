"""Tasks: their orders, which of them a scene allows, where things have to go, when an order is fulfilled.

Positions are ``[3]`` arrays in metres, robot-base frame, keyed by item name: the centre of an object, the point of the
table under the centre of a container or zone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from math import cos, pi, sin

import numpy as np

from .language import Action
from .objects import FLOOR, INNER_RADIUS, Item
from .scene import WORKSPACE, Scene

Positions = Mapping[str, np.ndarray]
GAP = 0.024
"""Free space left between an object and the thing it is put beside, metres."""
_PUSH_DISTANCE = 0.11


@dataclass(frozen=True)
class Task:
    """A family of orders.

    Attributes:
        name: Its name in commands and tables.
        actions: The actions an order of it may use.
        max_steps: Episode length limit in control steps (per order for long horizons).
        containers, zones: How many of each a scene holds.
        description: One line for people.
    """

    name: str
    actions: tuple[Action, ...]
    max_steps: int
    containers: int
    zones: int
    description: str


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("pick_place", ("put",), 120, 2, 0, "put an object onto a plate or into a tray or bowl"),
        Task("push", ("push",), 140, 0, 2, "push an object to a painted zone without lifting it"),
        Task("stack", ("stack",), 120, 0, 0, "stack an object on another"),
        Task("next_to", ("next_to",), 120, 0, 0, "put an object next to another"),
        Task("left_right", ("left_of", "right_of"), 120, 0, 0, "put an object to the left or right of another"),
        Task("between", ("between",), 120, 0, 0, "put an object between two others"),
        Task("long_horizon", ("put", "stack", "next_to", "push"), 120, 2, 1, "two to four orders in a given sequence"),
    )
}
SINGLE_TASKS: tuple[str, ...] = tuple(name for name in TASKS if name != "long_horizon")


@dataclass(frozen=True)
class Goal:
    """An order with its references resolved to item names."""

    action: Action
    target: str
    destinations: tuple[str, ...]


def _free(point: np.ndarray, radius: float, scene: Scene, positions: Positions, skip: set[str]) -> float:
    """Distance from a disc on the table to the nearest item, metres; negative when they overlap."""
    gaps = [
        float(np.linalg.norm(positions[item.name][:2] - point)) - item.radius - radius
        for item in scene.items
        if item.name not in skip
    ]
    return min(gaps, default=1.0)


def _inside(point: np.ndarray, slack: float = 0.03) -> bool:
    return all(low - slack <= value <= high + slack for value, (low, high) in zip(point, WORKSPACE, strict=True))


def _beside(goal: Goal, scene: Scene, positions: Positions) -> np.ndarray:
    target, other = scene.item(goal.target), scene.item(goal.destinations[0])
    centre = positions[other.name][:2]
    reach = target.radius + other.radius + GAP
    if goal.action != "next_to":
        return centre + np.array([0.0, -reach if goal.action == "left_of" else reach])
    spots = [centre + reach * np.array([cos(a), sin(a)]) for a in np.arange(8) * pi / 4]
    skip = {target.name, other.name}
    return max(
        spots, key=lambda p: min(_free(p, target.radius, scene, positions, skip), 0.05) - (0.0 if _inside(p) else 1.0)
    )


def place_point(goal: Goal, scene: Scene, positions: Positions) -> np.ndarray:
    """Where the centre of the target has to go, ``[3]`` metres."""
    target, first = scene.item(goal.target), scene.item(goal.destinations[0])
    here = positions[first.name]
    if goal.action in ("put", "push"):
        return np.array([*here[:2], FLOOR[first.shape] + target.half_height])
    if goal.action == "stack":
        return np.array([*here[:2], here[2] + first.half_height + target.half_height])
    if goal.action == "between":
        middle = (here[:2] + positions[goal.destinations[1]][:2]) / 2
        return np.array([*middle, target.half_height])
    return np.array([*_beside(goal, scene, positions), target.half_height])


def push_start(goal: Goal, scene: Scene, positions: Positions) -> np.ndarray:
    """Where the closed fingers touch down to push the target towards its zone, ``[2]`` metres."""
    target = positions[goal.target][:2]
    way = positions[goal.destinations[0]][:2] - target
    return target - way / max(float(np.linalg.norm(way)), 1e-6) * (scene.item(goal.target).radius + 0.030)


def _corridor_free(goal: Goal, scene: Scene, positions: Positions) -> bool:
    target = scene.item(goal.target)
    start, end = push_start(goal, scene, positions), positions[goal.destinations[0]][:2]
    along = end - start
    length = float(np.linalg.norm(along))
    for item in scene.items:
        if item.kind == "zone" or item.name == goal.target:
            continue
        offset = positions[item.name][:2] - start
        fraction = float(np.clip(offset @ along / max(length, 1e-6) ** 2, 0.0, 1.0))
        width = max(target.radius, 0.03) if fraction > 0.1 else 0.03
        if float(np.linalg.norm(offset - fraction * along)) < item.radius + width + 0.015:
            return False
    way = float(np.linalg.norm(end - positions[goal.target][:2]))
    return way > _PUSH_DISTANCE and _inside(start, 0.07)


def feasible(goal: Goal, scene: Scene, positions: Positions) -> bool:
    """Whether the robot can do it in this scene and has to: free way, free place, not already done."""
    target = scene.item(goal.target)
    if target.kind != "object" or goal.target in goal.destinations or reached(goal, scene, positions):
        return False
    if goal.action == "push":
        return target.geometry.flat and _corridor_free(goal, scene, positions)
    if goal.action == "stack":
        below = scene.item(goal.destinations[0])
        return target.geometry.flat and below.geometry.flat and below.size == "large"
    if goal.action == "put":
        return True
    point = place_point(goal, scene, positions)[:2]
    skip = {goal.target, *goal.destinations}
    if not _inside(point) or _free(point, target.radius, scene, positions, skip) < GAP:
        return False
    if goal.action == "between":
        apart = positions[goal.destinations[0]][:2] - positions[goal.destinations[1]][:2]
        radii = [scene.item(name).radius for name in goal.destinations]
        if not 2 * (target.radius + GAP) + sum(radii) < float(np.linalg.norm(apart)) < 0.30:
            return False
    return float(np.linalg.norm(positions[goal.target][:2] - point)) > 0.06


def destinations_for(action: Action, items: Sequence[Item]) -> list[Item]:
    """Those of the items that are of the kind that the action's destinations are."""
    kinds = {"put": "container", "push": "zone"}
    return [item for item in items if item.kind == kinds.get(action, "object")]


def destination_count(action: Action) -> int:
    """How many destinations an order with this action has."""
    return 2 if action == "between" else 1


def possible_goals(actions: Sequence[Action], scene: Scene, positions: Positions) -> list[Goal]:
    """Every goal an order with one of these actions could mean in this scene.

    With the actions of a task, guessing one of them at random is the task's chance level.
    """
    items = [item for item in scene.items if item.mentionable]
    goals: list[Goal] = []
    for action in actions:
        places = [item.name for item in destinations_for(action, items)]
        for target in (item for item in items if item.kind == "object"):
            for names in permutations(places, destination_count(action)):
                if action != "between" or names[0] < names[1]:
                    goals.append(Goal(action, target.name, names))
    return [goal for goal in goals if feasible(goal, scene, positions)]


def _on_table(item: Item, position: np.ndarray) -> bool:
    return position[2] < item.half_height + 0.015


def reached(goal: Goal, scene: Scene, positions: Positions) -> bool:
    """Whether the target is where the goal wants it, whoever put it there and whether or not it is still held."""
    target, first = scene.item(goal.target), scene.item(goal.destinations[0])
    here, there = positions[goal.target], positions[first.name]
    away = float(np.linalg.norm(here[:2] - there[:2]))
    if goal.action == "put":
        rest = FLOOR[first.shape] + there[2]
        return away < INNER_RADIUS[first.shape] and 0.3 * target.half_height < here[2] - rest < target.radius + 0.02
    if goal.action == "push":
        return away < INNER_RADIUS["zone"] and _on_table(target, here)
    if goal.action == "stack":
        height = here[2] - there[2] - target.half_height - first.half_height
        return away < 0.9 * first.geometry.grasp_width * first.scale and abs(height) < 0.010
    if not _on_table(target, here):
        return False
    contact = target.radius + first.radius
    if goal.action == "next_to":
        return away < contact + 0.05
    if goal.action == "between":
        return _is_between(here[:2], there[:2], positions[goal.destinations[1]][:2])
    side = -1 if goal.action == "left_of" else 1
    return side * (here[1] - there[1]) > 0.025 and abs(here[0] - there[0]) < 0.05 and away < contact + 0.09


def _is_between(point: np.ndarray, one: np.ndarray, other: np.ndarray) -> bool:
    along = other - one
    fraction = float((point - one) @ along / (along @ along))
    return 0.2 < fraction < 0.8 and float(np.linalg.norm(point - one - fraction * along)) < 0.04
