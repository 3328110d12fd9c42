"""Grounding in LeRobot datasets: `language_events` (`vqa`, `trace`) as rows of the grounding schema.

LeRobot stores, per frame and camera, one question with a JSON answer (style `vqa`) and pixel paths (style `trace`):

| answer | becomes |
| --- | --- |
| `{"detections": [{"label", "bbox_format": "xyxy", "bbox"}]}` | boxes |
| `{"label", "point_format": "xy", "point"}`, or several under `keypoints` (ours) | points |
| `{"label", "point_format": "xy", "points"}` (ours; LeRobot registers `trace` without a shape) | a trace |
| `{"label", "count"}`, `{"label", "attribute", "value"}`, `{"subject", "relation", "object"}` | words |

By LeRobot's convention coordinates are pixels of the stored frame, and nothing records or checks it.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from training_st4vla.data.errors import DataError, explain
from training_st4vla.data.grounding.images import LeRobotFrames
from training_st4vla.data.grounding.rows import Row
from training_st4vla.data.lerobot_metadata import DatasetInfo, Episode

EVENTS = "language_events"
TRACE_QUESTION = "{task}"


def has_events(info: DatasetInfo) -> bool:
    """Whether a dataset declares a column of language events."""
    return EVENTS in info.features


def event_rows(frames: LeRobotFrames, coordinate_space: str = "pixel") -> Iterator[Row]:
    """Rows of the grounding schema, frame by frame; no video is decoded.

    Args:
        frames: The dataset.
        coordinate_space: What the numbers are; LeRobot's convention by default.

    Raises:
        DataError: The column is missing, or holds something else than event rows with JSON answers.
    """
    for episode in frames.reader.episodes:
        cells = frames.reader.table(episode, [EVENTS]).column(0).to_pylist()
        for frame, events in enumerate(cells):
            where = f"{frames.info.source}, episode {episode.index}, frame {frame}, {EVENTS}"
            for camera, answers in _by_camera(events or (), where).items():
                reference = _reference(frames, camera, episode, frame, coordinate_space)
                task = episode.tasks[0] if episode.tasks else ""
                for answer in answers:
                    instruction = answer["instruction"].replace("{task}", task)
                    yield {**reference, **answer, "instruction": instruction}


def _reference(frames: LeRobotFrames, camera: str, episode: Episode, frame: int, space: str) -> Row:
    width, height = frames.image_size(frames.camera(camera))
    return {
        "dataset": frames.info.source,
        "camera": camera,
        "episode_index": episode.index,
        "frame_index": frame,
        "image_width": width,
        "image_height": height,
        "coordinate_space": space,
    }


def _by_camera(events: Any, where: str) -> dict[str, list[Row]]:
    """Answers of one frame, by camera. A question holds for the answers of its style that follow it."""
    answers: dict[str, list[Row]] = {}
    questions: dict[tuple[str, str], str] = {}
    for event in events:
        if not isinstance(event, Mapping) or event.get("style") not in ("vqa", "trace") or not event.get("camera"):
            continue
        camera, style, content = str(event["camera"]), str(event["style"]), str(event.get("content") or "")
        if event.get("role") == "user":
            questions[camera, style] = content
        elif event.get("role") == "assistant":
            found = answer_rows(content, questions.get((camera, style), ""), where)
            answers.setdefault(camera, []).extend(found)
    return answers


def answer_rows(content: str, question: str, where: str) -> list[Row]:
    """What one JSON answer says: a row per kind, with `kind`, `instruction` and the coordinates or the words.

    Args:
        content: The answer.
        question: What was asked; empty: a question is made of the labels.
        where: Place named in errors.

    Raises:
        DataError: It is not a JSON object of a known shape.
    """
    try:
        answer = json.loads(content)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, Mapping):
        raise _unknown_shape(where, content)
    rows: list[Row] = []
    if "detections" in answer:
        found = _items(answer["detections"], "bbox", where, content)
        rows.append(_row("box", "boxes", found, question))
    if "keypoints" in answer or "point" in answer:
        found = _items(answer.get("keypoints", [answer]), "point", where, content)
        rows.append(_row("point", "points", found, question))
    if "points" in answer:
        label = str(answer.get("label") or "the gripper")
        row = _row("trace", "traces", [(label, answer["points"])], question)
        rows.append({**row, "instruction": question or TRACE_QUESTION})
    if not rows:
        words = _words(answer)
        if not words or not question:
            raise _unknown_shape(where, content)
        rows.append({"kind": "text", "instruction": question, "text": words})
    return rows


def _row(kind: str, field: str, found: list[tuple[str, Any]], question: str) -> Row:
    labels = [label for label, _ in found]
    return {
        "kind": kind,
        "instruction": question or ", ".join(dict.fromkeys(label for label in labels if label)),
        field: [value for _, value in found],
        "labels": labels,
    }


def _items(found: Any, key: str, where: str, content: str) -> list[tuple[str, Any]]:
    formats = {"bbox": ("bbox_format", "xyxy"), "point": ("point_format", "xy")}
    name, expected = formats[key]
    items = found if isinstance(found, list) else [found]
    if not all(isinstance(item, Mapping) and key in item and item.get(name, expected) == expected for item in items):
        raise _unknown_shape(where, content)
    return [(str(item.get("label") or ""), item[key]) for item in items]


def _words(answer: Mapping[str, Any]) -> str:
    for keys in (("count",), ("value",), ("subject", "relation", "object")):
        if all(answer.get(key) is not None for key in keys):
            return " ".join(str(answer[key]) for key in keys)
    return ""


def _unknown_shape(where: str, content: str) -> DataError:
    return DataError(
        explain(
            "A language event has an unknown shape",
            where=where,
            expected="a JSON object with detections (xyxy), point (xy), points, count, value, or subject, relation "
            "and object",
            found=content if len(content) <= 120 else content[:117] + "...",
            remedy="Correct the event; LeRobot's validator names the shapes of `vqa`.",
        )
    )


__all__ = ["EVENTS", "answer_rows", "event_rows", "has_events"]
