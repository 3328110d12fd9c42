"""A tabletop manipulation benchmark in MuJoCo for LeRobot policies: find the named object, then move it.

``import lerobot_env_tabletop`` is light. LeRobot imports it by its name when it looks for plugins, and then the
environment type ``tabletop`` registers itself (``lerobot-eval --env.type=tabletop``). A program that imported this
package before LeRobot gets the same by importing ``lerobot_env_tabletop.configuration``.
"""

import sys

from .control import ACTION_CONTRACT, CONTROL_HZ, STATE_CONTRACT
from .env import TabletopEnv, make_env
from .episodes import Episode, make_episode
from .expert import Expert
from .projection import CameraPose, camera_pose, tool_point
from .rendering import RenderingError
from .scene import CAMERAS
from .splits import EVALUATION_SPLITS, SPLITS, Split
from .tasks import TASKS, Goal, Task

if "lerobot" in sys.modules:
    from . import configuration as _configuration  # noqa: F401

__all__ = [
    "ACTION_CONTRACT",
    "CAMERAS",
    "CONTROL_HZ",
    "EVALUATION_SPLITS",
    "SPLITS",
    "STATE_CONTRACT",
    "TASKS",
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
