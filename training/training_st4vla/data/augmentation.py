"""Random crops and colours, drawn per sample from a seed; grounding answers move with the pixels.

Two rules keep labels true. Nothing is mirrored or turned: `left`, `right` and the signs of actions would be wrong. A
crop that would lose a part of an answer is drawn again, and after a few attempts the whole image is kept.

A crop is not resized here: the processor resizes every view once to the model's size, whatever the size it comes in.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from processing_st4vla import Box, GroundingResult
from training_st4vla.data.length_groups import lengths_of

_ATTEMPTS = 10


@dataclass(frozen=True)
class Augmentation:
    """How far images are changed.

    Args:
        crop: Smallest kept share of an image's width and height; both sides keep the same share, drawn evenly from
            here to 1, at an even random place. 1: no crop. Each view has its own.
        color: Largest relative change of brightness, contrast and saturation, each drawn evenly from `1 - color` to
            `1 + color`; all views of a sample share it, as they share a light. 0: none.
        hue: Largest shift of the hue, as a share of the colour circle. Small on purpose: instructions name colours.
        min_box: Share of a box's area that must stay visible.

    Raises:
        ValueError: A setting is outside its range.
    """

    crop: float = 0.9
    color: float = 0.2
    hue: float = 0.02
    min_box: float = 0.7

    def __post_init__(self) -> None:
        for name, low, high in (("crop", 0.1, 1.0), ("color", 0.0, 0.9), ("hue", 0.0, 0.5), ("min_box", 0.0, 1.0)):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"augmentation, {name}: expected {low} to {high}, found {getattr(self, name)}.")


class AugmentedDataset(Dataset):
    """Samples of a map-style dataset with changed images; see the module's text.

    What is drawn follows from the seed, the epoch and the index alone: any number of workers, and a resumed run, see
    the same pictures.

    Args:
        dataset: Action samples (`images`), or grounding samples (`image`, `answer`, `kind`), or lists of these about
            one image each.
        augmentation: How far.
        seed: Of the draws.
    """

    def __init__(self, dataset: Dataset, augmentation: Augmentation, seed: int = 0) -> None:
        self.dataset, self.augmentation, self.seed = dataset, augmentation, seed
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch, from 0; trainers call it."""
        self._epoch.fill_(epoch)
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)  # pyright: ignore[reportAttributeAccessIssue]

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Any:
        sample = self.dataset[index]
        place = range(len(self))[int(index)]
        draw = np.random.default_rng((self.seed, int(self._epoch), place))
        if "images" in sample:
            return {**sample, "images": augment_views(sample["images"], self.augmentation, draw)}
        if isinstance(sample, list):  # questions about one image, which stays one
            return augment_questions(sample, self.augmentation, draw)
        return augment_questions([sample], self.augmentation, draw)[0]

    def lengths(self) -> list[int]:
        """Those of the dataset: neither questions nor answers change their length by much."""
        return lengths_of(self.dataset)


def augment_views(views: Sequence[np.ndarray], how: Augmentation, draw: np.random.Generator) -> list[np.ndarray]:
    """Views `uint8 [H, W, 3]` with a crop each and one change of colours for all."""
    colors = draw_colors(how, draw)
    changed = []
    for view in views:
        left, top, right, bottom = draw_crop((view.shape[1], view.shape[0]), how, draw)
        changed.append(change_colors(view[top:bottom, left:right], colors))
    return changed


def augment_questions(
    samples: list[dict[str, Any]], how: Augmentation, draw: np.random.Generator
) -> list[dict[str, Any]]:
    """
    Grounding samples about one image, with that image changed and every answer where the pixels went.

    Words are not cropped (a count or a place may go out of sight), nor are questions as published, which may hold
    coordinates of their own.
    """
    image: Image.Image = samples[0]["image"]
    colors, answers = draw_colors(how, draw), [sample["answer"] for sample in samples]
    movable = [isinstance(sample["answer"], GroundingResult) and sample["kind"] != "auto" for sample in samples]
    for _ in range(_ATTEMPTS if all(movable) else 0):
        crop = draw_crop(image.size, how, draw)
        moved = [crop_answer(answer, crop, how.min_box) for answer in answers]
        if None not in moved:
            image, answers = image.crop(crop), moved
            break
    changed = Image.fromarray(change_colors(np.asarray(image), colors))
    return [{**sample, "image": changed, "answer": answer} for sample, answer in zip(samples, answers, strict=True)]


def draw_crop(size: tuple[int, int], how: Augmentation, draw: np.random.Generator) -> tuple[int, int, int, int]:
    """A random crop `(left, top, right, bottom)` in whole pixels of an image of `size` = (width, height)."""
    share = draw.uniform(how.crop, 1.0)
    width, height = (max(1, round(side * share)) for side in size)
    left = int(draw.integers(size[0] - width + 1))
    top = int(draw.integers(size[1] - height + 1))
    return left, top, left + width, top + height


def crop_answer(answer: GroundingResult, crop: tuple[int, int, int, int], min_box: float) -> GroundingResult | None:
    """
    The answer in pixels of the crop: points and traces as they are, boxes clipped; None if a point or a part of a
    trace is cut off, or more of a box than `1 - min_box` of its area.
    """
    left, top, right, bottom = crop
    size = (right - left, bottom - top)

    def moved(xy: tuple[float, float]) -> tuple[float, float]:
        return xy[0] - left, xy[1] - top

    boxes = []
    for box in answer.boxes:
        x1, y1, x2, y2 = box.xyxy
        seen = (max(x1, left), max(y1, top), min(x2, right), min(y2, bottom))
        area = max(seen[2] - seen[0], 0.0) * max(seen[3] - seen[1], 0.0)
        if area <= 0 or area < min_box * (x2 - x1) * (y2 - y1):
            return None
        boxes.append(Box(xyxy=(*moved(seen[:2]), *moved(seen[2:])), label=box.label))
    points = [replace(point, xy=moved(point.xy)) for point in answer.points]
    traces = [replace(trace, points=tuple(moved(xy) for xy in trace.points)) for trace in answer.traces]
    try:
        return GroundingResult(points=tuple(points), boxes=tuple(boxes), traces=tuple(traces), image_size=size)
    except ValueError:  # a point or a trace outside
        return None


def draw_colors(how: Augmentation, draw: np.random.Generator) -> tuple[float, float, float, float]:
    """Factors of brightness, contrast and saturation, and a shift of the hue."""
    brightness, contrast, saturation = draw.uniform(1 - how.color, 1 + how.color, 3)
    return float(brightness), float(contrast), float(saturation), float(draw.uniform(-how.hue, how.hue))


def change_colors(pixels: np.ndarray, colors: tuple[float, float, float, float]) -> np.ndarray:
    """`uint8 [H, W, 3]` in other colours; torchvision's arithmetic, in a fixed order."""
    from torchvision.transforms.v2 import functional

    brightness, contrast, saturation, hue = colors
    image = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)
    image = functional.adjust_brightness(image, brightness)
    image = functional.adjust_contrast(image, contrast)
    image = functional.adjust_saturation(image, saturation)
    if hue:
        image = functional.adjust_hue(image, hue)
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())


__all__ = ["Augmentation", "AugmentedDataset", "augment_questions", "augment_views", "crop_answer", "draw_crop"]
