"""Models whose weights lie in pieces on several processes (FSDP2, DeepSpeed ZeRO)."""

from typing import Any

from modeling_st4vla import ST4VLAForActionPrediction
from training_st4vla.errors import UserError


def is_sharded(trainer: Any) -> bool:
    """Whether an engine holds the trainer's weights or their optimiser state in pieces."""
    return trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled


def refuse_sharded(trainer: Any, flag: str, what: str) -> None:
    """
    Raises:
        UserError: when the trainer's engine cannot do `what`.
    """
    if is_sharded(trainer):
        raise UserError(f"{flag}: {what} with sharded weights is not supported; launch with the config ddp instead.")


def whole_model(trainer: Any) -> Any:
    """
    The trained model in one piece, after training. All processes must call it: they hand their pieces to the first.

    Returns:
        The trainer's own model where nothing is sharded; else a new one on the CPU in the first process, and None in
        all others.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    if not is_sharded(trainer):
        return model
    wrapped = trainer.deepspeed if trainer.is_deepspeed_enabled else trainer.model
    weights = trainer.accelerator.get_state_dict(wrapped)
    if trainer.is_deepspeed_enabled:
        # Training is over. While transformers remembers a ZeRO-3 config, every new model is built in pieces and every
        # `generate` waits for all processes; the first one alone would wait for ever.
        from transformers.integrations.deepspeed import unset_hf_deepspeed_config

        unset_hf_deepspeed_config()
    if not trainer.is_world_process_zero():
        return None
    whole = ST4VLAForActionPrediction(model.config).to(next(iter(weights.values())).dtype)
    whole.load_state_dict(weights, strict=True)
    return whole


__all__ = ["is_sharded", "refuse_sharded", "whole_model"]
