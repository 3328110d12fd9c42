"""Parts of a model that are not trained, by name."""

from collections.abc import Sequence
from typing import Any

from training_st4vla.errors import UserError
from training_st4vla.gauges import plain_name


def freeze(model: Any, prefixes: Sequence[str]) -> None:
    """
    Parameters below these names stop to require gradients.

    Args:
        prefixes (`Sequence[str]`): whole dotted parts, such as `vlm.model.visual`, `vision_encoder`.

    Raises:
        UserError: for a name that no parameter lies below.
    """
    names = {plain_name(name): parameter for name, parameter in model.named_parameters()}
    for prefix in prefixes:
        below = [parameter for name, parameter in names.items() if f"{name}.".startswith(f"{prefix}.")]
        if not below:
            parts = sorted({name.split(".", 1)[0] for name in names})
            raise UserError(f"--freeze: the model has no parameters below {prefix!r}; its parts are {parts}.")
        for parameter in below:
            parameter.requires_grad_(False)


def freeze_unreached(model: Any, has_text: bool) -> None:
    """
    Weights that no loss reaches stop to require gradients: engines for several processes wait for every gradient, or
    miss its optimiser state in a checkpoint.

    Args:
        has_text (`bool`): whether there is a text loss; without one the language head is idle, unless it is tied.
    """
    # DINOv2's mask token serves its own pre-training only.
    idle = ("vision_encoder.embeddings.mask_token", *(() if has_text else ("vlm.lm_head",)))
    for name, parameter in model.named_parameters():  # names a tied weight once, as the embedding
        if f"{plain_name(name)}.".startswith(tuple(f"{prefix}." for prefix in idle)):
            parameter.requires_grad_(False)


__all__ = ["freeze", "freeze_unreached"]
