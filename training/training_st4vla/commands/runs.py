"""Folders of training runs: claimed once, resumed by the same command, published at the end."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from training_st4vla.commands.checkpoints import last_complete_checkpoint
from training_st4vla.commands.console import say, write_json
from training_st4vla.errors import UserError

RUN_FILE = "run.json"


def start_run(args: Any, training: Any, **parts: dict[str, Any]) -> Path | None:
    """
    Checks what both stages ask of their flags, and prepares the run's folder; see `claim_run_folder`.

    Args:
        args: flags of the command, with `model` and `dtype`. training (`TrainingArguments`). parts: what else decides
            what the run computes, such as the content of files that flags name.
    """
    from training_st4vla.precision import multiplies_bfloat16

    if not args.model:
        raise UserError("--model: expected a model to start from. Make one with `st4vla init --preset tiny`.")
    for flag, dtype in (("--dtype", args.dtype), ("--save-dtype", args.save_dtype or args.dtype)):
        if dtype not in ("float32", "bfloat16"):
            raise UserError(f"{flag}: expected float32 or bfloat16, found {dtype!r}.")
    if training.push_to_hub:
        raise UserError(
            "--push-to-hub: the trainer would upload checkpoints and run files without a complete card. Leave it out, "
            "and publish the finished model with `st4vla push FOLDER --repo-id OWNER/NAME`."
        )
    if training.bf16 and not multiplies_bfloat16(training.device):
        say("--bf16: this CPU emulates bfloat16. --bf16 False is many times faster.")
    identity = {"arguments": asdict(args), "training": run_identity(training), **parts}
    # One process after the other: a folder that the first is just claiming looks occupied to the others.
    with training.main_process_first(desc="claiming the run's folder"):
        return claim_run_folder(Path(training.output_dir), identity, *checkpoint_needs(training))


def checkpoint_needs(training: Any) -> tuple[str, ...]:
    """Files without which a checkpoint of these settings cannot be resumed, beside those of every run."""
    if getattr(training, "ema_decay", None) is None:
        return ()
    from training_st4vla.ema import FILE

    return (FILE,)


def complete_run(trainer: Any, processor: Any, args: Any, checkpoint: Path | None) -> Path:
    """Trains to the end, from a checkpoint if there is one, and publishes the model; returns its folder."""
    from training_st4vla.sharding import whole_model

    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    output = Path(trainer.args.output_dir)
    model = whole_model(trainer)
    if trainer.is_world_process_zero():
        finish_run(trainer, model, processor, output, args)
    return output


def claim_run_folder(output: Path, identity: dict[str, Any], *needs: str) -> Path | None:
    """
    Prepares the run's folder: a new one, or one that an interrupted run of the same command left; `needs` as in
    `last_complete_checkpoint`.

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
            for key in {**identity[part], **earlier.get(part, {})}
            if identity[part].get(key) != earlier.get(part, {}).get(key)
        )
        if changed:
            raise UserError(
                f"--output-dir: {output} holds an interrupted run with other settings ({', '.join(changed)}). Give "
                "the same flags to resume it, or choose another folder."
            )
        checkpoint = last_complete_checkpoint(output, *needs)
        found = f"going on from {checkpoint.name}" if checkpoint else "no whole checkpoint, starting at the beginning"
        say(f"{output}: {found}.")
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


def finish_run(trainer: Any, model: Any, processor: Any, output: Path, args: Any) -> None:
    """Saves a model into the run's folder, with its training history and report; `args` name model and dataset."""
    from training_st4vla.adapters import merge_adapters
    from training_st4vla.loading import DTYPES
    from training_st4vla.provenance import describe_source, public_name, trace_ancestry
    from training_st4vla.saving import publish_into

    trainer.save_state()
    write_training_report(trainer, output)
    model = merge_adapters(model, output / "adapter").eval()
    if args.save_dtype is not None:
        model = model.to(DTYPES[args.save_dtype])
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    datasets = _training_data(args)
    names = [f"`{public_name(one)}`" for one in datasets]
    final = f", last logged loss {history[-1]['loss']:.4g}" if history else ""
    publish_into(
        output,
        model,
        processor,
        summary=f"Fine-tuned from `{public_name(args.model)}` on {', '.join(names)} for {trainer.state.global_step} "
        f"steps{final}.",
        sources=[describe_source(one) for one in datasets],
        ancestry=trace_ancestry(args.model),
    )
    say(f"{output}: model saved after {trainer.state.global_step} steps{final}; curve in {output}/training.html.")


