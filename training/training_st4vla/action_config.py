"""Settings of stage 2, spatially guided action post-training."""

from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments

from training_st4vla.gradient_similarity import DEFAULT_LAYERS, DEFAULT_RANK
from training_st4vla.workers import settle_workers


@dataclass
class SpatialActionConfig(TrainingArguments):
    r"""
    Settings of [`SpatialActionTrainer`], on top of [`~transformers.TrainingArguments`].

    > Parameters that control the learning rates

    Args:
        vlm_learning_rate (`float`, *optional*, defaults to `1e-5`): of the planner.
        action_expert_learning_rate (`float`, *optional*, defaults to `1e-4`): of the action expert.

    > Parameters that control the losses

        lm_loss_weight (`float`, *optional*, defaults to `0.1`): weight of the text loss beside the action loss.
        grounding_ratio (`float`, *optional*, defaults to `0.25`): grounding samples per action sample.

    > Parameters that control what is trained

        freeze (`list[str]`, *optional*): names below which nothing is trained, such as `vlm` or `vlm.model.visual`.
        ema_decay (`float`, *optional*): decay of a moving average of the weights, which is evaluated and saved.

    > Parameters that control the evaluation during training (`eval_strategy`, `eval_steps`)

        eval_loss_frames (`int`, *optional*, defaults to `1024`): evenly drawn held-out frames whose loss is averaged;
            0: all.
        eval_frames (`int`, *optional*, defaults to `64`): held-out frames whose action chunks are sampled each time.
        eval_questions (`int`, *optional*, defaults to `96`): held-out questions answered by generation each time.
        eval_max_new_tokens (`int`, *optional*, defaults to `256`): longest answer, in tokens.
        eval_pictures (`int`, *optional*, defaults to `8`): answers drawn each time, into `output_dir/pictures`.

    > Parameters that control the projection-space similarity of grounding and action gradients

        similarity_steps (`int`, *optional*, defaults to `0`): measure it every so many optimiser steps; 0: never.
        similarity_samples (`int`, *optional*, defaults to `16`): samples of each kind, the same every time.
        similarity_layers (`str`, *optional*): regular expression of the weights that are compared.
        similarity_rank (`float`, *optional*, defaults to `0.95`): share of the squared gradient that its subspace
            holds, below 1; or its number of dimensions.

    > [!NOTE]
    > Defaults that differ from `TrainingArguments`: `learning_rate` (`5e-5`, everything that is neither planner nor
    > action expert), `adam_beta2` (`0.95`), `weight_decay` (`1e-8`), `lr_scheduler_type` (`cosine_with_min_lr`),
    > `lr_scheduler_kwargs` (minimum a hundredth of each rate), `logging_steps` (`10`), `remove_unused_columns`
    > (`False`), `report_to` (`"none"`), `save_total_limit` (`2`), `dataloader_num_workers`
    > (`None`: none on a CPU, else one fewer than cores, at most eight).
    """

    vlm_learning_rate: float = field(default=1e-5, metadata={"help": "learning rate of the planner"})
    action_expert_learning_rate: float = field(default=1e-4, metadata={"help": "learning rate of the action expert"})
    lm_loss_weight: float = field(default=0.1, metadata={"help": "weight of the text loss beside the action loss"})
    grounding_ratio: float = field(default=0.25, metadata={"help": "grounding samples per action sample"})

    freeze: list[str] = field(default_factory=list, metadata={"help": "names below which nothing is trained"})
    ema_decay: float | None = field(default=None, metadata={"help": "decay of a moving average of the weights"})
    eval_loss_frames: int = field(default=1024, metadata={"help": "held-out frames whose loss is averaged; 0: all"})
    eval_frames: int = field(default=64, metadata={"help": "held-out frames whose actions are sampled"})
    eval_questions: int = field(default=96, metadata={"help": "held-out questions answered at each evaluation"})
    eval_max_new_tokens: int = field(default=256, metadata={"help": "longest answer at an evaluation, in tokens"})
    eval_pictures: int = field(default=8, metadata={"help": "answers drawn at each evaluation"})

    similarity_steps: int = field(default=0, metadata={"help": "steps between measurements of PSS; 0: never"})
    similarity_samples: int = field(default=16, metadata={"help": "samples of each kind in a measurement of PSS"})
    similarity_layers: str = field(
        default=DEFAULT_LAYERS, metadata={"help": "regular expression of the weights whose gradients are compared"}
    )
    similarity_rank: float = field(
        default=DEFAULT_RANK,
        metadata={"help": "below 1: share of the squared gradient that its subspace holds; else its dimensions"},
    )

    learning_rate: float = field(default=5e-5, metadata={"help": "learning rate of everything else"})
    adam_beta2: float = field(default=0.95, metadata={"help": "second moment decay of AdamW"})
    weight_decay: float = field(default=1e-8, metadata={"help": "weight decay of AdamW"})
    lr_scheduler_type: str = field(default="cosine_with_min_lr", metadata={"help": "learning rate schedule"})
    lr_scheduler_kwargs: dict | str | None = field(
        default=None, metadata={"help": "schedule options as JSON; the minimum is a hundredth of each rate by default"}
    )
    logging_steps: float = field(default=10, metadata={"help": "log every so many optimiser steps"})
    remove_unused_columns: bool = field(default=False, metadata={"help": "kept off: collators read raw samples"})
    # In the parent's order, which its flag parser relies on.
    report_to: None | str | list[str] = field(  # noqa: RUF036
        default="none", metadata={"help": "trackio, wandb, tensorboard or none"}
    )
    save_total_limit: int | None = field(default=2, metadata={"help": "checkpoints kept"})
    dataloader_num_workers: int | None = field(  # a number from `__post_init__` on
        default=None,
        metadata={"help": "processes that read and preprocess; none on a CPU, else cores - 1, at most 8"},
    )

    def __post_init__(self) -> None:
        if self.lr_scheduler_kwargs is None and self.lr_scheduler_type == "cosine_with_min_lr":
            self.lr_scheduler_kwargs = {"min_lr_rate": 0.01}
        for name in ("vlm_learning_rate", "action_expert_learning_rate", "lm_loss_weight", "grounding_ratio"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: expected 0 or more, found {getattr(self, name)}.")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay: expected between 0 and 1, found {self.ema_decay}.")
        if self.similarity_steps < 0 or self.similarity_samples < 1:
            raise ValueError(
                "similarity_steps, similarity_samples: expected at least 0 and 1, found "
                f"{self.similarity_steps} and {self.similarity_samples}."
            )
        if self.remove_unused_columns:
            raise ValueError("remove_unused_columns: expected False; the collator reads whole samples.")
        if self.train_sampling_strategy != "random":
            raise ValueError(
                f"train_sampling_strategy: expected random, found {self.train_sampling_strategy!r}; the order of "
                "action samples follows from seed and epoch."
            )
        # Without an accelerator this only says what is so; transformers wants to hear it before it admits bf16.
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
        settle_workers(self)
        super().__post_init__()


__all__ = ["SpatialActionConfig"]
