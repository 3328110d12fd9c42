"""Samples → model inputs, inside the data loader's workers."""

from typing import Any

import numpy as np
import torch

from processing_st4vla import GroundingResult, ST4VLAProcessor


class ActionCollator:
    """
    Batches of `LeRobotActionDataset` samples, made by the processor.

    Args:
        processor ([`ST4VLAProcessor`]): with the contract of every dataset key in the samples.
    """

    def __init__(self, processor: ST4VLAProcessor) -> None:
        self.processor = processor

    def __call__(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """
        Returns:
            What `ST4VLAProcessor.__call__` returns, with `actions`, `action_is_pad` `(batch, chunk)`, and `state` if a
            sample has one. Samples of a mixture may differ in dimensions, cameras and state.
        """
        states = [sample["state"] for sample in samples]
        inputs = self.processor(
            images=[sample["images"] for sample in samples],
            text=[sample["instruction"] for sample in samples],
            state=None if all(state is None for state in states) else states,
            actions=[sample["actions"] for sample in samples],
            dataset_key=[sample["dataset_key"] for sample in samples],
        )
        inputs["action_is_pad"] = torch.from_numpy(np.stack([sample["action_is_pad"] for sample in samples]))
        del inputs["image_sizes"]
        return dict(inputs)


class GroundingCollator:
    """
    Batches of grounding samples `{image, instruction, kind, answer}` with completion-only labels; or of lists of
    samples about one image each, as [`~training_st4vla.data.grounding.QuestionsPerImage`] gives them.

    Args:
        processor ([`ST4VLAProcessor`]).
    """

    def __init__(self, processor: ST4VLAProcessor) -> None:
        self.processor = processor

    def __call__(self, samples: list[dict[str, Any]] | list[list[dict[str, Any]]]) -> dict[str, Any]:
        """Returns the planner's inputs and `labels`; one batch may mix kinds."""
        inputs = self._together(samples) if isinstance(samples[0], list) else self._alone(samples)
        del inputs["image_sizes"]
        return dict(inputs)

    def _together(self, groups: list[Any]) -> Any:
        return self.processor.ground_turns(
            images=[[group[0]["image"]] for group in groups],
            text=[[sample["instruction"] for sample in group] for group in groups],
            kind=[[sample["kind"] for sample in group] for group in groups],
            answers=[[sample["answer"] for sample in group] for group in groups],
        )

    def _alone(self, samples: list[Any]) -> Any:
        answers: list[GroundingResult] = [sample["answer"] for sample in samples]
        return self.processor.ground(
            images=[[sample["image"]] for sample in samples],
            text=[sample["instruction"] for sample in samples],
            kind=[sample["kind"] for sample in samples],
            answers=answers,
        )


class CoTrainingCollator:
    """
    One nested batch from pairs of samples: the action batch, and `grounding_inputs` beside it.

    Args:
        processor ([`ST4VLAProcessor`]).
    """

    def __init__(self, processor: ST4VLAProcessor) -> None:
        self.actions = ActionCollator(processor)
        self.grounding = GroundingCollator(processor)

    def __call__(self, pairs: list[tuple[dict[str, Any], list[dict[str, Any]]]]) -> dict[str, Any]:
        """Each pair is an action sample and the grounding samples that go with it (possibly none)."""
        inputs = self.actions([action for action, _ in pairs])
        grounding = [sample for _, samples in pairs for sample in samples]
        if grounding:
            inputs["grounding_inputs"] = self.grounding(grounding)
        return inputs


__all__ = ["ActionCollator", "CoTrainingCollator", "GroundingCollator"]
