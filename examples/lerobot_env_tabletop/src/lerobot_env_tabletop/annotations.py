"""Labels as the two formats they are stored in: LeRobot language columns and grounding rows.

LeRobot (``lerobot.datasets.language``): ``language_persistent`` holds the sub-task sentences of the episode,
``language_events`` per frame and camera one question with its JSON answer (style ``vqa``) and one pixel trace (style
``trace``). Grounding rows: one question with its answer in pixels, and which frame of which camera it is about.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np

from .labels import Box, CameraLabels, Point, Visible
from .language import Order, describe, phrase, render
from .other_orders import named_order, split_actions
from .paths import corners
from .recording import Demonstration
from .scene import CAMERAS
from .splits import get_split
from .tasks import Goal

LICENSE = "Apache-2.0"
SOURCE = "lerobot_env_tabletop"
COORDINATE_SPACE = "pixel"
PATH_CORNERS = 5
"""A path in so many points, both ends among them: where the gripper is, where it takes, lifts, is above the place, and
puts down. These five are 1.3 % of the diagonal off the whole path while the gripper is free, 0.2 % while it carries
(root of the mean square, 60 and 79 paths at 224 pixels); four were 2.7 and 0.6 %."""


def camera_key(camera: str) -> str:
    """The dataset's feature name of a camera."""
    return f"observation.images.{camera}"


def _round(values: Point | Box) -> list[float]:
    return [round(float(value), 2) for value in values]


def _target_words(demo: Demonstration, frame: int) -> str:
    """How to call the target in this frame: the instruction's words while true, then its full description."""
    index = int(demo.order_index[frame])
    order: Order = demo.episode.orders[index]
    untouched = demo.phases[frame] in ("reach", "descend") and demo.episode.interference is None
    if order.target.category not in ("ordinal", "relation") or untouched:
        return phrase(order.target)
    return f"the {demo.episode.scene.item(demo.episode.goals[index].target).label}"


def _other_items(demo: Demonstration, frame: int, label: CameraLabels) -> Iterator[tuple[Visible, str]]:
    """Visible items that the order does not move, and words for them that stay true wherever things are."""
    goal = demo.episode.goals[int(demo.order_index[frame])]
    rng = np.random.default_rng([*demo.episode.instruction.encode(), frame, *label.camera.encode()])
    others = [shown for name, shown in label.visible.items() if name != goal.target]
    for index in rng.permutation(len(others)):
        reference = describe(others[index].item, demo.episode.scene.items, rng, attributes_only=True)
        if reference is not None:
            yield others[index], phrase(reference)


def _named_orders(demo: Demonstration, frame: int, label: CameraLabels, count: int) -> Iterator[tuple[str, Goal]]:
    """Words and meaning of at most ``count`` orders that are made up of what this camera sees."""
    split, actions = get_split(demo.episode.split), split_actions(demo.episode.split)
    rng = np.random.default_rng([*demo.episode.instruction.encode(), frame, *label.camera.encode(), 1])
    items = [shown.item for shown in label.visible.values() if shown.item.mentionable]
    for _ in range(count):
        made = named_order(items, demo.episode.scene, actions, rng)
        if made is not None:
            order, goal = made
            yield render((order,), rng, split.unseen_wording), goal


