"""How far two answers about one picture agree, in one line."""

import numpy as np

from processing_st4vla import GroundingResult
from training_st4vla.evaluation.geometry import box_iou, discrete_frechet, match_boxes, resample_by_arc_length


def agreement(first: GroundingResult, second: GroundingResult) -> str:
    """Overlap of boxes, distance of points, Fréchet distance of the first traces, each where both have some."""
    parts = [text for text in (_boxes(first, second), _points(first, second), _traces(first, second)) if text]
    return " · ".join(parts) or "nothing of the same kind to compare"


def _boxes(first: GroundingResult, second: GroundingResult) -> str:
    if not first.boxes or not second.boxes:
        return ""
    iou = box_iou([box.xyxy for box in first.boxes], [box.xyxy for box in second.boxes])
    found = [float(iou[pair]) for pair in match_boxes(iou)]
    most = max(len(first.boxes), len(second.boxes))
    return f"boxes: {len(first.boxes)} and {len(second.boxes)}, mean IoU {sum(found) / most:.2f}"


def _points(first: GroundingResult, second: GroundingResult) -> str:
    if not first.points or not second.points:
        return ""
    one, other = (np.array([point.xy for point in result.points]) for result in (first, second))
    gaps = np.linalg.norm(one[:, None] - other[None], axis=-1)
    distance = (gaps.min(axis=0).mean() + gaps.min(axis=1).mean()) / 2
    return f"points: {len(one)} and {len(other)}, mean distance to the nearest {distance:.1f} px"


def _traces(first: GroundingResult, second: GroundingResult) -> str:
    if not first.traces or not second.traces:
        return ""
    one, other = (resample_by_arc_length(result.traces[0].points) for result in (first, second))
    distance = float(np.max(discrete_frechet(one, other)))
    return f"traces: discrete Fréchet distance {distance:.1f} px"


__all__ = ["agreement"]
