"""Every command in the examples' documents is read by the program it names; what is cheap runs.

A program reads its flags and then stops: flags that do not exist and values that do not parse fail, what needs data,
weights or hours does not run. The README's own commands run in `test_documents.py`.
"""

import argparse
import importlib
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(ROOT.glob("examples/*/README.md"))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SUBSTITUTION = re.compile(r"\$\((.*?)\)")
SHELL = ("", "bash")


class FlagsRead(Exception):
    """A program has read its flags."""


def blocks(document: Path, languages: tuple[str, ...]) -> list[str]:
    return [body for name, body in FENCE.findall(document.read_text()) if name in languages]


def commands(document: Path) -> list[str]:
    """Every shell command of a document, continued lines joined; those in `$(...)` come first."""
    text = "\n".join(blocks(document, SHELL)).replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [part for line in lines for part in (*SUBSTITUTION.findall(line), SUBSTITUTION.sub("FILE", line))]


CASES = [pytest.param(line, id=f"{doc.parent.name}: {line[:60]}") for doc in DOCUMENTS for line in commands(doc)]


def test_the_documents_hold_commands() -> None:
    programs = {line.split()[0] for case in CASES for line in case.values}
    assert {"st4vla", "python", "accelerate", "lerobot-train", "lerobot-eval"} <= programs
    assert not [doc for doc in DOCUMENTS if not commands(doc)]


@pytest.mark.parametrize("line", CASES)
def test_a_command_is_one_that_its_program_understands(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    read(shlex.split(line, comments=True), monkeypatch)


def test_a_wrong_flag_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for line in (
        "st4vla evaluate-policy --model m --epsiodes 3",
        "st4vla evaluate-policy --model m --episodes three",
        "python -m lerobot_env_tabletop.record --split nowhere --output x --episodes 3",
        "python examples/recipes/run.py moon --grounding a --output b",
        "lerobot-eval --env.type=tabletop --env.colour=red",
    ):
        with pytest.raises((SystemExit, ValueError, TypeError)) as refusal:
            read(shlex.split(line), monkeypatch)
        assert getattr(refusal.value, "code", 2) == 2


def read(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the program that the words call read its flags."""
    program, *rest = words
    if program == "st4vla":
        read_st4vla(rest[0], rest[1:])
    elif program == "accelerate":
        read_accelerate(rest)
    elif program == "python":
        read_python(rest, monkeypatch)
    elif program in ("lerobot-train", "lerobot-eval"):
        read_lerobot(program, rest, monkeypatch)
    elif program == "export":
        assert all(re.fullmatch(r"[A-Z_]+=\S+", word) for word in rest)
    else:
        pytest.fail(f"a document calls {program!r}, which this test cannot read")


def read_st4vla(name: str, flags: list[str]) -> None:
    from training_st4vla.commands.arguments import parse_arguments
    from training_st4vla.commands.main import COMMANDS

    module = importlib.import_module(f"training_st4vla.commands.{COMMANDS[name][0]}")
    parse_arguments(module.COMMAND, flags)


def read_accelerate(words: list[str]) -> None:
    """`accelerate launch FLAGS -m MODULE FLAGS`, the second half by the command's own parser."""
    from accelerate.commands.launch import launch_command_parser

    from training_st4vla.commands.main import COMMANDS

    assert words[0] == "launch"
    args = launch_command_parser().parse_args(words[1:])
    assert args.module
    names = {f"training_st4vla.commands.{module}": name for name, (module, _) in COMMANDS.items()}
    # transformers refuses bf16 where there is neither an accelerator nor this flag.
    read_st4vla(names[args.training_script], [*args.training_script_args, "--use-cpu", "True"])


def read_python(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A module or script whose flags argparse reads, stopped there."""
    parse = argparse.ArgumentParser.parse_args

    def stop(parser: argparse.ArgumentParser, args: None = None, namespace: None = None) -> None:
        parse(parser, args, namespace)
        raise FlagsRead

    is_module = words[0] == "-m"
    name, *flags = words[1:] if is_module else words
    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        patch.setattr(sys, "argv", [name, *flags])
        if not is_module:
            patch.syspath_prepend(str(ROOT / Path(name).parent))
        with pytest.raises(FlagsRead):
            runpy.run_module(name, run_name="__main__") if is_module else runpy.run_path(name, run_name="__main__")


def read_lerobot(program: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """LeRobot's own configs, except for a policy that would have to be opened."""
    import draccus
    from lerobot.configs.eval import EvalPipelineConfig
    from lerobot.configs.train import TrainPipelineConfig
    from lerobot.policies import factory as _factory  # noqa: F401  # registers the policies
    from lerobot.utils.import_utils import register_third_party_plugins

    register_third_party_plugins()
    config = TrainPipelineConfig if program == "lerobot-train" else EvalPipelineConfig
    has_path = any(word.startswith("--policy.path=") for word in words)
    kept = [word for word in words if not (has_path and word.startswith("--policy."))]
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", [program, *kept])
        draccus.parse(config, args=kept)


def test_the_python_of_the_tabletop_document_solves_its_episode(tmp_path: Path) -> None:
    pytest.importorskip("lerobot_env_tabletop", reason="the tabletop environment is not installed (extra `sim`)")
    (code,) = blocks(ROOT / "examples" / "lerobot_env_tabletop" / "README.md", ("python",))
    script = tmp_path / "block.py"
    script.write_text(code)
    left = runpy.run_path(str(script))
    left["env"].close()
    assert left["info"]["is_success"]
    assert left["labels"].camera == "front"


@pytest.mark.slow
def test_guided_against_vanilla_runs_at_its_smoke_size(
    tmp_path: Path, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = shared / "data" / "sim_pick_place_v21"
    if not recording.is_dir():
        pytest.skip(f"the recorded dataset is not at {recording}")
    script = ROOT / "examples" / "guided_against_vanilla" / "run.py"
    monkeypatch.syspath_prepend(str(script.parent))
    words = [str(script), "--dataset", str(recording), "--output", str(tmp_path / "run"), "--smoke"]
    monkeypatch.setattr(sys, "argv", words)
    runpy.run_path(str(script), run_name="__main__")
    for name in ("vanilla", "co-training", "guided"):
        assert (tmp_path / "run" / name / "config.json").is_file()
    report = (tmp_path / "run" / "report.html").read_text()
    assert all(name in report for name in ("vanilla", "co-training", "guided"))
    assert report.count("<img") >= 3
