"""How events that use the model are queued: one at a time, whoever asks."""

from typing import Any

MODEL: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1}

__all__ = ["MODEL"]
