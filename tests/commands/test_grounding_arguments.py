"""Which grounding samples the flags and mixture files of a training run choose."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from grounding_toy import BOX, picture, save, schema_row, write_lines, write_schema_set

from training_st4vla.commands.grounding_arguments import GroundingFlags, mixture_of
from training_st4vla.data.grounding_sources import open_grounding_mixture, open_grounding_source
from training_st4vla.errors import UserError


def opened(seed: int = 0, **flags: Any) -> Any:
    return open_grounding_mixture(GroundingFlags(**flags).grounding(), seed=seed)


def test_samples_are_drawn_from_the_kinds_that_are_asked_for(tmp_path: Path) -> None:
    """Of 25 samples 7 are boxes: 5 boxes are 5 boxes, and the one sample of a rare role is found."""
    path = write_schema_set(tmp_path, count=6)
    save(tmp_path / "rare.png", picture())
    rows = path.read_text()
    path.write_text(rows + write_lines(tmp_path / "more.jsonl", [schema_row("rare.png", role="place")]).read_text())
    boxes = opened(dataset=[str(path)], kinds=["box"], max_samples=5)
    assert [sample.kind for sample in boxes.samples()] == ["box"] * 5
    assert len(opened(dataset=[str(path)], roles=["place"], max_samples=1)) == 1


@pytest.fixture
def conversations(tmp_path: Path) -> Path:
    """Boxes in thousandths, in files of two splits, without a declared dialect; their images lie elsewhere."""
    save(tmp_path / "pictures" / "0.png", picture())
    (tmp_path / "talk").mkdir()
    for split, count in (("train", 3), ("test", 1)):
        answer = '[{"bbox_2d": [156, 166, 468, 583]}]'
        turns = [{"from": "human", "value": "<image>\nWhere?"}, {"from": "gpt", "value": answer}]
        write_lines(tmp_path / "talk" / f"{split}.jsonl", [{"image": "0.png", "conversations": turns}] * count)
    return tmp_path / "talk"


def test_flags_say_how_a_dataset_is_read(tmp_path: Path, conversations: Path) -> None:
    flags: dict[str, Any] = {"split": "train", "dialect": "qwen3_vl", "image_root": str(tmp_path / "pictures")}
    flags |= {"eval_dataset": str(conversations), "eval_split": "test"}
    mixture = GroundingFlags(dataset=[str(conversations)], **flags).grounding()
    samples = open_grounding_mixture(mixture)
    assert len(samples) == 3
    assert samples[0]["answer"].boxes[0].xyxy == pytest.approx(BOX, abs=0.2)
    assert mixture.eval_dataset is not None
    assert len(open_grounding_source(mixture.eval_dataset)) == 1
    with pytest.raises(ValueError, match="--split"):
        opened(dataset=[str(conversations)], dialect="qwen3_vl")


def write_mixture(tmp_path: Path, conversations: Path, **more: Any) -> Path:
    write_schema_set(tmp_path / "squares", count=6)
    talk = {"dataset": conversations.name, "split": "train", "dialect": "qwen3_vl", "image_root": "pictures"}
    entries = [{"dataset": "squares", "kinds": ["box", "point"]}, talk]
    path = tmp_path / "mixture.yaml"
    path.write_text(yaml.safe_dump({"datasets": entries, "eval_dataset": {**talk, "split": "test"}, **more}))
    return path


def test_a_mixture_file_says_it_for_each(tmp_path: Path, conversations: Path) -> None:
    path = write_mixture(tmp_path, conversations)
    mixture = GroundingFlags(mixture=str(path), kinds=["box"]).grounding()
    samples = open_grounding_mixture(mixture)
    assert list(samples.draws.values()) == [12, 3]  # by count; an entry's own kinds hold
    assert [source.kinds for source in mixture.sources] == [("box", "point"), ("box",)]
    assert mixture.eval_dataset is not None
    assert len(open_grounding_source(mixture.eval_dataset)) == 1
    even = opened(mixture=str(path), temperature=1e9)
    assert sorted(even.draws.values()) == [7, 8]
    assert opened(mixture=str(write_mixture(tmp_path, conversations, temperature=1e9))).draws == even.draws


@pytest.mark.parametrize(
    ("flags", "change", "message"),
    [
        ({}, {"datasets": [{"dataset": "squares", "colour": 1}]}, r"datasets\[0\] holds \['colour'\]"),
        ({}, {"seed": 1}, "and nothing else, found .*'seed'"),
        ({}, {"datasets": [{"dataset": "a", "stride": "x"}]}, r"datasets\[0\].stride: expected a whole number"),
        ({}, {"datasets": [{"dataset": "a", "split": 3}]}, r"datasets\[0\].split: expected a text"),
        ({}, {"datasets": [{"dataset": "a"}, {"dataset": "a"}]}, "named twice"),
        ({}, {"datasets": [{"dataset": "a", "weight": 1}, {"dataset": "b"}]}, "for every dataset or for none"),
        ({}, {"datasets": [{"dataset": "a", "weight": "2"}]}, "weights: expected numbers above 0"),
        ({}, {"temperature": 0}, "temperature: expected a number above 0"),
        ({}, {"temperature": 2, "datasets": [{"dataset": "a", "weight": 1}]}, "give one of both"),
        ({"temperature": 2.0}, {"temperature": 2}, "--temperature: the mixture file has one"),
        ({"eval_dataset": "x"}, {}, "--eval-dataset: the mixture file has one"),
        ({"dialect": "molmo"}, {}, "--dialect: belongs into the mixture file"),
        ({"skip_invalid": True}, {}, "--skip-invalid: belongs into the mixture file"),
        ({"weights": [1.0]}, {}, "--weights: belongs into the mixture file"),
        ({"dataset": ["a"]}, {}, "expected one of them"),
    ],
)
def test_a_mixture_is_never_half_understood(
    tmp_path: Path, conversations: Path, flags: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    path = write_mixture(tmp_path, conversations, **change)
    with pytest.raises(UserError, match=message):
        GroundingFlags(mixture=str(path), **flags).grounding()


def test_the_same_data_for_training_actions(tmp_path: Path, conversations: Path) -> None:
    path = write_mixture(tmp_path, conversations)
    assert len(mixture_of(None, None, str(path), prefix="--grounding-").sources) == 2
    with pytest.raises(UserError, match="--grounding-weights: expected one for each of 1 datasets, found 2"):
        mixture_of(["a"], [1, 2], None, prefix="--grounding-")
    with pytest.raises(UserError, match="--grounding-mixture: expected a YAML or JSON file"):
        mixture_of(None, None, str(tmp_path / "none.yaml"), prefix="--grounding-")
    with pytest.raises(UserError, match="answer_kind: expected one of auto, point, trace, found 'path'"):
        GroundingFlags(dataset=["a"], answer_kind="path").grounding()
