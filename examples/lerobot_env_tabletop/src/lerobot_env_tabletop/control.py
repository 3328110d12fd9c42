"""Delta end-effector control: from a 7-d action to joint targets, and from the simulation to the 8-d state."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from .engine import MjData, MjModel, mujoco
from .robot import ARM_JOINTS, FINGER_JOINTS, FINGER_OPEN, HOME
from .scene import TIMESTEP

CONTROL_HZ = 10
SUBSTEPS = round(1 / (CONTROL_HZ * TIMESTEP))
MAX_TRANSLATION = 0.05
"""Longest translation of one action, metres; longer ones are shortened, direction kept."""
MAX_ROTATION = 0.35
"""Largest rotation of one action, radians; larger ones are shortened, axis kept."""
ACTION_NAMES: tuple[str, ...] = ("dx", "dy", "dz", "droll", "dpitch", "dyaw", "gripper")
STATE_NAMES: tuple[str, ...] = ("x", "y", "z", "roll", "pitch", "yaw", "finger_left", "finger_right")

ACTION_CONTRACT: dict[str, Any] = {
    "names": list(ACTION_NAMES),
    "units": ["m", "m", "m", "rad", "rad", "rad", "1"],
    "dimension": 7,
    "representation": "delta",
    "frame": "base",
    "rotation": "rotation_vector",
    "gripper_dims": [6],
    "gripper_polarity": "high_is_open",
    "control_hz": CONTROL_HZ,
    "limits": {"translation_m": MAX_TRANSLATION, "rotation_rad": MAX_ROTATION},
    "notes": {
        "frame": "x away from the robot, y right in the front image, z up",
        "rotation": "applied on the left: R_new = exp(rotation) @ R",
        "representation": "relative to the previous target pose of the tool point, within 6 cm of the measured one",
        "gripper": "absolute: above 0.5 opens, else closes",
    },
}
"""What the seven numbers of an action mean."""

STATE_CONTRACT: dict[str, Any] = {
    "names": list(STATE_NAMES),
    "units": ["m", "m", "m", "rad", "rad", "rad", "m", "m"],
    "dimension": 8,
    "rotation": "axis-angle in the base frame, relative to the gripper pointing straight down",
    "gripper": f"travel of each finger, 0 closed to {FINGER_OPEN} open",
}
"""What the eight numbers of a state mean."""

DOWN = np.diag([-1.0, 1.0, -1.0])
"""Rotation matrix of the tool when the gripper points straight down."""
_LOW, _HIGH = np.array([0.18, -0.42, 0.012]), np.array([0.72, 0.42, 0.45])
_LEASH = 0.06
_DAMPING = 0.02


def rotation_matrix(rotvec: np.ndarray) -> np.ndarray:
    """Rotation matrix ``[3, 3]`` of an axis-angle vector ``[3]`` in radians."""
    quat, matrix = np.empty(4), np.empty(9)
    angle = float(np.linalg.norm(rotvec))
    mujoco.mju_axisAngle2Quat(quat, rotvec / angle if angle > 1e-12 else np.array([0.0, 0.0, 1.0]), angle)
    mujoco.mju_quat2Mat(matrix, quat)
    return matrix.reshape(3, 3)


def rotation_vector(matrix: np.ndarray) -> np.ndarray:
    """Axis-angle vector ``[3]`` in radians, at most pi long, of a rotation matrix ``[3, 3]``."""
    quat, vector = np.empty(4), np.empty(3)
    mujoco.mju_mat2Quat(quat, np.ascontiguousarray(matrix).ravel())
    mujoco.mju_quat2Vel(vector, quat, 1.0)
    return vector


def _shorten(vector: np.ndarray, longest: float) -> np.ndarray:
    length = float(np.linalg.norm(vector))
    return vector * (longest / length) if length > longest else vector


class Controller:
    """Integrates delta actions into a target pose of the tool point and tracks it with damped least squares.

    Args:
        model: The compiled scene.
        data: Its state; the controller writes ``ctrl`` and steps it.
    """

    def __init__(self, model: MjModel, data: MjData) -> None:
        self._model, self._data = model, data
        self._ghost = mujoco.MjData(model)
        self._site = model.site("tool").id
        self._qpos = np.array([model.joint(name).qposadr[0] for name in ARM_JOINTS])
        self._dofs = np.array([model.joint(name).dofadr[0] for name in ARM_JOINTS])
        self._fingers = np.array([model.joint(name).qposadr[0] for name in FINGER_JOINTS])
        self._range = np.array([model.joint(name).range for name in ARM_JOINTS])
        self._jacobian = np.zeros((6, model.nv))
        self._joints = np.array(HOME)
        self.target_position = np.zeros(3)
        self.target_rotation = DOWN.copy()

    @property
    def tool_position(self) -> np.ndarray:
        """Measured position of the tool point, ``[3]`` metres."""
        return self._data.site_xpos[self._site].copy()

    @property
    def tool_rotation(self) -> np.ndarray:
        """Measured rotation matrix of the tool, ``[3, 3]``."""
        return self._data.site_xmat[self._site].reshape(3, 3).copy()

    @property
    def finger_travel(self) -> np.ndarray:
        """Travel of both fingers, ``[2]`` metres; 0 is closed."""
        return self._data.qpos[self._fingers].copy()

    def state(self) -> np.ndarray:
        """The observation described by :data:`STATE_CONTRACT`, ``float32 [8]``."""
        turn = rotation_vector(self.tool_rotation @ DOWN.T)
        return np.concatenate([self.tool_position, turn, self.finger_travel]).astype(np.float32)

    def reset(self, position: np.ndarray, yaw: float = 0.0) -> None:
        """Puts the arm at rest, gripper open, with its tool point at ``position`` (metres) and ``yaw`` (radians)."""
        self._joints = np.array(HOME)
        self.target_position = np.array(position, dtype=float)
        self.target_rotation = rotation_matrix(np.array([0.0, 0.0, yaw])) @ DOWN
        self._solve(iterations=60)
        self._data.qpos[self._qpos] = self._joints
        self._data.qpos[self._fingers] = FINGER_OPEN
        self._data.qvel[:] = 0.0
        self._data.ctrl[:7] = self._joints
        self._data.ctrl[7:] = FINGER_OPEN
        mujoco.mj_forward(self._model, self._data)

    def fork(self, data: MjData) -> Controller:
        """The same controller for a copy of the simulation's state."""
        other = copy.copy(self)
        other._data = data
        return other

    def step(self, action: np.ndarray) -> None:
        """Applies one action (see :data:`ACTION_CONTRACT`) for ``1 / CONTROL_HZ`` seconds of simulated time."""
        self.target_position = np.clip(
            self.target_position + _shorten(np.asarray(action[:3], float), MAX_TRANSLATION), _LOW, _HIGH
        )
        here = self.tool_position
        self.target_position = here + _shorten(self.target_position - here, _LEASH)
        turn = rotation_matrix(_shorten(np.asarray(action[3:6], float), MAX_ROTATION))
        self.target_rotation = turn @ self.target_rotation
        before = self._joints.copy()
        self._solve(iterations=4)
        self._data.ctrl[7:] = FINGER_OPEN if action[6] > 0.5 else -0.01
        pieces = 5
        for piece in range(1, pieces + 1):
            self._data.ctrl[:7] = before + (self._joints - before) * piece / pieces
            mujoco.mj_step(self._model, self._data, SUBSTEPS // pieces)
        mujoco.mj_forward(self._model, self._data)

    def _solve(self, iterations: int) -> None:
        """Damped least squares from the last joint targets, with a pull towards the rest pose in the null space."""
        ghost, eye = self._ghost, np.eye(7)
        ghost.qpos[:] = self._data.qpos
        for _ in range(iterations):
            ghost.qpos[self._qpos] = self._joints
            mujoco.mj_kinematics(self._model, ghost)
            mujoco.mj_comPos(self._model, ghost)
            mujoco.mj_jacSite(self._model, ghost, self._jacobian[:3], self._jacobian[3:], self._site)
            rotation = ghost.site_xmat[self._site].reshape(3, 3)
            error = np.concatenate(
                [
                    self.target_position - ghost.site_xpos[self._site],
                    rotation_vector(self.target_rotation @ rotation.T),
                ]
            )
            jacobian = self._jacobian[:, self._dofs]
            inverse = jacobian.T @ np.linalg.inv(jacobian @ jacobian.T + _DAMPING**2 * np.eye(6))
            rest = (eye - inverse @ jacobian) @ (0.1 * (np.array(HOME) - self._joints))
            step = _shorten(inverse @ error + rest, 0.6)
            self._joints = np.clip(self._joints + step, self._range[:, 0], self._range[:, 1])
