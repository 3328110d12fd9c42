"""Stage 1: the planner learns to answer with points, boxes and traces. TRL's `SFTTrainer` does the work."""
# The trainer knows its model and arguments by their base classes only.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false

from typing import Any

import datasets
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import Dataset, Sampler, SequentialSampler
from transformers.trainer_callback import TrainerCallback
from trl.trainer.sft_trainer import SFTTrainer

from modeling_st4vla.turn_attention_st4vla import BY_TURNS, Looking
from modeling_st4vla.turns_st4vla import separate_turns, without_padding
from processing_st4vla import ST4VLAProcessor
from training_st4vla.data.co_training import EpochOfData
from training_st4vla.data.collators import GroundingCollator
from training_st4vla.data.length_groups import LengthGroupedEpochs
from training_st4vla.data.mixtures import has_order
from training_st4vla.divergence import StopWhenDiverged
from training_st4vla.freezing import freeze
from training_st4vla.grounding_config import SpatialGroundingConfig
from training_st4vla.held_out import held_out_questions
from training_st4vla.looking import DIALECTS, cells_looked_at
from training_st4vla.muon import MuonAdamW
from training_st4vla.resuming import StrictResume

# Without cuDNN's, which is planned anew for every length that a batch can have: 14 ms of a core per call, forward and
# backward, where the GPU's work for a whole step takes 25 (`tiny`, 64 images, H200, torch 2.11, profiled beside other
# trainings, 2026-11-27).
ATTENTION_OF_ANY_LENGTH = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


