"""Where training data are read and preprocessed: the default, and that workers really do it."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from injected_noise import losses


@pytest.mark.parametrize(
    ("use_cpu", "cores", "workers"), [(True, 64, 0), (False, 64, 8), (False, 4, 3), (False, 1, 1)]
)
def test_workers_by_device_and_cores(use_cpu: bool, cores: int, workers: int) -> None:
    from training_st4vla.workers import default_workers

    assert default_workers(use_cpu, cores) == workers


@pytest.mark.parametrize("stage", ["action", "grounding"])
def test_what_the_user_says_wins(stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from training_st4vla import workers
    from training_st4vla.action_config import SpatialActionConfig
    from training_st4vla.grounding_config import SpatialGroundingConfig

    build: Any = {"action": SpatialActionConfig, "grounding": SpatialGroundingConfig}[stage]

    def choice(**given: Any) -> int:
        return build(output_dir=str(tmp_path), use_cpu=True, **given).dataloader_num_workers

    assert choice() == 0
    assert choice(dataloader_num_workers=3) == 3
    monkeypatch.setattr(workers, "default_workers", lambda use_cpu, cores: 5)  # as on a GPU
    assert choice() == 5
    assert choice(dataloader_num_workers=0) == 0
    assert choice(dataloader_num_workers=3) == 3


def test_workers_decode_and_collate_and_change_nothing(
    tmp_path: Path, train: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from training_st4vla.data.action_dataset import LeRobotActionDataset
    from training_st4vla.data.collators import ActionCollator

    notes = tmp_path / "notes"

    def note_process(owner: type, method: str, work: str) -> None:
        original = getattr(owner, method)

        def noted(self: Any, *args: Any) -> Any:
            (notes / f"{work}-{os.getpid()}").touch()
            return original(self, *args)

        monkeypatch.setattr(owner, method, noted)

    note_process(LeRobotActionDataset, "__getitem__", "decode")
    note_process(ActionCollator, "__call__", "collate")

    def run(**settings: Any) -> tuple[list[float], dict[str, set[int]]]:
        notes.mkdir()
        trainer = train(max_steps=3, per_device_train_batch_size=25, **settings)
        found: dict[str, set[int]] = {"decode": set(), "collate": set()}
        for path in notes.iterdir():
            work, process = path.name.split("-")
            found[work].add(int(process))
            path.unlink()
        notes.rmdir()
        return losses(trainer), found

    here = {os.getpid()}
    alone, processes = run()
    assert processes == {"decode": here, "collate": here}
    shared, processes = run(dataloader_num_workers=1)
    assert processes["decode"] == processes["collate"]
    assert len(processes["decode"]) == 2, "one worker in each of two epochs"
    assert not processes["decode"] & here
    assert shared == alone
