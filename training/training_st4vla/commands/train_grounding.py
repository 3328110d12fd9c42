"""`st4vla train-grounding`: stage 1 on a grounding dataset."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training_st4vla.commands.arguments import exit_with, flag
from training_st4vla.commands.augment_arguments import AugmentFlags
from training_st4vla.commands.console import say
from training_st4vla.commands.grounding_arguments import GroundingFlags, show_grounding
from training_st4vla.commands.main import Command
from training_st4vla.commands.runs import complete_run, start_run
from training_st4vla.errors import UserError, require_extra

if TYPE_CHECKING:
    from training_st4vla.data.grounding_sources import GroundingSource


@dataclass(kw_only=True)
class TrainGroundingArguments(GroundingFlags, AugmentFlags):
    """Flags of `st4vla train-grounding`, beside those of training."""

    model: str = flag("ST4VLA model to start from: folder or Hub id", "")
    questions_per_image: int | None = flag(
        "up to so many questions about an image in one sequence: it is encoded once, and the loss is that of separate "
        "questions; a batch then counts images. Separate sequences without it",
        None,
    )
    lora_rank: int | None = flag(
        "train LoRA adapters of this rank on the planner's language model; full without it", None
    )
    save_dtype: str | None = flag("dtype of the saved weights: float32 or bfloat16; that of training without it", None)
    attn_implementation: str = flag("attention: auto, sdpa, eager, by_turns, flash_attention_2", "auto")
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
    from training_st4vla.data.grounding_sources import open_grounding_mixture
    from training_st4vla.grounding_trainer import SpatialGroundingTrainer
    from training_st4vla.loading import load_model, training_attention

    mixture = args.grounding()
    if mixture.eval_dataset is None and training.eval_strategy != "no":
        raise UserError("--eval-strategy: evaluation needs held-out data; give --eval-dataset.")
    augmentation = args.augmentation()
    checkpoint = start_run(args, training, data=asdict(mixture))
    dataset = open_grounding_mixture(mixture, questions_per_image=args.questions_per_image, seed=training.seed)
    if augmentation is not None:
        from training_st4vla.data.augmentation import AugmentedDataset

        dataset = AugmentedDataset(dataset, augmentation, training.seed)
    held_out = None if mixture.eval_dataset is None else _open_held_out(mixture.eval_dataset, training.eval_questions)
    looks = training.look_weight > 0
    attention = training_attention(args.attn_implementation, training.device.type, training.bf16, looks)
    model, processor = load_model(args.model, args.dtype, device="cpu", attn_implementation=attention)
    trainer = SpatialGroundingTrainer(
        model=model,
        args=training,
        train_dataset=dataset,
        eval_dataset=held_out,
        processing_class=processor,
        peft_config=None if args.lora_rank is None else lora_config(args.lora_rank),
    )
    names = [source.name for source in mixture.sources]
    if trainer.is_world_process_zero():
        planner: Any = trainer.model
        trained = sum(p.numel() for p in planner.parameters() if p.requires_grad)
        show_grounding(dataset, names, "questions" if args.questions_per_image is None else "groups of questions")
        workers = f"{training.dataloader_num_workers} data workers"
        say(f"training {trained / 1e6:.2f} M parameters on {training.device}, {attention} attention, {workers}")
    named = replace(args, dataset=[source.dataset for source in mixture.sources])
    return complete_run(trainer, processor, named, checkpoint)


def _open_held_out(source: "GroundingSource", questions: int) -> Any:
    from training_st4vla.data.grounding_sources import open_grounding_source

    return open_grounding_source(replace(source, max_samples=source.max_samples or questions or None))


COMMAND = Command(
    name="train-grounding",
    arguments=arguments,
    run=run,
    description="Trains the planner to answer with points, boxes and traces. Run it again to resume.",
)

if __name__ == "__main__":
    exit_with(COMMAND)
