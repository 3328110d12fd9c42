"""What grounding samples say is right, as arrays: coordinates, regions, masks, and which samples belong together."""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from processing_st4vla import GroundingResult
from training_st4vla.data.errors import DataError, explain
from training_st4vla.data.grounding.schema import GroundingSample, MaskAnswer
from training_st4vla.evaluation.geometry import mask_to_float


def held(result: Any, kind: str) -> list[Any]:
    """What a result holds of a kind: boxes `[n, 4]`, points `[n, 2]`, the first path `[n, 2]`."""
    if not isinstance(result, GroundingResult):
        return []
    if kind == "box":
        return [box.xyxy for box in result.boxes]
    if kind == "point":
        return [point.xy for point in result.points]
    return list(result.traces[0].points) if result.traces else []


def regions_of_points(samples: Sequence[GroundingSample], source: Iterable[GroundingSample]) -> dict[int, Any]:
    """For each point sample, the boxes `[n, 4]` or the `MaskAnswer` in which its point is right."""
    wanted = {(sample.image.key, sample.instruction) for sample in samples if sample.kind == "point"}
    named = {
        (sample.image.key, sample.instruction): held(sample.answer, "box")
        for sample in (itertools.chain(samples, source) if wanted else ())
        if sample.kind == "box" and (sample.image.key, sample.instruction) in wanted
    }
    regions: dict[int, Any] = {}
    for index, sample in enumerate(samples):
        if sample.kind == "point":
            own = sample.answer if isinstance(sample.answer, MaskAnswer) else held(sample.answer, "box")
            region = own or named.get((sample.image.key, sample.instruction))
            if region:
                regions[index] = region
    return regions


def mask_array(answer: MaskAnswer, sample: GroundingSample) -> np.ndarray:
    """A sample's mask, uint8 `[H, W]`."""
    mask = answer.mask.load().convert("L")
    if mask.size != sample.image_size:
        raise DataError(
            explain(
                "A mask has another size than its image",
                where=sample.where,
                expected="{} x {} pixels".format(*sample.image_size),
                found="{} x {}".format(*mask.size),
                remedy="Image and mask belong to different versions of the benchmark: download both again.",
            )
        )
    return np.asarray(mask)


def check_readable(sample: GroundingSample) -> None:
    """Reads what asking and scoring will read: the image, and the mask if there is one.

    Raises:
        DataError: One of them is missing, damaged, or of another size than declared; or the mask is empty.
    """
    sample.to_question()
    if isinstance(sample.answer, MaskAnswer):
        try:
            mask_to_float(mask_array(sample.answer, sample))
        except ValueError as error:
            raise DataError(f"{sample.where}: the mask cannot be used: {error}") from error


def filled(boxes: Any, size: tuple[int, int]) -> np.ndarray:
    """Boxes `[n, 4]` as a mask of an image of `size` (width, height), uint8 `[H, W]`."""
    mask = np.zeros((size[1], size[0]), dtype=np.uint8)
    for x1, y1, x2, y2 in np.round(boxes).astype(int):
        mask[y1:y2, x1:x2] = 255
    return mask


def episode_groups(samples: Sequence[GroundingSample]) -> list[str] | None:
    """What questions are drawn with in the bootstrap (a single group allows no interval); None where all differ."""
    groups = [sample.image.group for sample in samples]
    return groups if len(set(groups)) < len(groups) else None


__all__ = ["check_readable", "episode_groups", "filled", "held", "mask_array", "regions_of_points"]
