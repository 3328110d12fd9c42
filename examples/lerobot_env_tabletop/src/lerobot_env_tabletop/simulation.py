"""One running episode: physics, control, interference, and the judgement of what has been achieved."""

from __future__ import annotations

import copy

import numpy as np

from .control import Controller
from .engine import mujoco
from .episodes import Episode, start_positions
from .objects import Item
from .scene import compile_scene
from .tasks import Goal, reached

_STILL_SPEED = 0.04
_SETTLED_STEPS = 2
_MOVED = 0.03
_WARMUP_STEPS = 40
_APPROACH_MARGIN = 0.02


class Simulation:
    """Runs one episode.

    Attributes:
        episode: What it runs.
        model, data: MuJoCo's model and state.
        controller: Turns actions into motion; also knows the tool's pose and the 8-d state.
        steps: Control steps taken.
        progress: Number of orders fulfilled so far.
        failed: Whether success has become impossible (a later order done too early, a pushed object lifted).
        gripper_open: Whether the last action opened the gripper.
        approached: Name of the first object that the tool point came down to, None before that.
    """

    def __init__(self, episode: Episode) -> None:
        self.episode = episode
        self.model = compile_scene(episode.scene)
        self.data = mujoco.MjData(self.model)
        self.controller = Controller(self.model, self.data)
        self._bodies = {item.name: self.model.body(item.name).id for item in episode.scene.items}
        x, y, z, yaw = episode.tool_start
        self.controller.reset(np.array([x, y, z]), yaw)
        mujoco.mj_step(self.model, self.data, _WARMUP_STEPS)
        self.data.qvel[:] = 0.0
        mujoco.mj_forward(self.model, self.data)
        self.steps = 0
        self.progress = 0
        self.failed = False
        self.approached: str | None = None
        self._settled = 0
        self.gripper_open = True
        self._interfered = False
        self._reference = self.positions()

    @property
    def success(self) -> bool:
        """Whether every order is fulfilled, in sequence, and none has been undone."""
        if self.failed or self.progress < len(self.episode.goals):
            return False
        positions = self.positions()
        return all(reached(goal, self.episode.scene, positions) for goal in self.episode.goals)

    @property
    def found_target(self) -> bool:
        """Whether the first object that the tool point came down to is the one the instruction names first."""
        return self.approached == self.episode.goals[0].target

    def fork(self, episode: Episode | None = None) -> Simulation:
        """A copy that runs on by itself and leaves this one as it is.

        Args:
            episode: What is asked from now on, of the same scene; None goes on with what was asked.
        """
        other = copy.copy(self)
        if episode is not None:
            other.episode, other.progress, other.failed, other._settled = episode, 0, False, 0
        other.data = copy.copy(self.data)
        other.controller = self.controller.fork(other.data)
        other._reference = dict(self._reference)
        return other

    def positions(self) -> dict[str, np.ndarray]:
        """Where every item is now, ``[3]`` metres each (see :mod:`.tasks` for the convention)."""
        return {name: self.data.xpos[body].copy() for name, body in self._bodies.items()}

    def rotation(self, name: str) -> np.ndarray:
        """Rotation matrix ``[3, 3]`` of an item."""
        return self.data.xmat[self._bodies[name]].reshape(3, 3).copy()

    def body_id(self, name: str) -> int:
        """MuJoCo's id of an item's body."""
        return self._bodies[name]

    def speed(self, name: str) -> float:
        """How fast an item moves, metres per second."""
        return float(np.linalg.norm(self.data.cvel[self._bodies[name]][3:]))

    def step(self, action: np.ndarray) -> None:
        """Applies one action (:data:`~.control.ACTION_CONTRACT`) and judges the result."""
        self._interfere()
        self.controller.step(action)
        self.gripper_open = bool(action[6] > 0.5)
        self.steps += 1
        self.approached = self.approached or self._beside_tool()
        self._judge()

    def _interfere(self) -> None:
        event = self.episode.interference
        if event is None or self._interfered or self.steps < event.step:
            return
        item = self.episode.scene.item(event.item)
        here = self.positions()[event.item]
        if np.linalg.norm(here - self.controller.tool_position) < item.radius + 0.06 or self._carried() == event.item:
            return
        after = {**self.positions(), event.item: here + np.array([*event.vector, 0.0])}
        if event.kind == "moved" and reached(self.episode.goals[0], self.episode.scene, after):
            return  # that would be help; later, things lie otherwise
        joint = self.data.joint(event.item)
        if event.kind == "moved":
            joint.qpos[:2] += event.vector
        else:
            joint.qvel[:2] = event.vector
        mujoco.mj_forward(self.model, self.data)
        self._interfered = True
        self._reference[event.item] = self.positions()[event.item]

    def _beside_tool(self) -> str | None:
        """The object that the tool point is within or beside, at the height of a grasp."""
        tool = self.controller.tool_position
        for item in self.episode.scene.items:
            here = self.data.xpos[self._bodies[item.name]]
            low = tool[2] < here[2] + item.half_height + _APPROACH_MARGIN
            if item.kind == "object" and low and np.hypot(*(here - tool)[:2]) < item.radius + _APPROACH_MARGIN:
                return item.name
        return None

    def _carried(self) -> str | None:
        tool = self.controller.tool_position
        for item in self.episode.scene.items:
            if item.kind == "object" and not self.gripper_open:
                here = self.data.xpos[self._bodies[item.name]]
                if np.linalg.norm(here - tool) < 0.035 and here[2] > item.half_height + 0.01:
                    return item.name
        return None

    def _let_go(self, item: Item, here: np.ndarray) -> bool:
        away = float(np.linalg.norm(here - self.controller.tool_position))
        return self.gripper_open and (bool(np.all(self.controller.finger_travel > 0.04)) or away > item.radius + 0.03)

    def _fulfilled(self, goal: Goal, positions: dict[str, np.ndarray]) -> bool:
        """Whether this goal is reached by the robot's doing, at rest and let go of."""
        item, here = self.episode.scene.item(goal.target), positions[goal.target]
        if (
            float(np.linalg.norm(here - self._reference[goal.target])) < _MOVED
            or self.speed(goal.target) > _STILL_SPEED
        ):
            return False
        if not reached(goal, self.episode.scene, positions):
            return False
        if goal.action == "push":
            return True
        anchored = all(
            float(np.linalg.norm(positions[name] - self._reference[name])) < 0.04 for name in goal.destinations
        )
        return self._let_go(item, here) and (anchored or goal.action == "put")

    def _judge(self) -> None:
        goals = self.episode.goals
        if self.progress >= len(goals):
            return
        positions = self.positions()
        goal = goals[self.progress]
        item = self.episode.scene.item(goal.target)
        if goal.action == "push" and positions[goal.target][2] > item.half_height + 0.03:
            self.failed = True
        if any(self._fulfilled(later, positions) for later in goals[self.progress + 1 :]):
            self.failed = True
        self._settled = self._settled + 1 if self._fulfilled(goal, positions) else 0
        if self._settled >= _SETTLED_STEPS:
            self.progress += 1
            self._settled = 0
            self._reference.update(positions)


__all__ = ["Simulation", "start_positions"]
