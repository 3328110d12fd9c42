"""SpatialGroundingTrainer on a small model: answers are learnt by the planner alone; resuming changes nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from injected_noise import losses


@pytest.fixture
def train(tmp_path: Path, model: Any, processor: Any, grounding_samples: list) -> Callable[..., Any]:
    """Runs stage 1 on a copy of the small model and returns the trainer."""
    import copy

    from training_st4vla.data.augmentation import Augmentation, AugmentedDataset
    from training_st4vla.grounding_config import SpatialGroundingConfig
    from training_st4vla.grounding_trainer import SpatialGroundingTrainer

    def run(
        name: str = "run", resume: Any = None, augment: bool = False, samples: Any = grounding_samples, **settings: Any
    ) -> SpatialGroundingTrainer:
        if augment:
            samples = AugmentedDataset(samples, Augmentation())
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
            train_dataset=samples,
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


def test_what_is_frozen_stays(train: Callable[..., Any], model: Any) -> None:
    from training_st4vla.errors import UserError

    trainer = train(max_steps=2, freeze=["vlm.model.visual"], muon=True)
    before, after = dict(model.named_parameters()), dict(trainer.model.named_parameters())
    changed = {name for name in before if not before[name].equal(after[name])}
    assert changed
    assert not any(name.startswith("vlm.model.visual.") for name in changed)
    with pytest.raises(UserError, match=r"no parameters below 'vlm.model.vision'"):
        train("wrong", freeze=["vlm.model.vision"])


def test_a_resumed_run_is_the_same_run(tmp_path: Path, train: Callable[..., Any]) -> None:
    settings = {"save_strategy": "steps", "save_steps": 3}
    whole = train("whole", **settings)
    resumed = train("again", resume=str(tmp_path / "whole" / "checkpoint-3"), **settings)
    assert losses(resumed) == losses(whole)
    for (name, one), (_, two) in zip(whole.model.named_parameters(), resumed.model.named_parameters(), strict=True):
        assert one.equal(two), name


def test_questions_that_share_an_image_are_learnt_as_questions_apart(
    train: Callable[..., Any], grounding_samples: list, model: Any
) -> None:
    """The same four questions, one image: TRL's loss and its count of tokens are those of four sequences."""
    image = grounding_samples[0]["image"]
    samples = [{**sample, "image": image} for sample in grounding_samples[:4]]
    apart = train("apart", samples=samples, max_steps=1, train_sampling_strategy="sequential")
    together = train(
        "together",
        samples=[{"questions": samples}],
        max_steps=1,
        per_device_train_batch_size=1,
        train_sampling_strategy="sequential",
    )
    assert losses(together) == pytest.approx(losses(apart), rel=1e-5)
    for (name, one), (_, two) in zip(apart.model.named_parameters(), together.model.named_parameters(), strict=True):
        assert torch.allclose(one, two, atol=2e-4), name
    inputs = together.data_collator([{"questions": samples}])
    assert together.state.log_history[0]["num_tokens"] == inputs["attention_mask"].sum()


def test_changed_images_are_the_same_when_resumed_with_workers(tmp_path: Path, train: Callable[..., Any]) -> None:
    settings = {"augment": True, "save_strategy": "steps", "save_steps": 3}
    whole = train("whole", **settings)
    checkpoint = str(tmp_path / "whole" / "checkpoint-3")
    assert losses(train("again", resume=checkpoint, dataloader_num_workers=2, **settings)) == losses(whole)
    assert losses(train("plain")) != losses(whole)


def test_a_resumed_stream_is_the_same_stream(tmp_path: Path, train: Callable[..., Any]) -> None:
    """Twelve streamed and four chosen samples an epoch; resumed in the second epoch, with workers."""
    from grounding_toy import write_schema_set
    from torch.utils.data import SequentialSampler

    from training_st4vla.data.grounding_sources import GroundingMixture, GroundingSource, open_grounding_mixture

    sources = (
        GroundingSource(str(write_schema_set(tmp_path / "a", count=5)), stream=12),
        GroundingSource(str(write_schema_set(tmp_path / "b", count=1))),
    )
    settings = {"save_strategy": "steps", "save_steps": 5}
    whole = train("whole", samples=open_grounding_mixture(GroundingMixture(sources)), **settings)
    assert isinstance(whole._get_train_sampler(), SequentialSampler)
    samples = open_grounding_mixture(GroundingMixture(sources))
    checkpoint = str(tmp_path / "whole" / "checkpoint-5")
    resumed = train("again", resume=checkpoint, samples=samples, dataloader_num_workers=2, **settings)
    assert losses(resumed) == losses(whole)
    for (name, one), (_, two) in zip(whole.model.named_parameters(), resumed.model.named_parameters(), strict=True):
        assert one.equal(two), name


