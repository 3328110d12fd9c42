"""Stage 2: actions under a spatial prompt and grounding text in one summed loss and one optimiser step."""
# The trainer knows its model and arguments by their base classes only.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false

import time
from collections import defaultdict
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler, SequentialSampler, Subset
from transformers.trainer_callback import TrainerCallback

from modeling_st4vla import ST4VLAForActionPrediction
from processing_st4vla import ST4VLAProcessor
from training_st4vla.action_config import SpatialActionConfig
from training_st4vla.data.co_training import CoTrainingDataset, EpochOfData
from training_st4vla.data.collators import ActionCollator, CoTrainingCollator
from training_st4vla.data.mixtures import has_order
from training_st4vla.data.shuffling import ShuffledEpochs
from training_st4vla.divergence import StopWhenDiverged
from training_st4vla.ema import WeightAverage
from training_st4vla.errors import UserError
from training_st4vla.fit import check_fit
from training_st4vla.freezing import freeze, freeze_unreached
from training_st4vla.gauges import PARTS, Gauges, gradient_norms, plain_name
from training_st4vla.gradient_similarity import GradientSimilarityCallback
from training_st4vla.held_out import held_out_questions
from training_st4vla.randomness import same_draws
from training_st4vla.resuming import StrictResume
from training_st4vla.sharding import is_sharded, refuse_sharded


