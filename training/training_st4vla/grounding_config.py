"""Settings of stage 1, spatial grounding."""

from dataclasses import dataclass, field
from typing import Any

import torch
from trl.trainer.sft_config import SFTConfig

from training_st4vla.precision import multiplies_bfloat16
from training_st4vla.workers import settle_workers


@dataclass
class SpatialGroundingConfig(SFTConfig):
    r"""
    Settings of [`SpatialGroundingTrainer`], on top of [`~trl.SFTConfig`].

    > Parameters that control the evaluation during training (`eval_strategy`, `eval_steps`)

    Args:
        eval_questions (`int`, *optional*, defaults to `96`): held-out questions answered by generation each time.
        eval_max_new_tokens (`int`, *optional*, defaults to `256`): longest answer, in tokens.
        eval_pictures (`int`, *optional*, defaults to `8`): answers drawn each time, into `output_dir/pictures`.

    > Parameters that control the optimizer

    Args:
        muon (`bool`, *optional*, defaults to `False`): [`MuonAdamW`] instead of `optim`, for planners that start from
            nothing. After 400 steps of the `tiny` preset on easy tabletop scenes (112 px, one seed) it boxed 47 % of
            the order's objects and pointed to 61 %, AdamW 34 % and 46 %; a step took 1.4 times as long.

    > Parameters that control what is learned

    Args:
        look_weight (`float`, *optional*, defaults to `0.0`): weight of a second loss, for planners that start from
            nothing: while a box is written, head 0 of the two layers in the middle of the language model has to look
            at the image's cell that holds the box's centre. Needs `questions_per_image` above 1 and the attention
            `by_turns`, which `auto` chooses then.
        freeze (`list[str]`, *optional*): names below which nothing is trained, such as `vlm.model.visual`.

    > [!NOTE]
    > Defaults that differ from `SFTConfig`: `learning_rate` (`1e-5`, the paper's), `max_length` (`None`: an image is
    > never cut), `remove_unused_columns` (`False`), `gradient_checkpointing` (`False`), `report_to` (`"none"`),
    > `save_total_limit` (`2`), `adam_beta2` (`0.95`), `train_sampling_strategy` (`"group_by_length"`),
    > `bf16` (`None`: where the device multiplies bfloat16 in hardware), `dataloader_num_workers` (`None`: none on a
    > CPU, else one fewer than cores, at most eight).
    """

    eval_questions: int = field(default=96, metadata={"help": "held-out questions of an evaluation, drawn evenly"})
    eval_max_new_tokens: int = field(default=256, metadata={"help": "longest answer at an evaluation, in tokens"})
    eval_pictures: int = field(default=8, metadata={"help": "answers drawn at each evaluation"})

    muon: bool = field(default=False, metadata={"help": "Muon for matrices instead of --optim: planners from nothing"})

    look_weight: float = field(
        default=0.0, metadata={"help": "weight of a loss for looking at what is boxed: planners from nothing"}
    )
    freeze: list[str] = field(default_factory=list, metadata={"help": "names below which nothing is trained"})

    learning_rate: float = field(default=1e-5, metadata={"help": "learning rate of the planner"})
    adam_beta2: float = field(default=0.95, metadata={"help": "second moment decay of AdamW"})
    max_length: int | None = field(
        default=None, metadata={"help": "kept at none: a cut prompt would lose image tokens"}
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "kept off: collators read whole samples"})
    gradient_checkpointing: bool = field(default=False, metadata={"help": "recompute activations to save memory"})
    # In the parent's order, which its flag parser relies on.
    report_to: None | str | list[str] = field(  # noqa: RUF036
        default="none", metadata={"help": "trackio, wandb, tensorboard or none"}
    )
    save_total_limit: int | None = field(default=2, metadata={"help": "checkpoints kept"})
    dataloader_num_workers: int | None = field(  # a number from `__post_init__` on
        default=None,
        metadata={"help": "processes that read and preprocess; none on a CPU, else cores - 1, at most 8"},
    )
    train_sampling_strategy: str = field(
        default="group_by_length", metadata={"help": "group_by_length (little padding), random or sequential"}
    )

    def __post_init__(self) -> None:
        if self.remove_unused_columns:
            raise ValueError("remove_unused_columns: expected False; the collator reads whole samples.")
        if self.max_length is not None:
            raise ValueError(f"max_length: expected none, found {self.max_length}; a cut prompt loses image tokens.")
        if self.look_weight < 0:
            raise ValueError(f"look_weight: expected 0 or more, found {self.look_weight}.")
        if self.look_weight and self.gradient_checkpointing:
            raise ValueError("look_weight: cannot be had with gradient_checkpointing. Leave one of them out.")
        # The collator makes inputs of samples: nothing is to be prepared before.
        asked: Any = self.dataset_kwargs or {}
        self.dataset_kwargs = {**asked, "skip_prepare_dataset": True}
        # Without an accelerator this only says what is so; transformers wants to hear it before it admits bf16.
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
        settle_workers(self)
        if self.bf16 is None and not self.fp16:  # TRL's default is bfloat16 everywhere
            device = "cpu" if self.use_cpu else torch.accelerator.current_accelerator()
            self.bf16 = multiplies_bfloat16(device or "cpu")
        super().__post_init__()


__all__ = ["SpatialGroundingConfig"]
