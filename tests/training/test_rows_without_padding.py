"""Rows without padding change how fast stage 1 learns, not what."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from injected_noise import losses


@pytest.fixture
def run(tmp_path: Path, model: Any, processor: Any, grounding_samples: list) -> Any:
    """Two steps of stage 1 over images with four questions and with one, so that rows differ in length."""
    from training_st4vla.grounding_config import SpatialGroundingConfig
    from training_st4vla.grounding_trainer import SpatialGroundingTrainer

    image = grounding_samples[0]["image"]
    four = [{**sample, "image": image} for sample in grounding_samples[:4]]

    def train(attention: str) -> SpatialGroundingTrainer:
        own = copy.deepcopy(model)
        own.set_attn_implementation(attention)
        values = {"max_steps": 2, "per_device_train_batch_size": 2, "logging_steps": 1, "learning_rate": 1e-3}
        values |= {"bf16": False, "disable_tqdm": True, "save_strategy": "no", "optim": "sgd"}
        values |= {"train_sampling_strategy": "sequential"}
        args = SpatialGroundingConfig(output_dir=str(tmp_path / "run"), **values)
        samples: Any = [{"questions": four}, {"questions": four[:1]}] * 2
        trainer = SpatialGroundingTrainer(own, args, samples, processor)
        trainer.train()
        return trainer

    return train


def test_rows_without_padding_are_learnt_as_rows_under_one_mask(run: Any) -> None:
    one, two = run("by_turns"), run("sdpa")
    assert losses(one) == pytest.approx(losses(two), rel=1e-5)
    assert list(one.model.state_dict()) == list(two.model.state_dict())
    for (name, here), (_, there) in zip(one.model.named_parameters(), two.model.named_parameters(), strict=True):
        torch.testing.assert_close(here, there, atol=1e-5, rtol=1e-3, msg=name)
    assert one.state.log_history[0]["num_tokens"] == two.state.log_history[0]["num_tokens"]
