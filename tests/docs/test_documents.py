"""Every command and every Python block of the README runs, as printed, in a folder of its own; the commands of
`examples/grounding_from_nothing` run with small numbers in place of those that take two hours."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
FROM_NOTHING = ROOT / "examples" / "grounding_from_nothing" / "README.md"
SMALL = {
    "--scenes": "2",
    "--max-steps": "2",
    "--max-minutes": "1",
    "--save-steps": "2",
    "--warmup-steps": "1",
    "--lr-scheduler-kwargs": '{"num_decay_steps": 1}',
    "--batch-size": "2",
    "--per-device-train-batch-size": "2",
    "--questions-per-image": "3",
    "--max-samples": "4",
}
"""Flags of long runs, and values at which they show that they run."""
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(document: Path, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return [body for name, body in FENCE.findall(document.read_text()) if name == language]


def commands(document: Path) -> list[list[str]]:
    """Every shell command of a document, split into words, without `uv run` before it."""
    text = "\n".join(blocks(document, "bash")).replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip()]
    words = [shlex.split(line) for line in lines if not line.startswith("#")]
    return [line[2:] if line[:2] == ["uv", "run"] else line for line in words]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the document's commands share, as a reader's working directory."""
    return tmp_path_factory.mktemp("reader")


def run(words: list[str], folder: Path) -> None:
    """Runs one command in a fresh process with this environment's programs."""
    if words[0] == "python":
        words = [sys.executable, *words[1:]]
    elif words[0] == "st4vla":
        words = [sys.executable, "-m", "training_st4vla.commands.main", *words[1:]]
    paths = os.pathsep.join(str(ROOT / part) for part in (".", "processing", "training"))
    done = subprocess.run(
        words,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths, "MUJOCO_GL": os.environ.get("MUJOCO_GL", "egl")},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


@pytest.mark.slow
def test_the_readme_from_top_to_bottom(workplace: Path) -> None:
    (workplace / "docs").mkdir()
    checked = 0
    for words in commands(README):
        if words[0] == "pip" or words[0] == "pytest":
            continue  # how this test came to run
        if words[:2] == ["st4vla", "quickstart"]:
            words += ["--minutes", "1"]
        run(words, workplace)
        checked += 1
    assert checked >= 9
    for code in blocks(README, "python"):
        script = workplace / "block.py"
        script.write_text(code)
        run(["python", str(script)], workplace)
    report = workplace / "outputs" / "quickstart" / "report.html"
    assert report.is_file()
    assert (workplace / "outputs" / "quickstart" / "model" / "selftest").is_dir()
    shutil.rmtree(workplace / "outputs")


@pytest.mark.slow
def test_grounding_from_nothing_runs_with_small_numbers(workplace: Path) -> None:
    pytest.importorskip("lerobot_env_tabletop", reason="the tabletop environment is not installed (extra `sim`)")
    folder = workplace / "from_nothing"
    folder.mkdir()
    (folder / "examples").symlink_to(ROOT / "examples")
    told = commands(FROM_NOTHING)
    for words in told:
        if words[0] == "export":
            continue  # an allocator that this machine may not have
        run([SMALL.get(flag, word) for flag, word in zip(["", *words], words, strict=False)], folder)
    made = [words[words.index(flag) + 1] for words in told for flag in ("--output", "--output-dir") if flag in words]
    assert all((folder / name).is_dir() for name in made)
    scores = json.loads((folder / "grounded" / "scores.json").read_text())
    assert scores["splits"]


def test_links_between_documents_lead_somewhere() -> None:
    for document in (README, ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("examples/*/README.md"))):
        for target in re.findall(r"\]\((?!https?://)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_the_readme_names_every_command() -> None:
    from training_st4vla.commands.main import COMMANDS

    text = README.read_text()
    missing = [name for name in COMMANDS if f"st4vla {name}" not in text]
    assert set(missing) <= {"ground", "evaluate-grounding"}, missing
