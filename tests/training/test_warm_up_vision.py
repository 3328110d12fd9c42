"""`examples/recipes/warm_up_vision.py`: a tower learns to name what lies where, and nothing else changes."""

import argparse
import copy
import importlib.util
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from grounding_toy import save, schema_row, write_lines
from PIL import Image

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "recipes" / "warm_up_vision.py"
COLORS = {"red": (220, 30, 30), "green": (20, 160, 60), "blue": (30, 60, 220)}
SIZE = 112


def write_squares(folder: Path, count: int, seed: int) -> Path:
    """Images with two squares of different colours in different halves, labelled `red square` and so on."""
    random = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for number in range(count):
        image = Image.new("RGB", (SIZE, SIZE), (128, 128, 128))
        boxes, labels = [], []
        for half, name in enumerate(random.permutation(list(COLORS))[:2]):
            x, y = half * 56 + int(random.integers(2, 26)), int(random.integers(2, 82))
            boxes.append([float(x), float(y), float(x + 28), float(y + 28)])
            image.paste(COLORS[name], (x, y, x + 28, y + 28))
            labels.append(f"{name} square")
        file = save(folder / f"{number}.png", image)
        rows.append(schema_row(file, image_width=SIZE, image_height=SIZE, boxes=boxes, labels=labels, role="objects"))
        rows.append(schema_row(file, image_width=SIZE, image_height=SIZE, boxes=boxes[:1], labels=["no word of it"]))
    write_lines(folder / "train.jsonl", rows)
    return folder


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    # A dataclass looks its module up by name.
    spec = importlib.util.spec_from_file_location("warm_up_vision", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["warm_up_vision"] = module
    spec.loader.exec_module(module)
    return vars(module)


def test_a_shifted_and_mirrored_thing_is_still_where_it_is_said_to_be(script: dict[str, Any], tmp_path: Path) -> None:
    images = script["read"]([str(write_squares(tmp_path, 4, 0))], ["objects"], "cpu")
    assert len(images) == 4, "the other role is not read"
    drawn = script["batches"](images, 4, np.random.default_rng(0))
    places = set()
    for _ in range(8):
        for image in next(drawn):
            for (x, y), words in zip(image.centres, image.words, strict=True):
                assert tuple(image.pixels[:, int(y), int(x)].tolist()) == COLORS[words[0]]
                assert words[1] == "square"
                places.add((x, y))
    assert len(places) > 32, "shifts differ"
    gone = images[0].moved(SIZE, 0, mirrored=False)
    assert (gone.boxes, gone.words) == ((), ()), "what left the image is not asked for"


def test_cells_are_counted_over_images_of_different_sizes(script: dict[str, Any], model: Any, processor: Any) -> None:
    def image(width: int, height: int, *centres: tuple[float, float]) -> Any:
        pixels = torch.zeros(3, height, width, dtype=torch.uint8)
        boxes = tuple((x - 1.0, y - 2.0, x + 1.0, y + 2.0) for x, y in centres)
        return script["LabelledImage"](pixels, boxes, (("red", "square", "unheard-of"),) * len(centres))

    naming = script["Naming"](copy.deepcopy(model), processor, ["blue", "red", "square"])
    images = [image(112, 56, (111.0, 55.0)), image(56, 112, (34.0, 34.0), (0.0, 0.0))]
    # 28 pixels a cell: 2 rows of 4, then 4 rows of 2.
    cells, labels, numbers = naming.targets(images, [(1, 4, 8), (1, 8, 4)])
    assert cells == [7, 8 + 1 * 2 + 1, 8]
    assert labels.tolist() == [[0, 1, 1]] * 3
    assert numbers.tolist() == [[-1] * 4, [33, 32, 35, 36], [-1] * 4], "what leaves the image is not spelled"
    twice = naming.targets(images[1:], [(1, 16, 8)])[2]
    assert twice[0].tolist() == [66, 64, 70, 72], "in pixels of the image that the planner sees"
    seen = naming(images)
    assert seen.words.shape == seen.labels.shape == (3, 3)
    assert seen.digits is None


def test_digits_are_scored_one_by_one(script: dict[str, Any]) -> None:
    right = torch.full((1, 4, 3, 10), -50.0)
    for side, number in enumerate(["007", "120", "064", "139"]):
        for place, digit in enumerate(number):
            right[0, side, place, int(digit)] = 50.0
    words, labels = torch.full((1, 2), 50.0), torch.ones(1, 2)
    numbers = torch.tensor([[7, 120, 64, 139]])
    assert script["Seen"](words, labels, right, numbers).loss().item() == pytest.approx(0, abs=1e-6)
    assert script["Seen"](words, labels, right, numbers + 1).loss().item() == pytest.approx(4 * 100 + 100)
    assert script["Seen"](words, labels, right, numbers - 200).loss().item() == pytest.approx(0, abs=1e-6)


def test_the_share_of_words_found_is_counted_per_label(script: dict[str, Any]) -> None:
    class Answers(torch.nn.Module):
        def forward(self, images: Any) -> tuple[torch.Tensor, ...]:
            del images  # one of two words found, then none of one
            logits, labels = torch.tensor([[3.0, 2.0, 1.0]] * 2), torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
            return script["Seen"](logits, labels, None, torch.zeros(2, 4))

    assert script["words_found"](Answers(), [None]) == pytest.approx(1 / 3)
    with pytest.raises(SystemExit, match="found none of them"):
        script["words_found"](Answers(), [])


@pytest.mark.slow
@pytest.mark.parametrize("layers", [0, 1])
def test_the_tower_learns_and_all_else_stays(
    model: Any,
    processor: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    layers: int,
) -> None:
    from training_st4vla.loading import load_model
    from training_st4vla.saving import save_model_folder

    save_model_folder(model, processor, tmp_path / "new", summary="new")
    train, held_out = write_squares(tmp_path / "train", 64, 0), write_squares(tmp_path / "held_out", 16, 1)
    words = ["warm_up_vision.py", "--model", tmp_path / "new", "--dataset", train, "--eval-dataset", held_out]
    words += ["--roles", "objects", "--output", tmp_path / "warm", "--max-steps", 60, "--device", "cpu"]
    words += ["--layers", layers]
    monkeypatch.setattr(sys, "argv", [str(word) for word in words])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    found = re.search(r"60 steps of 8 images, .* (\d+)% of the words", capsys.readouterr().out)
    assert found is not None
    assert int(found[1]) > (60 if layers else 90), "one word of two by chance"
    warm, _ = load_model(str(tmp_path / "warm"), device="cpu")
    before = model.state_dict()
    changed = {name for name, weight in warm.state_dict().items() if not torch.equal(weight, before[name])}
    assert changed
    trained = ["vlm.model.visual.", *(f"vlm.model.language_model.layers.{at}." for at in range(layers))]
    assert {next((part for part in trained if name.startswith(part)), name) for name in changed} == set(trained)
    card = (tmp_path / "warm" / "README.md").read_text()
    assert f"{'Vision tower and 1 layers' if layers else 'Vision tower'} of `new` warmed up on labelled boxes" in card
    with pytest.raises(Exception, match="Nothing was overwritten"):
        runpy.run_path(str(SCRIPT), run_name="__main__")


def test_layers_that_there_are_not_are_refused(
    model: Any, processor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training_st4vla.saving import save_model_folder

    save_model_folder(model, processor, tmp_path / "new", summary="new")
    words = ["warm_up_vision.py", "--model", tmp_path / "new", "--dataset", "none", "--output", tmp_path / "warm"]
    monkeypatch.setattr(sys, "argv", [str(word) for word in [*words, "--max-steps", 1, "--layers", 99]])
    with pytest.raises(SystemExit, match=r"--layers: expected 0 to .*, found 99"):
        runpy.run_path(str(SCRIPT), run_name="__main__")


def test_a_clock_ends_it_sooner_and_what_cannot_be_learnt_is_refused(
    script: dict[str, Any], model: Any, processor: Any, tmp_path: Path
) -> None:
    images = script["read"]([str(write_squares(tmp_path, 2, 0))], ["objects"], "cpu")
    naming = script["Naming"](copy.deepcopy(model), processor, ["red", "green", "blue", "square"])
    asked = argparse.Namespace(learning_rate=1e-3, batch_size=2, seed=0, max_steps=10**6, max_minutes=0.5 / 60)
    assert 0 < script["train"](naming, images, asked) < 10**6
    naming.head.bias.data.fill_(float("nan"))
    asked.max_steps = 1
    with pytest.raises(SystemExit, match=r"diverged: .* is not finite. Nothing is saved"):
        script["train"](naming, images, asked)
    with pytest.raises(SystemExit, match="expected boxes with labels"):
        script["read"]([str(tmp_path)], ["gripper"], "cpu")
