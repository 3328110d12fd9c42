"""`st4vla push` of Spaces: the files arrive, and the front matter says what the Hub needs."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hub import Hub


def test_a_space_arrives(hub: Hub, push: Callable, space: Path) -> None:
    for junk in ("__pycache__/app.pyc", ".env", "flagged/1.json", "outputs/a.png"):
        (space / junk).parent.mkdir(exist_ok=True)
        (space / junk).write_text("secret")
    code, out, err = push(space, "--repo-id", "me/space")
    assert code == 0, err
    assert out == f"{hub.endpoint}/spaces/me/space\n"
    assert set(hub.files("space", "me/space")) == {"README.md", "app.py", "requirements.txt", "examples/table.txt"}
    assert hub.repositories["space", "me/space"].sdk == "gradio"


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("README.md", "title: Grounding\n", "", "`title` is missing at the top of README.md"),
        ("README.md", "sdk: gradio", "sdk: docker", "`sdk` at the top of README.md: expected gradio, found docker"),
        ("README.md", 'sdk_version: "6.31.0"', "sdk_version: newest", "`sdk_version`: expected a version such as"),
        (
            "README.md",
            "app_file: app.py",
            "app_file: main.py",
            "`app_file`: expected a file of this folder, found none",
        ),
        ("README.md", "title: Grounding", "title: [", "the YAML block at its top is not readable"),
        ("requirements.txt", "st4vla", "-e /home/alice/st4vla", "requirements.txt holds the local path /home/alice"),
    ],
)
def test_refusals(hub: Hub, push: Callable, space: Path, file: str, old: str, new: str, message: str) -> None:
    text = (space / file).read_text()
    assert old in text
    (space / file).write_text(text.replace(old, new))
    code, out, err = push(space, "--repo-id", "me/space")
    assert (code, out, hub.requests) == (1, "", [])
    assert message in err


def test_our_own_space_is_ready_to_be_published(push: Callable) -> None:
    """It carries its model in the package, so its card names none: a remark, no refusal."""
    folder = Path(__file__).resolve().parents[2] / "spaces" / "grounding"
    code, _, err = push(folder, "--repo-id", "me/space", "--dry-run")
    assert code == 0, err
    assert "names no model" in err
