"""Every layout gives the same square in the same pixels; what is undeclared is refused with advice."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grounding_toy import BOX, SIZE, encoded, picture, save, schema_row, write_lines, write_schema_set
from lerobot_toy import read_number
from PIL import Image
from torch.utils.data import DataLoader

from processing_st4vla import GroundingResult
from processing_st4vla.spatial import DIALECTS, Box, Point, Trace, smart_resize
from training_st4vla.data.errors import DataError
from training_st4vla.data.grounding import (
    LAYOUT_NAMES,
    GroundingDataset,
    MaskAnswer,
    UndeclaredSpaceError,
    open_grounding_dataset,
)

CENTRE = (20.0, 18.0)
PATH = ((4.0, 4.0), (20.0, 18.0), (60.0, 40.0))


def boxes_of(dataset: GroundingDataset, index: int = 0) -> list[tuple[float, ...]]:
    answer = dataset.sample(index).answer
    assert isinstance(answer, GroundingResult)
    return [box.xyxy for box in answer.boxes]


def near(found: Any, expected: Any, tolerance: float = 0.5) -> bool:
    return bool(np.abs(np.asarray(found) - np.asarray(expected)).max() < tolerance)


# --- The schema -----------------------------------------------------------------------------------------------------


def test_samples_are_what_collators_take(tmp_path: Path) -> None:
    dataset = open_grounding_dataset(write_schema_set(tmp_path, count=2))
    assert len(dataset) == 8
    box, point, trace, text = (dataset[index] for index in range(4))
    assert [item["kind"] for item in (box, point, trace, text)] == ["box", "point", "trace", "auto"]
    assert box["image"].size == SIZE
    assert box["answer"].boxes == (Box(BOX, "square"),)
    assert point["answer"].points == (Point(CENTRE),)
    assert point["answer"].boxes == ()  # the region is not learnt ...
    assert boxes_of(dataset, 1) == [BOX]  # ... and is there to score with
    assert trace["answer"].traces[0].points[-1] == (60.0, 40.0)
    assert text["answer"].to_text("qwen3_vl") == "green"
    assert text["instruction"] == "What colour is the square?"
    assert [sample.kind for sample in dataset.samples()] == ["box", "point", "trace", "text"] * 2
    assert (dataset.sample(0).source, dataset.sample(0).license) == ("toy", "Apache-2.0")
    with pytest.raises(IndexError):
        dataset.sample(8)


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet", "folder", "saved"])
def test_files_and_folders(tmp_path: Path, kind: str) -> None:
    rows = [schema_row({"bytes": encoded(picture(n)), "path": None}, instruction=f"square {n}") for n in range(5)]
    if kind in ("jsonl", "json"):
        rows = [schema_row(save(tmp_path / f"{n}.png", picture(n)), instruction=f"square {n}") for n in range(5)]
        path = write_lines(tmp_path / "rows.jsonl", rows)
        if kind == "json":
            path = tmp_path / "rows.json"
            path.write_text(json.dumps({"data": rows}))
    else:
        import datasets

        table = datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())
        path = tmp_path / ("saved" if kind == "saved" else "folder/data/train-00000-of-00001.parquet")
        if kind == "saved":
            table.save_to_disk(str(path))
        else:
            path.parent.mkdir(parents=True)
            table.to_parquet(str(path))
        path = tmp_path / "folder" if kind == "folder" else path
    dataset = open_grounding_dataset(path)
    assert [sample.instruction for sample in dataset.samples()] == [f"square {n}" for n in range(5)]
    assert boxes_of(dataset, 3) == [BOX]
    assert dataset[3]["image"].tobytes() == picture(3).tobytes()
    assert len(open_grounding_dataset(path, max_rows=2)) == 2


@pytest.mark.parametrize(
    ("space", "extent"), [("unit", 1), ("percent", 100), ("byte", 255), ("per_mille", 1000), ("pixel", None)]
)
def test_declared_spaces_become_pixels(tmp_path: Path, space: str, extent: float | None) -> None:
    save(tmp_path / "0.png", picture())
    scale = np.tile((1, 1) if extent is None else (extent / SIZE[0], extent / SIZE[1]), 2)
    row = schema_row(boxes=[(np.array(BOX) * scale).tolist()], coordinate_space=space)
    dataset = open_grounding_dataset(write_lines(tmp_path / "rows.jsonl", [row]))
    assert near(boxes_of(dataset), [BOX], 1e-9)
    with pytest.raises(DataError, match="declared twice"):
        open_grounding_dataset(tmp_path / "rows.jsonl", coordinate_space="pixel" if extent else "unit")


def test_pixels_of_another_version_of_the_image(tmp_path: Path) -> None:
    save(tmp_path / "0.png", picture())
    row = schema_row(boxes=[[20, 16, 60, 56]], coordinate_width=128, coordinate_height=96)
    assert boxes_of(open_grounding_dataset(write_lines(tmp_path / "rows.jsonl", [row]))) == [BOX]


@pytest.mark.parametrize(
    ("extent", "guess"), [(1.0, "unit"), (100.0, "percent"), (255.0, "byte"), (1000.0, "per_mille"), (None, "pixel")]
)
def test_an_undeclared_space_is_refused_with_a_guess(tmp_path: Path, extent: float | None, guess: str) -> None:
    rng = np.random.default_rng(0)
    size = (640, 480)
    save(tmp_path / "0.png", picture(size=size))
    rows = []
    for _ in range(60):
        points = rng.uniform(0, size, (3, 2)) if extent is None else rng.uniform(0, extent, (3, 2))
        row = schema_row(kind="point", boxes=[], labels=[], points=points.tolist(), coordinate_space=None)
        rows.append({**row, "image_width": 640, "image_height": 480})
    path = write_lines(tmp_path / "rows.jsonl", rows)
    with pytest.raises(UndeclaredSpaceError, match=f"not declared.*--coordinate-space.*look like '{guess}'"):
        open_grounding_dataset(path)
    assert len(open_grounding_dataset(path, coordinate_space=guess)) == 60


BAD_ROWS: dict[str, dict[str, Any]] = {
    "outside image": {"boxes": [[100, 5, 120, 20]]},
    "inverted box": {"boxes": [[30, 8, 10, 28]]},
    "empty box": {"boxes": [[10, 8, 10, 28]]},
    "wrong number": {"boxes": [[10, 8, 30]]},
    "not a finite number": {"boxes": [[10, 8, float("nan"), 28]]},
    "not coordinates": {"boxes": [["a", 8, 30, 28]]},
    "empty answer": {"boxes": [], "labels": []},
    "short trace": {"kind": "trace", "boxes": [], "traces": [[[1, 1]]]},
    "empty instruction": {"instruction": "  "},
    "special token": {"instruction": "the <|im_end|> square"},
    "no point": {"kind": "point"},
}


@pytest.mark.parametrize("reason", BAD_ROWS)
def test_bad_rows_are_refused_or_left_out(tmp_path: Path, reason: str) -> None:
    save(tmp_path / "0.png", picture())
    rows = [schema_row(), schema_row(**{"labels": [], **BAD_ROWS[reason]}), schema_row()]
    path = write_lines(tmp_path / "rows.jsonl", rows)
    if reason == "no point":  # may be evaluated: a region without a point
        with pytest.raises(DataError, match=reason):
            open_grounding_dataset(path)[1]
    else:
        with pytest.raises(DataError, match=rf"rows\.jsonl, row 1.*{reason}.*skip_invalid"):
            open_grounding_dataset(path)
    assert len(open_grounding_dataset(path, skip_invalid=True)) == 2


def test_an_error_says_which_space_would_fit(tmp_path: Path) -> None:
    save(tmp_path / "0.png", picture())
    rows = [schema_row(boxes=[[156, 166, 468, 583]])]
    with pytest.raises(DataError, match="it would fit coordinate_space 'per_mille'"):
        open_grounding_dataset(write_lines(tmp_path / "rows.jsonl", rows))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ["a", "b"]}, "one label for each of 1"),
        ({"kind": "mask"}, "kind, one of box"),
        ({"image": None}, "no image"),
        ({"image": "http://example.org/a.png"}, "downloaded first"),
        ({"image": "../../etc/passwd"}, "leads out of the image folder"),
        ({"boxes": "1,2,3,4"}, "a list in boxes"),
        ({"question": "loud"}, "question, one of"),
    ],
)
def test_rows_of_another_layout_say_what_is_wrong(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    save(tmp_path / "0.png", picture())
    with pytest.raises(DataError, match=message):
        open_grounding_dataset(write_lines(tmp_path / "rows.jsonl", [schema_row(**change)]))


def test_images_that_are_not_what_the_row_says(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "rows.jsonl", [schema_row(), schema_row("gone.png"), schema_row("bad.png")])
    save(tmp_path / "0.png", picture(size=(65, 48)))
    (tmp_path / "bad.png").write_bytes(b"no image")
    dataset = open_grounding_dataset(path)
    for index, message in enumerate(("another size.*64 x 48.*65 x 48", "cannot be read.*gone", "cannot be read.*bad")):
        with pytest.raises(DataError, match=message):
            dataset[index]


def test_opening_errors(tmp_path: Path) -> None:
    cases = {
        tmp_path / "nothing": "No dataset was found",
        write_lines(tmp_path / "empty.jsonl", []): "no rows",
        write_lines(tmp_path / "odd.jsonl", [{"a": 1}]): "layout of the data is not recognised.*keys a",
    }
    (tmp_path / "broken.json").write_text('{"a": [')
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    cases |= {tmp_path / "broken.json": "cannot be read", tmp_path / "broken.parquet": "cannot be read"}
    for path, message in cases.items():
        with pytest.raises(DataError, match=message):
            open_grounding_dataset(path)
    with pytest.raises(ValueError, match="layout: expected one of"):
        open_grounding_dataset(tmp_path, layout="nonsense")


def test_splits_must_be_chosen(tmp_path: Path) -> None:
    write_schema_set(tmp_path, count=2, name="train.jsonl")
    write_schema_set(tmp_path, count=1, name="test.jsonl", first=2)
    with pytest.raises(DataError, match="--split, one of test, train"):
        open_grounding_dataset(tmp_path)
    assert len(open_grounding_dataset(tmp_path, split="test")) == 4


def keep(batch: list[Any]) -> list[Any]:
    return batch


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers(tmp_path: Path, context: str) -> None:
    dataset = open_grounding_dataset(write_schema_set(tmp_path, count=2))
    loader = DataLoader(dataset, batch_size=3, num_workers=1, collate_fn=keep, multiprocessing_context=context)
    items = [item for batch in loader for item in batch]
    assert [item["answer"] for item in items] == [dataset[index]["answer"] for index in range(8)]
    clone = pickle.loads(pickle.dumps(dataset))
    assert clone[5]["answer"] == dataset[5]["answer"]


def test_selecting(tmp_path: Path) -> None:
    dataset = open_grounding_dataset(write_schema_set(tmp_path, count=5))
    boxes = dataset.filter(lambda sample: sample.kind == "box")
    assert [sample.kind for sample in boxes.samples()] == ["box"] * 5
    thin = dataset.thin_out(7, seed=1)
    assert len(thin) == 7
    assert [s.where for s in thin.samples()] == [s.where for s in dataset.thin_out(7, seed=1).samples()]
    assert dataset.thin_out(None) is dataset
    assert dataset.of() is dataset
    kinds = [sample.kind for sample in dataset.of(["point", "trace"]).samples()]
    assert kinds == [sample.kind for sample in dataset.samples() if sample.kind in ("point", "trace")]
    assert kinds
    assert not len(dataset.of(["box"], ["nobody"]))


# --- Conversations --------------------------------------------------------------------------------------------------

FULL_BOX = GroundingResult(boxes=(Box(BOX),), image_size=SIZE)
FULL_POINT = GroundingResult((Point(CENTRE),), image_size=SIZE)
FULL_TRACE = GroundingResult(traces=(Trace(PATH),), image_size=SIZE)


def conversation(answer: str, question: str = "<image>\nWhere is the square?", image: Any = "0.png") -> dict[str, Any]:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"image": image, "conversations": turns}


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("result", [FULL_BOX, FULL_POINT, FULL_TRACE], ids=["box", "point", "trace"])
def test_conversations_in_every_dialect(tmp_path: Path, dialect: str, result: GroundingResult) -> None:
    kind = "box" if result.boxes else "point" if result.points else "trace"
    if kind not in DIALECTS[dialect].kinds:
        return
    save(tmp_path / "0.png", picture())
    path = write_lines(tmp_path / "rows.jsonl", [conversation(result.to_text(dialect, model_size=SIZE))])
    dataset = open_grounding_dataset(
        path,
        dialect=dialect,
        coordinate_space="pixel" if dialect == "qwen2_5_vl" else None,
        answer_kind="trace" if kind == "trace" else "auto",
    )
    sample = dataset.sample(0)
    assert (sample.kind, sample.question, sample.instruction) == (kind, "verbatim", "Where is the square?")
    found = dataset[0]["answer"]
    for name, value in (("boxes", "xyxy"), ("points", "xy"), ("traces", "points")):
        ours, theirs = getattr(result, name), getattr(found, name)
        assert len(ours) == len(theirs)
        assert all(near(getattr(a, value), getattr(b, value)) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("space", ["pixel", "resized", "per_mille", "unit"])
def test_qwen2_5_conversations_in_every_space(tmp_path: Path, space: str) -> None:
    save(tmp_path / "0.png", picture())
    extents = {"pixel": SIZE, "resized": smart_resize(SIZE), "per_mille": (1000, 1000), "unit": (1, 1)}
    text = FULL_BOX.to_text("qwen2_5_vl", model_size=extents[space], decimals=4)
    path = write_lines(tmp_path / "rows.jsonl", [conversation(text)])
    dataset = open_grounding_dataset(path, dialect="qwen2_5_vl", coordinate_space=space)
    assert near(boxes_of(dataset), [BOX], 0.05)
    with pytest.raises(UndeclaredSpaceError, match="look like"):
        open_grounding_dataset(path, dialect="qwen2_5_vl")


def test_an_undeclared_dialect_is_refused_with_advice(tmp_path: Path) -> None:
    save(tmp_path / "0.png", picture())
    path = write_lines(tmp_path / "rows.jsonl", [conversation(FULL_POINT.to_text("molmo"))])
    with pytest.raises(DataError, match=r"--dialect.*first answer is '<point x=.*molmo \(100%\)"):
        open_grounding_dataset(path)
    with pytest.raises(DataError, match="the space of molmo"):
        open_grounding_dataset(path, dialect="molmo", coordinate_space="pixel")


def test_words_stay_words_and_turns_are_samples(tmp_path: Path) -> None:
    save(tmp_path / "0.png", picture())
    turns = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it [if anything]?"}]},
        {"role": "assistant", "content": "A square (green)."},
        {"role": "user", "content": "Where?"},
        {"role": "assistant", "content": '[{"bbox_2d": [10, 8, 30, 28]}]'},
    ]
    rows = [{"images": ["0.png"], "messages": turns}]
    dataset = open_grounding_dataset(
        write_lines(tmp_path / "rows.jsonl", rows), dialect="qwen2_5_vl", coordinate_space="pixel"
    )
    assert [(s.kind, s.instruction) for s in dataset.samples()] == [
        ("text", "What is it [if anything]?"),
        ("box", "Where?"),
    ]
    assert dataset[0]["answer"].to_text() == "A square (green)."
    plain = open_grounding_dataset(tmp_path / "rows.jsonl", dialect="text")
    assert [sample.kind for sample in plain.samples()] == ["text", "text"]


ROBOPOINT = (
    "<image>\nLocate several points within the vacant space on the table. Your answer should be formatted as a list "
    "of tuples, i.e. [(x1, y1), (x2, y2), ...], where each tuple contains the x and y coordinates of a point "
    "satisfying the conditions above. The coordinates should be between 0 and 1, indicating normalized locations."
)


def test_a_question_does_not_ask_for_another_format_than_its_answer_has(tmp_path: Path) -> None:
    save(tmp_path / "0.png", picture())
    words = "What is here? Your answer should be formatted as one word."
    rows = [conversation("[(0.25, 0.5), (0.5, 0.5)]", ROBOPOINT), conversation("A square.", words)]
    path = write_lines(tmp_path / "rows.jsonl", rows)
    points, text = open_grounding_dataset(path, dialect="robopoint").samples()
    assert points.instruction == "Locate several points within the vacant space on the table."
    assert [point.xy for point in points.learnt_answer().points] == [(16, 24), (32, 24)]  # type: ignore[union-attr]
    assert (text.kind, text.instruction) == ("text", words)  # the answer is what was asked for
    published = open_grounding_dataset(path, dialect="robopoint", verbatim=True).sample(0)
    assert published.instruction == ROBOPOINT.removeprefix("<image>\n")


def test_a_broken_answer_is_not_taken_for_words(tmp_path: Path) -> None:
    save(tmp_path / "0.png", picture())
    path = write_lines(tmp_path / "rows.jsonl", [conversation('[{"bbox_2d": [10, 8, 30')])
    with pytest.raises(DataError, match="incomplete"):
        open_grounding_dataset(path, dialect="qwen3_vl")


# --- Published layouts ----------------------------------------------------------------------------------------------


def test_refcoco(tmp_path: Path) -> None:
    save(tmp_path / "0.png", picture())
    rows = [{"image": "0.png", "sent": "green square", "bbox": list(BOX), "width": 64, "height": 48}]
    dataset = open_grounding_dataset(write_lines(tmp_path / "qwen.jsonl", rows))
    assert (dataset.layout, dataset.sample(0).instruction, boxes_of(dataset)) == ("refcoco", "green square", [BOX])
    rows = [{"image": "0.png", "answer": ["a square", "it"], "bbox": [10, 8, 20, 20], "question": "?"}]
    dataset = open_grounding_dataset(write_lines(tmp_path / "lmms.jsonl", rows))
    assert [sample.instruction for sample in dataset.samples()] == ["a square", "it"]
    assert boxes_of(dataset, 1) == [BOX]
    rows = [{"image": "0.png", "problem": "the square", "bbox": list(BOX)}]
    dataset = open_grounding_dataset(write_lines(tmp_path / "refit_test.jsonl", rows))
    assert (dataset.layout, boxes_of(dataset)) == ("refcoco", [BOX])


def test_points(tmp_path: Path) -> None:
    save(tmp_path / "0.png", picture())
    many = [{"x": 50.0, "y": 50.0}] * 11
    rows = [
        {"image": "0.png", "label": "square", "points": [{"x": 31.25, "y": 37.5}]},
        {"image": "0.png", "label": "square", "points": many},
    ]
    path = write_lines(tmp_path / "pixmo.jsonl", rows)
    with pytest.raises(UndeclaredSpaceError):
        open_grounding_dataset(path)
    dataset = open_grounding_dataset(path, coordinate_space="percent")
    assert len(dataset) == 1  # rows with many points are left out
    answer = dataset[0]["answer"]
    assert near(answer.points[0].xy, CENTRE, 1e-9)
    assert answer.points[0].label == "square"


def test_sharerobot_and_vabench(tmp_path: Path) -> None:
    save(tmp_path / "a/0.png", picture())
    meta = {"original_width": 128, "original_height": 96}
    double = [{"x": 2 * x, "y": 2 * y} for x, y in PATH]
    rows = [
        {"id": "a/0.png", "instruction": "push it", "points": double, "meta_data": meta},
        {
            "id": "a/0.png",
            "instruction": "hold it",
            "affordance": {"x": 20, "y": 16, "width": 40, "height": 40},
            "meta_data": meta,
        },
    ]
    dataset = open_grounding_dataset(write_lines(tmp_path / "sharerobot.jsonl", rows))
    assert dataset.layout == "sharerobot"
    assert dataset[0]["answer"].traces == (Trace(PATH),)
    assert boxes_of(dataset, 1) == [BOX]
    rows = [
        {
            "problem": "<image>where?",
            "answer": f"<type>fsd_point</type>{json.dumps({'bbox': BOX})}",
            "images": ["a/0.png"],
        },
        {"problem": "<image>how?", "answer": json.dumps({"trajectory": PATH}), "images": ["a/0.png"]},
    ]
    dataset = open_grounding_dataset(write_lines(tmp_path / "vabench.jsonl", rows))
    assert [(s.kind, s.instruction) for s in dataset.samples()] == [("point", "where?"), ("trace", "how?")]
    assert boxes_of(dataset) == [BOX]
    assert dataset[1]["answer"].traces == (Trace(PATH),)


def test_masks(tmp_path: Path) -> None:
    mask = Image.new("L", SIZE)
    mask.paste(255, tuple(int(v) for v in BOX))
    save(tmp_path / "images/a.png", picture())
    (tmp_path / "masks").mkdir()
    mask.save(tmp_path / "masks/03.jpg")
    text = "Find the square. Your answer should be formatted as a list of tuples, i.e. [(x1, y1)]."
    rows = [{"question_id": 3, "text": text, "image": "a.png", "category": "point"}]
    path = write_lines(tmp_path / "point_questions.jsonl", rows)
    sample = open_grounding_dataset(path).sample(0)
    assert (sample.kind, sample.instruction) == ("point", "Find the square.")
    assert isinstance(sample.answer, MaskAnswer)
    assert np.asarray(sample.answer.mask.load().convert("L"))[18, 20] > 200
    assert sample.problem() is not None
    assert sample.problem(training=False) is None
    assert open_grounding_dataset(path, verbatim=True).sample(0).instruction == text
    rows = [
        {
            "id": 0,
            "prompt": "the square",
            "suffix": "as tuples",
            "rgb_path": "images/a.png",
            "mask_path": "masks/03.jpg",
        }
    ]
    sample = open_grounding_dataset(write_lines(tmp_path / "refspatial.jsonl", rows), verbatim=True).sample(0)
    assert (sample.instruction, sample.question) == ("the square as tuples", "verbatim")


@pytest.mark.parametrize("part", ["maniskill", "droid"])
def test_a0_episodes(tmp_path: Path, part: str) -> None:
    """ManiSkill: pixels, lists that begin at the first valid frame; DROID: shares, lists that begin at frame 0."""
    steps = np.linspace((10.0, 10.0), (50.0, 40.0), 31)
    valid = {"start": 5, "end": 35}
    if part == "maniskill":
        names = [save(tmp_path / f"push/rgb/{n}.png", picture(n)) for n in range(31)]
        content = {"cam_highs": [f"rgb/{name}" for name in names], "waypoints2d": [[xy] for xy in steps.tolist()]}
        file, folder, space = tmp_path / "push/label/out_1.json", tmp_path, "pixel"
    else:
        names = [save(tmp_path / f"d/rgb/{n}.png", picture(n)) for n in range(36)]
        shares = np.concatenate([np.zeros((5, 2)), steps]) / SIZE
        content = {"cam_highs": [f"rgb/{name}" for name in names], "waypoints2d": shares.tolist()}
        file, folder, space = tmp_path / "d/episode_1.json", tmp_path / "d", "unit"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"metadata": {"instructions": "push it", "validRange": valid}, **content}))
    (folder / "train_test_split.json").write_text(json.dumps({"train": [], "test": [str(file.relative_to(folder))]}))
    with pytest.raises(UndeclaredSpaceError, match=f"look like '{space}'"):
        open_grounding_dataset(folder)
    dataset = open_grounding_dataset(folder, coordinate_space=space, split="test")
    item = dataset[0]
    (trace,) = item["answer"].traces
    assert near(trace.points[0], steps[0], 1e-6)
    assert near(trace.points[-1], steps[-1], 1e-6)
    assert len(trace.points) == 10
    assert item["image"].tobytes() == picture(0 if part == "maniskill" else 5).tobytes()
    with pytest.raises(DataError, match="no episodes"):
        open_grounding_dataset(folder, coordinate_space=space, split="train")


def test_every_layout_is_documented() -> None:
    assert set(LAYOUT_NAMES) >= {"grounding", "conversations", "refcoco", "points", "masks", "a0", "lerobot"}


# --- LeRobot --------------------------------------------------------------------------------------------------------

FRONT = "observation.images.front"


def with_events(events: Callable[[int], list[dict[str, Any]]]) -> Callable[[int, dict[str, Any]], None]:
    def edit(_: int, columns: dict[str, Any]) -> None:
        columns["language_events"] = [events(frame) for frame in columns["frame_index"]]

    return edit


def declare_events(root: Path) -> Path:
    info = json.loads((root / "meta/info.json").read_text())
    info["features"]["language_events"] = {"dtype": "language", "shape": [1], "names": None}
    (root / "meta/info.json").write_text(json.dumps(info))
    return root


def full_events(scale: float = 1.0) -> Callable[[int], list[dict[str, Any]]]:
    def events(frame: int) -> list[dict[str, Any]]:
        x = 10.0 + frame
        result = GroundingResult(
            boxes=(Box((x, 8, x + 20, 28), "square"),), traces=(Trace(PATH, "gripper"),), image_size=(64, 64)
        )
        rows = result.to_lerobot_events(FRONT, "Where is the square?")
        for row in rows:
            if row["role"] == "assistant":
                content = json.loads(row["content"])
                for found in content.get("detections", ()):
                    found["bbox"] = [scale * value for value in found["bbox"]]
                if "points" in content:
                    content["points"] = [[scale * x, scale * y] for x, y in content["points"]]
                row["content"] = json.dumps(content)
        count = {"role": "assistant", "content": '{"label": "square", "count": 1}', "style": "vqa", "camera": FRONT}
        return [*rows, {**count, "tool_calls": None}] if frame % 5 == 0 else []

    return events


def test_language_events(make_dataset: Callable[..., Path]) -> None:
    root = declare_events(make_dataset(lengths=(10,), edit=with_events(full_events())))
    dataset = open_grounding_dataset(root)
    assert [s.kind for s in dataset.samples()] == ["box", "trace", "text"] * 2
    box, trace, text = (dataset.sample(index) for index in (3, 4, 5))
    assert (box.instruction, boxes_of(dataset, 3)) == ("Where is the square?", [(15.0, 8.0, 35.0, 28.0)])
    assert trace.instruction == "Where is the square?"
    assert dataset[4]["answer"].traces == (Trace(PATH, "gripper"),)
    assert (text.question, dataset[5]["answer"].to_text()) == ("verbatim", "1")
    assert read_number(np.asarray(dataset[3]["image"])) == 5
    assert box.image.group == dataset.sample(0).image.group
    assert len(open_grounding_dataset(root, cameras=["front"])) == 6


def test_language_events_in_another_space_are_refused(make_dataset: Callable[..., Path]) -> None:
    root = declare_events(make_dataset(lengths=(10,), edit=with_events(full_events(1000 / 64))))
    with pytest.raises(UndeclaredSpaceError, match=r"probably not in pixels.*per_mille"):
        open_grounding_dataset(root)


def test_rows_beside_a_lerobot_dataset(make_dataset: Callable[..., Path]) -> None:
    """What `python -m lerobot_env_tabletop.record` writes: `grounding/chunk-000/file-000.parquet`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    root = make_dataset(lengths=(10,))
    rows = []
    for frame in (2, 7):
        row = schema_row(None, dataset="toy", camera=FRONT, episode_index=0, frame_index=frame, role="target")
        del row["image"]
        rows.append({**row, "image_width": 64, "image_height": 64, "phase": "reach"})
    path = root / "grounding/chunk-000/file-000.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    dataset = open_grounding_dataset(root)
    assert [read_number(np.asarray(dataset[index]["image"])) for index in (0, 1)] == [2, 7]
    assert dataset.sample(1).role == "target"
    beside = open_grounding_dataset(root / "grounding", frames_root=root)
    assert beside[0]["answer"] == dataset[0]["answer"]
    with pytest.raises(DataError, match=r"frame that does not exist.*frame 0 to 9"):
        dataset.options.frames["toy"].reference(FRONT, 0, 10)


def test_a_lerobot_dataset_without_grounding(make_dataset: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match="holds no grounding data"):
        open_grounding_dataset(make_dataset())


def test_recorded_annotations(real_dataset: Path) -> None:
    dataset = open_grounding_dataset(real_dataset, stride=100, cameras=["base_view"])
    roles = {sample.role for sample in dataset.samples()}
    assert roles == {"pick", "place", "task", "gripper"}
    first = dataset.sample(0)
    assert boxes_of(dataset) == [(410.0, 247.0, 442.0, 277.0)]
    assert first.image.size() == (640, 480)
    task = next(i for i, sample in enumerate(dataset.samples()) if sample.role == "task")
    item = dataset[task]
    assert (item["kind"], item["answer_kind"]) == ("spatial", "box")
    assert len(item["answer"].boxes) == 2