class SpatialGroundingTrainer(StrictResume, SFTTrainer):
    """
    [`~trl.SFTTrainer`] on grounding data: completion-only loss over the answers.

    With `eval_dataset`, every evaluation also asks held-out questions, by real generation: IoU@0.5 of boxes, points in
    their region, trace errors and the share of answers that could be read are logged as `eval_*`, and a picture of
    the first answers is kept in `output_dir/pictures`.

    Args:
        model ([`ST4VLAForActionPrediction`]): only its planner is trained; or a plain Qwen-VL.
        args ([`SpatialGroundingConfig`]).
        train_dataset (`Dataset`): map-style, of samples `{image, instruction, kind, answer}`, as
            [`~training_st4vla.data.grounding.open_grounding_dataset`] gives them; a mixture with a stream is taken in
            its own order.
        eval_dataset (`GroundingDataset`, *optional*): held out.
        processing_class ([`ST4VLAProcessor`]).
        peft_config (`PeftConfig`, *optional*): trains adapters instead of the planner itself.
    """

    _tag_names = ("st4vla", "spatial-grounding")
    _name = "ST4VLA stage 1"

    def __init__(
        self,
        model: Any,
        args: SpatialGroundingConfig,
        train_dataset: Dataset,
        processing_class: ST4VLAProcessor,
        eval_dataset: Dataset | None = None,
        callbacks: list[TrainerCallback] | None = None,
        peft_config: Any = None,
        **kwargs: Any,
    ) -> None:
        freeze_action_side(model)
        freeze(model, args.freeze)
        if args.look_weight:
            refuse_looking(model, processing_class)
        self._grouped = args.train_sampling_strategy == "group_by_length"
        self._samples = train_dataset
        self._questions = held_out_questions(eval_dataset, args)
        super().__init__(
            model=model,
            args=args,
            data_collator=GroundingCollator(processing_class),
            train_dataset=as_hub_dataset(train_dataset),
            eval_dataset=None if eval_dataset is None else as_hub_dataset(eval_dataset),
            processing_class=processing_class,
            callbacks=[*(callbacks or []), EpochOfData(train_dataset), StopWhenDiverged()],
            peft_config=peft_config,
            **kwargs,
        )

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        if has_order(self._samples):
            return SequentialSampler(self.train_dataset if train_dataset is None else train_dataset)
        if not self._grouped:
            return super()._get_train_sampler(train_dataset)
        together = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return LengthGroupedEpochs(self._samples, together, seed)

    def _get_eval_sampler(self, eval_dataset: Dataset) -> Sampler | None:
        return None  # in order: an evaluation neither draws nor groups

    def create_optimizer(self, model: Any = None) -> Any:
        """The optimizer of `args.optim`, or with `args.muon` [`MuonAdamW`] over everything that is trained."""
        if self.optimizer is None and self.args.muon:
            if self.is_fsdp_enabled or self.is_deepspeed_enabled:
                raise ValueError(
                    "muon: needs whole matrices, found weights that are sharded. Use DDP, or leave it out."
                )
            planner: Any = self.model if model is None else model
            trained = [(name, weight) for name, weight in planner.named_parameters() if weight.requires_grad]
            betas = (self.args.adam_beta1, self.args.adam_beta2)
            decay, epsilon = self.args.weight_decay, self.args.adam_epsilon
            self.optimizer = MuonAdamW(trained, self.args.learning_rate, decay, betas, epsilon)
        return super().create_optimizer(model)

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """As TRL's; questions that share an image do not see each other."""
        with sdpa_kernel(ATTENTION_OF_ANY_LENGTH):
            return self._loss_of_answers(model, inputs, *args, **kwargs)

    def _loss_of_answers(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        looks = self.args.look_weight > 0 and model.training
        turns = inputs.pop("turn_ids", None)
        if looks and turns is None:
            raise ValueError("look_weight: expected several questions per image, found one. See questions_per_image.")
        if turns is None:
            return super().compute_loss(model, inputs, *args, **kwargs)
        mask, before = inputs["attention_mask"], self._total_train_tokens
        planner = self.accelerator.unwrap_model(model).base_model
        separate = separate_turns(
            planner, inputs["input_ids"], turns, mask, inputs["mm_token_type_ids"], inputs["image_grid_thw"]
        )
        alone = {**inputs, **separate}
        if "turn_blocks" in separate and model.training:
            alone = without_padding(alone)
        if looks:
            cells = cells_looked_at(self.processing_class, {**inputs, "turn_ids": turns})[mask.bool()][None]
            depth = planner.config.get_text_config().num_hidden_layers
            alone["looking"] = Looking(cells, (depth // 2, min(depth // 2 + 1, depth - 1)))
        loss = super().compute_loss(model, alone, *args, **kwargs)
        if looks:
            missed = alone["looking"].mean()
            self._metrics["train"]["look_loss"].append(
                self.accelerator.gather_for_metrics(missed.detach()).mean().item()
            )
            loss = loss + self.args.look_weight * missed / self._losses_in_step(kwargs.get("num_items_in_batch"))
        # TRL counted the entries of a mask; a token is a token.
        self._total_train_tokens = before + int(self.accelerator.gather_for_metrics(mask.sum()).sum())
        self._metrics["train"]["num_tokens"] = [self._total_train_tokens]
        return loss

    def _losses_in_step(self, items: Any) -> int:
        """Micro-batches whose losses are added without a division: where the model divided by the items of all."""
        divided = not self.model_accepts_loss_kwargs or items is None
        return 1 if divided else self.current_gradient_accumulation_steps

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """The loss on the held-out set, and the scores of answers to `eval_questions` of its questions."""
        metrics = super().evaluate(*args, **kwargs)
        if self._questions is not None:
            scores = self._questions.score(self)
            self.log(scores)
            metrics.update(scores)
        return metrics


def refuse_looking(model: Any, processor: ST4VLAProcessor) -> None:
    """
    Raises:
        ValueError: `look_weight` cannot be had with this model's attention, or with the processor's dialect.
    """
    attention = model.config._attn_implementation
    if attention != BY_TURNS:
        raise ValueError(f"look_weight: expected attn_implementation {BY_TURNS!r}, found {attention!r}.")
    if processor.grounding_dialect not in DIALECTS:
        raise ValueError(
            f"look_weight: expected answers in one of the dialects {list(DIALECTS)}, found "
            f"{processor.grounding_dialect!r}."
        )


def freeze_action_side(model: Any) -> None:
    """Everything but `vlm.*` of an ST4VLA model stops to require gradients: no answer in words reaches it."""
    if hasattr(model, "action_expert"):
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith("vlm."))


def as_hub_dataset(samples: Any) -> datasets.Dataset:
    """A map-style dataset in the form that TRL asks for; a sample is read when it is used."""

    def read(rows: dict[str, list[int]]) -> dict[str, list[Any]]:
        found = [samples[index] for index in rows["index"]]
        return {key: [sample[key] for sample in found] for key in found[0]}

    return datasets.Dataset.from_dict({"index": list(range(len(samples)))}).with_transform(read)


__all__ = ["SpatialGroundingTrainer", "as_hub_dataset", "freeze_action_side", "refuse_looking"]
