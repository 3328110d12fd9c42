"""Grounding rows that are read as they come: the same samples, shuffled, resumed, and refused where they cannot be."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from grounding_toy import encoded, picture, schema_row, write_lines, write_schema_set
from torch.utils.data import DataLoader

from training_st4vla.data.errors import DataError
from training_st4vla.data.grounding import open_grounding_dataset, open_grounding_stream
from training_st4vla.data.grounding.stream import GroundingStream
from training_st4vla.data.grounding_sources import GroundingMixture, GroundingSource, open_grounding_mixture
from training_st4vla.errors import UserError


def asked(stream: Any, first: int, last: int) -> list[tuple[str, str]]:
    return [(item["kind"], repr(item["answer"])) for item in (stream[index] for index in range(first, last))]


@pytest.mark.parametrize("kind", ["jsonl", "two files", "parquet"])
def test_a_pass_holds_every_sample_once(tmp_path: Path, kind: str) -> None:
    if kind == "parquet":
        import datasets

        rows = [schema_row({"bytes": encoded(picture(n)), "path": None}, boxes=[[n, 1, 30, 20]]) for n in range(24)]
        path = tmp_path / "rows.parquet"
        datasets.Dataset.from_list(rows).cast_column("image", datasets.Image()).to_parquet(path)
    else:
        path = write_schema_set(tmp_path, count=6)
    if kind == "two files":
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(lines[:9]))
        (tmp_path / "more.jsonl").write_text("".join(lines[9:]))
        (tmp_path / "train.jsonl").rename(tmp_path / "some.jsonl")
        path = tmp_path
    whole = open_grounding_dataset(path)
    expected = sorted(asked(whole, 0, 24))
    stream = open_grounding_stream(str(path), 24, window=8)
    first, second = asked(stream, 0, 24), asked(stream, 24, 48)
    assert sorted(first) == sorted(second) == expected
    assert first != second
    assert asked(open_grounding_stream(str(path), 24, window=8), 0, 48) == first + second
    assert asked(open_grounding_stream(str(path), 24, window=8, seed=1), 0, 24) != first
    again = pickle.loads(pickle.dumps(stream))
    assert asked(again, 30, 48) == second[6:]  # resumed in the second pass


def test_workers_read_the_same_stream(tmp_path: Path) -> None:
    path = str(write_schema_set(tmp_path, count=6))
    entries = (GroundingSource(path, stream=10), GroundingSource(str(write_schema_set(tmp_path / "b", count=2))))
    samples = open_grounding_mixture(GroundingMixture(entries), seed=4)
    assert list(samples.draws.values()) == [10, 8]

    def kinds(workers: int) -> list[list[str]]:
        loader = DataLoader(samples, batch_size=3, num_workers=workers, collate_fn=_answers)
        return list(loader)

    samples[17]  # opened here before workers are forked
    assert kinds(2) == kinds(0)


def _answers(items: list[dict[str, Any]]) -> list[str]:
    return [repr(item["answer"]) for item in items]


def test_kinds_roles_and_broken_rows(tmp_path: Path) -> None:
    path = write_schema_set(tmp_path, count=4)
    path.write_text(
        path.read_text() + write_lines(tmp_path / "more.json", [schema_row(boxes=[], labels=[])]).read_text()
    )
    boxes = open_grounding_stream(str(path), 4, kinds=("box",), skip_invalid=True)
    assert {kind for kind, _ in asked(boxes, 0, 12)} == {"box"}
    assert len(set(asked(boxes, 0, 4))) == 4
    with pytest.raises(DataError, match="empty answer"):
        asked(open_grounding_stream(str(path), 17), 0, 17)
    with pytest.raises(ValueError, match="the stream holds no sample that is asked for"):
        asked(open_grounding_stream(str(path), 4, roles=("nobody",)), 0, 1)


def test_what_cannot_be_streamed(tmp_path: Path, make_dataset: Callable[..., Path]) -> None:
    path = write_schema_set(tmp_path / "a", count=2)
    for wrong in (str(make_dataset()), str(path.rename(path.with_suffix(".json")))):
        with pytest.raises(DataError, match="cannot be read as a stream"):
            open_grounding_stream(wrong, 4)
    with pytest.raises(UserError, match="leave max_samples out"):
        GroundingSource("a", stream=4, max_samples=3)
    source = GroundingSource(str(write_schema_set(tmp_path / "b", count=2)), stream=4)
    with pytest.raises(UserError, match="a stream does not know the questions"):
        open_grounding_mixture(GroundingMixture((source,)), questions_per_image=2)
    line = write_schema_set(tmp_path / "c", count=20)
    line.write_text(line.read_text() + "{\n")
    with pytest.raises(DataError, match=r"line 81.*one JSON object per line"):
        asked(open_grounding_stream(str(line), 81), 0, 81)
    assert isinstance(open_grounding_stream(str(line), 5, max_rows=3), GroundingStream)
