"""`st4vla init`: a new model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training_st4vla.commands.arguments import exit_with, flag
from training_st4vla.commands.console import say
from training_st4vla.commands.main import Command
from training_st4vla.errors import UserError


@dataclass
class InitArguments:
    """Flags of `st4vla init`."""

    output: str = flag("new folder for the model")
    preset: str | None = flag("`tiny`: random weights from nothing, at most 9.5 M parameters", None)
    vlm: str | None = flag("base vision-language model: folder or Hub id of a Qwen2.5-VL or Qwen3-VL", None)
    vision_encoder: str | None = flag("DINOv2: folder or Hub id, for example facebook/dinov2-small", None)
    action_dim: int = flag("dimensions of one action", 7)
    chunk_size: int = flag("actions predicted at once, in steps of the dataset", 16)
    state_dim: int | None = flag("dimensions of the proprioceptive state; none without it", None)
    gradient_decay: float = flag("share of the action gradient that reaches the planner while training, 0 to 1", 0.5)
    image_size: int = flag("width and height in pixels that every view is resized to, a multiple of 28", 224)
    spatial_prompt: str = flag("unified, box, point, trace, none, or a template with {instruction}", "unified")
    dtype: str = flag("dtype of the saved weights: float32 or bfloat16", "bfloat16")
    seed: int = flag("seed of the random weights", 0)


def run(args: InitArguments) -> int:
    """Makes the model and saves it."""
    import torch
    from transformers import set_seed

    from processing_st4vla.prompts import resolve_spatial_prompt
    from training_st4vla.loading import DTYPES
    from training_st4vla.provenance import public_name
    from training_st4vla.saving import refuse_existing, save_model_folder

    output = Path(args.output)
    refuse_existing(output)
    if (args.preset is None) == (args.vlm is None):
        raise UserError("expected exactly one of --preset tiny and --vlm MODEL.")
    if args.dtype not in ("float32", "bfloat16"):
        raise UserError(f"--dtype: expected float32 or bfloat16, found {args.dtype!r}.")
    if args.image_size < 28 or args.image_size % 28:
        raise UserError(f"--image-size: expected a positive multiple of 28, found {args.image_size}.")
    if not 0 <= args.gradient_decay <= 1:
        raise UserError(f"--gradient-decay: expected a number from 0 to 1, found {args.gradient_decay:g}.")
    resolve_spatial_prompt(args.spatial_prompt)
    dtype: Any = DTYPES[args.dtype]
    set_seed(args.seed)
    model, processor, ancestry = _from_preset(args) if args.vlm is None else _from_base(args, args.vlm, dtype)
    processor.spatial_prompt = args.spatial_prompt
    processor.image_size = [args.image_size, args.image_size]
    model = model.to(dtype).eval()
    model.config.dtype = torch.float32 if dtype is torch.float32 else dtype
    bases = [public_name(one) for one in (args.vlm, args.vision_encoder) if one]
    origin = "random weights (preset `tiny`)" if args.vlm is None else " and ".join(bases)
    save_model_folder(
        model,
        processor,
        output,
        summary=f"A new ST4VLA model made from {origin}; its action expert is untrained.",
        ancestry=ancestry,
    )
    say(f"{output}: {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, {args.dtype}, from {origin}.")
    return 0


def _from_preset(args: InitArguments) -> tuple[Any, Any, Any]:
    if args.preset != "tiny":
        raise UserError(f"--preset: expected 'tiny', found {args.preset!r}.")
    from training_st4vla.presets.tiny import build_tiny_config, build_tiny_model, build_tiny_processor
    from training_st4vla.provenance import Ancestry

    processor = build_tiny_processor()
    config = build_tiny_config(processor, args.action_dim, args.chunk_size, args.state_dim, args.image_size)
    config.gradient_decay = args.gradient_decay
    return build_tiny_model(config), processor, Ancestry({"license": "apache-2.0"})


def _from_base(args: InitArguments, vlm: str, dtype: Any) -> tuple[Any, Any, Any]:
    from transformers import AutoConfig, AutoModel, AutoProcessor

    from modeling_st4vla import ST4VLAConfig, ST4VLAForActionPrediction
    from processing_st4vla import ST4VLAProcessor
    from training_st4vla.provenance import trace_bases

    if args.vision_encoder is None:
        raise UserError("--vision-encoder: expected a DINOv2 beside --vlm, for example facebook/dinov2-small.")
    vlm_config, encoder_config = AutoConfig.from_pretrained(vlm), AutoConfig.from_pretrained(args.vision_encoder)
    if vlm_config.model_type not in ("qwen2_5_vl", "qwen3_vl"):
        raise UserError(f"--vlm: expected a qwen2_5_vl or qwen3_vl checkpoint, found {vlm_config.model_type!r}.")
    if not encoder_config.model_type.startswith("dinov2"):
        raise UserError(f"--vision-encoder: expected a dinov2 checkpoint, found {encoder_config.model_type!r}.")
    config = ST4VLAConfig(
        vlm_config=vlm_config,
        vision_encoder_config=encoder_config,
        action_dim=args.action_dim,
        chunk_size=args.chunk_size,
        state_dim=args.state_dim,
        gradient_decay=args.gradient_decay,
    )
    model = ST4VLAForActionPrediction.from_vlm(vlm, config, dtype=dtype)
    model.vision_encoder = AutoModel.from_pretrained(args.vision_encoder, dtype=dtype)
    base = AutoProcessor.from_pretrained(vlm)
    processor = ST4VLAProcessor(
        image_processor=base.image_processor,
        tokenizer=base.tokenizer,
        video_processor=base.video_processor,
        chat_template=base.chat_template or base.tokenizer.chat_template,
        grounding_dialect=vlm_config.model_type,
    )
    return model, processor, trace_bases([vlm, args.vision_encoder])


COMMAND = Command(
    name="init",
    arguments=lambda: (InitArguments,),
    run=run,
    description="A new ST4VLA model: around a base VLM and a DINOv2, or --preset tiny from nothing.",
)

if __name__ == "__main__":
    exit_with(COMMAND)
