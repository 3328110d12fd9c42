"""A tabletop manipulation benchmark in MuJoCo for LeRobot policies: find the named object, then move it.

LeRobot imports this package by its name when it looks for plugins; the environment type ``tabletop`` then registers
itself, so that ``lerobot-eval --env.type=tabletop`` works.
"""

import multiprocessing
import sys

from .control import ACTION_CONTRACT, CONTROL_HZ, STATE_CONTRACT
from .env import TabletopEnv, make_env
from .episodes import Episode, make_episode
from .expert import Expert
from .labels import CameraLabels
from .projection import CameraPose, camera_pose, tool_point
from .rendering import RenderingError
from .scene import CAMERAS
from .splits import EVALUATION_SPLITS, SPLITS, Split
from .tasks import TASKS, Goal, Task

# Worker processes of a recording or a vector environment do without LeRobot, which takes seconds to import.
if "lerobot" in sys.modules or multiprocessing.current_process().name == "MainProcess":
    from . import configuration as _configuration  # noqa: F401

__all__ = [
    "ACTION_CONTRACT",
    "CAMERAS",
    "CONTROL_HZ",
    "EVALUATION_SPLITS",
    "SPLITS",
    "STATE_CONTRACT",
    "TASKS",
    "CameraLabels",
    "CameraPose",
    "Episode",
    "Expert",
    "Goal",
    "RenderingError",
    "Split",
    "TabletopEnv",
    "Task",
    "camera_pose",
    "make_env",
    "make_episode",
    "tool_point",
]
