"""`st4vla train-actions`: stage 2 on one LeRobot dataset or a mixture of them."""

import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training_st4vla.commands.arguments import exit_with, flag
from training_st4vla.commands.augment_arguments import AugmentFlags
from training_st4vla.commands.console import emit, say
from training_st4vla.commands.data_arguments import DataFlags
from training_st4vla.commands.grounding_arguments import mixture_of
from training_st4vla.commands.main import Command
from training_st4vla.commands.mixture_arguments import MixtureFlags, find_source, show_mixture, sources_of
from training_st4vla.commands.runs import complete_run, start_run
from training_st4vla.errors import UserError, require_extra

if TYPE_CHECKING:
    from training_st4vla.data.grounding_sources import GroundingMixture


@dataclass
class TrainActionsArguments(MixtureFlags, DataFlags, AugmentFlags):
    """Flags of `st4vla train-actions`, beside those of training."""

    model: str = flag("model to start from: folder or Hub id", "")
    spatial_prompt: str | None = flag(
        "unified, box, point, trace, none, or a template; the model's own without it", None
    )
    gradient_decay: float | None = flag(
        "share of the action gradient that reaches the planner, 0 to 1 (the paper: 0.5); the model's own without it",
        None,
    )
    grounding_dataset: list[str] | None = flag(
        "grounding datasets to train on beside the actions, so that grounding stays", None
    )
    grounding_weights: list[float] | None = flag("share of each grounding dataset; by count without it", None)
    grounding_mixture: str | None = flag(
        "YAML or JSON file instead of --grounding-dataset, as --mixture of `st4vla train-grounding` takes it", None
    )
    eval_dataset: str | None = flag(
        "held-out LeRobot dataset: loss and open-loop error every --eval-steps, beside trivial baselines", None
    )
    eval_dataset_key: str | None = flag(
        "in a mixture: the dataset key whose contract and columns the held-out dataset has", None
    )
    grounding_eval_dataset: str | None = flag("held-out grounding dataset, scored by generation as well", None)
    lora_rank: int | None = flag(
        "train LoRA adapters of this rank on the planner, and all other parts fully; everything fully without it", None
    )
    dry_run: bool = flag("take one step, print the memory it needs, and write nothing", False)
    save_dtype: str | None = flag("dtype of the saved weights: float32 or bfloat16; that of training without it", None)
    attn_implementation: str = flag("attention: auto, sdpa, eager, by_turns, flash_attention_2", "auto")
    dtype: str = flag("dtype of the weights while training: float32 or bfloat16", "float32")


def arguments() -> tuple[type, ...]:
    """Flags of this command and of the trainer."""
    require_extra("lerobot", "train")
    from training_st4vla.action_config import SpatialActionConfig

    return TrainActionsArguments, SpatialActionConfig


def run(args: TrainActionsArguments, training: Any) -> int:
    """Trains, or goes on where an interrupted run of the same command stopped."""
    train_actions(args, training)
    return 0


def train_actions(args: TrainActionsArguments, training: Any) -> Path | None:
    """
    The command as a function.

    Args:
        args ([`TrainActionsArguments`]), training ([`SpatialActionConfig`]).

    Returns:
        The folder of the finished model, `training.output_dir`; None after a dry run.
    """
    if args.eval_dataset is None and training.eval_strategy != "no":
        raise UserError("--eval-strategy: evaluation needs held-out data; give --eval-dataset.")
    if args.gradient_decay is not None and not 0 <= args.gradient_decay <= 1:
        raise UserError(f"--gradient-decay: expected a number from 0 to 1, found {args.gradient_decay:g}.")
    sources = sources_of(args)
    args.augmentation()
    if args.eval_dataset:
        find_source(sources, args.eval_dataset_key)
    if args.dry_run:
        with tempfile.TemporaryDirectory() as scratch:
            training.output_dir = scratch
            return _dry_run(args, training)
    grounding = _grounding(args)
    parts: dict[str, Any] = {"data": {source.dataset: asdict(source) for source in sources}}
    if grounding is not None and args.grounding_mixture is not None:
        parts["grounding"] = asdict(grounding)
    checkpoint = start_run(args, training, **parts)
    trainer, processor, attention = _build(args, training)
    if trainer.is_world_process_zero():
        show_mixture(trainer.action_dataset, processor)
        trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
        say(
            f"training {trained / 1e6:.2f} M parameters on {training.device}, {args.dtype}, {attention} attention, "
            f"{training.dataloader_num_workers} data workers" + (f", from {checkpoint.name}" if checkpoint else "")
        )
    named = replace(
        args,
        dataset=[source.dataset for source in sources],
        grounding_dataset=[source.dataset for source in grounding.sources] if grounding else None,
    )
    return complete_run(trainer, processor, named, checkpoint)


