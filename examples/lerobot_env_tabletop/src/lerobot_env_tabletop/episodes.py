"""Draws episodes: a scene, what is asked in it, and what goes wrong. Split, task and seed fix everything."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

import numpy as np

from .language import Order, Reference, describe, render
from .objects import (
    COLORS,
    CONTAINERS,
    MATERIALS,
    SIMPLE_COLORS,
    SIMPLE_SHAPES,
    SIZES,
    TRAIN_SHAPES,
    UNSEEN_CONTAINERS,
    UNSEEN_PAIRS,
    UNSEEN_SHAPES,
    Item,
    Kind,
)
from .scene import WORKSPACE, Look, Scene
from .splits import Split, get_split
from .tasks import SINGLE_TASKS, TASKS, Goal, Task, feasible, place_point, possible_goals
from .textures import TRAIN_TABLES, UNSEEN_TABLES

_CLEARANCE = 0.030
_ATTEMPTS = 300


@dataclass(frozen=True)
class Interference:
    """A disturbance that hits once, as soon as the hand is away from the item.

    Attributes:
        step: Control step from which it may happen.
        item: Name of the item it hits.
        kind: ``moved`` (lifted elsewhere by somebody) or ``knocked`` (hit sideways).
        vector: Displacement in metres, or velocity in metres per second, ``(x, y)``.
    """

    step: int
    item: str
    kind: Literal["moved", "knocked"]
    vector: tuple[float, float]


@dataclass(frozen=True)
class Episode:
    """Everything that is fixed before the first step.

    Attributes:
        task, split, seed: What it was drawn from.
        scene: Items and look.
        orders: The steps of the instruction, with references.
        goals: The same steps with references resolved.
        instruction: The words.
        alternatives: Number of different goals the first order could have meant here; chance is one over it.
        tool_start: Where the tool point starts, metres, and the yaw of the hand, radians: ``(x, y, z, yaw)``.
        interference: What goes wrong, if anything.
    """

    task: str
    split: str
    seed: int
    scene: Scene
    orders: tuple[Order, ...]
    goals: tuple[Goal, ...]
    instruction: str
    alternatives: int
    tool_start: tuple[float, float, float, float]
    interference: Interference | None = None

    @property
    def max_steps(self) -> int:
        """Episode length limit in control steps."""
        return TASKS[self.task].max_steps * len(self.goals)


def start_positions(scene: Scene) -> dict[str, np.ndarray]:
    """Where every item lies when the episode starts (see :mod:`.tasks` for the convention)."""
    return {
        item.name: np.array([*item.xy, item.half_height if item.kind == "object" else 0.0]) for item in scene.items
    }


def _choice[T](rng: np.random.Generator, options: Sequence[T]) -> T:
    return options[int(rng.integers(len(options)))]


def _pair_allowed(color: str, shape: str, split: Split) -> bool:
    unseen = shape in UNSEEN_SHAPES or (color, shape) in UNSEEN_PAIRS
    return unseen == split.unseen_objects


def _draw_object(rng: np.random.Generator, split: Split, shape: str | None = None, color: str | None = None) -> Item:
    shapes = TRAIN_SHAPES + UNSEEN_SHAPES if split.unseen_objects else TRAIN_SHAPES
    while True:
        drawn = shape or _choice(rng, shapes)
        hue = color or _choice(rng, tuple(COLORS))
        if _pair_allowed(hue, drawn, split):
            size, material = _choice(rng, tuple(SIZES)), _choice(rng, MATERIALS)
            return Item("", "object", drawn, hue, size, material)
        if shape is not None and color is not None:
            shape = None


def _draw_objects(rng: np.random.Generator, split: Split, count: int) -> list[Item]:
    """``count`` objects, no two alike, with a pair of one shape and a pair of one colour among them."""
    first = _draw_object(rng, split)
    drawn = [first]
    wishes: list[tuple[str | None, str | None]] = [(first.shape, None), (None, first.color)]
    while len(drawn) < count:
        shape, color = wishes[len(drawn) - 1] if len(drawn) <= len(wishes) else (None, None)
        item = _draw_object(rng, split, shape, color)
        if all(item.label != other.label for other in drawn):
            drawn.append(item)
    return [drawn[i] for i in rng.permutation(count)]


def _draw_places(rng: np.random.Generator, split: Split, task: Task) -> list[Item]:
    shapes = UNSEEN_CONTAINERS + CONTAINERS if split.unseen_objects else CONTAINERS
    kinds = cast("list[Kind]", ["container"] * task.containers + ["zone"] * task.zones)
    hues = rng.permutation(list(COLORS))
    return [
        Item("", kind, "zone" if kind == "zone" else _choice(rng, shapes), str(hue))
        for kind, hue in zip(kinds, hues, strict=False)
    ]


def _apart(item: Item, others: list[Item]) -> bool:
    return all(item.distance(other) > item.radius + other.radius + _CLEARANCE for other in others)


def _lay_out(rng: np.random.Generator, items: list[Item]) -> list[Item] | None:
    """Gives every item a free place and a name, or None when they do not fit."""
    placed: list[Item] = []
    for index, item in enumerate(items):
        for _ in range(60):
            xy = _draw_xy(rng, WORKSPACE)
            yaw = float(rng.uniform(-np.pi, np.pi)) if item.kind == "object" else float(rng.uniform(-0.4, 0.4))
            spot = Item(
                f"{item.kind}_{index}", item.kind, item.shape, item.color, item.size, item.material,
                xy, yaw, item.mentionable,
            )  # fmt: skip
            if _apart(spot, placed):
                placed.append(spot)
                break
        else:
            return None
    return placed


def _draw_simple_scene(rng: np.random.Generator) -> Scene | None:
    """Three large plastic blocks of different colours, nearly aligned with the gripper, and a plate on the right."""
    wide, narrow = ((0.34, 0.58), (-0.22, 0.06)), ((0.44, 0.50), (0.15, 0.19))
    plate = Item("container_0", "container", "plate", "white", xy=_draw_xy(rng, narrow))
    placed: list[Item] = [plate]
    for index, color in enumerate(rng.permutation(SIMPLE_COLORS)[:3], start=1):
        shapes = [shape for shape in SIMPLE_SHAPES if (str(color), shape) not in UNSEEN_PAIRS]
        item = Item(f"object_{index}", "object", _choice(rng, shapes), str(color), yaw=float(rng.uniform(-0.3, 0.3)))
        item = replace(item, xy=_draw_xy(rng, wide))
        if not _apart(item, placed):
            return None
        placed.append(item)
    return Scene(tuple(placed), Look())


def _draw_xy(rng: np.random.Generator, area: tuple[tuple[float, float], tuple[float, float]]) -> tuple[float, float]:
    return float(rng.uniform(*area[0])), float(rng.uniform(*area[1]))


def _triple(rng: np.random.Generator, low: float, high: float) -> tuple[float, float, float]:
    x, y, z = rng.uniform(low, high, 3).tolist()
    return x, y, z


def _draw_look(rng: np.random.Generator, split: Split) -> Look:
    grey = float(rng.uniform(0.12, 0.3))
    if not split.unseen_look:
        return Look(
            table=_choice(rng, TRAIN_TABLES),
            floor=(grey, grey, grey + 0.02),
            light=float(rng.uniform(0.55, 0.72)),
            light_from=(float(rng.uniform(0.4, 0.8)), float(rng.uniform(-0.5, 0.5)), 1.6),
            camera_shift=_triple(rng, -0.006, 0.006),
        )
    return Look(
        table=_choice(rng, UNSEEN_TABLES),
        floor=_triple(rng, 0.1, 0.6),
        light=float(rng.choice([rng.uniform(0.30, 0.45), rng.uniform(0.8, 0.95)])),
        light_from=(float(rng.uniform(-0.2, 1.4)), float(rng.choice([-1.2, 1.2])), 1.3),
        tint=_triple(rng, 0.8, 1.0),
        shadows=bool(rng.random() < 0.5),
        camera_shift=_triple(rng, -0.02, 0.02),
    )


def _draw_scene(rng: np.random.Generator, split: Split, task: Task) -> Scene | None:
    objects = _draw_objects(rng, split, int(rng.integers(4, 6 if task.containers else 7)))
    clutter: list[Item] = []
    while len(clutter) < split.clutter:
        extra = _draw_object(rng, get_split("train"))
        if all(extra.label != item.label for item in objects + clutter):
            clutter.append(Item("", "object", extra.shape, extra.color, "small", extra.material, mentionable=False))
    labels = [item.label for item in objects + clutter]
    if len(set(labels)) < len(labels):
        return None
    laid = _lay_out(rng, _draw_places(rng, split, task) + objects + clutter)
    return None if laid is None else Scene(tuple(laid), _draw_look(rng, split))


def _pick(rng: np.random.Generator, goals: list[Goal]) -> Goal:
    """A goal whose target is uniform among all possible targets."""
    target = _choice(rng, sorted({goal.target for goal in goals}))
    return _choice(rng, [goal for goal in goals if goal.target == target])


def _plan(rng: np.random.Generator, task: Task, scene: Scene) -> tuple[list[Goal], int] | None:
    """One goal, or for long horizons a sequence of two to four that do not undo each other."""
    positions = start_positions(scene)
    if task.name != "long_horizon":
        goals = possible_goals(task.actions, scene, positions)
        targets = {goal.target for goal in goals}
        return ([_pick(rng, goals)], len(goals)) if len(targets) >= 3 else None
    plan: list[Goal] = []
    used: set[str] = set()
    alternatives = 0
    for _ in range(int(rng.integers(2, 5))):
        goals = [g for g in possible_goals(task.actions, scene, positions) if not used & {g.target, *g.destinations}]
        by_action = {goal.action for goal in goals}
        if not goals:
            return None
        action = _choice(rng, sorted(by_action))
        goal = _pick(rng, [g for g in goals if g.action == action])
        alternatives = alternatives or len(goals)
        positions[goal.target] = place_point(goal, scene, positions)
        used |= {goal.target, *goal.destinations}
        plan.append(goal)
    return plan, alternatives


def refer(rng: np.random.Generator, goal: Goal, scene: Scene, attributes_only: bool) -> Order | None:
    """An order that means this goal and no other of the scene, None where words do not suffice.

    Args:
        rng: Chooses among the words.
        goal: What is meant.
        scene: Where.
        attributes_only: Only words that stay true when things are moved.
    """
    target = describe(scene.item(goal.target), scene.items, rng, attributes_only)
    places: list[Reference] = []
    for name in goal.destinations:
        place = describe(scene.item(name), scene.items, rng, attributes_only=True)
        if place is None:
            return None
        places.append(place)
    return None if target is None else Order(goal.action, target, tuple(places))


def _draw_interference(rng: np.random.Generator, goal: Goal, scene: Scene) -> Interference | None:
    """A disturbance after which the goal can still be reached, or None when this scene has no room for one."""
    movable = [goal.target] + [n for n in goal.destinations if scene.item(n).kind == "container"]
    item = scene.item(_choice(rng, movable))
    kind: Literal["moved", "knocked"] = "moved" if item.kind == "container" or rng.random() < 0.6 else "knocked"
    for _ in range(40):
        angle, length = rng.uniform(-np.pi, np.pi), rng.uniform(0.05, 0.10)
        shift = length * np.array([np.cos(angle), np.sin(angle)])
        positions = start_positions(scene)
        positions[item.name][:2] += shift
        spot = positions[item.name][:2]
        inside = all(low < v < high for v, (low, high) in zip(spot, WORKSPACE, strict=True))
        others = [i for i in scene.items if i.name != item.name]
        gaps = [float(np.linalg.norm(positions[i.name][:2] - spot)) - i.radius - item.radius for i in others]
        if inside and min(gaps) > _CLEARANCE and feasible(goal, scene, positions):
            vector = shift if kind == "moved" else shift / length * float(rng.uniform(0.25, 0.4))
            step = int(rng.integers(3, 12))
            return Interference(step, item.name, kind, (float(vector[0]), float(vector[1])))
    return None


def make_episode(task: str, split: str = "in_distribution", seed: int = 1000) -> Episode:
    """Draws the episode of that task, split and seed; the same three always give the same episode.

    Args:
        task: A name of :data:`~.tasks.TASKS`.
        split: A name of :data:`~.splits.SPLITS`.
        seed: Any non-negative integer; the pinned ones are ``SPLITS[split].seeds``.

    Raises:
        ValueError: If there is no such task or split, or the split does not hold the task.
    """
    chosen = get_split(split)
    if task not in TASKS:
        raise ValueError(f"There is no task {task!r}. Choose one of: {', '.join(TASKS)}.")
    if task not in chosen.tasks:
        raise ValueError(f"Split {split!r} has no task {task!r}; it has: {', '.join(chosen.tasks)}.")
    rng = np.random.default_rng([zlib.crc32(f"{split}/{task}".encode()), seed])
    for _ in range(_ATTEMPTS):
        episode = _try_episode(rng, TASKS[task], chosen, seed)
        if episode is not None:
            return episode
    raise RuntimeError(f"No scene found for task {task!r}, split {split!r}, seed {seed}: this is a defect, report it.")


def _try_episode(rng: np.random.Generator, task: Task, split: Split, seed: int) -> Episode | None:
    scene = _draw_simple_scene(rng) if split.simple else _draw_scene(rng, split, task)
    plan = _plan(rng, task, scene) if scene is not None else None
    if scene is None or plan is None:
        return None
    goals, alternatives = plan
    fleeting = split.interference or split.simple or len(goals) > 1
    orders = [refer(rng, goal, scene, attributes_only=fleeting) for goal in goals]
    interference = _draw_interference(rng, goals[0], scene) if split.interference else None
    if any(order is None for order in orders) or (split.interference and interference is None):
        return None
    known = tuple(order for order in orders if order is not None)
    start = (float(rng.uniform(0.36, 0.52)), float(rng.uniform(-0.12, 0.12)), float(rng.uniform(0.16, 0.24)))
    yaw = float(rng.uniform(-0.4, 0.4))
    return Episode(
        task=task.name,
        split=split.name,
        seed=seed,
        scene=scene,
        orders=known,
        goals=tuple(goals),
        instruction=render(known, rng, split.unseen_wording),
        alternatives=alternatives,
        tool_start=(0.45, 0.0, 0.20, 0.0) if split.simple else (*start, yaw),
        interference=interference,
    )


__all__ = ["SINGLE_TASKS", "Episode", "Interference", "make_episode", "refer", "start_positions"]
