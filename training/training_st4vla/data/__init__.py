"""Robot demonstrations and grounding data: reading, checking, statistics."""

from training_st4vla.data.action_dataset import LeRobotActionDataset
from training_st4vla.data.errors import DataError, UntrustedPickleError, VideoReadError
from training_st4vla.data.statistics import compute_statistics

__all__ = ["DataError", "LeRobotActionDataset", "UntrustedPickleError", "VideoReadError", "compute_statistics"]
