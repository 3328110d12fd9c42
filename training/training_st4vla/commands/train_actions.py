"""`st4vla train-actions`: stage 2 on a LeRobot dataset."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training_st4vla.commands.arguments import exit_with, flag
from training_st4vla.commands.console import say
from training_st4vla.commands.data_arguments import (
    DataArguments,
    open_action_dataset,
    settle_contract,
    show_dataset,
)
from training_st4vla.commands.main import Command
from training_st4vla.commands.runs import complete_run, start_run
from training_st4vla.errors import require_extra


@dataclass
class TrainActionsArguments(DataArguments):
    """Flags of `st4vla train-actions`, beside those of training."""

    model: str = flag("model to start from: folder or Hub id", "")
    spatial_prompt: str | None = flag(
        "unified, box, point, trace, none, or a template; the model's own without it", None
    )
    grounding_dataset: str | None = flag(
        "grounding dataset to train on beside the actions, so that grounding stays", None
    )
    attn_implementation: str = flag("attention: auto, sdpa, eager, flash_attention_2", "auto")
    dtype: str = flag("dtype of the weights while training and when saved: float32 or bfloat16", "float32")


def arguments() -> tuple[type, ...]:
    """Flags of this command and of the trainer."""
    require_extra("lerobot", "train")
    from training_st4vla.action_config import SpatialActionConfig

    return TrainActionsArguments, SpatialActionConfig


def run(args: TrainActionsArguments, training: Any) -> int:
    """Trains, or goes on where an interrupted run of the same command stopped."""
    train_actions(args, training)
    return 0


def train_actions(args: TrainActionsArguments, training: Any) -> Path:
    """
    The command as a function.

    Args:
        args ([`TrainActionsArguments`]), training ([`SpatialActionConfig`]).

    Returns:
        The folder of the finished model, `training.output_dir`.
    """
    from training_st4vla.action_trainer import SpatialActionTrainer
    from training_st4vla.loading import load_model, training_attention

    checkpoint = start_run(args, training)
    attention = training_attention(args.attn_implementation, training)
    model, processor = load_model(args.model, args.dtype, device="cpu", attn_implementation=attention)
    if args.spatial_prompt is not None:
        processor.spatial_prompt = args.spatial_prompt
    dataset = open_action_dataset(args, model, processor)
    settle_contract(args, dataset, processor, "training")
    trainer = SpatialActionTrainer(
        model=model,
        args=training,
        train_dataset=dataset,
        grounding_dataset=_open_grounding(args),
        processing_class=processor,
    )
    if trainer.is_world_process_zero():
        show_dataset(dataset, processor)
        say(
            f"training {sum(p.numel() for p in model.parameters() if p.requires_grad) / 1e6:.2f} M parameters on "
            f"{training.device}, {args.dtype}" + (f", from {checkpoint.name}" if checkpoint else "")
        )
    return complete_run(trainer, processor, args, checkpoint)


def _open_grounding(args: TrainActionsArguments) -> Any:
    if args.grounding_dataset is None:
        return None
    from training_st4vla.data.grounding import open_grounding_dataset

    return open_grounding_dataset(args.grounding_dataset)


COMMAND = Command(
    name="train-actions",
    arguments=arguments,
    run=run,
    description="Fine-tunes a model on a LeRobot dataset. Run the same command again to resume after an interruption.",
)

if __name__ == "__main__":
    exit_with(COMMAND)
