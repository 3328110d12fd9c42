"""A Hub on this machine, and folders to publish on it."""

import copy
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hub import TOKEN, Hub, serve_hub

from training_st4vla.commands.main import main
from training_st4vla.provenance import Ancestry
from training_st4vla.saving import save_model_folder

SPACE_CARD = """---
title: Grounding
sdk: gradio
sdk_version: "6.31.0"
app_file: app.py
models: [me/robot]
---

Ask where something is.
"""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty Hub that this process talks to instead of the real one, logged in as `me`."""
    from huggingface_hub import constants

    with serve_hub() as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.endpoint)
        template = served.endpoint + "/{repo_id}/resolve/{revision}/{filename}"  # made from the endpoint at import
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr("transformers.utils.hub._hf_api", None)  # made once per process, with the endpoint of then
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield served
        assert served.unknown == []


@pytest.fixture
def push(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs `st4vla push`; returns the exit code, stdout and stderr."""

    def run(*words: Any) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["push", *map(str, words)])
        return code, *capsys.readouterr()

    return run


@pytest.fixture(scope="session")
def _robot(
    tmp_path_factory: pytest.TempPathFactory, build_model: Callable, _small_processor: Any, make_contract: Callable
) -> Path:
    folder = tmp_path_factory.mktemp("publishing") / "robot"
    model, processor = build_model(state_dim=4), copy.deepcopy(_small_processor)
    processor.action_contracts = {"toy": make_contract()}
    save_model_folder(model, processor, folder, "A toy.", ancestry=Ancestry({"license": "apache-2.0"}))
    return folder


@pytest.fixture
def robot(_robot: Path, tmp_path: Path) -> Path:
    """A model folder as the commands save it; each test has its own copy."""
    return Path(shutil.copytree(_robot, tmp_path / "robot"))


@pytest.fixture
def space(tmp_path: Path) -> Path:
    """A small Gradio Space."""
    folder = tmp_path / "space"
    (folder / "examples").mkdir(parents=True)
    (folder / "README.md").write_text(SPACE_CARD)
    (folder / "app.py").write_text("import gradio\n")
    (folder / "requirements.txt").write_text("st4vla\n")
    (folder / "examples" / "table.txt").write_text("a table\n")
    return folder
