"""MuJoCo itself, told how to render without a screen. Its native module is untyped: here it becomes Any."""

from __future__ import annotations

import ctypes
import importlib
import os
import sys
from typing import Any


def loads(*libraries: str) -> bool:
    """Whether one of the shared libraries can be loaded."""
    for library in libraries:
        try:
            ctypes.CDLL(library)
        except OSError:
            continue
        return True
    return False


EGL = ("libEGL.so.1",)
OSMESA = ("libOSMesa.so.8", "libOSMesa.so.6")

# Mesa's software rasteriser gains nothing from threads at these sizes; one process per core does. Read when it loads.
os.environ.setdefault("LP_NUM_THREADS", "0")
if sys.platform.startswith("linux"):
    installed = [name for name, libraries in (("egl", EGL), ("osmesa", OSMESA)) if loads(*libraries)]
    wanted = os.environ.get("MUJOCO_GL", "").lower()
    # MuJoCo reads this once, on import, and fails there when told to use a library that is absent. Without any,
    # physics still works, and the renderer says what to install.
    if wanted in ("", "egl", "osmesa") and wanted not in installed:
        os.environ["MUJOCO_GL"] = installed[0] if installed else "disable"

mujoco: Any = importlib.import_module("mujoco")
type MjModel = Any
"""A compiled ``mujoco.MjModel``."""
type MjData = Any
"""A ``mujoco.MjData``."""
