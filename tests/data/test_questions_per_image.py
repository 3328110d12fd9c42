"""Questions about one image come together, each once an epoch, in an order that seed and epoch alone decide."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from grounding_toy import picture, save, schema_row, write_lines


@pytest.fixture
def dataset(tmp_path: Path) -> Any:
    """Five questions about a first picture, one about a second."""
    from training_st4vla.data.grounding import open_grounding_dataset

    for shade, name in enumerate(("0.png", "1.png")):
        save(tmp_path / name, picture(40 * shade))
    rows = [schema_row("0.png", instruction=f"square {n}") for n in range(5)]
    rows.insert(2, schema_row("1.png", instruction="other"))
    return open_grounding_dataset(write_lines(tmp_path / "rows.jsonl", rows))


def words(groups: Any) -> list[list[str]]:
    return [[sample["instruction"] for sample in group] for group in groups]


def test_groups_hold_one_image_and_every_question_comes_once(dataset: Any) -> None:
    from training_st4vla.data.grounding import QuestionsPerImage

    groups = QuestionsPerImage(dataset, 2)
    found = [groups[index]["questions"] for index in range(len(groups))]
    assert sorted(len(group) for group in found) == [1, 1, 2, 2]
    assert all(len({sample["image"].tobytes() for sample in group}) == 1 for group in found)
    assert Counter(word for group in words(found) for word in group) == Counter(
        [*(f"square {n}" for n in range(5)), "other"]
    )


def test_the_order_is_that_of_seed_and_epoch(dataset: Any) -> None:
    from training_st4vla.data.grounding import QuestionsPerImage

    def order(seed: int, epoch: int) -> list[list[str]]:
        groups = QuestionsPerImage(dataset, 2, seed)
        groups.set_epoch(epoch)
        return words(groups[index]["questions"] for index in range(len(groups)))

    assert order(0, 3) == order(0, 3)
    assert len({str(order(seed, epoch)) for seed, epoch in ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1))}) > 2


def test_lengths_add_up(dataset: Any) -> None:
    from training_st4vla.data.grounding import QuestionsPerImage

    groups = QuestionsPerImage(dataset, 3)
    assert sum(groups.lengths()) == sum(dataset.lengths())
    assert len(groups.lengths()) == len(groups)


def test_an_image_is_decoded_once_for_all_its_questions(dataset: Any, monkeypatch: Any) -> None:
    from training_st4vla.data.grounding import QuestionsPerImage, images

    decoded: list[str] = []
    read = images._read
    monkeypatch.setattr(
        images, "_read", lambda source, name, **extra: decoded.append(name) or read(source, name, **extra)
    )
    groups = QuestionsPerImage(dataset, 5)
    largest = max((groups[index]["questions"] for index in range(len(groups))), key=len)
    assert len(largest) == 5
    assert len(decoded) == len(groups) == 2


def test_columns_say_which_image_and_about_how_long(tmp_path: Path) -> None:
    """As decoded samples say it, without reading them."""
    from training_st4vla.data.grounding import open_grounding_dataset

    answers = [
        {"kind": "box", "boxes": [[1, 2, 3, 4], [10, 20, 30, 40]], "labels": ["a", "a much longer name"]},
        {"kind": "point", "points": [[1, 2]], "boxes": [[0, 0, 4, 4]], "labels": ["the point", "its region"]},
        {"kind": "trace", "traces": [[[1, 2], [3, 4], [50, 40], [22, 33]]], "boxes": [], "labels": ["gripper"]},
        {"kind": "text", "text": "a rather long answer in words", "boxes": []},
        {"kind": "box", "boxes": [[1, 2, 3, 4]], "labels": None},
    ]
    rows = [{**schema_row(f"{n % 2}.png", instruction="where"), **answer} for n, answer in enumerate(answers)]
    for name in ("0.png", "1.png"):
        save(tmp_path / name, picture(40))
    table = open_grounding_dataset(write_lines(tmp_path / "rows.jsonl", rows))
    assert table.image_numbers().tolist() == [0, 1, 0, 1, 0]
    exact = [sample.length() for sample in table.samples()]
    assert all(abs(about - length) <= length / 3 for about, length in zip(table.lengths(), exact, strict=True))


def test_less_than_one_question_is_refused(dataset: Any) -> None:
    from training_st4vla.data.grounding import QuestionsPerImage

    with pytest.raises(ValueError, match="at least 1"):
        QuestionsPerImage(dataset, 0)
