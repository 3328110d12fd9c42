"""Flags from dataclasses: one field, one flag, with dashes or underscores; `--config FILE` gives values in YAML."""

import dataclasses
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser
from transformers.hf_argparser import DataClassType

from training_st4vla.commands.main import Command
from training_st4vla.errors import UserError


def positional(help: str) -> Any:
    """A dataclass field that is given by place instead of by name."""
    return dataclasses.field(metadata={"help": _literal(help), "positional": True})


def flag(help: str, default: Any = dataclasses.MISSING, **options: Any) -> Any:
    """A dataclass field with its help text; required without a default."""
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata={"help": _literal(help), **options})
    return dataclasses.field(default=default, metadata={"help": _literal(help), **options})


def _literal(help: str) -> str:
    """A help text in which argparse takes no `%` for a format."""
    return help.replace("%", "%%")


def dtype_flag() -> Any:
    """`--dtype` of the commands that run a saved model; values are those of `load_model`."""
    return flag("auto (as saved; float32 where bfloat16 is emulated), float32, bfloat16 or float16", "auto")


def device_flag() -> Any:
    """`--device`; values are those of `pick_device`."""
    return flag("auto, cpu, cuda or mps", "auto")


class CommandParser(HfArgumentParser):
    """transformers' dataclass parser, with positional fields."""

    @staticmethod
    def _parse_dataclass_field(parser: ArgumentParser, field: dataclasses.Field) -> None:
        if field.metadata.get("positional"):
            parser.add_argument(field.name, metavar=field.name.upper(), help=field.metadata["help"])
        else:
            HfArgumentParser._parse_dataclass_field(parser, field)


def parse_arguments(command: Command, argv: Sequence[str]) -> tuple[Any, ...]:
    """
    Instances of the command's dataclasses from flags, then from `--config`, then from defaults.

    Raises:
        UserError: for a config file that is absent, no mapping, or holds a key that is no flag.
    """
    types: list[DataClassType] = [DataClassType(cls) for cls in command.arguments()]
    parser = CommandParser(types, prog=f"st4vla {command.name}", description=command.description, allow_abbrev=False)
    parser.add_argument("--config", metavar="FILE", help="a YAML file with values for any of these flags")
    argv = list(argv)
    if "--config" in argv:
        index = argv.index("--config")
        if index + 1 >= len(argv):
            raise UserError("--config: expected a YAML file, found nothing after it.")
        _apply_config(parser, Path(argv[index + 1]))
        del argv[index : index + 2]
    *instances, _ = parser.parse_args_into_dataclasses(args=argv, look_for_args_file=False)
    return tuple(instances)


def _apply_config(parser: ArgumentParser, path: Path) -> None:
    if not path.is_file():
        raise UserError(f"--config: expected a YAML file, found nothing at {path}.")
    values = yaml.safe_load(path.read_text())
    if not isinstance(values, dict):
        raise UserError(f"--config: expected {path} to hold `flag: value` lines, found {type(values).__name__}.")
    actions = {action.dest: action for action in parser._actions}
    values = {key.replace("-", "_"): value for key, value in values.items()}
    unknown = sorted(set(values) - set(actions))
    if unknown:
        raise UserError(f"--config: {path} holds {unknown}, which are no flags of this command.")
    for key, value in values.items():
        actions[key].default, actions[key].required = value, False


def exit_with(command: Command) -> None:
    """For `python -m training_st4vla.commands.NAME`, which `accelerate launch -m` needs."""
    from training_st4vla.commands.main import run_command

    sys.exit(run_command(command))


__all__ = ["CommandParser", "device_flag", "dtype_flag", "exit_with", "flag", "parse_arguments", "positional"]
