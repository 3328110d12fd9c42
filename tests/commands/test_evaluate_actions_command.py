"""`st4vla evaluate-actions` on a small model: figures by hand, and a report with films, bands and where it looks."""

import base64
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lerobot_toy import write_dataset

DECLARATION = {
    "action_units": ["m", "m", "m"],
    "frame": "base",
    "rotation": "none",
    "representation": "absolute",
    "gripper_dims": [],
    "gripper_polarity": "none",
}


@pytest.fixture
def evaluated(tmp_path: Path, model: Any, processor: Any) -> Callable[..., Path]:
    """Evaluates the small model on a toy dataset; returns the report."""
    from training_st4vla.commands.main import main
    from training_st4vla.data.action_dataset import LeRobotActionDataset
    from training_st4vla.data.contracts import build_contract, shipped_declaration

    root = write_dataset(tmp_path / "toy")
    (root / "meta" / "action_contract.json").write_text(json.dumps(DECLARATION))
    dataset = LeRobotActionDataset(root, chunk_size=5, action_keys=["action"])
    contract = build_contract(dataset, shipped_declaration(dataset))
    processor.action_contracts[dataset.dataset_key] = contract.to_dict()
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")

    def run(*flags: str) -> Path:
        report = tmp_path / "report.html"
        argv = ["evaluate-actions", "--model", str(tmp_path / "model"), "--dataset", str(root), "--stride", "5"]
        argv += ["--json", str(report.with_suffix(".json"))]
        assert main([*argv, "--action-keys", "action", "--report", str(report), *flags]) == 0
        return report

    return run


LOOK, NEAR = (32.0, 16.0), (slice(90, 103), slice(186, 199))
"""Where the stand-in always looks, in the toy's 64 x 64 pixels, and around it in the film's 384 x 384."""


def first_picture(text: str, number: int) -> np.ndarray:
    """The first picture of a report's film."""
    import av

    videos = re.findall(r"data:video/mp4;base64,([^\"]+)", text)
    with av.open(io.BytesIO(base64.b64decode(videos[number]))) as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb24").astype(int)


def test_figures_by_hand_bands_and_looks(evaluated: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy's actions rise by 1 per frame; chunks of 5 start at every fifth, and at each episode's first frame."""
    from processing_st4vla import GroundingResult, Point
    from training_st4vla.evaluation import action_films, plots
    from training_st4vla.evaluation.intervals import Interval
    from training_st4vla.evaluation.table import format_cell

    asked, drawn = [], []

    def look(model: Any, processor: Any, questions: list[dict[str, Any]]) -> list[GroundingResult]:
        asked.extend(questions)
        return [GroundingResult(points=(Point(xy=LOOK, label="it"),), image_size=(64, 64)) for _ in questions]

    def plot(recorded: Any, predicted: Any, **given: Any) -> Any:
        drawn.append({"recorded": recorded, "predicted": predicted, **given})
        return real_plot(recorded, predicted, **given)

    real_plot = plots.plot_actions
    monkeypatch.setattr(action_films, "predict_grounding", look)
    monkeypatch.setattr(plots, "plot_actions", plot)
    report = evaluated("--band-samples", "3", "--shown-episodes", "2")
    text, figures = report.read_text(), json.loads(report.with_suffix(".json").read_text())

    errors = figures["environment"]
    assert (figures["num_frames"], figures["num_steps"], figures["num_without_previous"]) == (10, 50, 2)
    repeat, mean = ([one["estimate"] for one in errors[name]["mae"]] for name in ("repeat", "mean"))
    assert repeat == pytest.approx([3.0] * 3, abs=1e-4), "1 to 5 frames late"
    assert mean == pytest.approx([12.5] * 3, abs=1e-4), "0 to 49 around their mean"
    assert errors["better_baseline"] == "repeat"
    for one in (*errors["model"]["mae"], errors["mae_ratio"]):
        assert one["low"] <= one["estimate"] <= one["high"]
        assert one["low"] < one["high"]
    ratio = figures["normalized"]["mae_ratio"]
    estimate, bounds = format_cell(Interval(**ratio)).split(" ", 1)
    assert f'{estimate} <span class="bounds">{bounds}</span>' in text
    assert all(name in text for name in ("repeat last action", "mean action", "model / better baseline"))

    order = sorted(figures["episodes"], key=lambda row: -row["model"])
    assert order[0]["model"] > order[1]["model"]
    titles = [f"Episode {row['episode']}" for row in order]
    assert [one["title"] for one in drawn] == titles
    assert re.findall(r"<figcaption>(Episode \d+)</figcaption>", text) == titles, "worst first"

    for one in drawn:
        assert one["samples"].shape == (3, *one["predicted"].shape)
        assert (one["samples"].std(axis=0) > 0).mean() > 0.5, "other noise, other chunks, unless clipped"
        assert one["boundaries"] == list(range(0, len(one["recorded"]), 5))
    assert len(asked) == 10, "asked by default, where a chunk starts"
    assert {question["kind"] for question in asked} == {"spatial"}
    looks = [first_picture(text, number) for number in range(2)]
    assert text.count('class="cursor"') == 2

    report.unlink()
    plain = evaluated("--band-samples", "0", "--shown-episodes", "2", "--no-grounding").read_text()
    assert len(asked) == 10
    assert drawn[-1]["samples"] is None
    for number, picture in enumerate(looks):
        change = np.abs(picture - first_picture(plain, number)).max(axis=2)
        assert change[NEAR].max() > 60, "the point is drawn where the model looks"
        assert change[200:384].max() < 60, "and nowhere else"
