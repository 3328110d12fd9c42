"""Opening a model for grounding never runs code that its folder brings along."""

from pathlib import Path
from typing import Any

from training_st4vla.loading import load_grounder


def test_a_folder_with_exported_code(tmp_path: Path, model: Any, processor: Any) -> None:
    config = model.config
    config.auto_map = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    (tmp_path / "evil.py").write_text("raise SystemExit('was run')\n")
    loaded, _ = load_grounder(str(tmp_path), device="cpu")
    assert type(loaded) is type(model)
