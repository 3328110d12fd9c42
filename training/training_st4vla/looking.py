"""Where a planner should look while it writes: at the image's cell that holds what the numbers are about."""

import itertools
import re
from typing import Any

import torch

from processing_st4vla import ST4VLAProcessor
from processing_st4vla.spatial_dialects import get_dialect

DIALECTS = ("qwen2_5_vl", "qwen3_vl")
"""Whose answers can be followed: JSON with the keys below."""

_COORDINATES = re.compile(r'"(bbox|point)_2d": \[([\d., ]+)\]')


def cells_looked_at(processor: ST4VLAProcessor, inputs: dict[str, Any]) -> torch.Tensor:
    """
    For each token that predicts a token of a box: the column of the image cell that holds the box's centre. Of an
    answer without boxes, its points instead; beside boxes, points are turns and ends of a path, where nothing is seen.

    Args:
        processor: of the inputs, with one of `DIALECTS`.
        inputs: of `ST4VLAProcessor.ground_turns`, one image a row.

    Returns:
        `torch.LongTensor` of shape `(batch, length)`; -1 at all other tokens.
    """
    labels, turns, kinds = (inputs[name].cpu() for name in ("labels", "turn_ids", "mm_token_type_ids"))
    columns = torch.full_like(labels, -1)
    # Token by token: one decoding of all would not say where each begins. And each once: they are a few hundred.
    spelled = {token: processor.tokenizer.decode([token]) for token in labels.unique().tolist() if token != -100}
    for row, grid in enumerate(inputs["image_grid_thw"].tolist()):
        first = int(kinds[row].nonzero()[0])
        row_labels, row_turns = labels[row].tolist(), turns[row].tolist()
        answered = [place for place, label in enumerate(row_labels) if label != -100]
        for _, places in itertools.groupby(answered, key=row_turns.__getitem__):
            answer = list(places)
            said = [spelled[row_labels[place]] for place in answer]
            for begin, end, cell in _written(processor, said, grid):
                columns[row, answer[begin] - 1 : answer[end] - 1] = first + cell
    return columns.to(inputs["labels"].device)


def _written(processor: ST4VLAProcessor, said: list[str], grid: list[int]) -> list[tuple[int, int, int]]:
    """First token of each box (or point), the token behind its last, and the cell of its centre, row by row."""
    patch, merge = processor.image_processor.patch_size, processor.image_processor.merge_size
    down, across = (count // merge for count in grid[1:])
    size = (across * merge * patch, down * merge * patch)
    space = get_dialect(processor.grounding_dialect).space(size, size).inverse
    starts = list(itertools.accumulate((len(word) for word in said), initial=0))
    matches = list(_COORDINATES.finditer("".join(said)))
    kept = [match for match in matches if match[1] == "bbox"] or matches
    found = []
    for match in kept:
        numbers = [float(number) for number in match[2].split(",")]
        x, y = space.point([sum(numbers[axis::2]) / len(numbers[axis::2]) for axis in (0, 1)])
        cell = [min(int(at / (patch * merge)), count - 1) for at, count in ((y, down), (x, across))]
        within = [at for at in range(len(said)) if starts[at] < match.end(2) and starts[at + 1] > match.start(2)]
        found.append((within[0], within[-1] + 1, cell[0] * across + cell[1]))
    return found


__all__ = ["DIALECTS", "cells_looked_at"]
