"""Golden inputs and outputs stored with a model: does this copy still compute what it computed when it was saved?"""

import json
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from safetensors.torch import load_file, save_file

from processing_st4vla import ST4VLAProcessor
from training_st4vla.errors import UserError

FOLDER = "selftest"
EXAMPLE = "example.png"
QUESTION = "the red block"
INSTRUCTION = "put the red block on the blue plate"
NEW_TOKENS = 16
EXAMPLE_TOKENS = 64
# Largest difference of an action, relative to the largest action; beyond it another computation took place. float32
# differs between devices by summation order only; bfloat16 keeps 8 bits and the error grows over the denoising steps.
# Of the largest value. In bfloat16 two runs of one model that sum in another order were seen to differ by 0.05.
TOLERANCES = {"float32": 1e-3, "bfloat16": 0.15, "float16": 5e-2}


@dataclass(frozen=True)
class SelftestResult:
    """
    Args:
        dtype (`str`), stored_dtype (`str`): of the model now and when the numbers were stored.
        input_ids_equal (`bool`): the prompt became the same tokens.
        action_error (`float`), plan_error (`float`), tolerance (`float`): of actions and of latent planning tokens,
            relative to the largest stored number. An untrained model acts with zeros; its plan still tells.
        text_equal (`bool`), text (`str`), stored_text (`str`): greedy answer; compared when both dtypes are float32.
    """

    dtype: str
    stored_dtype: str
    input_ids_equal: bool
    action_error: float
    plan_error: float
    tolerance: float
    text_equal: bool
    text: str
    stored_text: str

    @property
    def passed(self) -> bool:
        """Same tokens, plan and actions within tolerance, and the same text where rounding cannot change it."""
        same_text = self.text_equal or {self.dtype, self.stored_dtype} != {"float32"}
        return self.input_ids_equal and max(self.action_error, self.plan_error) <= self.tolerance and same_text


def draw_scene(slot: int) -> Image.Image:
    """A synthetic table, 320 x 240 pixels: the same picture on every machine."""
    image = Image.new("RGB", (320, 240), (168 - 20 * slot, 150, 126))
    draw = ImageDraw.Draw(image)
    draw.ellipse((180, 110, 290, 200), fill=(40, 70, 190))
    draw.rectangle((60 + 25 * slot, 90, 110 + 25 * slot, 140), fill=(200, 40, 30))
    draw.rectangle((130, 30, 165, 60), fill=(40, 160, 60))
    return image


def write_selftest(model: Any, processor: ST4VLAProcessor, folder: Path) -> None:
    """Stores inputs and outputs of this model under `folder/selftest`, replacing older ones."""
    target = folder / FOLDER
    target.mkdir(exist_ok=True)
    views = _count_views(processor)
    for slot in range(views):
        draw_scene(slot).save(target / f"view_{slot}.png")
    config = model.config
    generator = torch.Generator().manual_seed(0)
    tensors = {"noise": torch.randn(1, config.chunk_size, config.action_dim, generator=generator)}
    if config.state_dim is not None:
        tensors["state"] = torch.linspace(-1, 1, config.state_dim)[None]
    inputs, outputs = _compute(model, processor, target, tensors, views)
    stored = {**tensors, "input_ids": inputs["input_ids"], **outputs}
    save_file({name: value.contiguous().cpu() for name, value in stored.items()}, target / "golden.safetensors")
    record = {
        "instruction": INSTRUCTION,
        "views": views,
        "dtype": _dtype_name(model),
        "text": processor.tokenizer.decode(outputs["new_ids"][0], skip_special_tokens=True),
    }
    (target / "golden.json").write_text(json.dumps(record, indent=2) + "\n")
    draw_example(model, processor, Image.open(target / "view_0.png")).save(target / EXAMPLE)


