"""Which grounding samples the flags of a training run choose."""

from pathlib import Path

from grounding_toy import picture, save, schema_row, write_lines, write_schema_set

from training_st4vla.commands.grounding_arguments import open_grounding


def test_samples_are_drawn_from_the_kinds_that_are_asked_for(tmp_path: Path) -> None:
    """Of 24 samples 6 are boxes: 5 boxes are 5 boxes, and the one sample of a rare role is found."""
    path = write_schema_set(tmp_path, count=6)
    save(tmp_path / "rare.png", picture())
    rows = path.read_text()
    write_lines(path, [schema_row("rare.png", role="place")])
    path.write_text(rows + path.read_text())
    boxes = open_grounding([str(path)], kinds=["box"], max_samples=5)
    assert [sample.kind for sample in boxes.samples()] == ["box"] * 5
    assert len(open_grounding([str(path)], roles=["place"], max_samples=1)) == 1
