"""`st4vla accelerate-config`: where the launch configs for several GPUs lie."""

from dataclasses import dataclass
from pathlib import Path

from training_st4vla.commands.arguments import exit_with, positional
from training_st4vla.commands.console import emit
from training_st4vla.commands.main import Command
from training_st4vla.errors import UserError

FOLDER = Path(__file__).resolve().parents[1] / "accelerate_configs"


@dataclass
class AccelerateConfigArguments:
    """Flags of `st4vla accelerate-config`."""

    name: str = positional("ddp, fsdp2, zero2 or zero3")


def accelerate_config(name: str) -> Path:
    """
    The file of a launch config.

    Raises:
        UserError: for an unknown name; the message lists the known ones.
    """
    path = FOLDER / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in FOLDER.glob("*.yaml")))
        raise UserError(f"name: expected one of {known}, found {name!r}.")
    return path


def run(args: AccelerateConfigArguments) -> int:
    """Prints the path."""
    emit(str(accelerate_config(args.name)))
    return 0


COMMAND = Command(
    name="accelerate-config",
    arguments=lambda: (AccelerateConfigArguments,),
    run=run,
    description="Prints the path of a launch config, for\n"
    "accelerate launch --config_file $(st4vla accelerate-config NAME) -m training_st4vla.commands.train_actions ...",
)

if __name__ == "__main__":
    exit_with(COMMAND)
