"""A model's answers to grounding questions, by batched generation. Reused by the command and by trainer callbacks."""
# The model and its processor are known by what they can do.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch

from processing_st4vla import GroundingResult

Question = dict[str, Any]


def predict_grounding(
    model: Any,
    processor: Any,
    questions: Iterable[Question],
    *,
    batch_size: int = 8,
    max_new_tokens: int = 256,
    image_size: tuple[int, int] | str | None = "default",
    progress: Callable[[int], object] | None = None,
) -> list[GroundingResult]:
    """Asks a model, greedily and in batches; the model's training mode is left as it was.

    Args:
        model: Anything with `generate` and `device`: [`ST4VLAForActionPrediction`], or a plain Qwen-VL.
        processor ([`ST4VLAProcessor`]): the model's.
        questions (`Iterable[dict]`): `image` (PIL, RGB), `instruction`, `kind` (of `processor.ground`), and optionally
            `answer_kind` (`point`, `box`, `trace`: how a list of points is read). Samples of a `GroundingDataset` are
            such questions. Taken one batch at a time, so that images need not all be in memory.
        batch_size (`int`): questions per batch.
        max_new_tokens (`int`): longest answer.
        image_size (*optional*): `(height, width)` at which to ask; the processor's own by default, None for each
            image's own size.
        progress (`Callable`, *optional*): called with the number of questions answered, after each batch.

    Returns:
        `list[GroundingResult]`: in order, in pixels of each question's image; what could not be read is in `rejected`.

    Raises:
        ValueError: for a batch size or a number of tokens below 1.
    """
    if batch_size < 1 or max_new_tokens < 1:
        raise ValueError(f"batch_size, max_new_tokens: expected at least 1, found {batch_size} and {max_new_tokens}.")
    results: list[GroundingResult] = []
    with evaluation_mode(model):
        for batch in batches(questions, batch_size):
            inputs = processor.ground(
                images=[[question["image"]] for question in batch],
                text=[question["instruction"] for question in batch],
                kind=[question["kind"] for question in batch],
                image_size=image_size,
            )
            moved = {name: value.to(model.device) for name, value in inputs.items() if name != "image_sizes"}
            ids = model.generate(**moved, max_new_tokens=max_new_tokens, do_sample=False)
            kinds = [_reading(question) for question in batch]
            results += processor.post_process_grounding(ids.cpu(), inputs, kind=kinds)
            if progress is not None:
                progress(len(batch))
    return results


@contextmanager
def evaluation_mode(model: Any) -> Iterator[None]:
    """`model.eval()` without gradients, and the mode it had before afterwards."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def batches(items: Iterable[Question], size: int) -> Iterator[list[Question]]:
    """Lists of `size` items, the last one possibly shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def shuffled_instructions(instructions: Sequence[str], groups: Sequence[Any], seed: int = 0) -> list[str]:
    """The instructions of other questions of the same group, for a model that should then do no better than a prior.

    Args:
        instructions: One per question.
        groups: Only questions of equal group exchange instructions (a box question stays one).
        seed: Of the order.

    Returns:
        A permutation within each group in which as few questions as possible keep the words of their own.
    """
    generator = torch.Generator().manual_seed(seed)
    result = list(instructions)
    for group in dict.fromkeys(groups):
        members = [index for index, other in enumerate(groups) if other == group]
        order = [members[i] for i in torch.randperm(len(members), generator=generator).tolist()]
        # Equal words side by side, then a step by the size of the largest block of them: no question of a smaller
        # block can land in its own.
        order.sort(key=instructions.__getitem__)
        blocks = [instructions[index] for index in order]
        step = max(Counter(blocks).values())
        for place, index in enumerate(order):
            result[index] = blocks[(place + step) % len(order)]
    return result


def _reading(question: Question) -> str:
    kind = question.get("answer_kind", question["kind"])
    return kind if kind in ("point", "box", "trace") else "auto"


__all__ = ["batches", "evaluation_mode", "predict_grounding", "shuffled_instructions"]
