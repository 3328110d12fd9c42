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
# MuJoCo reads this once, on import, and fails there when told to use a library that is absent.
if sys.platform.startswith("linux") and not os.environ.get("MUJOCO_GL"):
    available = "egl" if loads(*EGL) else "osmesa" if loads(*OSMESA) else ""
    if available:
        os.environ["MUJOCO_GL"] = available

mujoco: Any = importlib.import_module("mujoco")
type MjModel = Any
"""A compiled ``mujoco.MjModel``."""
type MjData = Any
"""A ``mujoco.MjData``."""
