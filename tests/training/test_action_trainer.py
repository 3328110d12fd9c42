"""SpatialActionTrainer on a small model: what is optimised, in which groups, and that batching does not matter."""

from collections.abc import Callable
from typing import Any

import pytest
from injected_noise import GradientRecorder, InjectedNoiseTrainer, largest_difference, losses


def test_every_part_has_its_learning_rate_and_only_matrices_decay(train: Callable[..., Any]) -> None:
    trainer = train(
        max_steps=1,
        learning_rate=1e-3,
        vlm_learning_rate=2e-4,
        action_expert_learning_rate=3e-3,
        weight_decay=0.5,
        lr_scheduler_type="constant",
    )
    found = {(group["name"], group["weight_decay"]): group["lr"] for group in trainer.optimizer.param_groups}
    assert found == {
        ("vlm", 0.5): 2e-4,
        ("vlm", 0.0): 2e-4,
        ("action_expert", 0.5): 3e-3,
        ("action_expert", 0.0): 3e-3,
        ("rest", 0.5): 1e-3,
        ("rest", 0.0): 1e-3,
    }
    grouped = sum(parameter.numel() for group in trainer.optimizer.param_groups for parameter in group["params"])
    assert grouped == sum(parameter.numel() for parameter in trainer.model.parameters() if parameter.requires_grad)


def test_defaults_are_the_papers(tmp_path: Any) -> None:
    from training_st4vla.action_config import SpatialActionConfig

    config = SpatialActionConfig(output_dir=str(tmp_path), use_cpu=True)
    assert (config.vlm_learning_rate, config.action_expert_learning_rate, config.learning_rate) == (1e-5, 1e-4, 5e-5)
    assert (config.lm_loss_weight, config.grounding_ratio) == (0.1, 0.25)
    assert (config.adam_beta2, config.weight_decay) == (0.95, 1e-8)
    with pytest.raises(ValueError, match="lm_loss_weight: expected 0 or more, found -1"):
        SpatialActionConfig(output_dir=str(tmp_path), use_cpu=True, lm_loss_weight=-1)


def test_both_losses_fall_and_are_logged_apart(train: Callable[..., Any], grounding_samples: list) -> None:
    trainer = train(grounding=grounding_samples, grounding_ratio=0.5, max_steps=12, lr_scheduler_type="constant")
    action, text, total = (losses(trainer, name) for name in ("action_loss", "lm_loss", "loss"))
    assert len(action) == len(text) == len(total) == 12
    assert total[0] == pytest.approx(action[0] + 0.1 * text[0], rel=1e-3)
    assert sum(text[-3:]) < 0.8 * sum(text[:3])
    assert sum(action[-3:]) < 0.8 * sum(action[:3])


def test_gradient_accumulation_equals_one_large_batch(train: Callable[..., Any], grounding_samples: list) -> None:
    runs = {}
    for name, size, accumulated in (("one", 8, 1), ("four", 2, 4)):
        recorder = GradientRecorder()
        trainer = train(
            name,
            trainer_class=InjectedNoiseTrainer,
            grounding=grounding_samples,
            callbacks=[recorder],
            grounding_ratio=0.5,
            max_steps=2,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulated,
            max_grad_norm=1e9,
        )
        runs[name] = (losses(trainer), recorder.steps)
    assert runs["four"][0] == pytest.approx(runs["one"][0], abs=2e-4)  # logs are rounded to four digits
    assert largest_difference(runs["four"][1][0], runs["one"][1][0]) < 3e-5


def test_the_same_seed_gives_the_same_run_and_another_seed_another(train: Callable[..., Any]) -> None:
    first, again, other = train("a"), train("b"), train("c", seed=4)
    assert losses(first) == losses(again)
    assert losses(first) != losses(other)
    for (name, one), (_, two) in zip(first.model.named_parameters(), again.model.named_parameters(), strict=True):
        assert one.equal(two), name


def test_workers_do_not_change_the_run(train: Callable[..., Any]) -> None:
    assert losses(train("a")) == losses(train("b", dataloader_num_workers=2))


def test_resume_continues_the_same_curve(tmp_path: Any, train: Callable[..., Any]) -> None:
    whole = train("whole", max_steps=7, save_strategy="steps", save_steps=3, save_total_limit=3)
    resumed = train(
        "again",
        max_steps=7,
        save_strategy="steps",
        save_steps=3,
        save_total_limit=3,
        resume=str(tmp_path / "whole" / "checkpoint-3"),
    )
    assert losses(resumed) == losses(whole)
    for (name, one), (_, two) in zip(whole.model.named_parameters(), resumed.model.named_parameters(), strict=True):
        assert one.equal(two), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"action_dim": 4}, "action dimension: the model has 4, the dataset 3.*--action-dim"),
        ({"chunk_size": 6}, "chunk size: the model has 6, the dataset 5.*--chunk-size"),
        ({"state_dim": 2}, "state dimension: the model has 2, the dataset None.*--state-keys"),
    ],
)
def test_a_dataset_that_does_not_fit_the_model_is_refused(
    change: dict, message: str, build_model: Callable[..., Any], processor: Any, open_toy: Callable[..., Any]
) -> None:
    from training_st4vla.action_trainer import check_fit
    from training_st4vla.errors import UserError

    dataset = open_toy()
    check_fit(build_model(), processor, dataset)
    with pytest.raises(UserError, match=message):
        check_fit(build_model(**change), processor, dataset)


def test_other_cameras_than_the_contract_knows_are_refused(
    model: Any, processor: Any, open_toy: Callable[..., Any]
) -> None:
    from training_st4vla.action_trainer import check_fit
    from training_st4vla.data.action_dataset import LeRobotActionDataset
    from training_st4vla.errors import UserError

    dataset = open_toy()
    one_camera = LeRobotActionDataset(dataset.info.source, chunk_size=5, action_keys=["action"], cameras=["front"])
    with pytest.raises(UserError, match=r"cameras: the action contract 'toy' of the model says .*wrist"):
        check_fit(model, processor, one_camera)