def test_settings_that_would_cut_images_are_refused(tmp_path: Path) -> None:
    from training_st4vla.grounding_config import SpatialGroundingConfig

    with pytest.raises(ValueError, match="max_length: expected none, found 512"):
        SpatialGroundingConfig(output_dir=str(tmp_path), max_length=512, bf16=False)


@pytest.fixture
def squares(tmp_path: Path) -> Any:
    """A grounding dataset of 8 boxes and 8 points on 8 pictures."""
    from grounding_toy import picture, save, write_lines

    from training_st4vla.data.grounding import open_grounding_dataset

    rows = []
    for number in range(8):
        box = [4.0 + 3 * number, 8.0, 24.0 + 3 * number, 28.0]
        name = save(tmp_path / "squares" / f"{number}.png", picture(box=tuple(box)))
        common = {"image": name, "image_width": 64, "image_height": 48, "coordinate_space": "pixel", "source": "toy"}
        common |= {"license": "CC0-1.0", "instruction": "the square", "traces": []}
        rows.append({**common, "kind": "box", "points": [], "boxes": [box]})
        rows.append({**common, "kind": "point", "points": [[box[0] + 9, 18.0]], "boxes": [box]})
    return open_grounding_dataset(write_lines(tmp_path / "squares" / "rows.jsonl", rows))


def test_held_out_questions_are_answered_and_drawn(
    tmp_path: Path, model: Any, processor: Any, grounding_samples: list, squares: Any
) -> None:
    import copy

    from training_st4vla.grounding_config import SpatialGroundingConfig
    from training_st4vla.grounding_trainer import SpatialGroundingTrainer

    def run(name: str, **settings: Any) -> Any:
        trainer = SpatialGroundingTrainer(
            model=copy.deepcopy(model),
            args=SpatialGroundingConfig(
                output_dir=str(tmp_path / name),
                max_steps=4,
                per_device_train_batch_size=4,
                logging_steps=1,
                bf16=False,
                disable_tqdm=True,
                save_strategy="no",
                eval_max_new_tokens=8,
                eval_questions=6,
                **settings,
            ),
            train_dataset=grounding_samples,  # type: ignore[arg-type]
            eval_dataset=squares,
            processing_class=processor,
        )
        trainer.train()
        return trainer

    watched = run("watched", eval_strategy="steps", eval_steps=2)
    assert losses(watched) == losses(run("plain"))  # looking changes nothing
    scores = [entry for entry in watched.state.log_history if "eval_box_parse_rate" in entry]
    assert [entry["step"] for entry in scores] == [2, 4]
    assert {"eval_box_accuracy@0.5", "eval_point_point_accuracy", "eval_point_parse_rate"} <= scores[0].keys()
    assert sorted(path.name for path in (tmp_path / "watched" / "pictures").iterdir()) == [
        "step-0000002.jpg",
        "step-0000004.jpg",
    ]


def test_adapters_merge_into_a_plain_model(
    tmp_path: Path, model: Any, processor: Any, grounding_samples: list, make_inputs: Callable[..., Any]
) -> None:
    import copy

    import torch

    from training_st4vla.adapters import lora_config, merge_adapters
    from training_st4vla.grounding_config import SpatialGroundingConfig
    from training_st4vla.grounding_trainer import SpatialGroundingTrainer

    trainer = SpatialGroundingTrainer(
        model=copy.deepcopy(model),
        args=SpatialGroundingConfig(
            output_dir=str(tmp_path / "run"),
            max_steps=3,
            learning_rate=1e-2,
            bf16=False,
            disable_tqdm=True,
            save_strategy="no",
        ),
        train_dataset=grounding_samples,  # type: ignore[arg-type]
        processing_class=processor,
        peft_config=lora_config(4),
    )
    trainer.train()
    inputs = {name: value for name, value in make_inputs(1).items() if name != "image_sizes"}
    expected = trainer.model.eval()(**inputs).logits
    merged = merge_adapters(trainer.model, tmp_path / "adapter").eval()
    assert torch.allclose(merged(**inputs).logits, expected, atol=1e-4)
    names = {
        name for name, value in merged.named_parameters() if not value.equal(dict(model.named_parameters())[name])
    }
    assert names
    assert all(name.startswith("vlm.model.language_model.layers.") for name in names)


def test_plain_attention_is_chosen_for_bfloat16_on_a_cpu_only() -> None:
    from training_st4vla.loading import training_attention

    assert training_attention("auto", "cpu", True) == "by_turns"
    assert training_attention("auto", "cpu", False) == training_attention("auto", "cuda", True) == "sdpa"
    assert training_attention("sdpa", "cpu", True) == training_attention("sdpa", "cpu", True, looks=True) == "sdpa"
    assert training_attention("auto", "cpu", False, looks=True) == training_attention("auto", "cuda", True, True)
    assert training_attention("auto", "cpu", False, looks=True) == "by_turns"
