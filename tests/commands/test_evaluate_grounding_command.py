"""`st4vla evaluate-grounding`: published layouts by name, tables, files, the prior and shuffled words."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from grounding_toy import BOX, SIZE, picture, save, schema_row, write_lines, write_schema_set
from PIL import Image

import training_st4vla.loading as loading
from processing_st4vla import GroundingResult
from training_st4vla.commands.main import main
from training_st4vla.evaluation.benchmarks import BENCHMARKS, open_benchmark
from training_st4vla.model_card import Measured, add_results


@pytest.fixture
def knowing(monkeypatch: pytest.MonkeyPatch, processor: Any) -> Callable[[Callable[[str], str]], None]:
    """Replaces the model by one whose answers are a function of its prompt."""
    import torch

    class Knowing(torch.nn.Module):
        device, dtype = torch.device("cpu"), torch.float32

        def __init__(self, answer: Callable[[str], str]) -> None:
            super().__init__()
            self.answer = answer

        def generate(self, input_ids: torch.Tensor, **_: Any) -> torch.Tensor:
            texts = [self.answer(prompt) for prompt in processor.tokenizer.batch_decode(input_ids)]
            new = processor.tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")["input_ids"]
            return torch.cat([input_ids, new], dim=1)

    def use(answer: Callable[[str], str]) -> None:
        monkeypatch.setattr(loading, "load_grounder", lambda *_: (Knowing(answer), processor))

    return use


def right(prompt: str) -> str:
    """The answer about the first toy picture, in pixels of the 112 x 112 image that the model sees."""
    result = GroundingResult.from_text(
        {
            "bbox_2d": f'[{{"bbox_2d": {list(BOX)}}}]',
            "trace_2d": '[{"trace_2d": [[1, 1], [20, 18], [60, 40]]}]',
            "point_2d": '[{"point_2d": [20, 18]}]',
        }[next(key for key in ("bbox_2d", "trace_2d", "point_2d") if key in prompt)],
        image_size=SIZE,
        model_size=SIZE,
    )
    return result.to_text(model_size=(112, 112), decimals=3)


def test_only_the_kinds_and_roles_that_are_asked_for(tmp_path: Path, knowing: Any) -> None:
    knowing(right)
    image = save(tmp_path / "a.png", picture())
    rows = [schema_row(image, role=role) for role in ("target", "place")]
    rows.append(schema_row(image, kind="point", points=[[20.0, 18.0]], labels=["point", "square"], role="target"))
    path, target = write_lines(tmp_path / "rows.jsonl", rows), tmp_path / "figures.json"
    argv = ["evaluate-grounding", "--model", "m", "--benchmark", str(path), "--json", str(target)]
    assert main([*argv, "--kinds", "box", "--roles", "target"]) == 0
    split = json.loads(target.read_text())["splits"]["all"]
    assert (split["questions"], set(split["model"]), set(split["roles"])) == (1, {"box"}, {"target box"})


def test_every_kind_every_file(tmp_path: Path, knowing: Any, capsys: pytest.CaptureFixture[str]) -> None:
    knowing(right)
    path = write_schema_set(tmp_path / "data", count=1)
    files = {name: tmp_path / name for name in ("figures.json", "answers.jsonl", "report.html")}
    argv = ["evaluate-grounding", "--model", "m", "--benchmark", str(path), "--shuffle-instructions"]
    argv += ["--json", str(files["figures.json"]), "--predictions", str(files["answers.jsonl"])]
    assert main([*argv, "--report", str(files["report.html"])]) == 0
    shown = capsys.readouterr()
    assert "accuracy@0.5" in shown.out
    assert "shuffled words" in shown.out
    assert "asked at 112 x 112 pixels" in shown.out
    assert "1 questions ask for words and are not scored" in shown.out
    split = json.loads(files["figures.json"].read_text())["splits"]["all"]
    assert (split["questions"], split["not_scored"]) == (3, {"words": 1, "invalid": 0, "points_without_region": {}})
    assert split["model"]["box"]["headline"]["estimate"] == 1.0
    assert split["model"]["point"]["headline"]["estimate"] == 1.0
    assert split["model"]["trace"]["headline"]["estimate"] < 0.01
    assert split["prior"]["box"]["headline"]["estimate"] == 1.0  # of one question, the mean is the truth
    rows = [json.loads(line) for line in files["answers.jsonl"].read_text().splitlines()]
    assert json.loads(files["figures.json"].read_text())["asked_at"] == "112 x 112 pixels"
    assert [(row["kind"], row["metric"]) for row in rows] == [
        ("box", "accuracy@0.5"),
        ("point", "point_accuracy"),
        ("trace", "rmse_diagonal"),
    ]
    assert rows[0]["result"]["boxes"]
    report = files["report.html"].read_text()
    assert report.count("<img") == 3
    assert "always the mean answer of these questions" in report
    assert main([*argv, "--report", str(files["report.html"])]) == 1


def test_points_without_a_region_are_counted_by_role(
    tmp_path: Path, knowing: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    knowing(right)
    image = save(tmp_path / "0.png", picture())
    point = {"kind": "point", "points": [[20, 18]], "labels": []}
    rows = [schema_row(image, **point, role="target")]
    rows += [schema_row(image, **point, boxes=[], instruction=f"free {n}", role="free_space") for n in range(2)]
    rows.append(schema_row(image, **point, boxes=[], instruction="the place to put it", role="place"))
    target = tmp_path / "figures.json"
    argv = ["evaluate-grounding", "--model", "m", "--benchmark", str(write_lines(tmp_path / "rows.jsonl", rows))]
    assert main([*argv, "--json", str(target), "--report", str(tmp_path / "report.html")]) == 0
    split = json.loads(target.read_text())["splits"]["all"]
    assert split["model"]["point"]["num_questions"] == 1
    assert split["not_scored"]["points_without_region"] == {"free_space": 2, "place": 1}
    for text in (capsys.readouterr().out, (tmp_path / "report.html").read_text()):
        assert "3 of 4 questions are not scored (2 free_space, 1 place)" in text
        assert "visible box of what is asked for is right (1 questions)" in text


def test_rows_that_cannot_be_used_are_left_out_on_request(
    tmp_path: Path, knowing: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    knowing(right)
    image = save(tmp_path / "0.png", picture())
    (tmp_path / "damaged.png").write_bytes((tmp_path / image).read_bytes()[:90])
    rows = [
        schema_row(image, boxes=[[100, 8, 130, 28]]),
        schema_row(image),
        schema_row("damaged.png"),
        schema_row("missing.png"),
        schema_row(image, kind="unheard of"),
        schema_row(image, instruction=" "),
    ]
    target = tmp_path / "figures.json"
    argv = ["evaluate-grounding", "--model", "m", "--benchmark", str(write_lines(tmp_path / "rows.jsonl", rows))]
    assert main(argv) == 1
    assert "outside image" in capsys.readouterr().err
    assert main([*argv, "--skip-invalid", "--max-samples", "6", "--json", str(target)]) == 0
    shown = capsys.readouterr()
    split = json.loads(target.read_text())["splits"]["all"]
    assert (split["questions"], split["not_scored"]["invalid"]) == (1, 5)
    assert split["model"]["box"]["headline"]["estimate"] == 1.0
    assert "5 rows cannot be used" in shown.out
    assert [f"question {n}, left out" in shown.err for n in range(6)] == [True, False, True, True, True, True]


def test_a_mask_that_cannot_be_used(tmp_path: Path, knowing: Any) -> None:
    knowing(right)
    folder, target = where2place(tmp_path / "data"), tmp_path / "figures.json"
    asked = [{"question_id": n, "text": "Point.", "image": name} for n, name in enumerate(("a.png", "b.png", "c.png"))]
    write_lines(folder / "point_questions.jsonl", asked)
    for name, mask in (("b.png", Image.new("RGB", SIZE)), ("c.png", Image.new("RGB", (8, 8), "white"))):
        save(folder / "images" / name, picture())
        save(folder / "masks" / name, mask)
    argv = ["evaluate-grounding", "--model", "m", "--benchmark", "where2place", "--data", str(folder)]
    assert main([*argv, "--json", str(target)]) == 1
    assert main([*argv, "--json", str(target), "--skip-invalid"]) == 0
    split = json.loads(target.read_text())["splits"]["all"]
    assert (split["questions"], split["not_scored"]["invalid"]) == (1, 2)


def two_objects(folder: Path) -> Path:
    """Two squares on each of two images; one has two names."""
    rows = []
    for number, other in enumerate([[40, 30, 60, 44], [36, 30, 56, 44]]):
        image = save(folder / f"{number}.png", picture(number))
        named = {"the square": list(BOX), "the green thing": list(BOX), f"the other {number}": other}
        rows += [schema_row(image, instruction=words, boxes=[box], labels=[]) for words, box in named.items()]
    return write_lines(folder / "rows.jsonl", rows)


def test_a_random_object_stands_beside_the_shuffled_words(
    tmp_path: Path, knowing: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model that looks and does not listen scores like a random object, whatever the words."""
    knowing(right)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "README.md").write_text("---\nlibrary_name: transformers\n---\n\n# A model\n")
    argv = ["evaluate-grounding", "--model", str(folder), "--benchmark", str(two_objects(tmp_path / "data"))]
    argv += ["--shuffle-instructions", "--card", "--json", str(tmp_path / "figures.json")]
    assert main([*argv, "--report", str(tmp_path / "report.html")]) == 0
    split = json.loads((tmp_path / "figures.json").read_text())["splits"]["all"]
    assert split["random object"]["box"]["headline"]["estimate"] == 0.5
    assert split["random object"]["box"]["num_questions"] == 6
    asked = split["shuffled words"]["box"]["num_questions"]
    assert 0 < asked < 6
    assert split["not_shuffled"] == 6 - asked
    shown = capsys.readouterr().out
    for text in (shown, (tmp_path / "report.html").read_text(), (folder / "README.md").read_text()):
        assert "random object" in text
        assert f"{6 - asked} of 6 questions are left out" in text
        assert "6 of 6 box questions" in text