def frame_answers(
    demo: Demonstration,
    frame: int,
    label: CameraLabels,
    other_items: int | None = 1,
    whole_paths: bool = True,
    named_orders: int = 0,
) -> list[dict[str, Any]]:
    """Every question that this frame of this camera answers.

    Args:
        demo: The episode.
        frame: Which of its frames.
        label: What the camera sees in it.
        other_items: Of how many items that the order is not about it is asked where they are; None for all.
        whole_paths: Whether paths are given as they are, or by their :data:`PATH_CORNERS` corners.
        named_orders: Orders made up of what is in view (:func:`~.other_orders.named_order`), asked only for their
            things; fewer where the image shows too little.

    Returns:
        Dicts with ``role``, ``kind``, ``instruction``, ``points``, ``boxes``, ``traces`` and ``labels`` (one
        per point, then per box, then per trace) and ``question``: ``spatial`` for the instruction itself as it is
        asked for acting (role ``task``: what to take and where it goes), else ``kind``. Roles: ``objects`` (all of
        them), ``object`` (one that the order is not about), ``target``, ``place``, ``free_space``, ``gripper`` (its
        path for the instruction), ``task``. Boxes beside a point are the region in which a point is right; boxes and
        points beside a path are what it goes by: what is taken, where to, and the path's corners from its end on.
        Answers to other orders have their own ``subtask``, those to made-up ones have None.
    """
    goal = demo.episode.goals[int(demo.order_index[frame])]
    words, task = _target_words(demo, frame), demo.episode.instruction
    target, place = label.visible.get(goal.target), label.visible.get(goal.destinations[0])
    # From left to right: an order that can be seen in the picture, and so be learnt.
    seen = sorted(label.visible.values(), key=lambda shown: shown.box)
    answers: list[dict[str, Any]] = []

    def add(
        role: str, words: str, points: Any = (), boxes: Any = (), traces: Any = (), labels: Any = (), **more: Any
    ) -> None:
        kind = "trace" if traces else "point" if points else "box"
        if any((known["kind"], known["instruction"]) == (kind, words) for known in answers):
            return  # the same thing under another role
        answers.append(
            {
                "role": role,
                "kind": kind,
                "question": "spatial" if role == "task" else "kind",
                "instruction": words,
                "points": [_round(p) for p in points],
                "boxes": [_round(b) for b in boxes],
                "traces": [[_round(p) for p in t] for t in traces],
                "labels": list(labels),
                **more,
            }
        )

    # What is asked of an order, the episode's own or another.

    def concerned(goal: Goal) -> list[Visible]:
        names = (goal.target, *goal.destinations) if goal.target in label.visible else ()
        return [label.visible[name] for name in names if name in label.visible]

    def ask_task(task: str, goal: Goal, **more: Any) -> None:
        things = concerned(goal)
        if things:
            add("task", task, boxes=[one.box for one in things], labels=[one.item.label for one in things], **more)

    def ask_place(words: str, task: str, point: Point | None, **more: Any) -> None:
        if point is not None:
            add("place", f"the place to put {words} for the task: {task}", points=[point], labels=["place"], **more)

    def ask_path(task: str, goal: Goal, trace: np.ndarray | None, **more: Any) -> None:
        if trace is None:
            return
        things, turns = concerned(goal), corners(trace, PATH_CORNERS)
        points = turns[:0:-1]  # from the end back: where it ends follows from the things, the rest from where it ends
        labels = ["end", *["via"] * (len(points) - 1), *[one.item.label for one in things], "gripper"]
        path = trace if whole_paths else turns
        add(
            "gripper",
            task,
            points=list(points),
            boxes=[one.box for one in things],
            traces=[path],
            labels=labels,
            **more,
        )

    if seen:
        add("objects", "everything on the table", boxes=[v.box for v in seen], labels=[v.item.label for v in seen])
    if target is not None:
        add("target", words, boxes=[target.box], labels=[target.item.label])
    for shown, name in islice(_other_items(demo, frame, label), other_items):
        add("object", name, boxes=[shown.box], labels=[shown.item.label])
        add("object", name, points=[shown.point], boxes=[shown.box], labels=[name, shown.item.label])
    if label.target is not None:
        region = [] if target is None else [target]
        boxes, names = [one.box for one in region], [one.item.label for one in region]
        add("target", words, points=[label.target], boxes=boxes, labels=[words, *names])
    ask_place(words, task, label.destination)
    if place is not None and goal.action in ("put", "push", "stack"):
        reference = demo.episode.orders[int(demo.order_index[frame])].destinations[0]
        add("place", phrase(reference), boxes=[place.box], labels=[place.item.label])
    ask_task(task, goal)
    if label.free:
        add("free_space", "free space on the table", points=label.free, labels=["free space"] * len(label.free))
    if label.free_region is not None:
        add("free_space", "the largest free region of the table", boxes=[label.free_region], labels=["free space"])
    ask_path(task, goal, label.trace)
    for other in label.others:
        order = other.order
        ask_task(order.instruction, order.goal, subtask=order.subtask)
        ask_place(phrase(order.order.target), order.instruction, other.destination, subtask=order.subtask)
        ask_path(order.instruction, order.goal, other.trace, subtask=order.subtask)
    for instruction, named in _named_orders(demo, frame, label, named_orders):
        ask_task(instruction, named, subtask=None)
    return answers


