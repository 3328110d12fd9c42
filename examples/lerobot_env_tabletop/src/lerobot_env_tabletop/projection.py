"""From metres in the robot-base frame to pixels: x to the right, y down, origin at the image's top left corner."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .engine import MjData, MjModel


@dataclass(frozen=True)
class CameraPose:
    """A pinhole camera at one moment.

    Attributes:
        position: Where it is, ``[3]`` metres.
        rotation: Columns are its right, up and backward axes, ``[3, 3]``.
        focal: Focal length in pixels.
        size: Width and height of the image in pixels.
    """

    position: np.ndarray
    rotation: np.ndarray
    focal: float
    size: int

    def project(self, points: np.ndarray) -> np.ndarray:
        """Pixels ``[..., 2]`` of points ``[..., 3]``; NaN for points behind the camera."""
        local = (np.asarray(points, float) - self.position) @ self.rotation
        depth = np.where(local[..., 2] < -1e-4, -local[..., 2], np.nan)
        scaled = self.focal * local[..., :2] / depth[..., None]
        return np.stack([self.size / 2 + scaled[..., 0], self.size / 2 - scaled[..., 1]], axis=-1)

    def contains(self, pixels: np.ndarray) -> np.ndarray:
        """Which of the pixels ``[..., 2]`` lie in the image, ``bool [...]``."""
        return np.all((pixels >= 0) & (pixels < self.size), axis=-1)


def camera_pose(model: MjModel, data: MjData, camera: str, size: int) -> CameraPose:
    """Where the named camera is now, for images of ``size`` pixels."""
    index = model.camera(camera).id
    focal = 0.5 * size / float(np.tan(np.deg2rad(model.cam_fovy[index]) / 2))
    return CameraPose(data.cam_xpos[index].copy(), data.cam_xmat[index].reshape(3, 3).copy(), focal, size)


def tool_point(model: MjModel, data: MjData, camera: str, size: int) -> np.ndarray:
    """Pixel ``[2]`` of the tool point (between the fingertips) in the named camera's image of ``size`` pixels."""
    return camera_pose(model, data, camera, size).project(data.site("tool").xpos)