def _grounding(args: TrainActionsArguments) -> "GroundingMixture | None":
    """The grounding data of the flags; None when they name none."""
    if args.grounding_dataset is None and args.grounding_mixture is None:
        return None
    mixture = mixture_of(args.grounding_dataset, args.grounding_weights, args.grounding_mixture, prefix="--grounding-")
    if any(source.stream is not None for source in mixture.sources):
        raise UserError("--grounding-mixture: stream: beside actions, grounding samples are drawn in any order.")
    if mixture.eval_dataset is not None and args.grounding_eval_dataset is not None:
        raise UserError("--grounding-eval-dataset: the mixture file has one already.")
    return mixture


def _held_out_grounding(args: TrainActionsArguments) -> Any:
    from training_st4vla.data.grounding_sources import GroundingSource, open_grounding_source

    mixture = _grounding(args)
    source = mixture.eval_dataset if mixture is not None else None
    if args.grounding_eval_dataset is not None:
        source = GroundingSource(args.grounding_eval_dataset)
    return None if source is None else open_grounding_source(source)


def _dry_run(args: TrainActionsArguments, training: Any) -> None:
    from training_st4vla.memory import measure_step

    trainer, _, _ = _build(args, training)
    emit(measure_step(trainer).table().to_text())


def _build(args: TrainActionsArguments, training: Any) -> tuple[Any, Any, str]:
    """The trainer of the flags, its processor, and the attention it computes with."""
    from training_st4vla.action_trainer import SpatialActionTrainer
    from training_st4vla.adapters import lora_config
    from training_st4vla.gauges import PARTS
    from training_st4vla.loading import load_model, training_attention

    attention = training_attention(args.attn_implementation, training.device.type, training.bf16)
    model, processor = load_model(args.model, args.dtype, device="cpu", attn_implementation=attention)
    if args.spatial_prompt is not None:
        processor.spatial_prompt = args.spatial_prompt
    if args.gradient_decay is not None:
        model.config.gradient_decay = model.query_transformer.gradient_decay = args.gradient_decay
    actions, held_out, grounding = _open_data(args, training, model, processor)
    beside = [part for part in PARTS if part != "vlm" and hasattr(model, part) and part not in training.freeze]
    trainer = SpatialActionTrainer(
        model=model,
        args=training,
        train_dataset=actions,
        eval_dataset=held_out,
        grounding_dataset=grounding,
        grounding_eval_dataset=_held_out_grounding(args),
        processing_class=processor,
        peft_config=None if args.lora_rank is None else lora_config(args.lora_rank, beside),
    )
    return trainer, processor, attention


def _open_data(args: TrainActionsArguments, training: Any, model: Any, processor: Any) -> tuple[Any, Any, Any]:
    """Training samples, held-out samples and grounding samples; the processor learns their contracts."""
    from training_st4vla.data.action_mixture import fill_up, mix, open_source, settle_contracts
    from training_st4vla.data.augmentation import AugmentedDataset
    from training_st4vla.data.grounding_sources import open_grounding_mixture

    sources, augmentation, chunk = sources_of(args), args.augmentation(), model.config.chunk_size
    datasets = [open_source(source, chunk, processor, args.stream) for source in sources]
    fill_up(processor, model.config, datasets)
    settle_contracts(sources, datasets, processor, "training")
    actions: Any = mix(sources, datasets, training.seed, args.stream_window if args.stream else None)
    held_out = grounding = None
    if args.eval_dataset:
        source = find_source(sources, args.eval_dataset_key)
        held_out = open_source(replace(source, dataset=args.eval_dataset), chunk, processor)
    mixture = _grounding(args)
    if mixture is not None:
        grounding = open_grounding_mixture(mixture, seed=training.seed)
    if augmentation is not None:
        actions = AugmentedDataset(actions, augmentation, training.seed)
        grounding = grounding and AugmentedDataset(grounding, augmentation, training.seed + 1)
    return actions, held_out, grounding


COMMAND = Command(
    name="train-actions",
    arguments=arguments,
    run=run,
    description="Fine-tunes a model on LeRobot data, one dataset or a mixture. Run the same command again to resume "
    "after an interruption.",
)

if __name__ == "__main__":
    exit_with(COMMAND)
