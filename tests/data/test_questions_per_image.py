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


def test_columns_of_a_file_say_the_same_as_rows_in_memory(tmp_path: Path) -> None:
    """Parquet is computed on as Arrow columns, JSON after a conversion; so are samples chosen in another order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from training_st4vla.data.grounding import open_grounding_dataset

    answers: list[dict[str, Any]] = [
        {
            "kind": "trace",
            "role": "target",
            "boxes": None,
            "traces": [[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]],
            "labels": ["gripper"],
        },
        {"kind": "box", "role": "target", "boxes": [[1.0, 2.0, 3.0, 4.0]] * 3, "labels": ["a", "", "bee"]},
        {"kind": "point", "points": [[9.0, 9.0]], "boxes": [[0.0, 0.0, 9.0, 9.0]], "labels": None},
        {"kind": "box", "boxes": [[1.0, 2.0, 3.0, 4.0]], "labels": ["a", "of a box that is not there"]},
    ]
    images = ["b.png", "a.png", "b.png", "c.png"]
    rows = [{**schema_row(name), **one} for name, one in zip(images, answers, strict=True)]
    for name in images:
        save(tmp_path / name, picture(40))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    from_file = open_grounding_dataset(tmp_path / "rows.parquet", check_first=False)
    in_memory = open_grounding_dataset(write_lines(tmp_path / "rows.jsonl", rows), check_first=False)
    words = len("the green square")
    lengths = [17 + 5 * 6 + 13 + 7, 3 * 17 + 5 * 12 + 13 + 1 + 13 + 3, 17 + 5 * 2, 17 + 5 * 4 + 13 + 1]
    for table in (from_file, in_memory):
        assert table.lengths() == [words + length for length in lengths]
        assert table.image_numbers().tolist() == [0, 1, 0, 2]
        assert table.of(["box"]).lengths() == [words + lengths[1], words + lengths[3]]
        assert len(table.of(["box", "trace"], ["target"])) == 2
        assert len(table.of(["box"], ["gripper"])) == 0
        chosen = table.select([3, 0])
        assert chosen.lengths() == [words + lengths[3], words + lengths[0]]
        assert chosen.image_numbers().tolist() == [0, 1]


def test_a_column_of_another_type_is_left_to_the_rows_which_name_the_field(tmp_path: Path) -> None:
    from training_st4vla.data.errors import DataError
    from training_st4vla.data.grounding import open_grounding_dataset

    save(tmp_path / "0.png", picture(40))
    for boxes in ("one, two", [1.0, 2.0, 3.0, 4.0]):
        rows = write_lines(tmp_path / "rows.jsonl", [schema_row("0.png", boxes=boxes)])
        with pytest.raises(DataError, match="boxes"):
            open_grounding_dataset(rows, check_first=False).lengths()


def test_frames_of_an_episode_are_told_apart_by_their_place(tmp_path: Path) -> None:
    import numpy as np
    import pyarrow as pa

    from training_st4vla.data.grounding.columns import schema_images

    places = [("a", 0, 5), ("b", 0, 5), ("a", 1, 5), ("a", 0, 6), ("b", 0, 5)]
    cameras, episodes, frames = (list(column) for column in zip(*places, strict=True))
    columns = {"image": [None] * 5, "camera": cameras, "episode_index": episodes, "frame_index": frames}
    assert schema_images(pa.table(columns)).tolist() == [0, 1, 2, 3, 1]
    named = {**columns, "image": ["x.png", "x.png", None, "y.png", "y.png"]}
    assert schema_images(pa.table(named)).tolist() == [0, 0, 1, 2, 2], "a file that is named says it alone"
    encoded = pa.table({"image": [{"bytes": b"x", "path": None}]})
    assert schema_images(encoded) is None, "only its content names it"
    empty = pa.table({"image": pa.array([], pa.string())})
    assert np.array_equal(schema_images(empty), [])


def test_less_than_one_question_is_refused(dataset: Any) -> None:
    from training_st4vla.data.grounding import QuestionsPerImage

    with pytest.raises(ValueError, match="at least 1"):
        QuestionsPerImage(dataset, 0)
