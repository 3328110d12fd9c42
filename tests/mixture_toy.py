"""Three small LeRobot datasets that differ in dimensions, cameras, rates and state, and a mixture file of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from lerobot_toy import write_dataset

POSE = ["x", "y", "z", "roll", "pitch", "yaw", "gripper"]
JOINTS = [f"joint_{number}" for number in range(7)] + ["gripper"]
FRONT, WRIST = "observation.images.front", "observation.images.wrist"
SHARED_DECLARATION = {"frame": "base", "rotation": "none", "representation": "delta", "gripper_polarity": "none"}


def write_three(folder: Path) -> Path:
    """
    `five` (7-d, one camera, 5 Hz, no state), `ten` (8-d, two cameras, 10 Hz, 8-d state) and `thirty` (7-d, two
    cameras, 30 Hz, 4-d state) below `folder`, their actions at different scales; returns the mixture file.
    """
    datasets: list[dict[str, Any]] = [{"dataset": "five", "weight": 1}]
    _write(folder / "five", POSE, 1.0, lengths=(9, 6), cameras=[FRONT], fps=5)
    for name, names, state, scale, fps in (("ten", JOINTS, 8, 20.0, 10), ("thirty", POSE, 4, 300.0, 30)):
        _write(folder / name, names, scale, state=state, lengths=(8, 12), cameras=[FRONT, WRIST], fps=fps)
        datasets.append({"dataset": name, "weight": 2, "state_keys": ["observation.state"]})
    path = folder / "mixture.yaml"
    path.write_text(yaml.safe_dump({"datasets": datasets}))
    return path


def _write(root: Path, names: list[str], scale: float, state: int = 0, **options: Any) -> None:
    dim = len(names)

    def fill(episode: int, columns: dict[str, Any]) -> None:
        length = len(columns["frame_index"])
        draw = np.random.default_rng((episode, int(scale)))
        values = scale * (draw.normal(size=(length, dim)) + np.arange(dim))
        values[:, -1] = draw.integers(0, 2, length)
        columns["action"] = values.astype(np.float32).tolist()

    columns = {"action": dim, **({"observation.state": state} if state else {})}
    write_dataset(root, columns=columns, names={"action": names}, edit=fill, **options)
    declared = {**SHARED_DECLARATION, "action_units": ["1"] * dim}
    if state:
        declared["state_units"] = ["rad"] * state
    (root / "meta" / "action_contract.json").write_text(json.dumps(declared))