def test_figures_go_into_the_card(tmp_path: Path, knowing: Any) -> None:
    from huggingface_hub import ModelCard

    knowing(right)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "README.md").write_text("---\nlibrary_name: transformers\n---\n\n# A model\n\nWords.\n")
    path = write_schema_set(tmp_path / "data", count=1)
    for _ in range(2):  # the second time replaces the first
        argv = ["evaluate-grounding", "--model", str(folder), "--benchmark", str(path), "--card", "True"]
        assert main(argv) == 0
    card = ModelCard.load(folder / "README.md")
    figures = {one.metric_name: one.metric_value for one in card.data.eval_results or []}
    assert figures["box accuracy@0.5"] == 1.0
    assert "box accuracy@0.5 (prior)" in figures
    assert card.text.count("## Measured: grounding on train.jsonl") == 1
    assert card.text.count("Words.") == 1
    assert "95 % interval" in card.text


def test_a_card_stays_as_it_is_however_often_the_same_figures_are_written(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n\n# Model\n")
    figures = [Measured("accuracy", 0.5, 0.4, 0.6, 10)]
    texts = []
    for _ in range(3):
        for dataset in ("one", "two"):
            add_results(tmp_path, "grounding", dataset, figures, "st4vla evaluate-grounding", ["A note."])
        texts.append((tmp_path / "README.md").read_text())
    assert texts[0] == texts[1] == texts[2]


def test_figures_stand_before_the_history_that_grows(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(
        "---\nlicense: mit\n---\n\n# Model\n\n## How it was made\n\nSteps.\n\n## Sources\n\nPapers.\n"
    )
    figures = [Measured("accuracy", 0.5, 0.4, 0.6, 10)]
    for dataset in ("one", "two", "one"):
        add_results(tmp_path, "grounding", dataset, figures, "st4vla evaluate-grounding")
    text = (tmp_path / "README.md").read_text()
    headings = [line for line in text.splitlines() if line.startswith("#")]
    measured = ["## Measured: grounding on one", "## Measured: grounding on two"]
    assert headings == ["# Model", *measured, "## How it was made", "## Sources"]
    assert "Steps." in text
    assert "Papers." in text


def test_failures_count(tmp_path: Path, knowing: Any) -> None:
    knowing(lambda prompt: "I cannot see it.")
    path, target = write_schema_set(tmp_path / "data", count=2), tmp_path / "figures.json"
    argv = ["evaluate-grounding", "--model", "m", "--benchmark", str(path), "--json", str(target)]
    assert main([*argv, "--max-samples", "4"]) == 0
    split = json.loads(target.read_text())["splits"]["all"]
    assert all(kind["parse_rate"]["estimate"] == 0 for kind in split["model"].values())
    assert all(kind["num_failed"] == kind["num_questions"] for kind in split["model"].values())
    assert all(kind["parse_rate"]["estimate"] == 1 for kind in split["prior"].values())


def test_a_real_model(tmp_path: Path, model: Any, processor: Any, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    path = write_schema_set(tmp_path / "data", count=1)
    argv = ["evaluate-grounding", "--model", str(folder), "--benchmark", str(path), "--max-new-tokens", "3"]
    assert main([*argv, "--device", "cpu", "--as-points", "--native-size"]) == 0
    shown = capsys.readouterr().out
    assert "point_accuracy" in shown
    assert "asked at each image's own size" in shown


# --- Benchmarks -----------------------------------------------------------------------------------------------------


def refcocog(root: Path) -> Path:
    rows = [{"image": save(root / "0.png", picture()), "answer": ["a square", "it"], "bbox": [10, 8, 20, 20]}]
    return write_lines(root / "test.jsonl", rows).parent


def refit(root: Path) -> Path:
    rows = [{"image": save(root / "0.png", picture()), "problem": "the square", "bbox": list(BOX)}]
    (root / "roborefit_test.json").write_text(json.dumps(rows))
    return root


def where2place(root: Path) -> Path:
    save(root / "images/a.png", picture())
    save(root / "masks/a.png", _mask())
    write_lines(root / "bbox_questions.jsonl", [{"question_id": 0, "text": "?", "image": "a.png"}])
    return write_lines(root / "point_questions.jsonl", [{"question_id": 0, "text": "Point.", "image": "a.png"}]).parent


def refspatial(root: Path) -> Path:
    for name in ("Location", "Placement"):
        save(root / name / "image/0.png", picture())
        save(root / name / "mask/0.png", _mask())
        rows = [{"id": 0, "prompt": "the square", "suffix": "", "rgb_path": "image/0.png", "mask_path": "mask/0.png"}]
        (root / name / "question.json").write_text(json.dumps(rows))
    return root


def vabench(root: Path) -> Path:
    image = save(root / "0.png", picture())
    rows = [{"problem": "where?", "answer": json.dumps({"bbox": BOX}), "images": [image]}]
    rows += [
        {"problem": "how?", "answer": json.dumps({"trajectory": [[1, 1], [20, 18], [60, 40]]}), "images": [image]}
    ]
    return write_lines(root / "test.jsonl", rows)


def sharerobot(root: Path) -> Path:
    save(root / "trajectory/0.png", picture())
    points = [{"x": 1, "y": 1}, {"x": 20, "y": 18}, {"x": 60, "y": 40}]
    rows = [{"id": "0.png", "instruction": "push", "points": points}]
    (root / "trajectory/trajectory.json").write_text(json.dumps(rows))
    (root / "affordance").mkdir()
    (root / "affordance/affordance.json").write_text("[]")
    return root


def a0(root: Path) -> Path:
    names = [save(root / f"{n}.png", picture()) for n in range(3)]
    content = {"cam_highs": names, "waypoints2d": [[1, 1], [20, 18], [60, 40]], "metadata": {"instructions": "push"}}
    (root / "episode_0.json").write_text(json.dumps(content))
    (root / "train_test_split_droid.json").write_text(json.dumps({"train": [], "test": ["episode_0.json"]}))
    return root


def _mask() -> Image.Image:
    mask = Image.new("RGB", SIZE)
    mask.paste((255, 255, 255), tuple(int(v) for v in BOX))
    return mask


PUBLISHED = {
    "refcocog": (refcocog, {"test": {"box": 2}}),
    "refit": (refit, {"all": {"box": 1}}),
    "where2place": (where2place, {"all": {"point": 1}}),
    "refspatial": (refspatial, {"Location": {"point": 1}, "Placement": {"point": 1}}),
    "vabench": (vabench, {"all": {"point": 1, "trace": 1}}),
    "sharerobot": (sharerobot, {"all": {"trace": 1}}),
    "a0": (a0, {"test": {"trace": 1}}),
}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_published_layouts(tmp_path: Path, knowing: Any, name: str) -> None:
    """A model that knows the truth scores full marks on every layout, in every split."""
    knowing(right)
    write, expected = PUBLISHED[name]
    data, target = write(tmp_path / "data"), tmp_path / "figures.json"
    argv = ["evaluate-grounding", "--model", "m", "--benchmark", name, "--data", str(data), "--json", str(target)]
    assert main([*argv, *(["--coordinate-space", "pixel"] if name == "a0" else [])]) == 0
    splits = json.loads(target.read_text())["splits"]
    found = {split: {kind: s["num_questions"] for kind, s in one["model"].items()} for split, one in splits.items()}
    assert found == expected
    for one in splits.values():
        for kind, score in one["model"].items():
            assert score["headline"]["estimate"] == pytest.approx(0 if kind == "trace" else 1, abs=0.01)


@pytest.mark.parametrize("compat", ["robopoint", "embodied-r1"])
def test_compat(tmp_path: Path, knowing: Any, compat: str) -> None:
    knowing(right)
    target = tmp_path / "figures.json"
    argv = ["evaluate-grounding", "--model", "m", "--compat", compat, "--json", str(target)]
    assert main([*argv, "--benchmark", "where2place", "--data", str(where2place(tmp_path / "w"))]) == 0
    score = json.loads(target.read_text())["splits"]["all"]["model"]["point"]
    assert (score["protocol"], score["headline"]["estimate"]) == (compat, 1.0)
    (tmp_path / "r").mkdir()
    assert main([*argv, "--benchmark", "refit", "--data", str(refit(tmp_path / "r"))]) == 0
    kinds = set(json.loads(target.read_text())["splits"]["all"]["model"])
    assert kinds == ({"point"} if compat == "embodied-r1" else {"box"})


def test_boxes_asked_for_as_points(tmp_path: Path) -> None:
    dataset = open_benchmark(str(write_schema_set(tmp_path, count=2)), as_points=True)["all"]
    assert [sample.kind for sample in dataset.samples()] == ["point", "point", "trace", "text"] * 2
    assert dataset.select([0]).question(0)["kind"] == "point"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--model", "m"], "--benchmark: expected one"),
        (["--model", "m", "--benchmark", "refit"], "--data: the benchmark 'refit'"),
        (["--model", "m", "--benchmark", "x", "--compat", "mine"], "--compat: expected robopoint"),
        (["--model", "m", "--benchmark", "x", "--dialect", "mine"], "--dialect: expected one of"),
        (["--model", "m", "--benchmark", "x", "--batch-size", "0"], "--batch-size: expected at least 1"),
        (["--model", "m", "--benchmark", "nothing/../here.jsonl"], "No dataset was found"),
    ],
)
def test_errors(capsys: pytest.CaptureFixture[str], argv: list[str], message: str) -> None:
    assert main(["evaluate-grounding", *argv]) == 1
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown
