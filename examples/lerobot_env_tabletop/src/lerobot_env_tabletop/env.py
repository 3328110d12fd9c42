"""The Gymnasium environment: a named object among others, and a sentence that says what to do with it."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from .control import CONTROL_HZ
from .episodes import Episode, make_episode
from .expert import Expert, expert_rng, way_of_order
from .labels import CameraLabels, Labeler, trace_in_view
from .projection import camera_pose
from .rendering import Renderer
from .scene import CAMERAS, MAX_IMAGE_SIZE
from .simulation import Simulation
from .splits import get_split
from .tasks import TASKS, Goal

DEFAULT_IMAGE_SIZE = 224


class TabletopEnv(gym.Env[dict[str, Any], np.ndarray]):
    """One task of one split. Task, split and the seed given to :meth:`reset` fix everything that happens.

    Observations are ``{"pixels": {"front", "wrist"}, "agent_pos"}``: ``uint8 [size, size, 3]`` images and the
    ``float32 [8]`` state of ``STATE_CONTRACT``. Actions are the ``float32 [7]`` of ``ACTION_CONTRACT``. The reward is
    1 on the step that succeeds, which also ends the episode.

    ``info`` holds at every step ``is_success``, ``found_target`` (whether the first object that the gripper came down
    to is the named one), ``progress`` (orders fulfilled), ``task``, ``split``, ``seed`` and ``instruction``.
    :meth:`ground_truth` gives the labels of the present frame.

    Args:
        task: A name of ``TASKS``.
        split: A name of ``SPLITS``.
        image_size: Width and height of the images in pixels, 16 to 640.
        seed: Seed of the first :meth:`reset` when none is given there.
        max_steps: Episode length limit in control steps; None takes the task's own (per order of the instruction).
        pixels: False leaves the images out: scripted policies then run about ten times as fast.

    Raises:
        ValueError: For an unknown task or split or an impossible image size.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": CONTROL_HZ}  # noqa: RUF012
    render_mode = "rgb_array"

    def __init__(
        self,
        task: str = "pick_place",
        split: str = "in_distribution",
        image_size: int = DEFAULT_IMAGE_SIZE,
        seed: int | None = None,
        max_steps: int | None = None,
        pixels: bool = True,
    ) -> None:
        if task not in get_split(split).tasks:
            raise ValueError(f"Split {split!r} has no task {task!r}; it has: {', '.join(get_split(split).tasks)}.")
        if not 16 <= image_size <= MAX_IMAGE_SIZE:
            raise ValueError(f"image_size must be 16 to {MAX_IMAGE_SIZE} pixels, not {image_size}.")
        self.task = task
        self.split = split
        self.image_size = image_size
        self.task_description = ""
        orders = 4 if task == "long_horizon" else 1
        self._limit = max_steps
        # LeRobot reads this from one environment of a batch: no episode of the task may need more.
        self._max_episode_steps = max_steps or TASKS[task].max_steps * orders
        self._first_seed = seed
        self._with_pixels = pixels
        self._simulation: Simulation | None = None
        self._renderer: Renderer | None = None
        self._labeler: Labeler | None = None
        self.action_space = gym.spaces.Box(-1.0, 1.0, (7,), np.float32)
        spaces: dict[str, gym.Space[Any]] = {"agent_pos": gym.spaces.Box(-np.inf, np.inf, (8,), np.float32)}
        if pixels:
            image = gym.spaces.Box(0, 255, (image_size, image_size, 3), np.uint8)
            spaces["pixels"] = gym.spaces.Dict(dict.fromkeys(CAMERAS, image))
        self.observation_space = gym.spaces.Dict(spaces)  # type: ignore[assignment]

    @property
    def simulation(self) -> Simulation:
        """The running episode, with the simulator's true state.

        Raises:
            RuntimeError: Before the first :meth:`reset`.
        """
        if self._simulation is None:
            raise RuntimeError("TabletopEnv has no running episode yet: call reset() first.")
        return self._simulation

    @property
    def episode(self) -> Episode:
        """What was drawn for the running episode."""
        return self.simulation.episode

    @property
    def renderer(self) -> Renderer:
        """The renderer of the running episode, made when first needed (in the process that needs it)."""
        if self._renderer is None:
            self._renderer = Renderer(self.simulation.model, self.image_size)
        return self._renderer

    def expert(self, goals: tuple[Goal, ...] | None = None) -> Expert:
        """The scripted expert for the running episode; ``goals`` makes it pursue something else."""
        return Expert(self.simulation, expert_rng(self.split, self.task, self.episode.seed), goals)

    def ground_truth(self, camera: str = "front", trace: bool = False) -> CameraLabels:
        """Labels of the present frame: visible boxes, the named target and destination, free space, in pixels.

        Args:
            camera: A name of ``CAMERAS``.
            trace: Also where the expert would move the tool point from here to the end of the current order. It is
                simulated in a copy, which takes as long as playing it.
        """
        sim = self.simulation
        if self._labeler is None:
            self._labeler = Labeler(sim, self.renderer, np.random.default_rng(self.episode.seed))
        self.renderer.update(sim.data, camera)
        goals = sim.episode.goals
        labels = self._labeler.label(camera, goals[sim.progress] if sim.progress < len(goals) else None)
        if trace and labels.goal is not None:
            pose = camera_pose(sim.model, sim.data, camera, self.image_size)
            labels.trace = trace_in_view(pose, self._expected_path())
        return labels

    def _expected_path(self) -> np.ndarray:
        """Tool points ``[n, 3]`` in metres that the expert would visit from here to the end of the current order."""
        sim = self.simulation.fork()
        expert = Expert(sim, expert_rng(self.split, self.task, self.episode.seed))
        return way_of_order(sim, expert, TASKS[self.task].max_steps)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], dict]:
        """Draws and starts the episode of ``seed``; without one, the next of the environment's own random stream."""
        if seed is None and self._first_seed is not None:
            seed = self._first_seed
        self._first_seed = None
        super().reset(seed=seed)
        if seed is None:
            seed = int(self.np_random.integers(2**31))
        return self.start(make_episode(self.task, self.split, seed))

    def start(self, episode: Episode) -> tuple[dict[str, Any], dict[str, Any]]:
        """Starts a given episode (for instance one whose words were exchanged); returns observation and info."""
        self._close_renderer()
        self._simulation = Simulation(episode)
        self.task_description = episode.instruction
        return self._observe(), self._info()

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Applies one action; returns observation, reward, terminated, truncated, info.

        Raises:
            ValueError: If the action is not seven finite numbers.
        """
        action = np.asarray(action, np.float32)
        if action.shape != (7,) or not np.isfinite(action).all():
            raise ValueError(f"An action is 7 finite numbers (see ACTION_CONTRACT), got {action!r}.")
        self.simulation.step(action)
        success = self.simulation.success
        truncated = not success and self.simulation.steps >= (self._limit or self.episode.max_steps)
        return self._observe(), float(success), success, truncated, self._info()

    def render(self) -> np.ndarray:  # type: ignore[override]
        """Front and wrist view side by side, ``uint8 [size, 2 * size, 3]``."""
        return np.concatenate([self._image(camera) for camera in CAMERAS], axis=1)

    def close(self) -> None:
        """Frees the renderer."""
        self._close_renderer()

    def _close_renderer(self) -> None:
        self._labeler = None
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _image(self, camera: str) -> np.ndarray:
        self.renderer.update(self.simulation.data, camera)
        return self.renderer.rgb()

    def _observe(self) -> dict[str, Any]:
        observation: dict[str, Any] = {"agent_pos": self.simulation.controller.state()}
        if self._with_pixels:
            observation["pixels"] = {camera: self._image(camera) for camera in CAMERAS}
        return observation

    def _info(self) -> dict[str, Any]:
        return {
            "is_success": self.simulation.success,
            "found_target": self.simulation.found_target,
            "progress": self.simulation.progress,
            "task": self.task,
            "split": self.split,
            "seed": self.episode.seed,
            "instruction": self.task_description,
        }


def make_env(
    task: str = "pick_place",
    split: str = "in_distribution",
    seed: int | None = None,
    image_size: int = DEFAULT_IMAGE_SIZE,
    **options: Any,
) -> TabletopEnv:
    """A :class:`TabletopEnv`; ``options`` are its other arguments."""
    return TabletopEnv(task=task, split=split, image_size=image_size, seed=seed, **options)
