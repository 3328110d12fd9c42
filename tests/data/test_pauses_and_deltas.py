"""Frames left out as pauses, and absolute targets turned into steps."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training_st4vla.data import DataError, LeRobotActionDataset
from training_st4vla.data.pauses import PauseFilter


def test_the_rule_by_hand() -> None:
    motion = np.array([[6e-4, 0], [5e-4, 0], [0, -6e-4], [0, 0], [0, 0], [0, 0]])
    gripper = np.array([0, 0, 0, 0, 1, 1])[:, None]
    actions = np.concatenate([motion, gripper], axis=1)
    rule = PauseFilter(5e-4, motion=(0, 1), gripper=(2,))
    assert rule.moving(actions).tolist() == [True, False, True, False, True, False]
    targets = np.concatenate([np.cumsum(motion, axis=0), gripper], axis=1)
    absolute = PauseFilter(5.5e-4, motion=(0, 1), gripper=(2,), absolute=True)
    assert absolute.moving(targets).tolist() == [True, False, True, False, True, False]
    for bad in ({"threshold": -1.0, "motion": (0,)}, {"threshold": 0.1, "motion": ()}):
        with pytest.raises(ValueError, match="pause filter"):
            PauseFilter(**bad)


def still(episode: int, columns: dict[str, Any]) -> None:
    """Frames 3 to 6 of every episode stand still."""
    values = np.ones((len(columns["frame_index"]), 3), dtype=np.float32)
    values[3:7] = 0
    columns["action"] = values.tolist()


def test_pauses_are_no_samples_and_chunks_hold_them(make_dataset: Callable[..., Path]) -> None:
    root = make_dataset(lengths=(10, 8), edit=still)
    dataset = LeRobotActionDataset(root, chunk_size=4, pause_filter=PauseFilter(0.5, (0, 1, 2)))
    assert dataset.frame_indices.tolist() == [0, 1, 2, 7, 8, 9, 10, 11, 12, 17]
    assert (dataset.paused, dataset.describe()["paused"]) == (8, 8)
    assert dataset.episode_numbers.tolist() == [0] * 6 + [1] * 4
    assert dataset[2]["actions"][:, 0].tolist() == [1, 0, 0, 0]
    assert dataset.raw_actions().shape == (10, 3)
    assert len({dataset.fingerprint(), LeRobotActionDataset(root, chunk_size=4).fingerprint()}) == 2
    with pytest.raises(DataError, match="18 frames in pauses"):
        LeRobotActionDataset(root, chunk_size=4, pause_filter=PauseFilter(2.0, (0, 1, 2)))


def test_targets_become_steps(shared_toy: Path) -> None:
    recorded = LeRobotActionDataset(shared_toy, chunk_size=3)
    steps = LeRobotActionDataset(shared_toy, chunk_size=3, delta_dims=(0, 2))
    assert steps.frame_indices.tolist() == [*range(1, 30), *range(31, 50)]  # a first frame has none before it
    np.testing.assert_allclose(steps[0]["actions"][:, 0], [1, 1, 1], rtol=1e-5)
    np.testing.assert_array_equal(steps[0]["actions"][:, 1], recorded[1]["actions"][:, 1])
    np.testing.assert_allclose(steps.raw_actions()[:, 2], 1, rtol=1e-4)
    assert steps.fingerprint() != recorded.fingerprint()
