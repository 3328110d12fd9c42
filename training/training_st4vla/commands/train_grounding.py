"""`st4vla train-grounding`: stage 1 on a grounding dataset."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training_st4vla.commands.arguments import exit_with, flag
from training_st4vla.commands.augment_arguments import AugmentFlags
from training_st4vla.commands.console import say
from training_st4vla.commands.grounding_arguments import open_grounding
from training_st4vla.commands.main import Command
from training_st4vla.commands.runs import complete_run, start_run
from training_st4vla.errors import UserError, require_extra


@dataclass(kw_only=True)
class TrainGroundingArguments(AugmentFlags):
    """Flags of `st4vla train-grounding`, beside those of training."""

    dataset: list[str] = flag("grounding datasets: folders, files or Hub ids")
    weights: list[float] | None = flag("share of each dataset in the mixture, in any unit; by count without it", None)
    model: str = flag("ST4VLA model to start from: folder or Hub id", "")
    kinds: list[str] | None = flag("answers to train on: point, box, trace, text; all without it", None)
    roles: list[str] | None = flag(
        "roles to train on, as the data name them (the tabletop's: objects object target place free_space gripper "
        "task); all without it",
        None,
    )
    max_rows: int | None = flag("use only the first so many rows", None)
    max_samples: int | None = flag(
        "use at most so many samples of these kinds and roles, drawn evenly over each set by the seed", None
    )
    questions_per_image: int | None = flag(
        "up to so many questions about an image in one sequence: it is encoded once, and the loss is that of separate "
        "questions; a batch then counts images. Separate sequences without it",
        None,
    )
    eval_dataset: str | None = flag(
        "held-out grounding dataset: scored by generation every --eval-steps, with pictures", None
    )
    lora_rank: int | None = flag(
        "train LoRA adapters of this rank on the planner's language model; full without it", None
    )
    save_dtype: str | None = flag("dtype of the saved weights: float32 or bfloat16; that of training without it", None)
    attn_implementation: str = flag("attention: auto, sdpa, eager, flash_attention_2", "auto")
    dtype: str = flag("dtype of the weights while training: float32 or bfloat16", "float32")


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
    from training_st4vla.adapters import lora_config
    from training_st4vla.grounding_trainer import SpatialGroundingTrainer
    from training_st4vla.loading import load_model, training_attention

    if args.eval_dataset is None and training.eval_strategy != "no":
        raise UserError("--eval-strategy: evaluation needs held-out data; give --eval-dataset.")
    augmentation = args.augmentation()
    checkpoint = start_run(args, training)
    dataset = open_grounding(
        args.dataset,
        args.weights,
        args.kinds,
        roles=args.roles,
        max_rows=args.max_rows,
        max_samples=args.max_samples,
        questions_per_image=args.questions_per_image,
        seed=training.seed,
    )
    if augmentation is not None:
        from training_st4vla.data.augmentation import AugmentedDataset

        dataset = AugmentedDataset(dataset, augmentation, training.seed)
    held_out = None
    if args.eval_dataset is not None:
        held_out = open_grounding(
            [args.eval_dataset],
            kinds=args.kinds,
            roles=args.roles,
            max_samples=training.eval_questions,
            flag="--eval-dataset",
        )
    attention = training_attention(args.attn_implementation, training)
    model, processor = load_model(args.model, args.dtype, device="cpu", attn_implementation=attention)
    trainer = SpatialGroundingTrainer(
        model=model,
        args=training,
        train_dataset=dataset,
        eval_dataset=held_out,
        processing_class=processor,
        peft_config=None if args.lora_rank is None else lora_config(args.lora_rank),
    )
    if trainer.is_world_process_zero():
        planner: Any = trainer.model
        trained = sum(p.numel() for p in planner.parameters() if p.requires_grad)
        unit = "questions" if args.questions_per_image is None else "groups of questions"
        say(f"dataset  {', '.join(args.dataset)}: {len(dataset)} {unit} an epoch")
        say(f"training {trained / 1e6:.2f} M parameters on {training.device}, {attention} attention")
    return complete_run(trainer, processor, args, checkpoint)


COMMAND = Command(
    name="train-grounding",
    arguments=arguments,
    run=run,
    description="Trains the planner to answer with points, boxes and traces. Run it again to resume.",
)

if __name__ == "__main__":
    exit_with(COMMAND)
