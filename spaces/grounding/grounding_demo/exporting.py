"""Corrected answers as rows for a LeRobot dataset."""

import json
from collections.abc import Mapping
from typing import Any

from grounding_demo.overlay import corrected
from training_st4vla.errors import UserError


def events_jsonl(
    shown: Mapping[str, Any] | None, camera: str, question: str, reference: Mapping[str, Any] | None = None
) -> str:
    """
    Rows of LeRobot's `language_events` (`vqa`, `trace`), one JSON object a line.

    Each line holds the five keys of an event (`role`, `content`, `style`, `camera`, `tool_calls`) and says which
    picture it is about: `image` and `image_size`, and what is in `reference` (a dataset's episode and frame).

    Args:
        shown: a value of the overlay. camera: `observation.images.<name>`. question: what was asked.

    Raises:
        UserError: when nothing is shown. ValueError: for coordinates or a camera that are none.
    """
    pictures = (shown or {}).get("pictures") or []
    if not pictures:
        raise UserError("there is nothing to export yet. Ask first.")
    lines = []
    for one in pictures:
        result = corrected(one)
        about = {"image": one.get("name"), "image_size": list(result.image_size), **(reference or {})}
        lines += [
            json.dumps({**event, **about}, ensure_ascii=False)
            for event in result.to_lerobot_events(camera.strip(), question.strip() or None)
        ]
    if not lines:
        raise UserError("there is no point, box or trace to export.")
    return "\n".join(lines) + "\n"


__all__ = ["events_jsonl"]
