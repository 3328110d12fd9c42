"""How SpatialActionTrainer steps: rates, clipping, precision, recomputation, compilation, and the order of samples."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from injected_noise import InjectedNoiseTrainer, losses
from transformers.trainer_callback import TrainerCallback


def test_rates_warm_up_and_fall_to_a_hundredth_of_each(train: Callable[..., Any]) -> None:
    trainer = train(
        max_steps=10, warmup_steps=4, learning_rate=1e-3, vlm_learning_rate=2e-4, action_expert_learning_rate=4e-3
    )
    logged = losses(trainer, "learning_rate")  # of the first group, the action expert's
    assert logged[:5] == pytest.approx([0.0, 1e-3, 2e-3, 3e-3, 4e-3])
    assert all(later < earlier for earlier, later in pairwise(logged[4:]))
    last = {group["name"]: group["lr"] for group in trainer.optimizer.param_groups}
    assert last == pytest.approx({"action_expert": 4e-5, "rest": 1e-5, "vlm": 2e-6})


class StepNorm(TrainerCallback):
    """The norm of the gradients that the optimiser steps with."""

    def __init__(self) -> None:
        self.norms: list[float] = []

    def on_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        self.norms.append(float(torch.nn.utils.get_total_norm(gradients)))


def test_gradients_are_clipped_before_the_step(train: Callable[..., Any]) -> None:
    watcher = StepNorm()
    trainer = train(max_steps=2, max_grad_norm=0.01, callbacks=[watcher])
    assert min(losses(trainer, "grad_norm")) > 1  # what is logged is the norm before
    assert watcher.norms == pytest.approx([0.01, 0.01], rel=1e-3)


def test_recomputing_activations_changes_nothing(train: Callable[..., Any], grounding_samples: list) -> None:
    settings = {"trainer_class": InjectedNoiseTrainer, "grounding": grounding_samples, "max_steps": 2}
    plain = train("plain", **settings)
    recomputed = train("recomputed", gradient_checkpointing=True, **settings)
    assert recomputed.model.is_gradient_checkpointing
    assert losses(recomputed) == pytest.approx(losses(plain), rel=1e-5)
    assert losses(recomputed, "grad_norm") == pytest.approx(losses(plain, "grad_norm"), rel=1e-4)


def test_bfloat16_autocast_keeps_float32_weights(train: Callable[..., Any], grounding_samples: list) -> None:
    settings = {"trainer_class": InjectedNoiseTrainer, "grounding": grounding_samples, "max_steps": 2}
    plain, half = train("plain", **settings), train("half", bf16=True, **settings)
    assert {parameter.dtype for parameter in half.model.parameters()} == {torch.float32}
    assert losses(half) != losses(plain)
    assert losses(half) == pytest.approx(losses(plain), rel=0.05)


@pytest.mark.slow
def test_a_compiled_model_takes_the_same_steps(train: Callable[..., Any], grounding_samples: list) -> None:
    settings = {"trainer_class": InjectedNoiseTrainer, "grounding": grounding_samples, "max_steps": 2}
    plain = train("plain", **settings)
    # Traced and differentiated by torch.compile; without the C++ that it would write, which takes minutes.
    compiled = train("compiled", torch_compile=True, torch_compile_backend="aot_eager", **settings)
    assert losses(compiled) == pytest.approx(losses(plain), rel=1e-4)
    assert losses(compiled, "grad_norm_vlm") == pytest.approx(losses(plain, "grad_norm_vlm"), rel=1e-3)


# The order of samples


def read_epoch(trainer: Any, epoch: int) -> tuple[list[tuple], list[int]]:
    """Actions and numbers of questions of every batch of an epoch."""
    loader = trainer.get_train_dataloader()
    loader.set_epoch(epoch)
    batches = list(loader)
    actions = [tuple(row.flatten().tolist()) for batch in batches for row in batch["actions"]]
    questions = [len(batch["grounding_inputs"]["labels"]) if "grounding_inputs" in batch else 0 for batch in batches]
    return actions, questions


def test_every_batch_holds_its_share_of_questions(train: Callable[..., Any], grounding_samples: list) -> None:
    settings = {"grounding": grounding_samples, "max_steps": 0}
    _, questions = read_epoch(train(grounding_ratio=0.5, **settings), 0)
    assert questions == [2] * 12 + [1]  # 50 samples in batches of four, the last of two
    _, questions = read_epoch(train(grounding_ratio=0.25, **settings), 0)
    assert questions == [1] * 12 + [0]


def test_the_order_is_one_of_all_samples_new_in_every_epoch(
    train: Callable[..., Any], grounding_samples: list
) -> None:
    co_trained = train(grounding=grounding_samples, max_steps=0)
    vanilla = train(max_steps=0)
    (first, _), (second, _), (again, _) = (read_epoch(co_trained, epoch) for epoch in (0, 1, 0))
    assert first == again
    assert first != second
    assert sorted(first) == sorted(second)
    assert len(set(first)) == 50
    assert first == read_epoch(vanilla, 0)[0], "the same with and without grounding data"


@pytest.mark.parametrize("workers", [0, 3])
def test_a_run_resumed_within_its_second_epoch_goes_on_the_same(
    tmp_path: Path, train: Callable[..., Any], grounding_samples: list, workers: int
) -> None:
    settings = {
        "grounding": grounding_samples,
        "grounding_ratio": 0.5,
        "per_device_train_batch_size": 16,  # four steps an epoch
        "max_steps": 7,
        "save_strategy": "steps",
        "save_steps": 5,
        "dataloader_num_workers": workers,
    }
    whole = train("whole", **settings)
    resumed = train("again", resume=str(tmp_path / "whole" / "checkpoint-5"), **settings)
    for name in ("loss", "action_loss", "lm_loss", "grad_norm"):
        assert losses(resumed, name) == losses(whole, name), name


def test_several_processes_need_a_question_in_every_batch() -> None:
    from training_st4vla.action_trainer import deal_to_every_process
    from training_st4vla.errors import UserError

    args = SimpleNamespace(world_size=2, train_batch_size=2, grounding_ratio=0.25, dataloader_drop_last=False)
    with pytest.raises(UserError, match=r"0\.25 of 2 action samples .* raise the ratio to at least 0\.5"):
        deal_to_every_process(args)
    args.train_batch_size = 4
    deal_to_every_process(args)
    assert args.dataloader_drop_last
    alone = SimpleNamespace(world_size=1, train_batch_size=2, grounding_ratio=0.25, dataloader_drop_last=False)
    deal_to_every_process(alone)
    assert not alone.dataloader_drop_last


def test_another_sampling_strategy_is_refused(tmp_path: Path) -> None:
    from training_st4vla.action_config import SpatialActionConfig

    with pytest.raises(ValueError, match="train_sampling_strategy: expected random"):
        SpatialActionConfig(output_dir=str(tmp_path), use_cpu=True, train_sampling_strategy="sequential")
