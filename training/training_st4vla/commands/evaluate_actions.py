"""`st4vla evaluate-actions`: open-loop error on recorded episodes."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training_st4vla.commands.arguments import device_flag, dtype_flag, exit_with, flag
from training_st4vla.commands.console import emit, say, write_json
from training_st4vla.commands.data_arguments import DataArguments, show_dataset
from training_st4vla.commands.main import Command
from training_st4vla.errors import UserError, require_extra


@dataclass
class EvaluateActionsArguments(DataArguments):
    """Flags of `st4vla evaluate-actions`."""

    model: str = flag("model folder or Hub id", "")
    stride: int = flag("evaluate every so many frames", 1)
    batch_size: int = flag("frames per batch", 8)
    num_inference_steps: int | None = flag("denoising steps; the model's own without it", None)
    guidance_scale: float | None = flag("classifier-free guidance, 1 = off; the model's own without it", None)
    seed: int = flag("seed of the sampled noise", 0)
    shown_episodes: int = flag("worst episodes shown in the report, with film and plot", 3)
    band_samples: int = flag("samples of each shown chunk, for the 5 to 95 % band; 0 for none", 8)
    grounding: bool = flag("ask where the model looks, and draw it into the films; --no-grounding is faster", True)
    dtype: str = dtype_flag()
    device: str = device_flag()
    json: str | None = flag("write the figures to this file", None)
    report: str | None = flag("write an HTML report with plots to this new file", None)


def arguments() -> tuple[type, ...]:
    """Flags of this command."""
    require_extra("lerobot", "train")
    return (EvaluateActionsArguments,)


def run(args: EvaluateActionsArguments) -> int:
    """Evaluates, prints a table, writes JSON and the report."""
    evaluate_actions(args)
    return 0


def evaluate_actions(args: EvaluateActionsArguments) -> Any:
    """The command as a function; returns the `OpenLoopResult`."""
    from training_st4vla.data.action_mixture import open_source, settle_contracts
    from training_st4vla.evaluation.action_predictions import predict_actions, score_predictions
    from training_st4vla.loading import load_model

    if not args.model:
        raise UserError("--model: expected a model folder or Hub id.")
    if args.stride < 1 or args.batch_size < 1:
        raise UserError(f"--stride, --batch-size: expected at least 1, found {args.stride}, {args.batch_size}.")
    if args.report and Path(args.report).exists():
        raise UserError(f"--report: {args.report} exists already; choose another name.")
    model, processor = load_model(args.model, args.dtype, args.device)
    source = args.source(args.dataset).unfiltered()
    dataset = open_source(source, model.config.chunk_size, processor)
    if dataset.dataset_key not in processor.action_contracts:
        raise UserError(
            f"--dataset-key: the model has contracts for {sorted(processor.action_contracts) or 'no dataset'}, none "
            f"for {dataset.dataset_key!r}. Name the one whose units this dataset uses."
        )
    settle_contracts([source], [dataset], processor, "evaluation")
    show_dataset(dataset, processor)
    positions = range(0, len(dataset), args.stride)
    sampling = {
        "batch_size": args.batch_size,
        "num_inference_steps": args.num_inference_steps,
        "guidance_scale": args.guidance_scale,
    }
    predictions = predict_actions(model, processor, dataset, positions, seed=args.seed, **sampling)
    contract = processor.contract(dataset.dataset_key)
    result = score_predictions(predictions, contract)
    emit(result.summary_table().to_text())
    emit(result.dimension_table().to_text())
    if args.json:
        write_json(Path(args.json), result.to_dict())
    if args.report:

        def view(episode: Any) -> Any:
            from training_st4vla.evaluation.action_films import view_episode

            return view_episode(
                model,
                processor,
                dataset,
                predictions,
                np.array(positions),
                episode,
                num_samples=args.band_samples,
                grounding=args.grounding,
                fps=contract.control_hz or dataset.fps,
                **sampling,
            )

        _write_report(args, model, contract, result, view)
        say(f"{args.report}: written.")
    return result


def _write_report(args: EvaluateActionsArguments, model: Any, contract: Any, result: Any, view: Any) -> None:
    from training_st4vla.commands.runs import loss_curves
    from training_st4vla.evaluation.plots import plot_actions, plot_loss_curve
    from training_st4vla.evaluation.report import Report, RunInfo

    info = RunInfo.collect(dtype=str(model.dtype).split(".")[-1], extra={"Seed": str(args.seed)})
    report = Report("Open-loop actions", f"{Path(args.model).name} on {Path(args.dataset).name}", info=info)
    report.section("Errors").table(result.summary_table()).table(result.dimension_table())
    report.section("Predicted against recorded")
    report.text("Each chunk as predicted from the recorded frame at a thin line, shown to its end. Click to seek.")
    for row in result.worst_episodes(args.shown_episodes):
        shown = view(row.episode)
        figure = plot_actions(
            shown.recorded,
            shown.predicted,
            names=contract.action.names,
            units=contract.action.units,
            samples=shown.samples,
            fps=contract.control_hz,
            boundaries=shown.boundaries,
            title=f"Episode {row.episode}",
        )
        report.film(shown.video, figure, contract.control_hz, f"Episode {row.episode}")
    if result.num_episodes > 1:
        report.section("Episodes").table(result.episode_table(20))
    state = Path(args.model) / "trainer_state.json"
    curves = loss_curves(json.loads(state.read_text())["log_history"]) if state.is_file() else None
    if curves:
        report.section("Training").figure(plot_loss_curve(*curves), "Training loss of this model.")
    report.write(args.report or "")


COMMAND = Command(
    name="evaluate-actions",
    arguments=arguments,
    run=run,
    description="Open-loop error per action dimension on recorded episodes, beside two trivial baselines.",
)

if __name__ == "__main__":
    exit_with(COMMAND)
