"""Checks labels against an independent account of the same frame: geometry, and MuJoCo's own renderer.

* A box is compared with the extent of the item's surface, projected from its pose by a camera matrix built here.
* Points, of every item and of the order, are looked up in a segmentation made by ``mujoco.Renderer``.
* Traces are compared with where the tool really went when the same actions are played again.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .engine import MjData, MjModel, mujoco
from .env import TabletopEnv
from .episodes import make_episode
from .labels import CameraLabels, Labeler
from .recording import Demonstration, play
from .scene import CAMERAS, FINE

_HIDDEN_GROUP = 5


def camera_matrix(model: MjModel, data: MjData, camera: str, size: int) -> np.ndarray:
    """Projection matrix ``[3, 4]`` from metres to homogeneous pixels."""
    index = model.camera(camera).id
    focal = size / (2 * np.tan(np.radians(model.cam_fovy[index]) / 2))
    intrinsics = np.array([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]])
    to_image = np.diag([1.0, -1.0, -1.0]) @ data.cam_xmat[index].reshape(3, 3).T
    return intrinsics @ np.hstack([to_image, -(to_image @ data.cam_xpos[index])[:, None]])


def _surface(kind: int, size: np.ndarray) -> np.ndarray:
    """Points whose extent is that of a geom, ``[n, 3]`` in its own frame."""
    angle = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    if kind == mujoco.mjtGeom.mjGEOM_BOX:
        return np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * size
    if kind == mujoco.mjtGeom.mjGEOM_CYLINDER:
        rim = np.stack([size[0] * np.cos(angle), size[0] * np.sin(angle), np.full(96, size[1])], axis=-1)
        return np.concatenate([rim, rim * [1, 1, -1]])
    radii = np.full(3, size[0]) if kind == mujoco.mjtGeom.mjGEOM_SPHERE else size
    polar = np.linspace(0, np.pi, 49)[:, None]
    ball = np.stack([np.sin(polar) * np.cos(angle), np.sin(polar) * np.sin(angle), np.cos(polar) + 0 * angle], axis=-1)
    return ball.reshape(-1, 3) * radii


def projected_box(model: MjModel, data: MjData, body: int, matrix: np.ndarray, size: int) -> np.ndarray | None:
    """Box ``[4]`` around a body's projected surface, clipped to the image; None when partly behind the camera."""
    points = [
        _surface(model.geom_type[g], model.geom_size[g]) @ data.geom_xmat[g].reshape(3, 3).T + data.geom_xpos[g]
        for g in range(model.ngeom)
        if model.geom_bodyid[g] == body
    ]
    cloud = np.concatenate(points)
    homogeneous = np.hstack([cloud, np.ones((len(cloud), 1))]) @ matrix.T
    if homogeneous[:, 2].min() < 0.02:
        return None
    pixels = homogeneous[:, :2] / homogeneous[:, 2:]
    return np.clip(np.concatenate([pixels.min(axis=0), pixels.max(axis=0)]), 0, size)


def _segment(renderer: Any, data: MjData, camera: str, option: Any) -> np.ndarray:
    renderer.update_scene(data, camera=camera, scene_option=option)
    ids, kinds = np.moveaxis(renderer.render(), -1, 0)
    return np.where(kinds == int(mujoco.mjtObj.mjOBJ_GEOM), ids, -1)


def _alone(model: MjModel, data: MjData, body: int, camera: str, renderer: Any) -> np.ndarray:
    """Mask ``[H, W]`` of a body with everything else out of the way."""
    option, groups = mujoco.MjvOption(), model.geom_group.copy()
    option.geomgroup[_HIDDEN_GROUP] = 0
    model.geom_group[model.geom_bodyid != body] = _HIDDEN_GROUP
    try:
        return _segment(renderer, data, camera, option) >= 0
    finally:
        model.geom_group[:] = groups


def _box_of(mask: np.ndarray) -> np.ndarray:
    rows, columns = np.nonzero(mask)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], float)


class _Tally:
    def __init__(self) -> None:
        whole = ("frames", "boxes", "boxes_wrong", "boxes_projected", "occluded_boxes")
        whole += ("points", "points_wrong", "traces", "traces_wrong")
        self.counts: dict[str, float] = dict.fromkeys(whole, 0)
        self.counts |= {"worst_box_error_px": 0.0, "worst_trace_error_px": 0.0}

    def box(self, error: float, occluded: bool, projected: bool) -> None:
        self.counts["boxes"] += 1
        self.counts["boxes_projected"] += projected
        self.counts["occluded_boxes"] += occluded
        self.counts["boxes_wrong"] += error > 1.0
        self.counts["worst_box_error_px"] = max(self.counts["worst_box_error_px"], round(error, 3))

    def point(self, right: bool) -> None:
        self.counts["points"] += 1
        self.counts["points_wrong"] += not right

    def trace(self, error: float) -> None:
        self.counts["traces"] += 1
        self.counts["traces_wrong"] += error > 1.0
        self.counts["worst_trace_error_px"] = max(self.counts["worst_trace_error_px"], round(error, 3))


