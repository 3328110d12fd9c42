"""Resuming a run with exactly the weights that its checkpoint holds."""

from typing import Any

from transformers import PreTrainedModel, Trainer

from training_st4vla.sharding import is_sharded


class StrictResume(Trainer):
    """
    Loads checkpoints as `from_pretrained` does: renamed weights find their place, and a missing one is an error.

    transformers writes some weights under the names of the original release (DINOv2's attention is one) and translates
    them in `from_pretrained`; `Trainer` reads a checkpoint's file as it is, drops what has another name without an
    error, and goes on with the weights that the run started from (transformers 5.23).
    """

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        target = self.accelerator.unwrap_model(self.model if model is None else model)
        if is_sharded(self) or not isinstance(target, PreTrainedModel) or hasattr(target, "peft_config"):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        saved = type(target).from_pretrained(resume_from_checkpoint, dtype=target.dtype)
        target.load_state_dict(saved.state_dict(), strict=True)

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        # The first process writes the state next, which says that a checkpoint is whole: after everyone's part.
        self.accelerator.wait_for_everyone()


__all__ = ["StrictResume"]
