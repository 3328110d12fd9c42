"""What can be set on SpatialActionTrainer: freezing, averaging, adapters, gauges, evaluation, a dry step."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from injected_noise import InjectedNoiseTrainer, inject_noise, losses


def _weights(trainer: Any) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in trainer.model.named_parameters()}


def test_frozen_parts_do_not_change(train: Callable[..., Any], model: Any) -> None:
    trainer = train(freeze=["vlm.model.visual", "vision_encoder"], max_steps=2)
    before, after = dict(model.named_parameters()), _weights(trainer)
    changed = {name for name in before if not before[name].equal(after[name])}
    assert not any(name.startswith(("vlm.model.visual.", "vision_encoder.")) for name in changed)
    assert {"vlm", "action_expert", "query_transformer", "vision_projector"} <= {
        name.split(".")[0] for name in changed
    }


def test_a_name_that_freezes_nothing_is_refused(train: Callable[..., Any]) -> None:
    from training_st4vla.errors import UserError

    with pytest.raises(UserError, match=r"no parameters below .vlm.visual.; its parts are .*action_expert"):
        train(freeze=["vlm.visual"], max_steps=1)


def test_the_average_by_hand_is_in_the_checkpoint_the_model_and_its_folder(
    tmp_path: Path, train: Callable[..., Any], processor: Any, model: Any
) -> None:
    from transformers.trainer_callback import TrainerCallback

    from modeling_st4vla import ST4VLAForActionPrediction
    from training_st4vla.saving import save_portable

    seen: list[dict[str, torch.Tensor]] = []

    class Watch(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            seen.append({name: value.detach().clone() for name, value in model.named_parameters()})

    trainer = train(ema_decay=0.5, max_steps=5, save_strategy="steps", save_steps=3, callbacks=[Watch()])
    average = {name: value.detach().clone() for name, value in model.named_parameters()}
    averages = []
    for step, weights in enumerate(seen):
        # diffusers' warm-up: the first step is taken as it is; 1 - (1 + step)^(-2/3), at most the decay, after it.
        decay = min(0.5, 1 - (1 + step) ** (-2 / 3))
        average = {name: decay * average[name] + (1 - decay) * value for name, value in weights.items()}
        averages.append(average)
    assert len(averages) == 5
    expected = averages[-1]
    assert max(float((expected[name] - value).abs().max()) for name, value in seen[-1].items()) > 1e-4

    saved = torch.load(tmp_path / "run" / "checkpoint-3" / "ema.pt", weights_only=True)
    trained = [name for name, value in trainer.model.named_parameters() if value.requires_grad]
    for name, value in zip(trained, saved["shadow_params"], strict=True):
        assert torch.allclose(value, averages[2][name], atol=1e-6, rtol=0), name
    going_on = ST4VLAForActionPrediction.from_pretrained(tmp_path / "run" / "checkpoint-3")
    for name, value in going_on.named_parameters():
        assert value.equal(seen[2][name]), f"{name}: a checkpoint goes on from the weights themselves"

    save_portable(trainer.model, processor, tmp_path)
    for name, value in ST4VLAForActionPrediction.from_pretrained(tmp_path).named_parameters():
        assert torch.allclose(value, expected[name], atol=1e-6, rtol=0), name


def test_the_average_survives_a_restart(tmp_path: Path, train: Callable[..., Any]) -> None:
    settings = {"ema_decay": 0.9, "max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    whole = train("whole", **settings)
    resumed = train("again", resume=str(tmp_path / "whole" / "checkpoint-2"), **settings)
    for name, value in _weights(whole).items():
        assert value.equal(_weights(resumed)[name]), name


def test_adapters_train_with_a_full_expert_and_merge_into_a_plain_model(
    tmp_path: Path, train: Callable[..., Any], model: Any, make_inputs: Callable
) -> None:
    from modeling_st4vla import ST4VLAForActionPrediction
    from training_st4vla.adapters import lora_config, merge_adapters

    parts = ["vision_encoder", "vision_projector", "query_transformer", "action_expert"]
    parts += ["state_encoder"] if model.config.state_dim is not None else []
    trainer = train(peft_config=lora_config(4, parts), max_steps=3, learning_rate=1e-2, vlm_learning_rate=1e-2)
    inputs = make_inputs(2)
    noise = torch.zeros(inputs["input_ids"].shape[0], model.config.chunk_size, model.config.action_dim)
    expected = trainer.model.eval().get_base_model().sample_actions(**inputs, noise=noise)
    merged = merge_adapters(trainer.model, tmp_path / "adapter")
    assert isinstance(merged, ST4VLAForActionPrediction)
    assert {name for name, _ in merged.named_parameters()} == {name for name, _ in model.named_parameters()}
    # Ten denoising steps carry the rounding of the merged weights along.
    assert (merged.sample_actions(**inputs, noise=noise) - expected).abs().max() < 3e-4
    before, after = dict(model.named_parameters()), dict(merged.named_parameters())
    changed = {name for name in before if not torch.allclose(before[name], after[name])}
    assert any(name.startswith("action_expert.") for name in changed)
    assert any("q_proj" in name for name in changed if name.startswith("vlm."))
    assert not any("embed_tokens" in name or ".visual." in name for name in changed)
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
    merged.save_pretrained(tmp_path / "merged")
    ST4VLAForActionPrediction.from_pretrained(tmp_path / "merged")


def test_gauges_show_gradient_norms_and_speed(train: Callable[..., Any], grounding_samples: list) -> None:
    trainer = train(max_steps=2, grounding=grounding_samples)
    entry = next(entry for entry in trainer.state.log_history if "loss" in entry)
    parts = [entry[f"grad_norm_{part}"] for part in ("vlm", "query_transformer", "action_expert", "vision_encoder")]
    assert all(norm > 0 for norm in parts)
    everything = [value for name, value in entry.items() if name.startswith("grad_norm_")]
    assert sum(norm**2 for norm in everything) ** 0.5 == pytest.approx(entry["grad_norm"], rel=1e-3)
    assert entry["samples_per_second"] > 0
    assert 0 <= entry["data_wait"] <= 1


def test_evaluation_scores_actions_and_does_not_change_the_run(
    train: Callable[..., Any], open_toy: Callable[..., Any]
) -> None:
    plain = train("plain", max_steps=4)
    held_out = open_toy(episodes=[1])
    watched = train("watched", eval_dataset=held_out, max_steps=4, eval_strategy="steps", eval_steps=2, eval_frames=3)
    assert losses(watched) == losses(plain)
    assert len(losses(watched, "eval_loss")) == 2
    errors = losses(watched, "eval_action_mae")
    assert len(errors) == 2
    assert all(error > 0 for error in errors)
    assert len(losses(watched, "eval_action_mae_ratio")) == 2


def test_a_dry_step_counts_every_byte(train: Callable[..., Any]) -> None:
    from training_st4vla.memory import measure_step

    memory = measure_step(train(max_steps=0))
    assert 0.99 * memory.weights < memory.gradients <= memory.weights  # the mask token of DINOv2 has none
    assert memory.optimizer >= 2 * memory.gradients
    assert memory.activations > 0
    assert memory.peak is None
    assert "activations" in memory.table().to_text()


@pytest.mark.parametrize("setting", [{"gradient_checkpointing": True}, {"bf16": True}, {"ema_decay": 0.9}])
def test_a_dry_step_is_the_step_that_would_be_trained(
    setting: dict[str, Any], train: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    from training_st4vla.memory import measure_step

    plain = measure_step(train(max_steps=0, per_device_train_batch_size=16))
    memory = measure_step(train(max_steps=0, per_device_train_batch_size=16, **setting))
    assert (memory.weights, memory.gradients, memory.optimizer) == (plain.weights, plain.gradients, plain.optimizer)
    if "ema_decay" in setting:
        assert memory.average == plain.gradients  # a copy of all that is trained
        assert memory.total == plain.total + memory.average
    else:
        assert memory.activations < 0.8 * plain.activations
    assert capsys.readouterr().out == ""


def test_a_dry_step_with_sharded_weights_is_refused() -> None:
    from types import SimpleNamespace

    from training_st4vla.errors import UserError
    from training_st4vla.memory import measure_step

    with pytest.raises(UserError, match="--dry-run: measuring a step with sharded weights is not supported"):
        measure_step(SimpleNamespace(is_fsdp_enabled=True, is_deepspeed_enabled=False))


def test_evaluation_computes_in_the_precision_of_training(
    tmp_path: Path, train: Callable[..., Any], open_toy: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from grounding_toy import write_schema_set

    from modeling_st4vla import ST4VLAForActionPrediction
    from training_st4vla.data.grounding import open_grounding_dataset

    seen: dict[str, bool] = {}

    def watch(name: str) -> None:
        original = getattr(ST4VLAForActionPrediction, name)

        def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
            seen[name] = torch.is_autocast_enabled("cpu")
            return original(self, *args, **kwargs)

        monkeypatch.setattr(ST4VLAForActionPrediction, name, watched)

    watch("sample_actions")
    watch("generate")
    trainer = train(
        max_steps=0,
        bf16=True,
        eval_dataset=open_toy(episodes=[1]),
        grounding_eval_dataset=open_grounding_dataset(write_schema_set(tmp_path / "questions", count=1)),
        eval_loss_frames=2,
        eval_frames=2,
        eval_questions=1,
        eval_max_new_tokens=2,
    )
    assert trainer.evaluate()["eval_action_mae"] > 0
    assert seen == {"sample_actions": True, "generate": True}


def test_steps_equal_adamw_written_out(
    train: Callable[..., Any], model: Any, processor: Any, grounding_samples: list
) -> None:
    """
    Three steps of the co-trained model, two batches each, clipped, three learning rates: AdamW by hand on the mean
    action loss plus the text loss per supervised token of both batches.
    """
    import copy

    rates = {"learning_rate": 1e-3, "vlm_learning_rate": 2e-4, "action_expert_learning_rate": 5e-4}
    decay, beta1, beta2, eps, largest_norm = 0.1, 0.9, 0.95, 1e-8, 1.0
    trainer = train(
        trainer_class=InjectedNoiseTrainer,
        grounding=grounding_samples,
        grounding_ratio=0.5,
        max_steps=3,
        gradient_accumulation_steps=2,
        weight_decay=decay,
        max_grad_norm=largest_norm,
        lr_scheduler_type="constant",
        **rates,
    )
    reference = copy.deepcopy(model).train()
    weights = dict(reference.named_parameters())
    idle = weights.pop("vision_encoder.embeddings.mask_token")  # no loss reaches it
    first = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    second = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    clear = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}
    norms = []
    assert len(trainer.steps) == 3
    for number, batches in enumerate(trainer.steps, start=1):
        reference.zero_grad()
        tokens = [(batch["grounding_inputs"]["labels"][:, 1:] != -100).sum() for batch in batches]
        assert len(set(map(int, tokens))) == 2, "batches of different lengths, or their weighting would not show"
        for batch, count in zip(batches, tokens, strict=True):
            outputs = reference(**inject_noise(batch, model.config))
            (outputs.action_loss / 2 + 0.1 * outputs.lm_loss * count / sum(tokens)).backward()
        norms.append(float(sum(weight.grad.square().sum() for weight in weights.values()) ** 0.5))
        for name, weight in weights.items():
            gradient = weight.grad * min(1.0, largest_norm / norms[-1])
            first[name] = beta1 * first[name] + (1 - beta1) * gradient
            second[name] = beta2 * second[name] + (1 - beta2) * gradient**2
            part = f"{name.split('.')[0]}_learning_rate"
            rate = rates.get(part, rates["learning_rate"])
            update = first[name] / (1 - beta1**number) / ((second[name] / (1 - beta2**number)).sqrt() + eps)
            weight.data = weight.data * (1 - rate * (decay if weight.ndim >= 2 else 0.0)) - rate * update
            # Where a gradient is rounding noise, AdamW divides noise by noise.
            clear[name] &= (gradient.abs() > 1e-6) | (gradient == 0)
    assert max(norms) > largest_norm, "something was clipped"
    after = dict(trainer.model.named_parameters())
    assert after["vision_encoder.embeddings.mask_token"].equal(idle)
    for name, weight in weights.items():
        assert torch.allclose(after[name][clear[name]], weight[clear[name]], atol=1e-6, rtol=0), name
    compared = sum(int(mask.sum()) for mask in clear.values()) / sum(mask.numel() for mask in clear.values())
    assert compared > 0.9


def test_weights_that_no_loss_reaches_are_not_trained(model: Any, build_model: Callable[..., Any]) -> None:
    from training_st4vla.freezing import freeze_unreached

    freeze_unreached(model, has_text=False)
    idle = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert idle == ["vision_encoder.embeddings.mask_token"]  # the language head is the embedding, which is read
    untied = build_model()
    untied.vlm.lm_head.weight = torch.nn.Parameter(untied.vlm.lm_head.weight.detach().clone())
    freeze_unreached(untied, has_text=True)
    assert untied.vlm.lm_head.weight.requires_grad
    freeze_unreached(untied, has_text=False)
    assert not untied.vlm.lm_head.weight.requires_grad


def test_adapters_survive_a_restart(tmp_path: Path, train: Callable[..., Any]) -> None:
    from training_st4vla.adapters import lora_config

    parts = ["vision_encoder", "vision_projector", "query_transformer", "action_expert"]
    settings = {"peft_config": lora_config(4, parts), "max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    whole = train("whole", **settings)
    resumed = train("again", resume=str(tmp_path / "whole" / "checkpoint-2"), **settings)
    assert losses(resumed) == losses(whole)
    for name, value in _weights(whole).items():
        assert value.equal(_weights(resumed)[name]), name


def test_held_out_questions_are_scored_while_actions_are_trained(
    tmp_path: Path, train: Callable[..., Any], open_toy: Callable[..., Any]
) -> None:
    from grounding_toy import write_schema_set

    from training_st4vla.data.grounding import open_grounding_dataset

    questions = open_grounding_dataset(write_schema_set(tmp_path / "questions", count=2))
    settings = {"eval_strategy": "steps", "eval_steps": 2, "eval_frames": 2, "eval_questions": 4, "eval_pictures": 2}
    trainer = train(
        "watched",
        eval_dataset=open_toy(episodes=[1]),
        grounding_eval_dataset=questions,
        eval_max_new_tokens=8,
        **settings,
    )
    for kind in ("box", "point", "trace"):
        assert len(losses(trainer, f"eval_{kind}_parse_rate")) == 2
    pictures = sorted(path.name for path in (tmp_path / "watched" / "pictures").iterdir())
    assert pictures == ["step-0000002.jpg", "step-0000004.jpg"]
