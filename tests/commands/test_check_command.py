"""`st4vla check`: seeded defects are found, healthy data pass, exit codes and files are as documented."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grounding_toy import picture, save, schema_row, write_lines, write_schema_set
from lerobot_toy import write_dataset

from training_st4vla.commands.main import main

Found = dict[str, list[dict[str, Any]]]


@pytest.fixture
def check(tmp_path: Path) -> Callable[..., tuple[int, Found]]:
    def run(*argv: str) -> tuple[int, Found]:
        target = tmp_path / "findings.json"
        target.unlink(missing_ok=True)
        code = main(["check", *argv, "--json", str(target)])
        report = json.loads(target.read_text())
        assert report["exit_code"] == code
        found: Found = {"error": [], "warning": [], "info": []}
        for finding in report["findings"]:
            found[finding["level"]].append(finding)
        return code, found

    return run


def names(findings: list[dict[str, Any]]) -> set[str]:
    return {finding["name"] for finding in findings}


# --- Grounding data -------------------------------------------------------------------------------------------------


def test_healthy_grounding_data(tmp_path: Path, check: Callable[..., tuple[int, Found]]) -> None:
    path = write_schema_set(tmp_path / "data", count=3)
    report = tmp_path / "report.html"
    code, found = check(str(path), "--report", str(report))
    assert (code, found["error"], found["warning"]) == (0, [], [])
    text = report.read_text()
    assert text.count("<img") == 9  # boxes, points and traces are drawn; words are not
    assert main(["check", str(path), "--report", str(report)]) == 1  # never overwritten


DEFECTS: dict[str, tuple[dict[str, Any], str, int]] = {
    "outside": ({"boxes": [[100, 5, 120, 20]]}, "answers", 2),
    "empty": ({"boxes": []}, "answers", 2),
    "inverted": ({"boxes": [[30, 8, 10, 28]]}, "answers", 2),
    "clipped": ({"boxes": [[50, 8, 80, 28]]}, "clipped", 1),
    "whole image": ({"boxes": [[0, 0, 64, 48]]}, "large boxes", 1),
    "missing image": ({"image": "gone.png"}, "images", 2),
    "damaged image": ({"image": "bad.png"}, "images", 2),
    "other size": ({"image_width": 128, "image_height": 96}, "image size", 2),
    "repetition": ({"instruction": "the green square", "labels": ["square"]}, "repetitions", 1),
    "contradiction": ({"instruction": "the green square", "boxes": [[1, 1, 9, 9]]}, "contradictions", 1),
    "no licence": ({"license": ""}, "license", 1),
    "special token": ({"instruction": "<image> where?"}, "answers", 2),
    "unreadable": ({"kind": "cloud"}, "rows", 2),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_seeded_defects(tmp_path: Path, check: Callable[..., tuple[int, Found]], defect: str) -> None:
    change, name, expected = DEFECTS[defect]
    save(tmp_path / "0.png", picture())
    (tmp_path / "bad.png").write_bytes(b"no image")
    row = schema_row(**{"instruction": "the square", "labels": [], **change})
    code, found = check(str(write_lines(tmp_path / "rows.jsonl", [schema_row(), row])))
    level = "error" if expected == 2 else "warning"
    assert code == expected
    assert names(found[level]) == {name}
    (finding,) = (one for one in found[level] if one["name"] == name)
    assert finding["count"] == 1
    assert "row 1" in " ".join(finding["examples"])


def test_a_wrong_space_is_guessed(tmp_path: Path, check: Callable[..., tuple[int, Found]]) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for number in range(60):
        save(tmp_path / f"{number}.png", picture(number % 60, (1280, 960)))
        point = rng.uniform(0, 1, (2, 2)) if number % 2 else rng.uniform(0, 0.99, (2, 2))
        rows.append(schema_row(f"{number}.png", kind="point", boxes=[], labels=[], points=point.tolist()))
        rows[-1] |= {"image_width": 1280, "image_height": 960}
    code, found = check(str(write_lines(tmp_path / "rows.jsonl", rows)))
    assert code == 2
    assert "fill 'unit'" in next(one["text"] for one in found["error"] if one["name"] == "coordinate space")


def test_an_undeclared_space(tmp_path: Path, check: Callable[..., tuple[int, Found]]) -> None:
    save(tmp_path / "0.png", picture())
    path = write_lines(tmp_path / "rows.jsonl", [schema_row(coordinate_space=None)])
    code, found = check(str(path))
    assert code == 2
    assert "not declared" in found["error"][0]["text"]
    assert check(str(path), "--coordinate-space", "pixel")[0] == 0


def test_images_shared_by_splits(tmp_path: Path, check: Callable[..., tuple[int, Found]]) -> None:
    write_schema_set(tmp_path, count=3, name="train.jsonl")
    write_schema_set(tmp_path, count=2, name="test.jsonl", first=2)
    code, found = check(str(tmp_path))
    assert code == 2
    (finding,) = (one for one in found["error"] if one["name"] == "duplicate images")
    assert finding["count"] == 1
    assert "'test' and 'train'" in finding["text"]
    assert check(str(tmp_path), "--split", "test")[0] == 0


def test_a_draw_is_called_one_and_duplicates_are_looked_for_in_all(
    tmp_path: Path, check: Callable[..., tuple[int, Found]]
) -> None:
    for name, first in (("train", 0), ("test", 5)):  # 5 images of train are in test
        path = write_schema_set(tmp_path, count=10, name=f"{name}.jsonl", first=first)
        path.write_text(path.read_text() + path.read_text().splitlines()[0] + "\n")  # the first once more
    code, found = check(str(tmp_path), "--max-samples", "3")
    assert code == 2
    (shared,) = (one for one in found["error"] if one["name"] == "duplicate images")
    assert shared["count"] == 5
    assert [one["count"] for one in found["warning"] if one["name"] == "repetitions"] == [1, 1]
    (samples,) = (one["text"] for one in found["info"] if one["name"] == "samples" and "train" in one["text"])
    assert samples.startswith("train: in a draw of 3 of 41 samples: 3 samples of layout 'grounding'")


def test_a0_episodes_are_told_from_their_folder(tmp_path: Path, check: Callable[..., tuple[int, Found]]) -> None:
    save(tmp_path / "0.png", picture())
    (tmp_path / "train_test_split.json").write_text(json.dumps({"train": [], "test": ["episode_1.json"]}))
    content = {"metadata": {"instructions": "push it"}, "cam_highs": ["0.png"] * 3}
    path = [[8, 8], [30, 20], [60, 40]]
    (tmp_path / "episode_1.json").write_text(json.dumps({**content, "waypoints2d": path}))
    code, found = check(str(tmp_path), "--coordinate-space", "pixel")
    assert (code, found["error"], names(found["warning"])) == (1, [], {"license"})
    assert "1 samples of layout 'a0': 1 trace" in " ".join(one["text"] for one in found["info"])


# --- LeRobot data ---------------------------------------------------------------------------------------------------


def test_healthy_actions(tmp_path: Path, check: Callable[..., tuple[int, Found]]) -> None:
    root = write_dataset(tmp_path / "toy")
    report = tmp_path / "report.html"
    code, found = check(str(root), "--report", str(report))
    assert (code, found["error"], found["warning"]) == (0, [], [])
    assert "observation.images.front, episode" in report.read_text()


def still(_: int, columns: dict[str, Any]) -> None:
    columns["action"] = [[1.0, 3.0, 0.0] for _ in columns["action"]]


def nan(episode: int, columns: dict[str, Any]) -> None:
    if episode == 1:
        columns["action"][4][2] = float("nan")


def outlier(episode: int, columns: dict[str, Any]) -> None:
    if episode == 0:
        columns["action"][4][1] = 1e6


def jump(episode: int, columns: dict[str, Any]) -> None:
    import pyarrow as pa

    if episode == 0:
        times = np.arange(len(columns["index"]), dtype=np.float32) / 10
        times[7:] += 0.02
        columns["timestamp"] = pa.array(times)


@pytest.mark.parametrize(
    ("edit", "level", "name", "text"),
    [
        (still, "warning", "constant dimensions", "action[1]"),
        (nan, "error", "numbers", "episodes cannot be used"),
        (outlier, "warning", "outliers", "action[1]"),
        (jump, "warning", "timestamps", "differ from 1 / 10"),
    ],
)
def test_seeded_numbers(
    tmp_path: Path, check: Callable[..., tuple[int, Found]], edit: Any, level: str, name: str, text: str
) -> None:
    code, found = check(str(write_dataset(tmp_path / "toy", edit=edit)))
    assert code == (2 if level == "error" else 1)
    assert text in next(one["text"] for one in found[level] if one["name"] == name)


def test_missing_and_damaged_videos(tmp_path: Path, check: Callable[..., tuple[int, Found]]) -> None:
    root = write_dataset(tmp_path / "toy")
    (root / "videos/chunk-000/observation.images.front/episode_000001.mp4").unlink()
    code, found = check(str(root))
    assert code == 2
    assert names(found["error"]) == {"videos observation.images.front"}
    assert check(str(root), "--cameras", "wrist")[0] == 0
    (root / "videos/chunk-000/observation.images.wrist/episode_000000.mp4").write_bytes(b"\0" * 1000)
    code, found = check(str(root), "--cameras", "wrist")
    assert (code, names(found["error"])) == (2, {"frames"})


def test_open_choices_are_warnings(tmp_path: Path, check: Callable[..., tuple[int, Found]]) -> None:
    root = write_dataset(tmp_path / "toy", columns={"action.delta": 3, "action.gripper": 1})
    code, found = check(str(root))
    assert (code, names(found["warning"])) == (1, {"action columns"})
    assert check(str(root), "--action-keys", "delta", "gripper")[0] == 0
    assert check(str(root), "--action-keys", "nothing")[0] == 2


def test_nothing_there(tmp_path: Path, check: Callable[..., tuple[int, Found]]) -> None:
    code, found = check(str(tmp_path / "nothing"))
    assert code == 2
    assert "No dataset was found" in found["error"][0]["text"]


# --- The model ------------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path, build_model: Callable[..., Any], processor: Any) -> Callable[..., str]:
    """A model with a contract for the toy dataset, and configuration and processor saved."""

    def save_model(**fields: Any) -> str:
        from training_st4vla.data.action_dataset import LeRobotActionDataset
        from training_st4vla.data.contracts import build_contract

        model = build_model(**fields)
        dataset = LeRobotActionDataset(write_dataset(tmp_path / "trained" / "toy"), chunk_size=model.config.chunk_size)
        declared = {
            "action_units": ["m"] * 3,
            "representation": "delta",
            "frame": "base",
            "rotation": "none",
            "gripper_polarity": "none",
        }
        processor.action_contracts = {"toy": build_contract(dataset, declared).to_dict()}
        folder = tmp_path / "model"
        model.config.save_pretrained(folder)
        processor.save_pretrained(folder)
        return str(folder)

    return save_model


def test_data_that_fit_the_model(
    tmp_path: Path, check: Callable[..., tuple[int, Found]], saved: Callable[..., str]
) -> None:
    model = saved()
    root = str(write_dataset(tmp_path / "toy"))
    code, found = check(root, "--model", model)
    assert (code, found["error"]) == (0, [])
    assert "fits the action contract 'toy'" in " ".join(one["text"] for one in found["info"])
    code, found = check(root, "--model", model, "--dataset-key", "other")
    assert (code, found["error"]) == (0, [])
    assert "no action contract 'other'" in " ".join(one["text"] for one in found["info"])
    code, found = check(root, "--model", model, "--cameras", "wrist", "front")
    assert (code, names(found["error"])) == (2, {"fit to the model"})
    assert "cameras" in found["error"][0]["text"]


def test_data_that_do_not_fit_the_model(
    tmp_path: Path, check: Callable[..., tuple[int, Found]], saved: Callable[..., str]
) -> None:
    model = saved()

    def faster(_: int, columns: dict[str, Any]) -> None:
        columns["action"] = [[3 * value for value in row] for row in columns["action"]]

    code, found = check(str(write_dataset(tmp_path / "a" / "toy", edit=faster)), "--model", model)
    assert (code, names(found["warning"])) == (1, {"action range"})
    wide = write_dataset(tmp_path / "b" / "toy", columns={"action": 5})
    code, found = check(str(wide), "--model", model)
    assert (code, names(found["error"])) == (2, {"fit to the model"})
    assert "action dimension: the model has 3, the dataset 5" in found["error"][0]["text"]
    assert main(["check", str(wide), "--model", str(tmp_path / "nothing")]) == 1
