"""Fixtures of the trainer tests: a small model, its processor and a synthetic dataset that fit each other."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lerobot_toy import write_dataset

TOY_DECLARATION = {
    "action_units": ["m", "m", "m"],
    "frame": "base",
    "rotation": "none",
    "representation": "absolute",
    "gripper_dims": [],
    "gripper_polarity": "none",
}


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LeRobot v2.1 dataset of 50 frames in two episodes, two cameras, with a contract that leaves nothing open."""
    root = write_dataset(tmp_path_factory.mktemp("training") / "toy")
    (root / "meta" / "action_contract.json").write_text(json.dumps(TOY_DECLARATION))
    return root


@pytest.fixture
def model(build_model: Callable[..., Any]) -> Any:
    """The small model without dropout: what is drawn while training is noise and timesteps."""
    expert = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "condition_dropout": 0.0}
    return build_model(query_dropout=0.0, action_expert=expert)


@pytest.fixture
def open_toy(toy: Path, processor: Any) -> Callable[..., Any]:
    """Opens the toy dataset with the small model's chunk size; the processor learns its contract."""
    from training_st4vla.data.action_dataset import LeRobotActionDataset
    from training_st4vla.data.contracts import build_contract, shipped_declaration

    def build(**options: Any) -> LeRobotActionDataset:
        dataset = LeRobotActionDataset(toy, chunk_size=5, action_keys=["action"], **options)
        contract = build_contract(dataset, shipped_declaration(dataset))
        processor.action_contracts[dataset.dataset_key] = contract.to_dict()
        return dataset

    return build


@pytest.fixture
def train(tmp_path: Path, model: Any, processor: Any, open_toy: Callable[..., Any]) -> Callable[..., Any]:
    """Runs the trainer on a copy of the small model and returns it; keyword arguments are trainer settings."""
    import copy

    from training_st4vla.action_config import SpatialActionConfig
    from training_st4vla.action_trainer import SpatialActionTrainer

    def run(
        name: str = "run",
        grounding: Any = None,
        callbacks: Any = None,
        resume: Any = None,
        trainer_class: type = SpatialActionTrainer,
        eval_dataset: Any = None,
        peft_config: Any = None,
        grounding_eval_dataset: Any = None,
        **settings: Any,
    ) -> SpatialActionTrainer:
        dataset = open_toy()
        values = {
            "output_dir": str(tmp_path / name),
            "max_steps": 4,
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-3,
            "vlm_learning_rate": 1e-3,
            "action_expert_learning_rate": 1e-3,
            "logging_steps": 1,
            "use_cpu": True,
            "disable_tqdm": True,
            "save_strategy": "no",
            "seed": 3,
        }
        trainer = trainer_class(
            model=copy.deepcopy(model),
            args=SpatialActionConfig(**{**values, **settings}),
            train_dataset=dataset,
            grounding_dataset=grounding,
            processing_class=processor,
            callbacks=callbacks,
            eval_dataset=eval_dataset,
            peft_config=peft_config,
            grounding_eval_dataset=grounding_eval_dataset,
        )
        if trainer.args.max_steps:
            trainer.train(resume_from_checkpoint=resume)
        return trainer

    return run


@pytest.fixture(scope="session")
def grounding_samples(draw_view: Callable[..., Any]) -> list[dict[str, Any]]:
    """Seven grounding samples with answers of different lengths."""
    from PIL import Image

    from processing_st4vla import Box, GroundingResult, Point

    samples = []
    for number in range(7):
        size = (160, 120)
        points = tuple(Point(xy=(10.0 * k + number, 20.0 + k), label=f"thing {k}") for k in range(number % 3))
        boxes = () if points else (Box(xyxy=(5.0, 6.0, 40.0 + number, 60.0), label="cube"),)
        samples.append(
            {
                "image": Image.fromarray(draw_view(number)),
                "instruction": f"find thing {number}",
                "kind": "point" if points else "box",
                "answer": GroundingResult(points=points, boxes=boxes, image_size=size),
            }
        )
    return samples
