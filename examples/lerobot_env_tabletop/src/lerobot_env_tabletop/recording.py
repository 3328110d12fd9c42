"""Plays one demonstration and labels every frame of it."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from .env import TabletopEnv
from .episodes import Episode, make_episode
from .expert import Expert
from .labels import CameraLabels, Labeler, trace_in_view
from .other_orders import other_orders
from .perturbation import Perturbation
from .projection import CameraPose, camera_pose
from .scene import CAMERAS
from .simulation import Simulation

_RECORDED_SEEDS = 10_000_000
_MAX_ATTEMPTS = 20


@dataclass
class Demonstration:
    """A successful episode, frame by frame; frame t is what was seen before action t.

    Attributes:
        episode: What was drawn.
        images: Per camera, ``uint8 [len(seen), size, size, 3]``.
        states, actions: ``float32 [n, 8]`` and ``[n, 7]``; the actions are the expert's own, without perturbation.
        tool_path: Tool points ``[n + 1, 3]`` in metres; the last is where the tool ends.
        order_ends: For each order, the index into ``tool_path`` at which it was fulfilled.
        order_index: Which order was being followed, ``int [n]``.
        phases, subtasks: What the expert was doing, ``n`` names and sentences.
        seen: Indices of the frames that were looked at; all ``n`` unless a stride says otherwise.
        labels: Per camera, the labels of the frames in ``seen``; ``images`` has these frames as well.
        poses: Per camera, its pose at these frames.
    """

    episode: Episode
    images: dict[str, np.ndarray]
    states: np.ndarray
    actions: np.ndarray
    tool_path: np.ndarray
    order_ends: list[int]
    order_index: np.ndarray
    phases: list[str]
    subtasks: list[str]
    seen: list[int]
    labels: dict[str, list[CameraLabels]]
    poses: dict[str, list[CameraPose]]

    def __len__(self) -> int:
        return len(self.actions)


class _Log:
    """Collects the frames of a running episode."""

    def __init__(
        self,
        env: TabletopEnv,
        expert: Expert,
        seed: list[int],
        pixels: bool,
        stride: int,
        orders: int,
    ) -> None:
        self._env, self._expert, self._stride, self._orders = env, expert, stride, orders
        rng, self._rng = np.random.default_rng([*seed, 2]), np.random.default_rng([*seed, 3])
        self._first = int(rng.integers(stride)) if stride > 1 else 0
        self.seen: list[int] = []
        self._labeler = Labeler(env.simulation, env.renderer, rng) if pixels else None
        self.images: dict[str, list[np.ndarray]] = {camera: [] for camera in CAMERAS}
        self.labels: dict[str, list[CameraLabels]] = {camera: [] for camera in CAMERAS}
        self.poses: dict[str, list[CameraPose]] = {camera: [] for camera in CAMERAS}
        self.states: list[np.ndarray] = []
        self.actions: list[np.ndarray] = []
        self.path: list[np.ndarray] = []
        self.orders: list[int] = []
        self.order_ends: list[int] = []
        self.phases: list[str] = []
        self.subtasks: list[str] = []

    def see(self) -> None:
        """Takes in the present frame."""
        sim = self._env.simulation
        self.states.append(sim.controller.state())
        self.path.append(sim.controller.tool_position)
        frame = len(self.states) - 1
        if self._labeler is None or frame % self._stride != self._first:
            return
        self.seen.append(frame)
        goal = sim.episode.goals[sim.progress] if sim.progress < len(sim.episode.goals) else None
        others = other_orders(sim, goal, self._expert.phase, self._rng, self._orders)
        for camera in CAMERAS:
            self._env.renderer.update(sim.data, camera)
            self.images[camera].append(self._env.renderer.rgb())
            self.labels[camera].append(self._labeler.label(camera, goal, others))
            self.poses[camera].append(camera_pose(sim.model, sim.data, camera, self._env.image_size))

    def act(self, action: np.ndarray, simulation: Simulation) -> None:
        """Notes the action chosen for the present frame and what the expert was doing."""
        self.actions.append(action)
        self.orders.append(min(simulation.progress, len(simulation.episode.goals) - 1))
        self.phases.append(self._expert.phase)
        self.subtasks.append(self._expert.subtask)


def _draw_traces(log: _Log) -> None:
    for camera in CAMERAS:
        for index, label, pose in zip(log.seen, log.labels[camera], log.poses[camera], strict=True):
            end = log.order_ends[log.orders[index]]
            if end > index:
                label.trace = trace_in_view(pose, np.stack(log.path[index : end + 1]))


def play(
    env: TabletopEnv, episode: Episode, noise: float = 1.0, pixels: bool = True, stride: int = 1, orders: int = 0
) -> Demonstration | None:
    """Lets the expert play an episode and labels its frames; None when it does not succeed.

    Args:
        env: Where to play; its task, split and image size must suit the episode.
        episode: What to play.
        noise: Scale of the perturbations, 0 for none.
        pixels: False leaves images and labels out.
        stride: Look at every so many-th frame only, from a random one on.
        orders: How many other orders to label at a frame that was looked at; see :func:`~.other_orders.other_orders`.
    """
    env.start(episode)
    expert = env.expert()
    seed = [zlib.crc32(f"record/{episode.split}/{episode.task}".encode()), episode.seed]
    perturb = Perturbation(np.random.default_rng([*seed, 1]), noise)
    log, sim = _Log(env, expert, seed, pixels, stride, orders), env.simulation
    while not (sim.success or sim.failed) and sim.steps < episode.max_steps:
        log.see()
        action = expert.act()
        log.act(action, sim)
        sim.step(perturb(action, expert.phase))
        log.order_ends += [sim.steps] * (sim.progress - len(log.order_ends))
    if not sim.success:
        return None
    log.path.append(sim.controller.tool_position)
    _draw_traces(log)
    return Demonstration(
        episode=episode,
        images={camera: np.stack(frames) for camera, frames in log.images.items() if frames},
        states=np.stack(log.states),
        actions=np.stack(log.actions),
        tool_path=np.stack(log.path),
        order_ends=log.order_ends,
        order_index=np.array(log.orders),
        phases=log.phases,
        subtasks=log.subtasks,
        seen=log.seen,
        labels=log.labels,
        poses=log.poses,
    )


def demonstrate(
    index: int,
    seed: int = 0,
    split: str = "train",
    tasks: tuple[str, ...] = ("pick_place",),
    image_size: int = 224,
    noise: float = 1.0,
    pixels: bool = True,
    stride: int = 1,
    orders: int = 0,
) -> Demonstration:
    """Demonstration number ``index`` of a recording; the arguments fix every byte of its states and actions.

    The task is ``tasks[index % len(tasks)]``. An episode that fails, as perturbations can make it, is replaced.

    Raises:
        RuntimeError: If twenty episodes in a row fail.
    """
    task = tasks[index % len(tasks)]
    env = TabletopEnv(task, split, image_size, pixels=False)
    try:
        for attempt in range(_MAX_ATTEMPTS):
            number = _RECORDED_SEEDS * (seed + 1) + index * _MAX_ATTEMPTS + attempt
            demonstration = play(env, make_episode(task, split, number), noise, pixels, stride, orders)
            if demonstration is not None:
                return demonstration
    finally:
        env.close()
    raise RuntimeError(f"The expert failed {_MAX_ATTEMPTS} times in a row at {task!r} of split {split!r}.")
