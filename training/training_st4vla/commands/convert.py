"""`st4vla convert internvla-m1`: released weights into this format."""

from dataclasses import dataclass
from pathlib import Path

from training_st4vla.commands.arguments import exit_with, flag, positional
from training_st4vla.commands.console import say
from training_st4vla.commands.main import Command
from training_st4vla.errors import UserError


@dataclass
class ConvertArguments:
    """Flags of `st4vla convert`."""

    source: str = positional("format of the checkpoint: internvla-m1")
    checkpoint: str = flag("RUN/checkpoints/steps_N_pytorch_model.pt; RUN/*.json are read beside it")
    base_vlm: str = flag("folder or Hub id of the VLM the run started from (config, tokenizer, image processor)")
    output: str = flag("new folder for the model")
    dtype: str = flag("dtype of the saved weights: auto (the checkpoint's own), float32 or bfloat16", "auto")


def run(args: ConvertArguments) -> int:
    """Converts, saves, and says what became of every key."""
    from training_st4vla.conversion.internvla_m1 import convert_internvla_m1
    from training_st4vla.loading import DTYPES
    from training_st4vla.provenance import trace_bases
    from training_st4vla.saving import refuse_existing, save_model_folder

    if args.source != "internvla-m1":
        raise UserError(f"expected the format internvla-m1, found {args.source!r}.")
    if args.dtype not in ("auto", "float32", "bfloat16"):
        raise UserError(f"--dtype: expected auto, float32 or bfloat16, found {args.dtype!r}.")
    output, checkpoint = Path(args.output), Path(args.checkpoint)
    refuse_existing(output)
    dtype = None if args.dtype == "auto" else DTYPES[args.dtype]
    model, processor, dropped = convert_internvla_m1(checkpoint, args.base_vlm, dtype)
    unknown = {key: processor.contract(key).unknown_fields for key in processor.action_contracts}
    save_model_folder(
        model,
        processor,
        output,
        summary=f"Converted from the InternVLA-M1 checkpoint `{checkpoint.name}`.",
        ancestry=trace_bases([args.base_vlm]),
        notes="\nReleased InternVLA-M1 weights are licensed CC BY-NC-SA 4.0; conversion does not change that.\n",
    )
    say(
        f"{output}: every weight mapped; dropped as dead (no forward pass reads them): {', '.join(dropped) or 'none'}."
    )
    for key, fields in unknown.items():
        say(f"action contract {key!r}: the checkpoint does not say {', '.join(fields)}; declare them before training.")
    return 0


COMMAND = Command(
    name="convert",
    arguments=lambda: (ConvertArguments,),
    run=run,
    description="Released InternVLA-M1 weights into a folder that AutoModel.from_pretrained loads.",
)

if __name__ == "__main__":
    exit_with(COMMAND)
