"""`st4vla train-actions`: stage 2 on a LeRobot dataset."""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from training_st4vla.commands.arguments import exit_with, flag
from training_st4vla.commands.console import say, write_json
from training_st4vla.commands.data_arguments import (
    DataArguments,
    open_action_dataset,
    settle_contract,
    show_dataset,
)
from training_st4vla.commands.main import Command
from training_st4vla.errors import UserError, require_extra

RUN_FILE = "run.json"


@dataclass
class TrainActionsArguments(DataArguments):
    """Flags of `st4vla train-actions`, beside those of training."""

    model: str = flag("model to start from: folder or Hub id", "")
    spatial_prompt: str | None = flag(
        "unified, box, point, trace, none, or a template; the model's own without it", None
    )
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
    from training_st4vla.loading import load_model

    if not args.model:
        raise UserError("--model: expected a model to start from. Make one with `st4vla init --preset tiny`.")
    output = Path(training.output_dir)
    checkpoint = claim_run_folder(output, {"arguments": asdict(args), "training": run_identity(training)})
    model, processor = load_model(args.model, args.dtype, device="cpu")
    if args.spatial_prompt is not None:
        processor.spatial_prompt = args.spatial_prompt
    dataset = open_action_dataset(args, model, processor)
    settle_contract(args, dataset, processor, "training")
    trainer = SpatialActionTrainer(model=model, args=training, train_dataset=dataset, processing_class=processor)
    if trainer.is_world_process_zero():
        show_dataset(dataset, processor)
        say(
            f"training {sum(p.numel() for p in model.parameters() if p.requires_grad) / 1e6:.2f} M parameters on "
            f"{training.device}, {args.dtype}" + (f", from {checkpoint.name}" if checkpoint else "")
        )
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if trainer.is_world_process_zero():
        finish_run(trainer, processor, output, args)
    return output


def claim_run_folder(output: Path, identity: dict[str, Any]) -> Path | None:
    """
    Prepares the run's folder: a new one, or one that an interrupted run of the same command left.

    Returns:
        The checkpoint to go on from, or `None` to start at the beginning.

    Raises:
        UserError: when the folder holds a finished model, another run, or something else.
    """
    if (output / "config.json").exists():
        raise UserError(
            f"--output-dir: {output} holds a finished model already. Choose another folder; nothing was changed."
        )
    record = output / RUN_FILE
    identity = json.loads(json.dumps(identity, default=str))
    if record.is_file():
        earlier = json.loads(record.read_text())
        changed = sorted(
            f"{part}.{key}"
            for part in identity
            for key in identity[part]
            if identity[part][key] != earlier[part].get(key)
        )
        if changed:
            raise UserError(
                f"--output-dir: {output} holds an interrupted run with other settings ({', '.join(changed)}). Give "
                "the same flags to resume it, or choose another folder."
            )
        checkpoint = last_complete_checkpoint(output)
        if checkpoint:
            say(f"{output}: going on from {checkpoint.name}.")
        return checkpoint
    if output.exists() and any(output.iterdir()):
        raise UserError(f"--output-dir: expected a new or empty folder, found {output} with content.")
    write_json(record, identity)
    return None


def run_identity(training: Any) -> dict[str, Any]:
    """The trainer settings that decide what a run computes; where it runs and how it reports may change."""
    free = (
        "output_dir",
        "logging_dir",
        "report_to",
        "save_",
        "push_to_hub",
        "hub_",
        "dataloader_",
        "run_name",
        "disable_tqdm",
    )
    return {key: value for key, value in training.to_dict().items() if not key.startswith(free)}


def last_complete_checkpoint(output: Path) -> Path | None:
    """The newest checkpoint that was written to its end; the trainer writes `trainer_state.json` last."""
    numbered = {
        int(path.name.removeprefix("checkpoint-")): path
        for path in output.glob("checkpoint-*")
        if path.name.removeprefix("checkpoint-").isdigit()
    }
    for step in sorted(numbered, reverse=True):
        if (numbered[step] / "trainer_state.json").is_file():
            return numbered[step]
        say(f"{numbered[step]}: incomplete, ignored.")
        shutil.move(numbered[step], output / f"incomplete-{step}")
    return None


def finish_run(trainer: Any, processor: Any, output: Path, args: TrainActionsArguments) -> None:
    """Saves the model into the run's folder, with its training history and report."""
    from training_st4vla.saving import publish_into

    trainer.save_state()
    write_training_report(trainer, output)
    model = trainer.accelerator.unwrap_model(trainer.model).eval()
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    final = f", last logged loss {history[-1]['loss']:.4g}" if history else ""
    publish_into(
        output,
        model,
        processor,
        summary=f"Fine-tuned from `{Path(args.model).name}` on `{Path(args.dataset).name}` for "
        f"{trainer.state.global_step} steps{final}.",
    )
    say(f"{output}: model saved after {trainer.state.global_step} steps{final}; curve in {output}/training.html.")


def write_training_report(trainer: Any, output: Path) -> None:
    """`training.html`: the loss curve and the settings."""
    from training_st4vla.evaluation.plots import plot_loss_curve
    from training_st4vla.evaluation.report import Report, RunInfo

    curves = loss_curves(trainer.state.log_history)
    report = Report("Training", output.name, info=RunInfo.collect(dtype=str(trainer.model.dtype).split(".")[-1]))
    report.section("Loss")
    if curves:
        steps, losses = curves
        report.figure(plot_loss_curve(steps, losses), "Training loss per optimiser step, mean since the last log.")
    rows = [[key, str(value)] for key, value in sorted(run_identity(trainer.args).items()) if value is not None]
    report.section("Settings").table(headers=("setting", "value"), rows=rows)
    report.write(output / "training.html", overwrite=True)


def loss_curves(history: list[dict[str, Any]]) -> tuple[list[int], dict[str, list[float]]] | None:
    """Steps and the parts of the loss from a trainer's log, or `None` when nothing was logged."""
    logged = [entry for entry in history if "loss" in entry]
    if not logged:
        return None
    names = [name for name in ("action_loss", "lm_loss") if any(name in entry for entry in logged)] or ["loss"]
    return [entry["step"] for entry in logged], {
        name.replace("_", " "): [entry.get(name, float("nan")) for entry in logged] for name in names
    }


COMMAND = Command(
    name="train-actions",
    arguments=arguments,
    run=run,
    description="Fine-tunes a model on a LeRobot dataset. Run the same command again to resume after an interruption.",
)

if __name__ == "__main__":
    exit_with(COMMAND)
