"""Grounding data of every kind behind one door: [`open_grounding_dataset`].

`schema` is what everything becomes; `rows` opens files, `images` finds pictures; `layouts`, `conversations`,
`episodes`, `lerobot` and `demonstrations` say what rows mean; `spaces` tells coordinate spaces from distributions.
"""

from training_st4vla.data.grounding.dataset import LAYOUT_NAMES, GroundingDataset, open_grounding_dataset
from training_st4vla.data.grounding.demonstrations import GroundingRowOptions, grounding_rows
from training_st4vla.data.grounding.questions_per_image import QuestionsPerImage
from training_st4vla.data.grounding.schema import (
    COORDINATE_SPACES,
    GroundingSample,
    MaskAnswer,
    PlainAnswer,
    UndeclaredSpaceError,
)
from training_st4vla.data.grounding.stream import GroundingStream, open_grounding_stream

__all__ = [
    "COORDINATE_SPACES",
    "LAYOUT_NAMES",
    "GroundingDataset",
    "GroundingRowOptions",
    "GroundingSample",
    "GroundingStream",
    "MaskAnswer",
    "PlainAnswer",
    "QuestionsPerImage",
    "UndeclaredSpaceError",
    "grounding_rows",
    "open_grounding_dataset",
    "open_grounding_stream",
]
