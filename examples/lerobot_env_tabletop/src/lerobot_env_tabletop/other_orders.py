"""Orders that an episode does not give, but could at this moment, and the way the expert goes when one is given.

An image of an episode has one order, so what is to happen can be guessed from the image as far as it shows it. With
several orders about one image only the words tell them apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from .episodes import refer
from .expert import Expert, way_of_order
from .language import Action, Order, render
from .objects import Item
from .scene import Scene
from .simulation import Simulation
from .splits import get_split
from .tasks import TASKS, Goal, destination_count, destinations_for, possible_goals

_MAX_STEPS = 60  # most take 12 to 42; an expert that is not done by then is lost
_EMPTY, _HOLDING = ("reach", "descend"), ("lift", "carry")


@dataclass(frozen=True)
class OtherOrder:
    """An order that could be given at a moment of an episode.

    Attributes:
        order: The order.
        goal: Its references resolved.
        instruction: Its words.
        subtask: What the expert begins with, in words.
        path: Tool points ``[m, 3]`` in metres, from that moment until the order is fulfilled.
    """

    order: Order
    goal: Goal
    instruction: str
    subtask: str
    path: np.ndarray


def other_orders(
    simulation: Simulation, goal: Goal | None, phase: str, rng: np.random.Generator, count: int
) -> list[OtherOrder]:
    """At most ``count`` orders, each played out by the expert in a copy of the simulation.

    Args:
        simulation: The running episode; it is left as it is.
        goal: What is being done, which is none of the answers; None when everything is done.
        phase: What the expert is doing. With an empty hand on its way, anything that the split's tasks ask for can be
            ordered; with an object in the hand, other places for it; at other moments nothing.
        rng: Draws the orders, actions alike often, and their words.
        count: How many, at most: there are fewer where the scene allows fewer, or the expert fails.
    """
    if count == 0 or goal is None or phase not in (*_EMPTY, *_HOLDING):
        return []
    goals = _goals(simulation, goal, held=phase in _HOLDING)
    found: list[OtherOrder] = []
    while goals and len(found) < count:
        actions = sorted({one.action for one in goals})
        action = actions[int(rng.integers(len(actions)))]
        alike = [one for one in goals if one.action == action]
        chosen = alike[int(rng.integers(len(alike)))]
        goals.remove(chosen)
        other = _played(simulation, chosen, rng)
        if other is not None:
            found.append(other)
    return found


def named_order(
    items: Sequence[Item], scene: Scene, actions: Sequence[Action], rng: np.random.Generator
) -> tuple[Order, Goal] | None:
    """An order made up of such items: nobody has tried it, so it may be impossible; None where they do not suffice.

    Args:
        items: What it may be about.
        scene: Where the words have to single the items out.
        actions: What it may ask for.
        rng: Draws the action, the items and the words.
    """
    objects = [item for item in items if item.kind == "object"]
    action = actions[int(rng.integers(len(actions)))]
    if not objects:
        return None
    target = objects[int(rng.integers(len(objects)))]
    places = [item.name for item in destinations_for(action, items) if item is not target]
    count = destination_count(action)
    if len(places) < count:
        return None
    goal = Goal(action, target.name, tuple(str(name) for name in rng.permutation(places)[:count]))
    order = refer(rng, goal, scene, attributes_only=True)
    return None if order is None else (order, goal)


def split_actions(split: str) -> list[Action]:
    """Everything that the tasks of a split ask for."""
    return sorted({action for task in get_split(split).tasks for action in TASKS[task].actions})


def _goals(simulation: Simulation, goal: Goal, held: bool) -> list[Goal]:
    episode = simulation.episode
    allowed = possible_goals(split_actions(episode.split), episode.scene, simulation.positions())
    if held:  # what is held cannot be pushed
        allowed = [one for one in allowed if one.target == goal.target and one.action != "push"]
    return [one for one in allowed if one != goal]


def _played(simulation: Simulation, goal: Goal, rng: np.random.Generator) -> OtherOrder | None:
    """The order with the expert's way, None where words or the expert fail."""
    episode = simulation.episode
    order = refer(rng, goal, episode.scene, attributes_only=True)
    if order is None:
        return None
    instruction = render((order,), rng, get_split(episode.split).unseen_wording)
    told = replace(episode, goals=(goal,), orders=(order,), instruction=instruction, interference=None)
    copy = simulation.fork(told)
    expert = Expert(copy, rng)
    subtask, path = expert.subtask, way_of_order(copy, expert, _MAX_STEPS)
    return OtherOrder(order, goal, instruction, subtask, path) if copy.success else None


__all__ = ["OtherOrder", "named_order", "other_orders", "split_actions"]
