"""The My dataset, Act and Compare pages behind their buttons: a toy dataset, fixed answers, a small model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from demo_toy import FixedGrounder
from lerobot_toy import write_dataset

from processing_st4vla import ActionContract, Box, GroundingResult, Point, Trace, VectorContract
from training_st4vla.acting import act_on_episode
from training_st4vla.data.browsing import DatasetBrowser
from training_st4vla.errors import UserError

pytest.importorskip("gradio", reason="the demo needs gradio")
from grounding_demo.act_tab import read_state, warning_of
from grounding_demo.action_plots import plots_html
from grounding_demo.agreement import agreement
from grounding_demo.compare_tab import CompareHandlers
from grounding_demo.dataset_handlers import DatasetHandlers
from grounding_demo.grounder import ModelGrounder

FRONT, WRIST = "observation.images.front", "observation.images.wrist"


def write_events(_: int, columns: dict[str, Any]) -> None:
    """A box and a trace on every fifth frame."""
    result = GroundingResult(
        boxes=(Box((8.0, 8.0, 40.0, 32.0), "square"),),
        traces=(Trace(((1.0, 2.0), (30.0, 40.0)), "gripper"),),
        image_size=(64, 64),
    )
    rows = result.to_lerobot_events(FRONT, "Where is it?")
    columns["language_events"] = [rows if frame % 5 == 0 else [] for frame in columns["frame_index"]]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two episodes, two cameras, events on every fifth frame of one."""
    root = write_dataset(tmp_path_factory.mktemp("demo") / "toy", lengths=(12, 8), edit=write_events)
    info = json.loads((root / "meta/info.json").read_text())
    info["features"]["language_events"] = {"dtype": "language", "shape": [1], "names": None}
    (root / "meta/info.json").write_text(json.dumps(info))
    return root


@pytest.fixture
def handlers() -> DatasetHandlers:
    """Handlers of the page with fixed answers."""
    return DatasetHandlers(FixedGrounder(), allow_folders=True)


def test_a_dataset_opens_with_its_first_frame_and_questions(handlers: DatasetHandlers, toy: Path) -> None:
    facts, episodes, frames, cameras, shown, question, _ = handlers.open(str(toy))
    assert "v2.1" in facts
    assert "2 episodes" in facts
    assert episodes.choices == [("0", 0), ("1", 1)]
    assert (frames.maximum, cameras.value) == (11, FRONT)
    assert [picture["width"] for picture in shown["pictures"]] == [64]
    assert [name for name, _ in question.choices] == ["box: Where is it?", "trace: Where is it?"]
    slider, _, _ = handlers.episode(str(toy), 1, FRONT)
    assert slider.maximum == 7
    shown, question = handlers.frame(str(toy), 0, 3, FRONT)
    assert shown["message"]["text"] == "Annotated are the frames 0, 5, 10."
    assert question.value == "push the red block"


def test_predicted_over_annotated(handlers: DatasetHandlers, toy: Path) -> None:
    shown, facts, answer = handlers.ask(str(toy), 0, 5, FRONT, "box: Where is it?")
    predicted, annotated = shown["pictures"][0]["layers"]
    assert (predicted["editable"], annotated["editable"]) == (True, False)
    assert annotated["boxes"] == [{"xyxy": [8.0, 8.0, 40.0, 32.0], "label": "square"}]
    assert predicted["boxes"] == answer["boxes"]
    assert "mean IoU" in shown["message"]["text"]
    assert "preprocess 14 ms" in facts
    own, _, _ = handlers.ask(str(toy), 0, 3, FRONT, "open the drawer")
    assert len(own["pictures"][0]["layers"]) == 1

    text, problem = handlers.export(str(toy), 0, 5, FRONT, shown, "box: Where is it?")
    rows = [json.loads(line) for line in text.splitlines()]
    assert problem == ""
    assert {(row["episode_index"], row["frame_index"], row["camera"]) for row in rows} == {(0, 5, FRONT)}
    assert rows[0]["content"] == "Where is it?"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "Name a LeRobot dataset"),
        ("/no/where", "Found no folder"),
        (".", "info.json"),
        ("../x", "Found no folder"),
    ],
)
def test_what_is_no_dataset_is_said(handlers: DatasetHandlers, source: str, message: str) -> None:
    *_, shown, _, _ = handlers.open(source)
    assert message in shown["message"]["text"]


def test_folders_are_closed_where_others_can_ask(toy: Path) -> None:
    *_, shown, _, _ = DatasetHandlers(FixedGrounder(), allow_folders=False).open(str(toy))
    assert "Folders can only be opened" in shown["message"]["text"]


def test_places_that_do_not_exist_are_said(handlers: DatasetHandlers, toy: Path) -> None:
    assert "does not exist" in handlers.frame(str(toy), 0, 99, FRONT)[0]["message"]["text"]
    assert "No such episode" in handlers.episode(str(toy), 9, FRONT)[1]["message"]["title"]
    assert "does not act" in handlers.act(str(toy), 0, 0, False)


