"""The README.md of a recording: what the Hub and LeRobot read, how labels were made, how to make it again."""

from __future__ import annotations

import shlex
from importlib import metadata
from pathlib import Path

from .annotations import LICENSE
from .control import CONTROL_HZ
from .shards import Settings

_VERSIONED = ("lerobot_env_tabletop", "mujoco", "lerobot")
_BODY = """---
{front_matter}
---

# {name}

{episodes} demonstrations ({frames} frames at {hz} Hz) of a simulated 7-joint arm at a table, in the format v3.0 of
[LeRobot](https://github.com/huggingface/lerobot): two cameras of {size} x {size} pixels, a state of 8 and an
action of 7 numbers, an instruction per episode that names one object among several that look alike. Tasks:
{tasks}. Split: `{split}`.

```python
from lerobot.datasets.lerobot_dataset import LeRobotDataset

dataset = LeRobotDataset("OWNER/{name}")
```

## How it was made

```bash
{command}
```

A scripted expert plays in MuJoCo (`lerobot_env_tabletop`); only episodes in which it succeeds are kept. While it
plays, its actions are perturbed and it recovers; what is recorded is its own action in the state it got into. The
same command gives the same bytes of states and actions. Versions: {versions}.

## How the labels were made

Nothing was annotated by hand or by a model: boxes, points and traces come from the simulator's state and
segmentation. Pixels are continuous, (0, 0) is the outer corner of the top left pixel; a box is the outer edge of
what is visible; a trace is the path of the tool point until the current order is fulfilled, projected into the
present image.

- `data`: LeRobot's frames, with sub-tasks in `language_persistent`, and in `language_events` a question with its
  answer (style `vqa`) and a trace (style `trace`) per frame and camera.
- `grounding`: rows with `kind`, `role`, `instruction`, `points`, `boxes` or `traces`, `coordinate_space`,
  `source`, `license`.
- `meta/action_contract.json`: units, frame, rotation, gripper polarity and rate of the actions.

## Licence

{license}: scenes, objects, textures and sentences are made by code; there is no third-party material.

## Limits

Simulated images of simple solids on one table. Success here says nothing about a real robot.

## Structure

[meta/info.json](meta/info.json):

```json
{info}
```
"""


def write_card(folder: Path, settings: Settings, frames: int) -> None:
    """Writes ``README.md`` into a finished recording.

    Args:
        folder: Of the dataset, with ``meta/info.json``.
        settings: What was recorded.
        frames: Number of frames.
    """
    from huggingface_hub import DatasetCardData

    data = DatasetCardData(
        license=LICENSE.lower(),
        task_categories=["robotics"],
        tags=["LeRobot", "robotics", "grounding", "simulation", "lerobot_env_tabletop"],
        configs=[
            {"config_name": "default", "data_files": "data/*/*.parquet"},
            {"config_name": "grounding", "data_files": "grounding/*/*.parquet"},
        ],
    )
    text = _BODY.format(
        front_matter=data.to_yaml(),
        name=settings.dataset,
        episodes=settings.episodes,
        frames=frames,
        hz=CONTROL_HZ,
        size=settings.image_size,
        tasks=", ".join(f"`{task}`" for task in settings.tasks),
        split=settings.split,
        command=record_command(settings),
        versions=", ".join(f"{name} {metadata.version(name)}" for name in _VERSIONED),
        license=LICENSE,
        info=(folder / "meta" / "info.json").read_text(encoding="utf-8").strip(),
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def record_command(settings: Settings) -> str:
    """The command line that records the same again."""
    words = ["python", "-m", "lerobot_env_tabletop.record", "--episodes", settings.episodes, "--split", settings.split]
    words += ["--tasks", ",".join(settings.tasks), "--seed", settings.seed, "--image-size", settings.image_size]
    words += ["--noise", f"{settings.noise:g}", "--output", settings.dataset]
    return shlex.join(str(word) for word in words)