def _training_data(args: Any) -> list[str]:
    datasets = [args.dataset] if isinstance(args.dataset, str) else args.dataset
    return list(dict.fromkeys([*datasets, *(getattr(args, "grounding_dataset", None) or ())]))


def write_training_report(trainer: Any, output: Path) -> None:
    """`training.html`: the loss curve and the settings."""
    from training_st4vla.evaluation.plots import plot_loss_curve
    from training_st4vla.evaluation.report import Report, RunInfo

    curves = loss_curves(trainer.state.log_history)
    dtype, took = str(trainer.model.dtype).split(".")[-1], training_time(trainer.state.log_history)
    report = Report("Training", output.name, info=RunInfo.collect(dtype=dtype, extra=took))
    report.section("Loss")
    if curves:
        steps, losses = curves
        report.figure(plot_loss_curve(steps, losses), "Training loss per optimiser step, mean since the last log.")
    _add_held_out(report, trainer.state.log_history, output)
    rows = [[key, str(value)] for key, value in sorted(run_identity(trainer.args).items()) if value is not None]
    report.section("Settings").table(headers=("setting", "value"), rows=rows)
    report.write(output / "training.html", overwrite=True)


def training_time(history: list[dict[str, Any]]) -> dict[str, str]:
    """How long the last process trained, evaluation included, and what it went through, for the report's footer."""
    last = next((entry for entry in reversed(history) if "train_runtime" in entry), None)
    if last is None:
        return {}
    return {
        "Training time": f"{last['train_runtime'] / 60:.1f} minutes up to step {last['step']}, evaluation included"
    }


def _add_held_out(report: Any, history: list[dict[str, Any]], output: Path) -> None:
    """Scores on held-out data over training, and pictures of the answers, newest first."""
    from PIL import Image

    from training_st4vla.evaluation.plots import plot_loss_curve

    steps, scores = held_out_scores(history)
    if not steps:
        return
    report.section("Held-out data")
    shares = {name: values for name, values in scores.items() if name.endswith(("accuracy", "@0.5", "_rate", "_iou"))}
    if shares:
        report.figure(
            plot_loss_curve(steps, shares, log_scale=False, ylabel="share"),
            "Answers by generation: right, and readable.",
        )
    rows = [[step, *(f"{values[i]:.3f}" for values in scores.values())] for i, step in enumerate(steps)]
    report.table(headers=("step", *scores), rows=rows)
    pictures = sorted((output / "pictures").glob("step-*.jpg"), reverse=True)
    if pictures:
        report.text("Left: the truth. Right: the answer.")
        report.gallery([(Image.open(path), path.stem) for path in pictures[:4]], max_side=2000)


def held_out_scores(history: list[dict[str, Any]]) -> tuple[list[int], dict[str, list[float]]]:
    """Steps of the evaluations by generation, and each score at them."""
    entries = [entry for entry in history if any(key.endswith(("_parse_rate", "_mae_ratio")) for key in entry)]
    names = [key for key in (entries[0] if entries else {}) if key.startswith("eval_")]
    scores = {name.removeprefix("eval_"): [entry.get(name, float("nan")) for entry in entries] for name in names}
    return [entry["step"] for entry in entries], scores


def loss_curves(history: list[dict[str, Any]]) -> tuple[list[int], dict[str, list[float]]] | None:
    """Steps and the parts of the loss from a trainer's log, or `None` when nothing was logged."""
    logged = [entry for entry in history if "loss" in entry]
    if not logged:
        return None
    names = [name for name in ("action_loss", "lm_loss") if any(name in entry for entry in logged)] or ["loss"]
    return [entry["step"] for entry in logged], {
        name.replace("_", " "): [entry.get(name, float("nan")) for entry in logged] for name in names
    }


__all__ = ["complete_run", "loss_curves", "start_run"]
