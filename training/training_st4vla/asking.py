"""One question about one image, with the time of every stage: what `st4vla ground`, the demo and its API share."""

import time
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from processing_st4vla import GroundingResult


@dataclass(frozen=True)
class Timings:
    """
    Seconds of wall-clock time per stage.

    Args:
        preprocess (`float`): image and words to tensors on the device. generate (`float`): all new tokens.
        parse (`float`): text to coordinates. new_tokens (`int`): generated, the end token included.
    """

    preprocess: float
    generate: float
    parse: float
    new_tokens: int

    @property
    def total(self) -> float:
        """Seconds of all stages."""
        return self.preprocess + self.generate + self.parse

    def to_dict(self) -> dict[str, float | int]:
        """Plain numbers for JSON; tokens per second are those of the whole `generate` call, its prefill included."""
        return {
            "preprocess_s": round(self.preprocess, 4),
            "generate_s": round(self.generate, 4),
            "parse_s": round(self.parse, 4),
            "total_s": round(self.total, 4),
            "new_tokens": self.new_tokens,
            "tokens_per_s": round(self.new_tokens / max(self.generate, 1e-9), 1),
        }


@dataclass(frozen=True)
class Answer:
    """
    Args:
        result (`GroundingResult`): in pixels of the image that was asked about.
        model_size (`tuple[int, int]`): (width, height) of the image the planner saw.
        timings (`Timings`).
    """

    result: GroundingResult
    model_size: tuple[int, int]
    timings: Timings


def ask(
    model: Any,
    processor: Any,
    image: Image.Image,
    text: str,
    kind: str = "auto",
    native_size: bool = False,
    max_new_tokens: int = 256,
) -> Answer:
    """
    Asks greedily where something is.

    Args:
        model, processor: of [`training_st4vla.loading.load_grounder`].
        image (`PIL.Image.Image`): RGB. text (`str`): what to find; for `trace` and `spatial` a task.
        kind (`str`): as in [`~processing_st4vla.ST4VLAProcessor.ground`]; also how points in the answer are read.
        native_size (`bool`): ask at the image's own size instead of the processor's `image_size`.
        max_new_tokens (`int`): longest answer.

    Raises:
        ValueError: for an image, a text or a kind that the processor refuses.
    """
    started = time.perf_counter()
    size = {"image_size": None} if native_size else {}
    inputs = processor.ground(images=[[image]], text=[text], kind=kind, **size).to(model.device)
    planner_inputs = {name: value for name, value in inputs.items() if name != "image_sizes"}
    prepared = time.perf_counter()
    with torch.no_grad():
        ids = model.generate(**planner_inputs, max_new_tokens=max_new_tokens, do_sample=False).cpu()
    generated = time.perf_counter()
    reading = kind if kind in ("point", "box", "trace") else "auto"
    result = processor.post_process_grounding(ids, inputs, kind=reading)[0]
    _, rows, columns = inputs["image_grid_thw"][0].tolist()
    patch = processor.image_processor.patch_size
    return Answer(
        result=result,
        model_size=(columns * patch, rows * patch),
        timings=Timings(
            preprocess=prepared - started,
            generate=generated - prepared,
            parse=time.perf_counter() - generated,
            new_tokens=int(ids.shape[1] - inputs["input_ids"].shape[1]),
        ),
    )


__all__ = ["Answer", "Timings", "ask"]
