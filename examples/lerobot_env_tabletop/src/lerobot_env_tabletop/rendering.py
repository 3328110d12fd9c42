"""Offscreen rendering: EGL first, OSMesa second, one graphics context per process.

Images are ``uint8 [H, W, 3]``, origin top left. Segmentations are ``int16 [H, W]`` of geom ids, -1 for nothing.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from .engine import EGL, OSMESA, MjData, MjModel, loads, mujoco

_MISSING = (
    "No offscreen OpenGL for MuJoCo. Tried {tried}. On Debian or Ubuntu install one of\n"
    "  apt-get install -y libegl1 libegl-mesa0 libgl1 libgl1-mesa-dri     (EGL, the default)\n"
    "  apt-get install -y libosmesa6                                      (OSMesa; then set MUJOCO_GL=osmesa)"
)


class RenderingError(RuntimeError):
    """No rendering back end works; the message names the system package to install."""


def _make_egl(size: int) -> Any:
    if not loads(*EGL):
        raise RenderingError("libEGL.so.1 is not installed")
    from mujoco.egl import GLContext

    return GLContext(size, size)


def _make_osmesa(size: int) -> Any:
    if not loads(*OSMESA):
        raise RenderingError("libOSMesa is not installed")
    os.environ["PYOPENGL_PLATFORM"] = "osmesa"
    from mujoco.osmesa import GLContext

    return GLContext(size, size)


def _make_default(size: int) -> Any:
    return mujoco.GLContext(size, size)


def _backends() -> dict[str, Callable[[int], Any]]:
    """What to try, in order: what ``MUJOCO_GL`` names (the package sets it to what is installed), then the others."""
    chosen = os.environ.get("MUJOCO_GL", "").lower()
    makers: dict[str, Callable[[int], Any]] = {"egl": _make_egl, "osmesa": _make_osmesa}
    if not sys.platform.startswith("linux"):
        return {chosen: _make_default}
    if chosen in makers:
        return {chosen: makers[chosen], **makers}
    return {chosen: _make_default, **makers} if chosen == "glfw" else makers


def _make_gl_context(size: int) -> Any:
    tried: list[str] = []
    for name, make in _backends().items():
        try:
            return make(size)
        except Exception as error:  # drivers fail in many ways; the next one may work
            tried.append(f"{name or 'default'} ({type(error).__name__}: {error})")
    raise RenderingError(_MISSING.format(tried="; ".join(tried)))


class _SharedContext:
    """The process's one graphics context: costly to make, and a new model does not need a new one."""

    def __init__(self) -> None:
        self._context: Any = None
        self._pid = 0

    def make_current(self, size: int) -> None:
        if self._context is None or self._pid != os.getpid():
            self._context = _make_gl_context(size)
            self._pid = os.getpid()
        self._context.make_current()

    def free(self) -> None:
        if self._context is not None and self._pid == os.getpid():
            self._context.free()
        self._context = None


_SHARED = _SharedContext()
atexit.register(_SHARED.free)


class Renderer:
    """Renders the cameras of one model as colour images and as geom segmentations.

    Args:
        model: The compiled model; its ``<quality>`` and ``<global>`` settings are read here and never again.
        size: Width and height of the images in pixels; at most the model's offscreen buffer.

    Raises:
        RenderingError: If neither EGL nor OSMesa works.
    """

    def __init__(self, model: MjModel, size: int) -> None:
        self._model = model
        self.size = size
        _SHARED.make_current(size)
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_50)
        self._scene = mujoco.MjvScene(model, maxgeom=400)
        self._option = mujoco.MjvOption()
        self._option.sitegroup[:] = 0
        self._perturb = mujoco.MjvPerturb()
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._flags(segmentation=False)

    def _flags(self, segmentation: bool) -> None:
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SEGMENT] = segmentation
        self._scene.flags[mujoco.mjtRndFlag.mjRND_IDCOLOR] = segmentation
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = not segmentation and self._model.vis.quality.shadowsize > 0
        self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False

    def _draw(self, scale: int = 1) -> np.ndarray:
        # Other environments of this process draw with the same graphics context: take it over, with this buffer.
        _SHARED.make_current(self.size)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        side = scale * self.size
        rect, pixels = mujoco.MjrRect(0, 0, side, side), np.empty((side, side, 3), np.uint8)
        mujoco.mjr_render(rect, self._scene, self._context)
        mujoco.mjr_readPixels(pixels, None, rect, self._context)
        return pixels[::-1]

    def update(self, data: MjData, camera: str) -> None:
        """Looks at the state ``data`` through the fixed camera of that name."""
        self._camera.fixedcamid = self._model.camera(camera).id
        every = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(self._model, data, self._option, self._perturb, self._camera, every, self._scene)

    def rgb(self) -> np.ndarray:
        """The view last given to :meth:`update`, ``uint8 [size, size, 3]``."""
        return np.ascontiguousarray(self._draw())

    def segmentation(
        self, scale: int = 1, by_geom: np.ndarray | None = None, without: Collection[int] = ()
    ) -> np.ndarray:
        """Geom id of every pixel of that view, ``int16 [scale * size, scale * size]``, -1 for nothing.

        Args:
            scale: How many times larger than :meth:`rgb`.
            by_geom: What to say instead of each geom's id, ``int16 [geoms + 1]``; the last entry instead of -1.
            without: Geoms that hide nothing and need not be told from nothing: not drawn, which is faster.
        """
        lookup = np.full(max(256, self._scene.ngeom + 1), -1, np.int16)
        for geom in self._scene.geoms[: self._scene.ngeom]:
            if geom.objtype == mujoco.mjtObj.mjOBJ_GEOM and geom.segid >= 0:
                lookup[geom.segid + 1] = geom.objid
                if geom.objid in without:
                    geom.segid = -1  # until the next `update`
        self._flags(segmentation=True)
        try:
            colour = self._draw(scale)
        finally:
            self._flags(segmentation=False)
        # A colour is a number of 24 bits, red lowest; up to 255 geoms need no more than red.
        small = self._scene.ngeom <= 255
        ids = colour[..., 0] if small else colour.astype(np.int32) @ np.array([1, 1 << 8, 1 << 16], np.int32)
        if by_geom is not None:
            lookup = by_geom[lookup]
        return lookup[ids if small else np.minimum(ids, self._scene.ngeom)]

    def close(self) -> None:
        """Frees what this model occupies on the graphics side; the shared context stays."""
        _SHARED.make_current(self.size)
        self._context.free()
