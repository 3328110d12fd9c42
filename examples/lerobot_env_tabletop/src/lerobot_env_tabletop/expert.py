"""A scripted expert that solves every task by looking at the simulator's true poses.

It is closed loop: it looks again at every step, so it recovers from noise, slips and interference by itself.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from math import atan2, cos, pi, sin

import numpy as np

from .control import DOWN, rotation_vector
from .language import Order, phrase
from .objects import Item
from .simulation import Simulation
from .tasks import Goal, place_point, push_start, reached

_CLOSE, _OPEN = 0.0, 1.0
_FINGER_SPAN = 0.052
_MIN_TOOL_Z = 0.0135
PHASES = ("reach", "descend", "grasp", "lift", "carry", "lower", "release", "retreat", "push", "done")


def _wrap(angle: float) -> float:
    """The same gripper yaw (mod pi) in [-pi/2, pi/2)."""
    return (angle + pi / 2) % pi - pi / 2


def grasp_yaws(item: Item, rotation: np.ndarray) -> list[float]:
    """Yaws (rad, mod pi) at which the open gripper fits around an object in this orientation.

    Args:
        item: The object.
        rotation: Its rotation matrix ``[3, 3]``.
    """
    extent = np.max([_extent(part.geom, part.size) for part in item.geometry.parts], axis=0) * item.scale
    upright = int(np.argmax(np.abs(rotation[2])))
    flat_axes = [axis for axis in range(3) if axis != upright]
    if item.geometry.symmetry == 0.0 and (item.shape == "ball" or upright == 2):
        return [_wrap(k * pi / 8) for k in range(8)]
    narrow = min(extent[axis] for axis in flat_axes)
    fitting = [axis for axis in flat_axes if extent[axis] < min(1.2 * narrow, 0.041)] or flat_axes[:1]
    return [_wrap(atan2(-rotation[0, axis], rotation[1, axis])) for axis in fitting]


def _extent(geom: str, size: tuple[float, ...]) -> np.ndarray:
    if geom == "cylinder":
        return np.array([size[0], size[0], size[1]])
    return np.full(3, size[0]) if geom == "sphere" else np.array(size)


class Expert:
    """Solves the goals of a running episode, one action at a time.

    Args:
        simulation: The running episode.
        rng: Varies speeds, heights and paths from episode to episode.
        goals: What to do; default is what the episode asks. Others make it a policy that misread the instruction.

    Attributes:
        phase: What it is doing, one of :data:`PHASES`.
        index: Which of the goals it is at.
    """

    def __init__(
        self, simulation: Simulation, rng: np.random.Generator, goals: tuple[Goal, ...] | None = None
    ) -> None:
        self._sim = simulation
        self._goals = goals if goals is not None else simulation.episode.goals
        self._follows_episode = goals is None
        self._rng = rng
        self.index = simulation.progress if goals is None else 0
        self.phase = "reach"
        self._speed = float(rng.uniform(0.036, 0.048))
        self._fine_speed = float(rng.uniform(0.024, 0.034))
        self._begin()
        if self.goal is not None and not simulation.gripper_open and self._holding(self.goal):
            self.phase, self._yaw = "lift", self._tool_yaw()  # called in when half of the work is done

    @property
    def goal(self) -> Goal | None:
        """The goal it is at, None when all are done."""
        return self._goals[self.index] if self.index < len(self._goals) else None

    @property
    def subtask(self) -> str:
        """What it is doing in words, e.g. ``pick up the red cube``."""
        orders: tuple[Order, ...] = self._sim.episode.orders
        if self.index >= len(orders) or self.goal is None:
            return "stop"
        order = orders[self.index]
        if order.action == "push":
            return f"push {phrase(order.target)} to {phrase(order.destinations[0])}"
        if self.phase in ("reach", "descend", "grasp", "lift"):
            return f"pick up {phrase(order.target)}"
        where = " and ".join(phrase(reference) for reference in order.destinations)
        relation = {"put": "on", "stack": "on top of", "next_to": "next to"}.get(order.action, order.action)
        return f"put {phrase(order.target)} {relation.replace('_', ' ')} {where}"

    def act(self) -> np.ndarray:
        """The next action, ``float32 [7]`` (:data:`~.control.ACTION_CONTRACT`)."""
        self._advance_goal()
        goal = self.goal
        if goal is None:
            self.phase = "done"
            return np.array([0, 0, 0, 0, 0, 0, _OPEN], np.float32)
        rise = self._rise()
        if rise is not None:
            return rise.astype(np.float32)
        for _ in range(4):  # a phase that is already complete passes to the next one without costing a step
            before = self.phase
            action = self._phases()[self.phase](goal)
            if self.phase == before or self.goal is not goal:
                break
        return action.astype(np.float32)

    def _phases(self) -> dict[str, Callable[[Goal], np.ndarray]]:
        return {
            "reach": self._reach,
            "descend": self._descend,
            "grasp": self._grasp,
            "lift": self._lift,
            "carry": self._carry,
            "lower": self._lower,
            "release": self._release,
            "retreat": self._retreat,
            "push": self._push,
        }

    # -- bookkeeping ---------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self.phase = "reach"
        self._count = 0
        self._yaw: float | None = None
        self._place_yaw: float | None = None
        self._hover = float(self._rng.uniform(0.055, 0.085))
        self._carry_height = float(self._rng.uniform(0.12, 0.17))
        self._detour = self._rng.uniform(-0.035, 0.035, 2)
        self._retreat_height = 0.0
        self._leaving: tuple[float, float] | None = None

    def _advance_goal(self) -> None:
        if self._follows_episode and self.index < self._sim.progress:
            self._leave(self._goals[self.index])
            self.index = self._sim.progress

    def _leave(self, goal: Goal) -> None:
        """Starts on the next goal, but first straight up, so that what was just set down stays there."""
        height = self._retreat_height or float(self._tool[2]) + 0.08
        self._begin()
        self._leaving = (height, _CLOSE if goal.action == "push" else _OPEN)

    def _rise(self) -> np.ndarray | None:
        """The way up that :meth:`_leave` asked for, None once it is done."""
        if self._leaving is None or self._tool[2] > self._leaving[0] - 0.02:
            self._leaving = None
            return None
        height, gripper = self._leaving
        return self._move(np.array([*self._tool[:2], height]), self._tool_yaw(), gripper, self._speed)

    def _enter(self, phase: str) -> None:
        self.phase = phase
        self._count = 0

    @property
    def _tool(self) -> np.ndarray:
        return self._sim.controller.tool_position

    def _item(self, goal: Goal) -> Item:
        return self._sim.episode.scene.item(goal.target)

    def _where(self, goal: Goal) -> np.ndarray:
        return self._sim.positions()[goal.target]

    def _holding(self, goal: Goal) -> bool:
        closed_on_nothing = bool(np.all(self._sim.controller.finger_travel < 0.004))
        return float(np.linalg.norm(self._where(goal) - self._tool)) < 0.035 and not closed_on_nothing

    def _move(self, point: np.ndarray, yaw: float, gripper: float, speed: float) -> np.ndarray:
        """An action that brings the tool's target pose towards a point (metres) and a yaw (rad)."""
        controller = self._sim.controller
        delta = point - controller.target_position
        length = float(np.linalg.norm(delta))
        if length > speed:
            delta *= speed / length
        wanted = np.array([[cos(yaw), -sin(yaw), 0], [sin(yaw), cos(yaw), 0], [0, 0, 1]]) @ DOWN
        turn = rotation_vector(wanted @ controller.target_rotation.T)
        angle = float(np.linalg.norm(turn))
        if angle > 0.30:
            turn *= 0.30 / angle
        turn[np.abs(turn) < 1e-6] = 0.0  # rounding in the rotation algebra, not motion
        return np.array([*delta, *turn, gripper])

    def _near(self, point: np.ndarray, horizontal: float, vertical: float) -> bool:
        off = self._tool - point
        return float(np.linalg.norm(off[:2])) < horizontal and abs(float(off[2])) < vertical

    def _yaw_error(self, yaw: float) -> float:
        return abs(_wrap(self._tool_yaw() - yaw))

    def _tool_yaw(self) -> float:
        return float(rotation_vector(self._sim.controller.tool_rotation @ DOWN.T)[2])

    def _best_yaw(self, candidates: list[float], point: np.ndarray, skip: set[str]) -> float:
        """The candidate whose fingers come least close to other things, and that needs little turning."""
        positions = self._sim.positions()
        others = [i for i in self._sim.episode.scene.items if i.name not in skip and i.kind == "object"]

        def cost(yaw: float) -> float:
            reach = _FINGER_SPAN * np.array([-sin(yaw), cos(yaw)])
            gaps = [
                float(np.linalg.norm(positions[i.name][:2] - point[:2] - sign * reach)) - i.radius - 0.014
                for i in others
                for sign in (-1, 1)
            ]
            return 0.008 * self._yaw_error(yaw) - min([0.02, *gaps])

        return min(candidates, key=cost)

    def _continuous(self, yaw: float) -> float:
        """The equivalent yaw (mod pi) nearest to the present one that the wrist can reach."""
        here = self._tool_yaw()
        options = [yaw + k * pi for k in (-1, 0, 1)]
        return min((o for o in options if abs(o) < 2.2), key=lambda o: abs(o - here))

    # -- phases --------------------------------------------------------------------------------------------------

    def _grasp_point(self, goal: Goal) -> np.ndarray:
        here = self._where(goal)
        return np.array([here[0], here[1], max(here[2], _MIN_TOOL_Z)])

    def _reach(self, goal: Goal) -> np.ndarray:
        if goal.action == "push":
            return self._reach_push(goal)
        point = self._grasp_point(goal)
        if self._yaw is None or self._count % 4 == 0:
            candidates = grasp_yaws(self._item(goal), self._sim.rotation(goal.target))
            self._yaw = self._continuous(self._best_yaw(candidates, point, {goal.target}))
        self._count += 1
        above = point + np.array([0.0, 0.0, self._hover])
        above[2] = max(above[2], 0.10)
        if self._near(above, 0.014, 0.03) and self._yaw_error(self._yaw) < 0.12:
            self._enter("descend")
        if float(np.linalg.norm(self._tool[:2] - above[:2])) > 0.10:
            above[2] += 0.03  # come in from above
        return self._move(above, self._yaw, _OPEN, self._speed)

    def _descend(self, goal: Goal) -> np.ndarray:
        if goal.action == "push":
            return self._descend_push(goal)
        point = self._grasp_point(goal)
        self._count += 1
        if float(np.linalg.norm(self._tool[:2] - point[:2])) > 0.05 or self._count > 14:
            self._begin()
        elif self._near(point, 0.010, 0.006):
            self._enter("grasp")
        return self._move(point, self._yaw or 0.0, _OPEN, self._fine_speed)

    def _grasp(self, goal: Goal) -> np.ndarray:
        self._count += 1
        if self._count > 3:
            self._enter("lift")
        return self._move(self._sim.controller.target_position, self._yaw or 0.0, _CLOSE, 0.0)

    def _lift(self, goal: Goal) -> np.ndarray:
        self._count += 1
        top = self._tool.copy()
        top[2] = max(self._carry_height, self._place_tool(goal)[2] + 0.05)
        if not self._holding(goal):
            self._begin()
        elif self._tool[2] > top[2] - 0.03:
            self._enter("carry")
        elif self._count > 14:
            self._begin()
        return self._move(top, self._yaw or 0.0, _CLOSE, self._speed)

    def _place_tool(self, goal: Goal) -> np.ndarray:
        """Where the tool point has to be for the held object to be just above its place."""
        scene = self._sim.episode.scene
        point = place_point(goal, scene, self._sim.positions())
        hollow = scene.item(goal.destinations[0]).shape in ("tray", "bowl", "basket")
        offset = np.clip(self._tool - self._where(goal), -0.03, 0.03)
        point = point + offset
        point[2] = max(point[2] + (0.012 if hollow else 0.003), _MIN_TOOL_Z)
        return point

    def _choose_place_yaw(self, goal: Goal, point: np.ndarray) -> float:
        if self._place_yaw is None:
            here = self._yaw or 0.0
            candidates = [_wrap(here + k * pi / 6) for k in range(6)]
            skip = {goal.target} if goal.action != "stack" else {goal.target, *goal.destinations}
            self._place_yaw = self._continuous(self._best_yaw(candidates, point, skip))
        return self._place_yaw

    def _carry(self, goal: Goal) -> np.ndarray:
        self._count += 1
        if not self._holding(goal):
            self._begin()
            return self._reach(goal)
        place = self._place_tool(goal)
        yaw = self._choose_place_yaw(goal, place)
        above = place.copy()
        above[2] = max(place[2] + 0.05, self._carry_height if self._count < 4 else 0.10)
        away = float(np.linalg.norm(self._tool[:2] - above[:2]))
        if self._near(above, 0.012, 0.05) and self._yaw_error(yaw) < 0.12:
            self._enter("lower")
        if away > 0.12:
            above[:2] += self._detour
        return self._move(above, yaw, _CLOSE, self._speed)

    def _lower(self, goal: Goal) -> np.ndarray:
        self._count += 1
        if not self._holding(goal):
            self._begin()
            return self._reach(goal)
        place = self._place_tool(goal)
        if self._near(place, 0.008, 0.005) or self._count > 12:
            self._enter("release")
        return self._move(place, self._place_yaw or 0.0, _CLOSE, self._fine_speed)

    def _release(self, goal: Goal) -> np.ndarray:
        self._count += 1
        if self._count > 2:
            self._retreat_height = float(self._tool[2]) + 0.08
            self._enter("retreat")
        return self._move(self._sim.controller.target_position, self._place_yaw or 0.0, _OPEN, 0.0)

    def _retreat(self, goal: Goal) -> np.ndarray:
        self._count += 1
        up = self._tool.copy()
        up[2] = self._retreat_height
        if self._count > 5:
            done = reached(goal, self._sim.episode.scene, self._sim.positions())
            if done and not self._follows_episode:
                self._leave(goal)
                self.index += 1
            elif not done or self._count > 12:
                self._begin()
        gripper = _CLOSE if goal.action == "push" else _OPEN
        return self._move(up, self._tool_yaw(), gripper, self._speed)

    # -- pushing -------------------------------------------------------------------------------------------------

    def _push_height(self, goal: Goal) -> float:
        return float(np.clip(self._item(goal).half_height, 0.0145, 0.028))

    def _reach_push(self, goal: Goal) -> np.ndarray:
        start = push_start(goal, self._sim.episode.scene, self._sim.positions())
        above = np.array([*start, max(0.03 + self._hover, 0.10)])
        self._yaw = 0.0
        if self._near(above, 0.014, 0.03) and self._yaw_error(0.0) < 0.2:
            self._enter("descend")
        return self._move(above, 0.0, _CLOSE, self._speed)

    def _descend_push(self, goal: Goal) -> np.ndarray:
        start = push_start(goal, self._sim.episode.scene, self._sim.positions())
        point = np.array([*start, self._push_height(goal)])
        self._count += 1
        if float(np.linalg.norm(self._tool[:2] - start)) > 0.04 or self._count > 12:
            self._begin()
        elif self._near(point, 0.012, 0.006):
            self._enter("push")
        return self._move(point, 0.0, _CLOSE, self._fine_speed)

    def _push(self, goal: Goal) -> np.ndarray:
        self._count += 1
        positions = self._sim.positions()
        here, end = positions[goal.target][:2], positions[goal.destinations[0]][:2]
        left = float(np.linalg.norm(end - here))
        way = (end - here) / max(left, 1e-6)
        behind = here - self._tool[:2]
        along, aside = float(behind @ way), behind - (behind @ way) * way
        lost = along < 0.004 or float(np.linalg.norm(aside)) > 0.022 or self._count > 60
        if left < 0.015 or lost:
            self._retreat_height = 0.11
            self._enter("retreat")
            self._count = 3 if left < 0.015 else 2
        ahead = min(0.6 * self._fine_speed + 0.006, left + 0.004)
        step = ahead * way + np.clip(0.7 * aside, -0.012, 0.012)
        point = np.array([*(self._sim.controller.target_position[:2] + step), self._push_height(goal)])
        return self._move(point, 0.0, _CLOSE, self._fine_speed)


def way_of_order(simulation: Simulation, expert: Expert, steps: int) -> np.ndarray:
    """Lets the expert play on until the current order is fulfilled.

    Args:
        simulation: What is played; give a copy to leave the episode as it is.
        expert: Its expert.
        steps: Most control steps; it also ends where the episode has failed.

    Returns:
        Tool points ``[n, 3]`` in metres, the present one first.
    """
    order, path = simulation.progress, [simulation.controller.tool_position]
    while simulation.progress == order and not simulation.failed and len(path) <= steps:
        simulation.step(expert.act())
        path.append(simulation.controller.tool_position)
    return np.stack(path)


def expert_rng(split: str, task: str, seed: int) -> np.random.Generator:
    """The expert's own random stream for an episode, separate from the one that drew the episode."""
    return np.random.default_rng([zlib.crc32(f"expert/{split}/{task}".encode()), seed])
