"""Stage 2: actions under a spatial prompt and grounding text in one summed loss and one optimiser step."""
# The trainer knows its model and arguments by their base classes only.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false

from collections import defaultdict
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers.trainer_callback import TrainerCallback

from modeling_st4vla import ST4VLAForActionPrediction
from processing_st4vla import ST4VLAProcessor
from training_st4vla.action_config import SpatialActionConfig
from training_st4vla.data.co_training import CoTrainingDataset
from training_st4vla.data.collators import ActionCollator, CoTrainingCollator
from training_st4vla.errors import UserError
from training_st4vla.resuming import StrictResume


class SpatialActionTrainer(StrictResume):
    r"""
    Trains [`ST4VLAForActionPrediction`] on robot data, and on grounding data beside it when there is any.

    Args:
        model ([`ST4VLAForActionPrediction`]).
        args ([`SpatialActionConfig`]).
        train_dataset (`Dataset`): samples of `LeRobotActionDataset`.
        eval_dataset (`Dataset`, *optional*): likewise, held out.
        grounding_dataset (`Dataset`, *optional*): samples `{image, instruction, kind, answer}`; without it there is no
            text loss (vanilla training, in the paper's words).
        processing_class ([`ST4VLAProcessor`]): with the contracts of the data.
        callbacks (`list[TrainerCallback]`, *optional*).

    Raises:
        UserError: for a model and data that do not fit each other.
    """

    # Losses are means per batch: the trainer divides by the accumulation steps.
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model: ST4VLAForActionPrediction,
        args: SpatialActionConfig,
        train_dataset: Dataset,
        processing_class: ST4VLAProcessor,
        eval_dataset: Dataset | None = None,
        grounding_dataset: Dataset | None = None,
        callbacks: list[TrainerCallback] | None = None,
        **kwargs: Any,
    ) -> None:
        check_fit(model, processing_class, train_dataset)
        collator: Any = ActionCollator(processing_class)
        if grounding_dataset is not None:
            train_dataset = CoTrainingDataset(train_dataset, grounding_dataset, args.grounding_ratio, args.seed)
            collator = CoTrainingCollator(processing_class)
        self._sums: dict[str, torch.Tensor] = defaultdict(lambda: torch.zeros(2))
        super().__init__(
            model=model,
            args=args,
            data_collator=collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=callbacks,
            **kwargs,
        )

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW with a learning rate per part: planner, action expert, everything else."""
        if self.optimizer is None:
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = optimizer_class(parameter_groups(self.model, self.args), **options)
        return self.optimizer

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """One forward for both losses; their weighted sum."""
        outputs = model(**inputs, num_items_in_batch=num_items_in_batch)
        loss = outputs.action_loss
        self._record("action_loss", outputs.action_loss)
        if outputs.lm_loss is not None:
            loss = loss + self.args.lm_loss_weight * outputs.lm_loss
            # Per supervised token, whatever the batches they came in.
            tokens = (inputs["grounding_inputs"]["labels"][:, 1:] != -100).sum()
            self._record("lm_loss", outputs.lm_loss * num_items_in_batch, tokens)
        return (loss, outputs) if return_outputs else loss

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> torch.Tensor | None:
        """
        The divisor that makes the text loss the sum over supervised tokens over their global count.

        The trainer later averages over accumulation steps and processes, so the global count is divided by both.
        """
        labels = [batch["grounding_inputs"]["labels"] for batch in batch_samples if "grounding_inputs" in batch]
        if not labels and self.args.world_size == 1:
            return None
        count = torch.zeros((), device=device) + sum((label[:, 1:] != -100).sum().item() for label in labels)
        count = self.accelerator.gather(count.reshape(1)).sum()
        return (count / (max(len(batch_samples), 1) * self.args.world_size)).clamp(min=1e-9)

    def _record(self, name: str, total: torch.Tensor, count: torch.Tensor | int = 1) -> None:
        # Kept on the device: reading a number here would wait for the accelerator at every step.
        total = total.detach().float()
        entry = torch.stack([total, torch.as_tensor(count, dtype=torch.float32, device=total.device)])
        self._sums[name] = self._sums[name].to(total.device) + entry

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the mean of every part of the loss since the last log, over all processes."""
        if "loss" in logs:
            for name in sorted(self._sums):
                total, count = self.accelerator.reduce(self._sums[name], reduction="sum").tolist()
                logs[name] = round(total / max(count, 1), 6)
            self._sums.clear()
        super().log(logs, start_time)


def parameter_groups(model: Any, args: SpatialActionConfig) -> list[dict[str, Any]]:
    """
    Optimiser groups by part and by whether weight decay applies (matrices yes; biases, norms and embeddings no).
    """
    rates = {
        "vlm": args.vlm_learning_rate,
        "action_expert": args.action_expert_learning_rate,
        "rest": args.learning_rate,
    }
    groups: dict[tuple[str, bool], list[torch.nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = name.split(".", 1)[0]
            groups[part if part in rates else "rest", parameter.ndim >= 2].append(parameter)
    return [
        {"params": parameters, "lr": rates[part], "weight_decay": args.weight_decay if decayed else 0.0, "name": part}
        for (part, decayed), parameters in sorted(groups.items())
    ]


def check_fit(model: Any, processor: ST4VLAProcessor, dataset: Any) -> None:
    """
    Checks a model, its processor and a dataset against each other before any training.

    Raises:
        UserError: naming the field that differs.
    """
    config = model.config
    expected = {
        "action dimension": (config.action_dim, dataset.action_dim, "st4vla init --action-dim"),
        "chunk size": (config.chunk_size, dataset.chunk_size, "st4vla init --chunk-size"),
        "state dimension": (config.state_dim, dataset.state_dim, "st4vla init --state-dim, or --state-keys"),
    }
    for field, (ours, theirs, remedy) in expected.items():
        if ours != theirs:
            raise UserError(f"{field}: the model has {ours}, the dataset {theirs}. Choose it with {remedy}.")
    contract = processor.contract(dataset.dataset_key)
    for field, ours, theirs in (
        ("action dimension", contract.action.dim, dataset.action_dim),
        ("cameras", list(contract.cameras), list(dataset.cameras)),
        ("state dimension", contract.state.dim if contract.state else None, dataset.state_dim),
    ):
        if ours != theirs:
            raise UserError(
                f"{field}: the action contract {dataset.dataset_key!r} of the model says {ours}, the dataset {theirs}."
            )
    contract.require_known("training")


__all__ = ["SpatialActionTrainer", "check_fit", "parameter_groups"]