def grounding_row(demo: Demonstration, episode_index: int, frame: int, camera: str, size: int) -> dict[str, Any]:
    """What all grounding rows of one image share."""
    return {
        "camera": camera_key(camera),
        "episode_index": episode_index,
        "frame_index": frame,
        "image_width": size,
        "image_height": size,
        "coordinate_space": COORDINATE_SPACE,
        "source": SOURCE,
        "license": LICENSE,
        "phase": demo.phases[frame],
        "subtask": demo.subtasks[frame],
    }


def episode_answers(demo: Demonstration) -> dict[str, list[list[dict[str, Any]]]]:
    """Per camera the answers of each frame that was looked at; see :func:`frame_answers`."""
    return {
        camera: [frame_answers(demo, frame, label) for frame, label in zip(demo.seen, labels, strict=True)]
        for camera, labels in demo.labels.items()
    }


def grounding_rows(
    demo: Demonstration, answers: Mapping[str, Any], episode_index: int, dataset: str, size: int
) -> list[dict[str, Any]]:
    """Grounding rows of a demonstration: the columns that st4vla reads, every frame, both cameras.

    Args:
        demo: The demonstration.
        answers: Its :func:`episode_answers`.
        episode_index: Its number in the dataset.
        dataset: Name of the dataset.
        size: Width and height of the images in pixels.
    """
    rows: list[dict[str, Any]] = []
    for at, frame in enumerate(demo.seen):
        for camera in CAMERAS:
            where = {"dataset": dataset, **grounding_row(demo, episode_index, frame, camera, size)}
            rows += [{**where, **answer} for answer in answers[camera][at]]
    return rows


def _row(role: str, content: str, style: str, camera: str) -> dict[str, Any]:
    return {"role": role, "content": content, "style": style, "camera": camera, "tool_calls": None}


def _json_answer(answer: dict[str, Any]) -> str:
    labels = answer["labels"]
    if answer["kind"] == "box":
        found = [
            {"label": label, "bbox_format": "xyxy", "bbox": box}
            for label, box in zip(labels, answer["boxes"], strict=True)
        ]
        return json.dumps({"detections": found})
    if answer["kind"] == "point":
        return json.dumps({"label": labels[0], "point_format": "xy", "point": answer["points"][0]})
    return json.dumps({"label": labels[-1], "point_format": "xy", "points": answer["traces"][0]})


def _asks(answer: dict[str, Any]) -> str:
    verb = {"box": "Locate", "point": "Point to", "trace": "Trace"}[answer["kind"]]
    return f"{verb} {answer['instruction']}."


def language_events(answers: Mapping[str, Any], frame: int) -> list[dict[str, Any]]:
    """LeRobot's ``language_events`` of a frame: one question per camera (they take turns) and the trace.

    Args:
        answers: :func:`episode_answers` of a demonstration whose every frame was looked at.
        frame: Which frame.
    """
    rows: list[dict[str, Any]] = []
    for offset, camera in enumerate(CAMERAS):
        known = answers[camera][frame]
        asked = [answer for answer in known if answer["kind"] != "trace" and answer["question"] == "kind"]
        if asked:
            chosen = asked[(frame + offset) % len(asked)]
            rows.append(_row("user", _asks(chosen), "vqa", camera_key(camera)))
            rows.append(_row("assistant", _json_answer(chosen), "vqa", camera_key(camera)))
        for answer in known:
            if answer["kind"] == "trace":
                rows.append(_row("assistant", _json_answer(answer), "trace", camera_key(camera)))
    return rows


def language_persistent(demo: Demonstration, fps: int) -> list[dict[str, Any]]:
    """LeRobot's ``language_persistent`` of a demonstration: its sub-tasks, each from when it began."""
    rows: list[dict[str, Any]] = []
    for frame, subtask in enumerate(demo.subtasks):
        if not rows or rows[-1]["content"] != subtask:
            row = _row("assistant", subtask, "subtask", "")
            rows.append({**row, "camera": None, "timestamp": frame / fps})
    return rows