class SpatialActionTrainer(StrictResume):
    r"""
    Trains [`ST4VLAForActionPrediction`] on robot data, and on grounding data beside it when there is any.

    The paper's three kinds of training are settings of this one trainer: *vanilla* has no grounding data and a
    processor whose `spatial_prompt` is `none`; *vanilla co-training* adds grounding data; *spatially guided* also
    keeps the prompt.

    With `eval_dataset`, every evaluation logs the held-out loss and the open-loop error of sampled chunks beside the
    better of two trivial baselines; with `grounding_eval_dataset` also the scores of held-out questions.

    Args:
        model ([`ST4VLAForActionPrediction`]).
        args ([`SpatialActionConfig`]).
        train_dataset (`Dataset`): samples of `LeRobotActionDataset`.
        eval_dataset (`Dataset`, *optional*): likewise, held out.
        grounding_dataset (`Dataset`, *optional*): samples `{image, instruction, kind, answer}`; without it there is no
            text loss (vanilla training, in the paper's words).
        grounding_eval_dataset (`GroundingDataset`, *optional*): likewise, held out.
        processing_class ([`ST4VLAProcessor`]): with the contracts of the data.
        callbacks (`list[TrainerCallback]`, *optional*).
        peft_config (`PeftConfig`, *optional*): adapters for the planner, as
            [`~training_st4vla.adapters.lora_config`] makes them.

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
        grounding_eval_dataset: Any = None,
        peft_config: Any = None,
        **kwargs: Any,
    ) -> None:
        check_fit(model, processing_class, train_dataset)
        if eval_dataset is not None:
            check_fit(model, processing_class, eval_dataset)
        if peft_config is not None:
            from peft import get_peft_model

            model = get_peft_model(model, peft_config)
        freeze(model, args.freeze)
        freeze_unreached(model, has_text=grounding_dataset is not None)
        self.action_dataset = train_dataset
        collator: Any = ActionCollator(processing_class)
        if not has_order(train_dataset):
            train_dataset = ShuffledEpochs(train_dataset, args.seed if args.data_seed is None else args.data_seed)
        if grounding_dataset is not None:
            deal_to_every_process(args)
            train_dataset = CoTrainingDataset(train_dataset, grounding_dataset, args.grounding_ratio, args.seed)
            collator = CoTrainingCollator(processing_class)
        callbacks = [*(callbacks or []), EpochOfData(train_dataset), StopWhenDiverged()]
        self._gauges = Gauges(["action_loss", "lm_loss", *(f"grad_norm_{part}" for part in PARTS)])
        self._questions = held_out_questions(grounding_eval_dataset, args)
        self._average = None if args.ema_decay is None else WeightAverage(args.ema_decay)
        if self._average is not None:
            callbacks = [*(callbacks or []), self._average]
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
        if self._average is not None:
            refuse_sharded(self, "--ema-decay", "a moving average")
        if peft_config is not None:
            refuse_sharded(self, "--lora-rank", "merging adapters")
        self._similarity: GradientSimilarityCallback | None = None
        if args.similarity_steps:
            refuse_sharded(self, "--similarity-steps", "comparing gradients")
            grounding = grounding_eval_dataset if grounding_dataset is None else grounding_dataset
            if grounding is None:
                raise UserError("--similarity-steps: needs grounding samples; give --grounding-dataset.")
            self._similarity = GradientSimilarityCallback(self, grounding)
            self.add_callback(self._similarity)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler:
        return SequentialSampler(self.train_dataset if train_dataset is None else train_dataset)  # type: ignore[arg-type]

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
        if model.training:
            self._gauges.record("action_loss", outputs.action_loss)
        if outputs.lm_loss is not None:
            loss = loss + self.args.lm_loss_weight * outputs.lm_loss
            # Per supervised token, whatever the batches they came in.
            tokens = (inputs["grounding_inputs"]["labels"][:, 1:] != -100).sum()
            self._gauges.record("lm_loss", outputs.lm_loss * num_items_in_batch, tokens)
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

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        batches, items = super().get_batch_samples(*args, **kwargs)
        self._gauges.waited(time.perf_counter() - started, sum(len(batch["input_ids"]) for batch in batches))
        return batches, items

    def _clip_grad_norm(self, model: Any) -> Any:
        if not self.is_deepspeed_enabled:  # keeps its gradients to itself
            for part, norm in gradient_norms(model.named_parameters()):
                self._gauges.record(f"grad_norm_{part}", norm)
        return super()._clip_grad_norm(model)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds what the gauges read since the last log: the parts of the loss, gradient norms per part, speed."""
        if "loss" in logs:
            logs.update(self._gauges.read(self.accelerator))
            logs.update(self._similarity.take() if self._similarity is not None else {})
        super().log(logs, start_time)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        # The average before the rest: the trainer's state, written last, says that a checkpoint is whole.
        if self._average is not None and self.args.should_save:
            self._average.save(Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}")
        super()._save_checkpoint(model, trial)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self._average is not None:
            self._average.resume_from = resume_from_checkpoint

    # Evaluation

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """Held-out actions come without grounding samples beside them; many are thinned out evenly."""
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if 0 < self.args.eval_loss_frames < len(dataset):
            eval_dataset = Subset(dataset, evenly(self.args.eval_loss_frames, len(dataset)))
        collator, self.data_collator = self.data_collator, ActionCollator(self.processing_class)
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.data_collator = collator

    def prediction_step(
        self, model: Any, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[torch.Tensor, None, None]:
        """The loss alone: actions are scored by sampling them."""
        with torch.no_grad():
            loss = self.compute_loss(model, self._prepare_inputs(inputs))
        return loss.detach(), None, None

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Held-out loss, open-loop error beside the better trivial baseline, and scores of held-out questions."""
        averaged = nullcontext() if self._average is None else self._average.applied()
        with averaged, same_draws(self.args.seed):
            metrics = super().evaluate(*args, **kwargs)
            scores: dict[str, float] = {}
            # Sampling calls parts of the model by themselves, which a sharding engine does not expect.
            if not is_sharded(self):
                scores |= self._open_loop_errors() if self.args.eval_frames else {}
                scores |= self._questions.score(self) if self._questions is not None else {}
        if scores:
            self.log(scores)
            metrics.update(scores)
        return metrics

    def _open_loop_errors(self) -> dict[str, float]:
        from training_st4vla.evaluation.action_predictions import predict_actions, score_predictions
        from training_st4vla.evaluation.grounding_predictions import evaluation_mode

        dataset: Any = self.eval_dataset
        processor: Any = self.processing_class
        model = self.accelerator.unwrap_model(self.model)
        frames = evenly(self.args.eval_frames, len(dataset))
        # `--bf16` lies in the trained model's `forward`, which sampling does not call.
        with evaluation_mode(model), self.accelerator.autocast():
            predictions = predict_actions(
                model,
                processor,
                dataset,
                frames,
                batch_size=self.args.eval_batch_size,
                progress=False,
            )
        errors = score_predictions(predictions, processor.contract(dataset.dataset_key)).normalized
        return {
            "eval_action_mae": errors.model.mean_mae.estimate,
            "eval_action_mae_ratio": errors.mae_ratio.estimate,
        }


def evenly(number: int, count: int) -> list[int]:
    """At most `number` of the indices below `count`, from first to last."""
    return np.unique(np.linspace(0, count - 1, number).astype(int)).tolist()


def deal_to_every_process(args: SpatialActionConfig) -> None:
    """
    Several processes must take the same passes through the planner: each batch has to hold a grounding sample.

    Raises:
        UserError: when batch size and ratio do not give one to every batch.
    """
    if args.world_size == 1:
        return
    if args.train_batch_size * args.grounding_ratio < 1:
        raise UserError(
            f"--grounding-ratio: {args.grounding_ratio:g} of {args.train_batch_size} action samples per process is "
            "less than one grounding sample. With several processes every batch needs one: raise the ratio to at "
            f"least {1 / args.train_batch_size:g}, or --per-device-train-batch-size."
        )
    args.dataloader_drop_last = True  # a short last batch may hold none


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
            part = plain_name(name).split(".", 1)[0]
            groups[part if part in rates else "rest", parameter.ndim >= 2].append(parameter)
    return [
        {"params": parameters, "lr": rates[part], "weight_decay": args.weight_decay if decayed else 0.0, "name": part}
        for (part, decayed), parameters in sorted(groups.items())
    ]


__all__ = ["SpatialActionTrainer", "check_fit", "deal_to_every_process", "parameter_groups"]
