"""`report.html`: curves and pictures of the runs, read from what the trainer logged."""

import json
from pathlib import Path
from typing import Any

from PIL import Image

from training_st4vla.evaluation.plots import plot_loss_curve
from training_st4vla.evaluation.report import Report

CURVES = (
    ("eval_box_accuracy@0.5", "share right", "Boxes of the episode's own frames, IoU at least 0.5."),
    ("eval_box_iou", "mean IoU", "The same boxes: mean overlap."),
    ("eval_box_parse_rate", "share readable", "Answers that could be read as boxes."),
    ("eval_trace_parse_rate", "share readable", "Answers that could be read as gripper paths."),
    ("eval_trace_rmse_diagonal", "error", "Error of gripper paths, of the image's diagonal; 1 where unreadable."),
    ("action_loss", "loss", "Action loss of the training batches."),
    ("lm_loss", "loss", "Text loss of the training batches; vanilla training has none."),
    ("eval_action_mae_ratio", "ratio", "Open-loop error of sampled chunks; 1 is the better trivial baseline."),
    ("pss", "PSS", "Projection-space similarity of grounding and action gradients."),
)


def history(run: Path) -> list[dict[str, Any]]:
    """What a finished run logged."""
    return json.loads((run / "trainer_state.json").read_text())["log_history"]


def curve(run: Path, name: str) -> tuple[list[int], list[float]]:
    """Steps and values of one figure."""
    entries = [entry for entry in history(run) if name in entry]
    return [entry["step"] for entry in entries], [entry[name] for entry in entries]


def summary(folder: Path, names: list[str]) -> list[list[Any]]:
    """One row per run: first and last of what matters."""
    rows = []
    for name in names:
        row: list[Any] = [name]
        for metric in ("action_loss", "lm_loss", "eval_box_accuracy@0.5", "eval_trace_rmse_diagonal"):
            _, values = curve(folder / name, metric)
            row.append(f"{values[0]:.3f} → {values[-1]:.3f}" if values else "none")
        rows.append([*row, f"{curve(folder / name, 'eval_action_mae_ratio')[1][-1]:.2f}"])
    return rows


def write_report(folder: Path, names: list[str]) -> Path:
    """Writes `folder/report.html` over an older one."""
    report = Report("Guided against vanilla", "one annotated episode, one planner, three ways to go on")
    report.section("Before").text(
        "Stage 1 taught a tiny planner, from nothing, the boxes and gripper paths in frames of one simulated episode. "
        "All three runs start from it."
    )
    steps, right = curve(folder / "grounded", "eval_box_accuracy@0.5")
    report.figure(plot_loss_curve(steps, {"right": right}, log_scale=False, ylabel="share right"), "Stage 1.")
    report.section("After").table(
        headers=("run", "action loss", "text loss", "boxes right", "path error", "open-loop error"),
        rows=summary(folder, names),
        caption="First → last. Path error: of the image's diagonal. Open-loop error: of the better trivial baseline.",
    )
    report.section("Curves")
    for metric, label, caption in CURVES:
        found = {name: curve(folder / name, metric) for name in names}
        found = {name: values for name, values in found.items() if values[0]}
        if found:
            steps_of, values_of = ({name: pair[part] for name, pair in found.items()} for part in (0, 1))
            report.figure(plot_loss_curve(steps_of, values_of, log_scale=False, ylabel=label), caption)
    report.section("Pictures").text("Left: the truth. Right: the answer at the end.")
    report.gallery([(Image.open(last_picture(folder / name)), name) for name in names], max_side=1600)
    return report.write(folder / "report.html", overwrite=True)


def last_picture(run: Path) -> Path:
    """Answers of the last evaluation."""
    return sorted((run / "pictures").glob("step-*.jpg"))[-1]
