"""How a result was made: command, versions, machine, date."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

VERSIONED = ("st4vla", "torch", "transformers", "diffusers", "lerobot", "trl", "numpy")


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What a reader needs to run it again; printed in the footer.

    Args:
        command (`str`): Exact command line.
        versions (`Mapping[str, str]`): Package versions, Python included.
        machine (`str`): Processor or accelerator, and number of cores.
        threads (`int` or None): Threads used for computing.
        dtype (`str`): Number format of the model, such as `"float32"`.
        date (`str`): ISO 8601 with time zone.
        extra (`Mapping[str, str]`): Anything else: seed, dataset revision, duration.
    """

    command: str
    versions: Mapping[str, str]
    machine: str
    threads: int | None
    dtype: str
    date: str
    extra: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def collect(
        cls, *, dtype: str = "not stated", command: Sequence[str] | None = None, extra: Mapping[str, str] | None = None
    ) -> RunInfo:
        """Reads what can be read from this process. Imports nothing; asks torch only if it is already imported.

        Args:
            dtype (`str`): Number format of the model.
            command (`Sequence[str]`, *optional*): Arguments; `sys.argv` with the program's base name by default.
            extra (`Mapping[str, str]`, *optional*): Further lines.
        """
        arguments = list(command) if command is not None else [Path(sys.argv[0] or "python").name, *sys.argv[1:]]
        torch = sys.modules.get("torch")
        return cls(
            command=shlex.join(arguments),
            versions=_versions(),
            machine=_machine(torch),
            threads=None if torch is None else int(torch.get_num_threads()),
            dtype=dtype,
            date=datetime.now(UTC).astimezone().isoformat(timespec="seconds"),
            extra=dict(extra or {}),
        )

    def lines(self) -> list[tuple[str, str]]:
        """Name and value of each footer line."""
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        threads = "not stated" if self.threads is None else str(self.threads)
        fixed = [("Command", self.command), ("Versions", versions), ("Machine", self.machine), ("Threads", threads)]
        return [*fixed, ("Dtype", self.dtype), ("Date", self.date), *self.extra.items()]


def _versions() -> dict[str, str]:
    found = {"Python": platform.python_version()}
    for name in VERSIONED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _machine(torch: Any) -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parts = [f"{_processor()}, {cores} cores", f"{platform.system()} {platform.machine()}"]
    if torch is not None and torch.cuda.is_initialized():
        parts.insert(0, torch.cuda.get_device_name())
    return "; ".join(parts)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name") and ":" in line]
    return names[0] if names else platform.processor() or platform.machine() or "unknown processor"


__all__ = ["RunInfo"]
