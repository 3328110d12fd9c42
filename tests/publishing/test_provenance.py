"""Where a model comes from, as its card tells it; and what no card may tell."""

from pathlib import Path

import pytest

from training_st4vla.provenance import (
    CreditedData,
    add_step,
    describe_source,
    portable_command,
    public_name,
    trace_ancestry,
    trace_bases,
)
from training_st4vla.publishing.private_words import private_words


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["/usr/bin/st4vla", "init", "--preset", "tiny"], "st4vla init --preset tiny"),
        (["st4vla", "train-actions", "--dataset", "/home/alice/easy"], "st4vla train-actions --dataset easy"),
        (["st4vla", "train-actions", "--model=/home/alice/my model"], "st4vla train-actions '--model=my model'"),
        (["st4vla", "ground", "a.png", "the red block"], "st4vla ground a.png 'the red block'"),
        (
            ["/opt/x/training_st4vla/commands/train_actions.py", "--seed", "1"],
            "python -m training_st4vla.commands.train_actions --seed 1",
        ),
        (["/home/alice/mine.py", "--seed", "1"], "python mine.py --seed 1"),
    ],
)
def test_commands_without_the_places_of_a_machine(words: list[str], line: str) -> None:
    assert portable_command(words) == line


def test_names_without_the_places_of_a_machine(tmp_path: Path) -> None:
    (tmp_path / "easy").mkdir()
    assert public_name(str(tmp_path / "easy") + "/") == "easy"
    assert public_name("lerobot/pusht") == "lerobot/pusht"


def test_sources_state_their_licence(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    card, rows, none = tmp_path / "card", tmp_path / "rows", tmp_path / "none"
    for folder in (card, rows / "grounding" / "chunk-000", none):
        folder.mkdir(parents=True)
    (card / "README.md").write_text("---\nlicense: mit\n---\n")
    table = pa.table({"license": ["cc-by-4.0", "mit", "cc-by-4.0", "unknown"]})
    pq.write_table(table, rows / "grounding" / "chunk-000" / "file-000.parquet")
    (tmp_path / "points.jsonl").write_text('{"license": "mit"}\n\n{"instruction": "x"}\n')
    assert describe_source(str(card)) == CreditedData("card", "mit")
    assert describe_source(str(rows)) == CreditedData("rows", "cc-by-4.0, mit")
    assert describe_source(str(none)) == CreditedData("none", None)
    assert describe_source(str(tmp_path / "points.jsonl")) == CreditedData("points.jsonl", "mit")
    assert describe_source("somebody/data") == CreditedData("somebody/data", None, "somebody/data")  # offline


def test_a_card_carries_the_steps_of_its_ancestors(tmp_path: Path) -> None:
    first = add_step("", "Begun.", [], "float32")
    (tmp_path / "README.md").write_text(
        "---\nlicense: mit\nbase_model: [a/b]\ntags: [x]\n---\n# t\n\n"
        f"<!-- history -->\n{first}\n<!-- end of history -->\nafter\n"
    )
    ancestry = trace_ancestry(str(tmp_path))
    assert ancestry.metadata == {"license": "mit", "base_model": ["a/b"]}
    assert ancestry.history == first
    second = add_step(ancestry.history, "Trained.", [CreditedData("d", "mit"), CreditedData("e")], "bfloat16")
    assert second.startswith("### Step 1\n\nBegun.")
    assert "### Step 2\n\nTrained." in second
    assert "| d | mit |\n| e | not stated |" in second
    assert trace_ancestry("somebody/robot").metadata["base_model"] == ["somebody/robot"]
    assert trace_bases(["a/b", str(tmp_path)]).metadata["base_model"] == ["a/b"]
    assert trace_bases([str(tmp_path)]).metadata == {}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("from /home/alice/run/model", ["the local path /home/alice"]),
        ('{"path": "C:\\\\Users\\\\alice"}', ["the local path C:\\\\Users"]),
        ("see ~/models/x", ["the local path ~/models"]),
        ("data/*/*.parquet, https://example.org/home/alice, meta/info.json, and/or", []),
        ("/usr/bin/env python, a /api/predict endpoint", []),
        ("hf_" + "a" * 34, ["an access token hf_aaa…"]),
        ("carol/robot, carol@host, a carol", ["the user name carol"]),
        ("sing a carol", []),
    ],
)
def test_private_words(text: str, found: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("getpass.getuser", lambda: "carol")
    assert list(private_words(text, "me")) == found
    assert [word for word in private_words(text, "carol") if "user name" in word] == []
    assert [word for word in private_words(text, "me", paths=False) if "token" not in word] == []
