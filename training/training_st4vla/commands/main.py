"""The `st4vla` console script: finds the sub-command, runs it, and turns errors into one paragraph."""

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

# name → (module, what `st4vla --help` says). A module is imported when its command runs: heavy libraries take seconds.
COMMANDS: dict[str, tuple[str, str]] = {
    "quickstart": ("quickstart", "everything once, on a simulated robot: data, both stages, evaluation, report"),
    "init": ("init", "a new model from a base VLM and a DINOv2, or --preset tiny from nothing"),
    "convert": ("convert", "released InternVLA-M1 weights into this format"),
    "check": ("check", "is this data healthy, and does it fit this model?"),
    "train-grounding": ("train_grounding", "stage 1: teach the planner points, boxes and traces"),
    "train-actions": ("train_actions", "fine-tune on a LeRobot dataset"),
    "accelerate-config": ("accelerate_config", "the path of a launch config for many GPUs: ddp, fsdp2, zero2, zero3"),
    "evaluate-actions": ("evaluate_actions", "open-loop error on recorded episodes against trivial baselines"),
    "evaluate-grounding": ("evaluate_grounding", "points, boxes and traces against published or own truth"),
    "evaluate-policy": ("evaluate_policy", "closed-loop success in a LeRobot environment"),
    "ground": ("ground", "points, boxes or a trace for a question about an image"),
    "demo": ("demo", "see it in the browser: ground, act, compare, your dataset"),
    "selftest": ("selftest", "does this copy of a model compute what it computed when it was saved?"),
    "push": ("push", "a model, dataset or Space to the Hugging Face Hub, checked first"),
}


@dataclass(frozen=True)
class Command:
    """
    What a command module exports as `COMMAND`.

    Args:
        name (`str`): as typed.
        arguments (`Callable`): returns the dataclasses of its flags; imported late, they may need heavy libraries.
        run (`Callable`): takes their instances, returns the exit code.
        description (`str`): the first lines of `--help`.
    """

    name: str
    arguments: Callable[[], Sequence[type]]
    run: Callable[..., int]
    description: str


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `st4vla ARGV` and returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        sys.stdout.write(_usage())
        return 0
    if argv[0] == "--version":
        from importlib.metadata import version

        sys.stdout.write(f"st4vla {version('st4vla')}\n")
        return 0
    if argv[0] not in COMMANDS:
        sys.stderr.write(f"st4vla: unknown command {argv[0]!r}; expected one of {', '.join(COMMANDS)}.\n")
        return 2
    module = importlib.import_module(f"training_st4vla.commands.{COMMANDS[argv[0]][0]}")
    return run_command(module.COMMAND, argv[1:])


def run_command(command: Command, argv: Sequence[str] | None = None) -> int:
    """Parses flags, runs one command, and reports an error as one paragraph (a traceback only with `--debug`)."""
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv
    argv = [word for word in argv if word != "--debug"]
    try:
        from training_st4vla.commands.arguments import parse_arguments

        return command.run(*parse_arguments(command, argv))
    except KeyboardInterrupt:
        sys.stderr.write(f"\nst4vla {command.name}: interrupted. What was saved so far is kept.\n")
        return 130
    except Exception as error:
        if debug:
            raise
        kind = "" if isinstance(error, (ValueError, ImportError, FileNotFoundError)) else f"{type(error).__name__}: "
        sys.stderr.write(f"st4vla {command.name}: error: {kind}{error}\n")
        return 1


def _usage() -> str:
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items())
    return (
        "usage: st4vla COMMAND [flags]\n\n"
        "Spatially guided vision-language-action models: know where before you move.\n\n"
        f"{rows}\n\n"
        "`st4vla COMMAND --help` lists the flags of a command with defaults and units. Flags can stand in a YAML\n"
        "file given with --config FILE; --debug shows the traceback of an error.\n"
    )


# TRL's trainers send usage data unless told not to. Ours never do.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# Data loader workers fork after the tokenizer was used; its threads would not survive that, and say so loudly.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

if __name__ == "__main__":
    sys.exit(main())
