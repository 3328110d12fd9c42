"""Held-out questions, answered by real generation in the middle of training."""

from pathlib import Path
from typing import Any

from accelerate.utils import gather_object

PICTURES = "pictures"


class HeldOutQuestions:
    """
    A fixed draw of questions, asked again at every evaluation.

    Args:
        dataset (`GroundingDataset`): held out. number (`int`): questions drawn evenly from it.
        seed (`int`): of the draw. max_new_tokens (`int`): longest answer. pictures (`int`): answers drawn each time.
    """

    def __init__(self, dataset: Any, number: int, seed: int, max_new_tokens: int, pictures: int) -> None:
        self.questions = dataset.filter(lambda sample: sample.kind != "text").thin_out(number, seed)
        self.max_new_tokens, self.pictures = max_new_tokens, pictures

    def score(self, trainer: Any) -> dict[str, float]:
        """
        Scores of the trainer's model as it is: `eval_box_accuracy@0.5`, `eval_point_parse_rate`, ... Processes share
        the questions. A picture of the first answers goes to `output_dir/pictures`.
        """
        from training_st4vla.evaluation.grounding_evaluation import headline_metrics, score_grounding
        from training_st4vla.evaluation.grounding_predictions import predict_grounding

        model = trainer.accelerator.unwrap_model(trainer.model)
        numbers = list(range(len(self.questions)))
        # `--bf16` lies in the trained model's `forward`, which generation does not call.
        with trainer.accelerator.split_between_processes(numbers) as mine, trainer.accelerator.autocast():
            answered = predict_grounding(
                model,
                trainer.processing_class,
                (self.questions.question(number) for number in mine),
                batch_size=trainer.args.eval_batch_size,
                max_new_tokens=self.max_new_tokens,
            )
        results = gather_object(answered) if trainer.args.world_size > 1 else answered
        samples = list(self.questions.samples())
        if trainer.is_world_process_zero() and self.pictures:
            self._draw(samples, results, Path(trainer.args.output_dir), trainer.state.global_step)
        scores = headline_metrics(score_grounding(results, samples, num_resamples=1))
        return {f"eval_{name}": value for name, value in scores.items()}

    def _draw(self, samples: list[Any], results: list[Any], output: Path, step: int) -> None:
        from training_st4vla.evaluation.grounding_evaluation import answer_sheet

        folder = output / PICTURES
        folder.mkdir(parents=True, exist_ok=True)
        sheet = answer_sheet(samples[: self.pictures], results[: self.pictures])
        sheet.save(folder / f"step-{step:07d}.jpg", quality=85)


def held_out_questions(dataset: Any, args: Any) -> HeldOutQuestions | None:
    """The questions of a trainer's `eval_*` settings; None without a dataset that can be scored."""
    if dataset is None or not args.eval_questions or not hasattr(dataset, "thin_out"):
        return None
    return HeldOutQuestions(dataset, args.eval_questions, args.seed, args.eval_max_new_tokens, args.eval_pictures)


__all__ = ["PICTURES", "HeldOutQuestions", "held_out_questions"]
