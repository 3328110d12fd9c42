"""`report.html` of a quickstart run: what was done, what came out, and what to make of it."""

import json
from pathlib import Path
from typing import Any

from training_st4vla.commands.quickstart_plan import Plan


def write_quickstart_report(output: Path, plan: Plan, commands: dict[str, str], seconds: dict[str, float]) -> Path:
    """Writes `report.html` into the run's folder; it opens offline."""
    from training_st4vla.evaluation.plots import plot_loss_curve
    from training_st4vla.evaluation.policy_scores import results_from_json, success_table
    from training_st4vla.evaluation.report import Report, RunInfo
    from training_st4vla.precision import multiplies_bfloat16

    info = RunInfo.collect(
        dtype="float32 weights" + (", bfloat16 autocast" if multiplies_bfloat16(plan.device) else ""),
        extra={"Minutes asked for": f"{plan.minutes:g}"},
    )
    report = Report("ST4VLA quickstart", "from nothing to a policy that was measured", info=info)
    results = results_from_json(json.loads((output / "policy.json").read_text()))
    table = success_table(results)
    won = sum(result.success for result in results)
    report.section("Result").text(verdict(plan, won, len(results)), kind="note").table(table)
    pictures = last_pictures(output / "films")
    if pictures:
        report.gallery(pictures)

    report.section("Where things are").table(grounding_table(output))
    report.text(
        "Shuffled words: the same pictures with each other's questions. A model that reads scores lower there."
    )

    for name, folder in (("Stage 1", "stage1"), ("Stage 2", "model")):
        curves = run_curves(output / folder)
        if curves:
            report.section(f"{name}, loss").figure(plot_loss_curve(*curves), "Mean since the last log.")

    report.section("What was done").table(
        headers=("step", "seconds", "the same by hand"),
        rows=[[name, seconds[name], commands.get(name, "")] for name in seconds],
    )
    return report.write(output / "report.html", overwrite=True)


def verdict(plan: Plan, won: int, episodes: int) -> str:
    """An honest sentence about what this much training achieves."""
    share = (
        f"The policy put the named block on the plate in {won} of {episodes} new scenes after {plan.grounding_steps} "
        f"steps of stage 1 and {plan.action_steps} of stage 2 from random weights."
    )
    if won * 2 < episodes:
        share += (
            " That is little training: the aim of these minutes is to show every step and its command. More minutes, "
            "an accelerator, or a pretrained planner (st4vla init --vlm) give a better policy."
        )
    return share


def grounding_table(output: Path) -> Any:
    """Main score per kind of question, with right and with shuffled words."""
    from training_st4vla.evaluation.table import ResultTable

    splits = json.loads((output / "grounding.json").read_text())["splits"]
    rows = []
    for figures in splits.values():
        for who in ("model", "shuffled words", "prior"):
            for kind, score in figures.get(who, {}).items():
                headline = score["headline"]
                bounds = f"[{headline['low']:.3f}, {headline['high']:.3f}]" if headline["low"] is not None else ""
                rows.append([kind, who, headline["metric"], headline["estimate"], bounds, score["num_questions"]])
    return ResultTable(headers=("question", "who", "score", "value", "95 %", "questions"), rows=rows)


def run_curves(folder: Path) -> tuple[list[int], dict[str, list[float]]] | None:
    """The loss curve that a training run left."""
    from training_st4vla.commands.runs import loss_curves

    state = folder / "trainer_state.json"
    return loss_curves(json.loads(state.read_text())["log_history"]) if state.is_file() else None


def last_pictures(films: Path, most: int = 8) -> list[tuple[Any, str]]:
    """The last frame of each film."""
    from collections import deque

    import av

    pictures = []
    for path in sorted(films.glob("*.mp4"))[:most]:
        with av.open(str(path)) as container:
            pictures += [(frame.to_image(), path.stem) for frame in deque(container.decode(video=0), maxlen=1)]
    return pictures


__all__ = ["write_quickstart_report"]
