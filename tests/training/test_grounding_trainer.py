"""SpatialGroundingTrainer on a small model: answers are learnt by the planner alone; resuming changes nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from injected_noise import losses


@pytest.fixture
def train(tmp_path: Path, model: Any, processor: Any, grounding_samples: list) -> Callable[..., Any]:
    """Runs stage 1 on a copy of the small model and returns the trainer."""
    import copy

    from training_st4vla.grounding_config import SpatialGroundingConfig
    from training_st4vla.grounding_trainer import SpatialGroundingTrainer

    def run(name: str = "run", resume: Any = None, **settings: Any) -> SpatialGroundingTrainer:
        values = {
            "output_dir": str(tmp_path / name),
            "max_steps": 6,
            "per_device_train_batch_size": 4,
            "learning_rate": 3e-3,
            "logging_steps": 1,
            "bf16": False,
            "disable_tqdm": True,
            "save_strategy": "no",
        }
        trainer = SpatialGroundingTrainer(
            model=copy.deepcopy(model),
            args=SpatialGroundingConfig(**{**values, **settings}),
            train_dataset=grounding_samples,  # type: ignore[arg-type]
            processing_class=processor,
        )
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    return run


def test_answers_are_learnt_and_only_the_planner_changes(train: Callable[..., Any], model: Any) -> None:
    trainer = train(max_steps=12)
    curve = losses(trainer)
    assert curve[-1] < 0.6 * curve[0]
    before, after = dict(model.named_parameters()), dict(trainer.model.named_parameters())
    changed = {name.split(".")[0] for name in before if not before[name].equal(after[name])}
    assert changed == {"vlm"}


def test_a_resumed_run_is_the_same_run(tmp_path: Path, train: Callable[..., Any]) -> None:
    settings = {"save_strategy": "steps", "save_steps": 3}
    whole = train("whole", **settings)
    resumed = train("again", resume=str(tmp_path / "whole" / "checkpoint-3"), **settings)
    assert losses(resumed) == losses(whole)
    for (name, one), (_, two) in zip(whole.model.named_parameters(), resumed.model.named_parameters(), strict=True):
        assert one.equal(two), name


def test_settings_that_would_cut_images_are_refused(tmp_path: Path) -> None:
    from training_st4vla.grounding_config import SpatialGroundingConfig

    with pytest.raises(ValueError, match="max_length: expected none, found 512"):
        SpatialGroundingConfig(output_dir=str(tmp_path), max_length=512, bf16=False)
