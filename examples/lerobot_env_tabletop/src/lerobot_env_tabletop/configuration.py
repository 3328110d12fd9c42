"""LeRobot's view of the environment: ``--env.type=tabletop`` with any policy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import gymnasium as gym
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig
from lerobot.envs.utils import _LazyAsyncVectorEnv
from lerobot.utils.constants import ACTION, OBS_IMAGES, OBS_STATE

from .control import CONTROL_HZ
from .env import DEFAULT_IMAGE_SIZE, make_env
from .scene import CAMERAS
from .splits import get_split

_VectorEnvs = dict[str, dict[int, gym.vector.VectorEnv]]


@EnvConfig.register_subclass("tabletop")
@dataclass
class TabletopEnvConfig(EnvConfig):
    """Configuration of ``lerobot-eval --env.type=tabletop`` and of evaluation inside ``lerobot-train``.

    Attributes:
        task: Task names separated by commas; None or ``all`` takes every task of the split.
        split: What varies, a name of ``SPLITS``. Its pinned seeds start at 1000, as ``lerobot-eval``'s do.
        fps: Control rate; fixed.
        image_size: Width and height of both images in pixels.
        episode_length: Limit in control steps; None takes the task's own.
    """

    task: str | None = None
    split: str = "in_distribution"
    fps: int = CONTROL_HZ
    image_size: int = DEFAULT_IMAGE_SIZE
    episode_length: int | None = None
    features: dict[str, PolicyFeature] = field(
        default_factory=lambda: {
            ACTION: PolicyFeature(type=FeatureType.ACTION, shape=(7,)),
            "agent_pos": PolicyFeature(type=FeatureType.STATE, shape=(8,)),
        }
    )
    features_map: dict[str, str] = field(
        default_factory=lambda: {
            ACTION: ACTION,
            "agent_pos": OBS_STATE,
            **{f"pixels/{camera}": f"{OBS_IMAGES}.{camera}" for camera in CAMERAS},
        }
    )

    def __post_init__(self) -> None:
        if self.fps != CONTROL_HZ:
            raise ValueError(f"The tabletop runs at {CONTROL_HZ} Hz; --env.fps={self.fps} is not possible.")
        self.tasks()
        for camera in CAMERAS:
            shape = (self.image_size, self.image_size, 3)
            self.features[f"pixels/{camera}"] = PolicyFeature(type=FeatureType.VISUAL, shape=shape)

    def tasks(self) -> list[str]:
        """The chosen tasks.

        Raises:
            ValueError: If the split does not hold one of them.
        """
        known = get_split(self.split).tasks
        chosen = list(known) if self.task in (None, "all") else [name.strip() for name in str(self.task).split(",")]
        unknown = [name for name in chosen if name not in known]
        if unknown:
            raise ValueError(f"Split {self.split!r} has no task {', '.join(unknown)}; it has: {', '.join(known)}.")
        return chosen

    @property
    def gym_kwargs(self) -> dict[str, Any]:
        """Arguments of the environment apart from its task."""
        return {"split": self.split, "image_size": self.image_size, "max_steps": self.episode_length}

    def create_envs(self, n_envs: int, use_async_envs: bool = False) -> _VectorEnvs:
        """One vector environment per task, ``{split: {task number: environments}}``.

        Processes start only when a task's turn comes: each imports LeRobot, about 1 GB.
        """
        same_step = gym.vector.AutoresetMode.SAME_STEP
        made: dict[int, gym.vector.VectorEnv] = {}
        for index, task in enumerate(self.tasks()):
            makers: list[Callable[[], gym.Env]] = [partial(make_env, task=task, **self.gym_kwargs)] * n_envs
            if use_async_envs and n_envs > 1:
                made[index] = cast(gym.vector.VectorEnv, _LazyAsyncVectorEnv(makers))
            else:
                made[index] = gym.vector.SyncVectorEnv(makers, autoreset_mode=same_step)
        return {self.split: made}
