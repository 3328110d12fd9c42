"""What commands say to a person (stderr) and to a program (stdout)."""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any


def say(text: str = "") -> None:
    """A line for the person at the terminal; on stderr, so that stdout stays clean for results."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def emit(text: str) -> None:
    """A result on stdout."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def write_json(path: Path, value: Any) -> None:
    """JSON to a file, atomically."""
    write_atomic(path, (json.dumps(value, indent=2) + "\n").encode())


def write_atomic(path: Path, content: bytes) -> None:
    """Bytes to a file: the old content or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


__all__ = ["emit", "say", "write_atomic", "write_json"]