@pytest.fixture
def contract() -> dict[str, Any]:
    """What the toy's columns mean."""
    stats = {"q01": [0.0], "q99": [20.0], "mean": [10.0]}
    action, state = (
        VectorContract.from_statistics(
            [f"{key}[{index}]" for index in range(dim)],
            {name: values * dim for name, values in stats.items()},
            units=["m"] * dim,
        )
        for key, dim in (("action", 3), ("observation.state", 2))
    )
    known = {"representation": "absolute", "frame": "base", "rotation": "none", "gripper_dims": ()}
    known |= {"gripper_polarity": "none", "control_hz": 10.0, "chunk_size": 5, "cameras": (FRONT, WRIST)}
    return ActionContract(action=action, state=state, **known).to_dict()


def test_predicted_against_recorded_actions(
    build_model: Callable, processor: Any, contract: dict[str, Any], toy: Path
) -> None:
    processor.action_contracts["toy"] = contract
    grounder = ModelGrounder(build_model(state_dim=2), processor, "small")
    data = DatasetBrowser(str(toy))
    chunk = act_on_episode(grounder.model, processor, data, 1, 2, whole=False)
    assert np.allclose(chunk.recorded[:, 0], [14, 15, 16, 17, 18])  # episode 1 starts at frame 12 of the dataset
    whole = act_on_episode(grounder.model, processor, data, 1, 0, whole=True)
    assert whole.predicted.shape == whole.recorded.shape == (8, 3)
    handlers = DatasetHandlers(grounder, allow_folders=True)
    html = handlers.act(str(toy), 1, 2, whole=False)
    assert html.count("<figure>") == 3
    assert "action[0] <span>[m]" in html
    assert "expected 0 to 7" in handlers.act(str(toy), 1, 8, whole=False)
    contract["action"]["names"] = ["x", "y", "z"]
    processor.action_contracts["toy"] = contract
    assert "not those of the model" in DatasetHandlers(grounder, True).act(str(toy), 1, 2, whole=False)


def test_a_state_is_typed_or_the_mean(contract: dict[str, Any]) -> None:
    known = ActionContract.from_dict(contract)
    assert read_state("[1, 2.5]", known) == ([1.0, 2.5], "state as typed")
    assert read_state(" ", known) == ([10.0, 10.0], "mean state of the training data")
    for wrong in ("1", "1 2 3", "1 x", "1 nan", "1 1e999"):
        with pytest.raises(UserError, match="State: expected"):
            read_state(wrong, known)


def test_clipping_is_said(build_model: Callable, processor: Any, contract: dict[str, Any]) -> None:
    from PIL import Image

    processor.action_contracts["toy"] = contract
    grounder = ModelGrounder(build_model(state_dim=2), processor, "small")
    views = [Image.new("RGB", (64, 64), shade) for shade in ("grey", "red")]
    answer = grounder.act(views, "push it", [1.0, 2.0], None, 0)
    warning = warning_of(answer)
    assert (warning is None) == (not answer.clipped.any())
    inside = answer.actions[~answer.clipped]
    assert ((inside > 0) & (inside < 20)).all()
    assert np.isin(answer.actions[answer.clipped], [0, 20]).all()


def test_plots_are_escaped_and_leave_gaps() -> None:
    values = np.array([[1.0, -1.0], [np.nan, 0.0], [3.0, 1.0]])
    html = plots_html(values, ["<b>x</b>", "y"], ["m", "<i>"], 10.0, recorded=values + 1)
    assert "<b>x" not in html
    assert "<i>]" not in html
    assert html.count('class="predicted" d="M') == 2
    assert html.count("M", html.index('class="predicted" d="')) >= 2
    assert "0.3 s, 3 steps" in html


def test_compare(table: Path) -> None:
    handlers = CompareHandlers(FixedGrounder(), FixedGrounder())
    left, _, right, _, line = handlers.compare(str(table), "where?", "box", "processor", "", "point", "native")
    assert left["pictures"][0]["layers"] == right["pictures"][0]["layers"]
    assert "mean IoU 1.00" in line
    assert "mean distance to the nearest 0.0 px" in line
    assert "Fréchet distance 0.0 px" in line
    left, *_ = handlers.compare(None, "where?", "box", "processor", "", "point", "native")
    assert "Choose an image first" in left["message"]["text"]


def test_agreement_of_unlike_answers() -> None:
    one = GroundingResult((Point((0.0, 0.0)),), (Box((0.0, 0.0, 10.0, 10.0)),), (), image_size=(64, 64))
    other = GroundingResult((Point((3.0, 4.0)),), (Box((5.0, 0.0, 15.0, 10.0)),), (), image_size=(64, 64))
    assert (
        agreement(one, other) == "boxes: 1 and 1, mean IoU 0.33 · points: 1 and 1, mean distance to the nearest 5.0 px"
    )
    assert agreement(one, GroundingResult(image_size=(64, 64))) == "nothing of the same kind to compare"
