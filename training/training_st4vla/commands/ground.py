"""`st4vla ground`: points, boxes or a trace for a question about an image."""

import json
from dataclasses import dataclass
from pathlib import Path

from training_st4vla.commands.arguments import device_flag, dtype_flag, exit_with, flag, positional
from training_st4vla.commands.console import emit, say, write_atomic
from training_st4vla.commands.main import Command
from training_st4vla.errors import UserError


@dataclass
class GroundArguments:
    """Flags of `st4vla ground`."""

    image: str = positional("image file (RGB)")
    text: str = positional("what to find")
    model: str | None = flag(
        "model folder or Hub id: ST4VLA, Qwen2.5-VL or Qwen3-VL; the published one by default", None
    )
    kind: str = flag("auto, point, box, trace (the text is a task) or spatial (a task, asked as for acting)", "auto")
    native_size: bool = flag(
        "ask at the image's own size instead of the processor's image_size; a plain VLM is always asked so", False
    )
    max_new_tokens: int = flag("longest answer, in tokens", 256)
    output: str | None = flag("picture with the answer drawn; default: IMAGE with the suffix .st4vla.png", None)
    dtype: str = dtype_flag()
    device: str = device_flag()


def run(args: GroundArguments) -> int:
    """Asks, prints JSON on stdout, draws the answer beside the image."""
    from io import BytesIO

    from training_st4vla.asking import ask
    from training_st4vla.loading import load_grounder
    from training_st4vla.published import published_model

    source = Path(args.image)
    image = open_image(source)
    model, processor = load_grounder(args.model or str(published_model()), args.dtype, args.device)
    result = ask(model, processor, image, args.text, args.kind, args.native_size, args.max_new_tokens).result
    picture = Path(args.output) if args.output else source.with_name(source.name + ".st4vla.png")
    buffer = BytesIO()
    result.draw(image).save(buffer, format="PNG")
    write_atomic(picture, buffer.getvalue())
    emit(json.dumps(result.to_dict(), indent=2))
    say(
        f"{picture}: {len(result.points)} points, {len(result.boxes)} boxes, {len(result.traces)} traces, "
        f"{len(result.rejected)} rejected."
    )
    return 0


def open_image(path: Path):
    """
    An RGB image file.

    Raises:
        UserError: when it is absent, no image, animated, or not RGB.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        image = Image.open(path)
        image.load()
    except FileNotFoundError:
        raise UserError(f"IMAGE: found nothing at {path}.") from None
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise UserError(f"IMAGE: {path} is not a readable image ({error}).") from error
    if image.mode != "RGB":
        raise UserError(f"IMAGE: expected an RGB image, found mode {image.mode!r} in {path}. Convert it first.")
    return ImageOps.exif_transpose(image)  # as every viewer, and the demo, shows it


COMMAND = Command(
    name="ground",
    arguments=lambda: (GroundArguments,),
    run=run,
    description="Asks a model where something is: JSON on stdout, a drawn picture beside the image.",
)

if __name__ == "__main__":
    exit_with(COMMAND)
