"""Fixtures of the data tests: a synthetic dataset, and the recorded one where it is present."""

from collections.abc import Callable
from pathlib import Path

import pytest
from lerobot_toy import write_dataset

REAL_DATASET = Path(__file__).resolve().parents[3] / "shared" / "data" / "sim_pick_place_v21"


@pytest.fixture(scope="session")
def real_dataset() -> Path:
    """The recorded simulation episode (398 frames, three AV1 cameras)."""
    if not REAL_DATASET.is_dir():
        pytest.skip(f"the recorded dataset is not at {REAL_DATASET}")
    return REAL_DATASET


@pytest.fixture
def make_dataset(tmp_path: Path) -> Callable[..., Path]:
    """Write a synthetic v2.1 dataset below the test's folder. See `write_dataset`."""
    return lambda name="toy", **options: write_dataset(tmp_path / name, **options)


@pytest.fixture(scope="session")
def shared_toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic dataset for tests that do not change it."""
    return write_dataset(tmp_path_factory.mktemp("shared") / "toy")
