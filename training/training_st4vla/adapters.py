"""LoRA on the planner: which layers get adapters, and how a trained model becomes a plain one again."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Attention and feed-forward of the planner's language model; its vision tower and our own modules are left alone.
TARGETS = r"vlm\.model\.language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"


def lora_config(rank: int, train_fully: Sequence[str] = ()) -> Any:
    """
    PEFT's settings for adapters of `rank`, scaled by 2.

    Args:
        train_fully (`Sequence[str]`): modules that are trained as they are, beside the adapters.

    Raises:
        ValueError: for a rank below 1.
    """
    from peft import LoraConfig

    if rank < 1:
        raise ValueError(f"lora_rank: expected at least 1, found {rank}.")
    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=TARGETS, modules_to_save=list(train_fully) or None)


def merge_adapters(model: Any, folder: Path) -> Any:
    """A model without adapters that computes the same, its adapters kept in `folder`; other models as they are."""
    if not hasattr(model, "merge_and_unload"):
        return model
    model.save_pretrained(folder)
    return model.merge_and_unload()


__all__ = ["lora_config", "merge_adapters"]