def draw_example(model: Any, processor: ST4VLAProcessor, image: Image.Image) -> Image.Image:
    """The model's answer to a question about `image`, drawn, with question and raw answer below: for its card."""
    inputs = processor.ground(images=[[image]], text=[QUESTION], kind="box").to(model.device)
    planner_inputs = {name: value for name, value in inputs.items() if name != "image_sizes"}
    was_training = model.training
    model.eval()
    ids = model.generate(**planner_inputs, max_new_tokens=EXAMPLE_TOKENS, do_sample=False)
    model.train(was_training)
    result = processor.post_process_grounding(ids, inputs)[0]
    drawn = result.draw(image)
    lines = [
        f"asked: box of {QUESTION}",
        *textwrap.wrap(f"answered: {result.raw_text or '(nothing)'}", drawn.width // 8),
    ]
    picture = Image.new("RGB", (drawn.width, drawn.height + 22 * len(lines) + 12), "white")
    picture.paste(drawn)
    text = "\n".join(lines)
    ImageDraw.Draw(picture).multiline_text((8, drawn.height + 6), text, "black", ImageFont.load_default(15), spacing=5)
    return picture


def stored_dtype(folder: Path) -> str:
    """The dtype in which a folder's numbers were computed, so that they can be computed alike; `auto` without any."""
    golden = folder / FOLDER / "golden.json"
    return json.loads(golden.read_text())["dtype"] if golden.is_file() else "auto"


def run_selftest(model: Any, processor: ST4VLAProcessor, folder: Path) -> SelftestResult:
    """
    Computes again what `write_selftest` stored.

    Raises:
        UserError: when `folder` holds no selftest.
    """
    source = folder / FOLDER
    if not (source / "golden.json").is_file() or not (source / "golden.safetensors").is_file():
        raise UserError(
            f"{folder}: expected {FOLDER}/golden.json and {FOLDER}/golden.safetensors, found none. Store what this "
            "copy computes now with `st4vla selftest MODEL --write`."
        )
    record = json.loads((source / "golden.json").read_text())
    stored = load_file(source / "golden.safetensors")
    inputs, outputs = _compute(model, processor, source, stored, record["views"])
    dtype = _dtype_name(model)
    tolerance = max(TOLERANCES[dtype], TOLERANCES[record["dtype"]])

    def error(name: str) -> float:
        if name not in stored:
            raise UserError(
                f"{folder}: {FOLDER} holds no {name!r}. Store it anew with `st4vla selftest MODEL --write`."
            )
        scale = stored[name].abs().max().clamp(min=1e-6)
        return float((outputs[name].cpu().float() - stored[name].float()).abs().max() / scale)

    text = processor.tokenizer.decode(outputs["new_ids"][0], skip_special_tokens=True)
    return SelftestResult(
        dtype=dtype,
        stored_dtype=record["dtype"],
        input_ids_equal=torch.equal(inputs["input_ids"].cpu(), stored["input_ids"]),
        action_error=error("actions"),
        plan_error=error("latent_planning_tokens"),
        tolerance=tolerance,
        text_equal=text == record["text"],
        text=text,
        stored_text=record["text"],
    )


def _compute(
    model: Any, processor: ST4VLAProcessor, folder: Path, tensors: dict[str, torch.Tensor], views: int
) -> tuple[Any, dict[str, torch.Tensor]]:
    images = [Image.fromarray(np.asarray(Image.open(folder / f"view_{slot}.png"))) for slot in range(views)]
    keys = sorted(processor.action_contracts)
    inputs = processor(images=[images], text=[INSTRUCTION], dataset_key=keys[0] if keys else None)
    inputs = inputs.to(model.device)
    if "state" in tensors:
        inputs["state"] = tensors["state"].to(model.device)
    was_training = model.training
    model.eval()
    plan = model.plan(
        **inputs,
        noise=tensors["noise"].to(model.device),
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
    )
    model.train(was_training)
    new_ids = plan.sequences[:, inputs["input_ids"].shape[1] :]
    return inputs, {
        "actions": plan.actions,
        "latent_planning_tokens": plan.latent_planning_tokens.float(),
        "new_ids": new_ids,
    }


def _count_views(processor: ST4VLAProcessor) -> int:
    keys = sorted(processor.action_contracts)
    return max(len(processor.contract(keys[0]).cameras), 1) if keys else 1


def _dtype_name(model: Any) -> str:
    return str(model.dtype).split(".")[-1]


__all__ = ["SelftestResult", "draw_scene", "run_selftest", "stored_dtype", "write_selftest"]
