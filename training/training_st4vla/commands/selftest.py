"""`st4vla selftest`: golden inputs and outputs stored with a model."""

from dataclasses import asdict, dataclass
from pathlib import Path

from training_st4vla.commands.arguments import device_flag, exit_with, flag, positional
from training_st4vla.commands.console import emit, say, write_json
from training_st4vla.commands.main import Command
from training_st4vla.errors import UserError


@dataclass
class SelftestArguments:
    """Flags of `st4vla selftest`."""

    model: str = positional("model folder")
    write: bool = flag("store what this copy computes now, instead of checking it", False)
    dtype: str = flag("auto (as stored; with --write, as saved), float32, bfloat16 or float16", "auto")
    device: str = device_flag()
    json: str | None = flag("also write the result to this file", None)


def run(args: SelftestArguments) -> int:
    """Writes or checks; exit code 1 when a check fails."""
    from training_st4vla.loading import load_model
    from training_st4vla.selftest import run_selftest, stored_dtype, write_selftest

    folder = Path(args.model)
    if not folder.is_dir():
        raise UserError(f"expected a model folder, found nothing at {folder}.")
    dtype = stored_dtype(folder) if args.dtype == "auto" and not args.write else args.dtype
    model, processor = load_model(args.model, dtype, args.device)
    if args.write:
        write_selftest(model, processor, folder)
        say(f"{folder}/selftest: stored ({str(model.dtype).split('.')[-1]}, {model.device.type}).")
        return 0
    result = run_selftest(model, processor, folder)
    emit(
        f"{'passed' if result.passed else 'FAILED'}: tokens {'equal' if result.input_ids_equal else 'differ'}, "
        f"action error {result.action_error:.2e}, plan error {result.plan_error:.2e} (tolerance "
        f"{result.tolerance:.0e}, stored in {result.stored_dtype}, run in {result.dtype}), "
        f"text {'equal' if result.text_equal else 'differs'}"
    )
    if args.json:
        write_json(Path(args.json), {**asdict(result), "passed": result.passed})
    return 0 if result.passed else 1


COMMAND = Command(
    name="selftest",
    arguments=lambda: (SelftestArguments,),
    run=run,
    description="Checks that a model computes the text, coordinates and actions stored with it, within tolerance.",
)

if __name__ == "__main__":
    exit_with(COMMAND)