def _check_camera(env: TabletopEnv, label: CameraLabels, renderer: Any, fine: Any, tally: _Tally) -> None:
    sim, size = env.simulation, env.image_size
    matrix = camera_matrix(sim.model, sim.data, label.camera, size)
    geoms = _segment(renderer, sim.data, label.camera, mujoco.MjvOption())
    bodies = np.where(geoms >= 0, sim.model.geom_bodyid[np.maximum(geoms, 0)], -1)
    close = _segment(fine, sim.data, label.camera, mujoco.MjvOption())
    close = np.where(close >= 0, sim.model.geom_bodyid[np.maximum(close, 0)], -1)
    for name, seen in label.visible.items():
        body = sim.body_id(name)
        tally.point(bodies[int(seen.point[1]), int(seen.point[0])] == body)
        expected = projected_box(sim.model, sim.data, body, matrix, size)
        mask = _alone(sim.model, sim.data, body, label.camera, fine)
        if expected is None or not mask.any():
            continue
        whole, box = _box_of(mask) / FINE, np.array(seen.box)
        outside = max(0.0, *(whole[:2] - box[:2]), *(box[2:] - whole[2:]))
        occluded = int((close == body).sum()) < int(mask.sum())
        wrong = 0.0 if occluded else float(np.abs(box - whole).max())
        visible = float(np.abs(box - _box_of(close == body) / FINE).max())
        inside = bool(expected.min() > 0 and expected.max() < size)  # the extent of a part is not a part of the extent
        projection = float(np.abs(whole - expected).max()) if inside else 0.0
        tally.box(max(projection, outside, wrong, visible), occluded, inside)
    goal = sim.episode.goals[min(sim.progress, len(sim.episode.goals) - 1)]
    if label.target is not None:
        tally.point(bodies[int(label.target[1]), int(label.target[0])] == sim.body_id(goal.target))
    if label.destination is not None:
        on_item = goal.action in ("put", "push", "stack")
        wanted = sim.body_id(goal.destinations[0]) if on_item else 0
        tally.point(bodies[int(label.destination[1]), int(label.destination[0])] == wanted)
    for x, y in label.free:
        tally.point(geoms[int(y), int(x)] == sim.model.geom("table").id)


def _check_traces(env: TabletopEnv, demo: Demonstration, frames: list[int], tally: _Tally) -> None:
    """Plays the recorded actions again; where the tool is then is where the traces must lead."""
    env.start(demo.episode)
    sim, matrices, tool = env.simulation, {}, [env.simulation.controller.tool_position]
    for index, action in enumerate(demo.actions):
        for camera in CAMERAS if index in frames else ():
            matrices[index, camera] = camera_matrix(sim.model, sim.data, camera, env.image_size)
        sim.step(action)
        tool.append(sim.controller.tool_position)
    for (index, camera), matrix in matrices.items():
        trace = demo.labels[camera][index].trace
        if trace is not None:
            ends = np.array([tool[index], tool[demo.order_ends[int(demo.order_index[index])]]])
            pixels = np.hstack([ends, np.ones((2, 1))]) @ matrix.T
            tally.trace(float(np.abs(pixels[:, :2] / pixels[:, 2:] - trace[[0, -1]]).max()))


def check_frames(task: str, frames: int, image_size: int = 224, seed: int = 0) -> dict[str, float]:
    """Checks the labels of random frames of a task's training episodes.

    Args:
        task: A name of ``TASKS``.
        frames: How many frames, both cameras each.
        image_size: Width and height in pixels.
        seed: Which frames.

    Returns:
        Counts of what was checked and what was wrong (``*_wrong``), and the worst errors in pixels.
    """
    rng, tally = np.random.default_rng([seed, len(task)]), _Tally()
    env = TabletopEnv(task, "train", image_size, pixels=False)
    number = 0
    while tally.counts["frames"] < frames:
        number += 1
        demo = play(env, make_episode(task, "train", 5_000_000 + number), noise=0.0)
        if demo is None:
            continue
        chosen = rng.choice(len(demo), min(8, frames - int(tally.counts["frames"])), replace=False)
        _check_traces(env, demo, [int(i) for i in chosen], tally)
        env.start(demo.episode)
        labeler = Labeler(env.simulation, env.renderer, rng)
        sizes = (image_size, FINE * image_size)
        renderer, fine = (mujoco.Renderer(env.simulation.model, size, size) for size in sizes)
        for each in (renderer, fine):
            each.enable_segmentation_rendering()
        for index, action in enumerate(demo.actions):
            if index in chosen:
                tally.counts["frames"] += 1
                sim = env.simulation
                for camera in CAMERAS:
                    env.renderer.update(sim.data, camera)
                    label = labeler.label(camera, sim.episode.goals[min(sim.progress, len(sim.episode.goals) - 1)])
                    _check_camera(env, label, renderer, fine, tally)
            env.simulation.step(action)
        renderer.close()
        fine.close()
    env.close()
    return tally.counts
