"""`st4vla demo` and the model that is used when none is named."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from training_st4vla import published
from training_st4vla.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("installed", [False, True])
def test_the_published_model_is_found_in_a_checkout_and_in_a_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: bool
) -> None:
    package = tmp_path / "training" / "training_st4vla"
    monkeypatch.setattr(published, "_ROOTS", (tmp_path, package))
    for find, file in (
        (published.published_model, "models/tabletop_tiny/config.json"),
        (published.demo_folder, "spaces/grounding/app.py"),
    ):
        with pytest.raises(UserError, match="this copy of st4vla carries no"):
            find()
        path = (package if installed else tmp_path) / file
        path.parent.mkdir(parents=True)
        path.write_text("{}")
        assert find() == path.parent


def test_this_checkout_has_the_demo() -> None:
    assert published.demo_folder() == ROOT / "spaces" / "grounding"


@pytest.mark.parametrize("command", [["demo"], ["ground", "a.png", "the cube"]])
def test_no_model_is_an_error_in_words(
    st4vla: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: list[str]
) -> None:
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(published, "_ROOTS", (tmp_path,))
    monkeypatch.setattr(published, "demo_folder", lambda: ROOT / "spaces" / "grounding")
    code, _, err = st4vla(*command)
    assert code == 1
    assert "carries no published model" in err


@pytest.mark.parametrize(
    ("model", "message"), [("empty", "expected a model folder with config.json"), ("no-such", "no-such")]
)
def test_a_folder_that_is_no_model_is_an_error_in_words(
    st4vla: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, message: str
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    code, _, err = st4vla("demo", "--model", model)
    assert code == 1
    assert message in err
    assert "Traceback" not in err


def test_demo_serves_this_machine_only(st4vla: Callable, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "spaces" / "grounding"))
    from grounding_demo import serving

    served: dict[str, Any] = {}

    def serve(grounder: Any, other: Any, allow_folders: bool, **options: Any) -> None:
        served.update(options, grounder=grounder, other=other, allow_folders=allow_folders)

    monkeypatch.setattr(serving, "serve", serve)
    before = list(sys.path)
    code, _, err = st4vla("demo", "--model", tiny, "--port", 7999)
    assert code == 0, err
    assert served["server_name"] == "127.0.0.1"
    assert (served["server_port"], served["other"], served["allow_folders"]) == (7999, None, True)
    assert served["grounder"].fingerprint
    assert st4vla("demo", "--model", tiny, "--host", "0.0.0.0")[0] == 0
    assert served["allow_folders"] is False
    sys.path[:] = before
