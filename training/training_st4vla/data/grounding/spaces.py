"""In which space could these numbers be? Told from their distribution, to warn and to advise, never to decide."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from processing_st4vla import GroundingResult
from training_st4vla.data.grounding.schema import COORDINATE_SPACES, GroundingSample, Size, coordinate_map

_INSIDE = 0.99
_MARGIN = 0.02  # annotators overshoot the edges of an image a little
_ENOUGH = 40


@dataclass(frozen=True)
class SpaceFit:
    """How well numbers fit a space.

    Args:
        space: A key of `COORDINATE_SPACES`.
        inside: Share of the numbers within the range of the space, give or take 2 % of it.
        reach: How much of the range they use: their 99th percentile, as a share of it, on the axis where it is larger.
    """

    space: str
    inside: float
    reach: float


def raw_coordinates(samples: Iterable[GroundingSample]) -> tuple[np.ndarray, np.ndarray]:
    """The coordinates of samples as they were written, and the sizes of their images.

    Returns:
        float64 `[n, 2]`, x and y; float64 `[n, 2]`, width and height.
    """
    points: list[tuple[float, float]] = []
    sizes: list[Size] = []
    for sample in samples:
        space = sample.coordinate_space
        if not isinstance(sample.answer, GroundingResult) or space is None or space not in COORDINATE_SPACES:
            continue
        back = coordinate_map(space, sample.image_size).inverse
        found = [back.point(xy) for xy in _positions(sample.answer)]
        points += found
        sizes += [sample.image_size] * len(found)
    return np.array(points, dtype=np.float64).reshape(-1, 2), np.array(sizes, dtype=np.float64).reshape(-1, 2)


def _positions(answer: GroundingResult) -> list[tuple[float, float]]:
    boxes = [xy for box in answer.boxes for xy in (box.xyxy[:2], box.xyxy[2:])]
    paths = [xy for trace in answer.traces for xy in trace.points]
    refused = [
        xy for entry in answer.rejected for xy in zip(entry.coordinates[::2], entry.coordinates[1::2], strict=False)
    ]
    return [*(point.xy for point in answer.points), *boxes, *paths, *refused]


def fit_spaces(points: np.ndarray, sizes: np.ndarray) -> list[SpaceFit]:
    """How well coordinates fit each space; see `raw_coordinates` for the arguments."""
    fits = []
    for space, extent in COORDINATE_SPACES.items():
        share = points / (sizes if extent is None else extent)
        inside = float(np.logical_and(share >= -_MARGIN, share <= 1 + _MARGIN).mean()) if len(share) else 0.0
        reach = float(np.quantile(share, 0.99, axis=0).max()) if len(share) else 0.0
        fits.append(SpaceFit(space, inside, reach))
    return fits


def guess_space(fits: Sequence[SpaceFit]) -> str | None:
    """The narrowest space that holds nearly all of the numbers; None when none does."""
    fitting = [fit for fit in fits if fit.inside >= _INSIDE]
    return max(fitting, key=lambda fit: fit.reach).space if fitting else None


def space_doubt(points: np.ndarray, sizes: np.ndarray, declared: str) -> str | None:
    """Why the declared space is probably wrong, in one sentence; None when the numbers agree with it.

    Numbers disagree when, of 40 positions or more, more than 1 % lie well outside, or all use less than half of the
    declared range and nearly all of a narrower one; and, of fewer positions, when most lie well outside.
    """
    if not len(points):
        return None
    fits = {fit.space: fit for fit in fit_spaces(points, sizes)}
    ours, guess = fits[declared], guess_space(list(fits.values()))
    if ours.inside < (_INSIDE if len(points) >= _ENOUGH else 0.5):
        advice = f"they fit {guess!r}" if guess else "they fit none of the known spaces"
        if guess is None and _looks_swapped(points, sizes, declared):
            advice = "they fit with x and y exchanged"
        return f"{1 - ours.inside:.1%} of the coordinates lie outside {declared!r}; {advice}."
    if guess is None or guess == declared or len(points) < _ENOUGH:
        return None
    if ours.reach < 0.5 * fits[guess].reach and fits[guess].reach > 0.8:
        return (
            f"the coordinates use only {ours.reach:.0%} of the range of {declared!r}, and fill {guess!r} "
            f"({fits[guess].reach:.0%})."
        )
    return None


def describe_fits(points: np.ndarray, sizes: np.ndarray) -> str:
    """One sentence for an error: the range of the numbers, and what they look like."""
    if not len(points):
        return "No coordinates were found to guess from."
    low, high = points.min(axis=0), points.max(axis=0)
    guess = guess_space(fit_spaces(points, sizes))
    found = f"x from {low[0]:g} to {high[0]:g} and y from {low[1]:g} to {high[1]:g} in {len(points)} positions"
    return f"The numbers ({found}) look like {guess!r}." if guess else f"The numbers ({found}) fit no known space."


def _looks_swapped(points: np.ndarray, sizes: np.ndarray, declared: str) -> bool:
    swapped = {fit.space: fit for fit in fit_spaces(points[:, ::-1], sizes)}
    return swapped[declared].inside >= _INSIDE


__all__ = ["SpaceFit", "describe_fits", "fit_spaces", "guess_space", "raw_coordinates", "space_doubt"]
