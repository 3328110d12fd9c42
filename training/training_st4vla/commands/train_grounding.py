"""`st4vla train-grounding`: stage 1 on a grounding dataset."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training_st4vla.commands.arguments import exit_with, flag
from training_st4vla.commands.console import say
from training_st4vla.commands.main import Command
from training_st4vla.commands.runs import complete_run, start_run
from training_st4vla.errors import UserError, require_extra


@dataclass
class TrainGroundingArguments:
    """Flags of `st4vla train-grounding`, beside those of training."""

    dataset: str = flag("grounding dataset: folder, file or Hub id")
    model: str = flag("ST4VLA model to start from: folder or Hub id", "")
    kinds: list[str] | None = flag("answers to train on: point, box, trace, text; all without it", None)
    max_rows: int | None = flag("use only the first so many rows", None)
    dtype: str = flag("dtype of the weights while training and when saved: float32 or bfloat16", "float32")


def arguments() -> tuple[type, ...]:
    """Flags of this command and of the trainer."""
    require_extra("trl", "train")
    from training_st4vla.grounding_config import SpatialGroundingConfig

    return TrainGroundingArguments, SpatialGroundingConfig


def run(args: TrainGroundingArguments, training: Any) -> int:
    """Trains, or goes on where an interrupted run of the same command stopped."""
    train_grounding(args, training)
    return 0


def train_grounding(args: TrainGroundingArguments, training: Any) -> Path:
    """
    The command as a function.

    Args:
        args ([`TrainGroundingArguments`]), training ([`SpatialGroundingConfig`]).

    Returns:
        The folder of the finished model, `training.output_dir`.
    """
    from training_st4vla.data.grounding import open_grounding_dataset
    from training_st4vla.grounding_trainer import SpatialGroundingTrainer
    from training_st4vla.loading import load_model

    checkpoint = start_run(args, training)
    dataset = open_grounding_dataset(args.dataset, max_rows=args.max_rows)
    if args.kinds:
        kinds = set(args.kinds)
        dataset = dataset.filter(lambda sample: sample.kind in kinds)
    if not len(dataset):
        raise UserError(f"--dataset: {args.dataset} holds no sample" + (f" of {args.kinds}." if args.kinds else "."))
    model, processor = load_model(args.model, args.dtype, device="cpu")
    trainer = SpatialGroundingTrainer(model=model, args=training, train_dataset=dataset, processing_class=processor)
    if trainer.is_world_process_zero():
        say(f"dataset  {dataset.name}, {len(dataset)} questions")
        say(f"training {sum(p.numel() for p in model.vlm.parameters()) / 1e6:.2f} M parameters on {training.device}")
    return complete_run(trainer, processor, args, checkpoint)


COMMAND = Command(
    name="train-grounding",
    arguments=arguments,
    run=run,
    description="Trains the planner to answer with points, boxes and traces. Run it again to resume.",
)

if __name__ == "__main__":
    exit_with(COMMAND)
