"""The ST4VLA processor and its typed grounding results; importing this package registers the AutoProcessor."""

from transformers import AutoProcessor

from .normalization import ActionContract, BinaryLevels, VectorContract
from .processing_st4vla import ST4VLAProcessor
from .prompts import GROUNDING_QUESTIONS, SPATIAL_PROMPTS
from .spatial import Box, GroundingResult, Point, Trace

# By name: processing knows nothing of the modeling package.
AutoProcessor.register("st4vla", ST4VLAProcessor)

__all__ = [
    "GROUNDING_QUESTIONS",
    "SPATIAL_PROMPTS",
    "ActionContract",
    "BinaryLevels",
    "Box",
    "GroundingResult",
    "Point",
    "ST4VLAProcessor",
    "Trace",
    "VectorContract",
]
