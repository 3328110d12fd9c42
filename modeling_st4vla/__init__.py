"""ST4VLA models; importing this package registers them with transformers' Auto classes."""

from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText

from .configuration_st4vla import ST4VLAConfig
from .modeling_st4vla import ST4VLAForActionPrediction, ST4VLAOutput, ST4VLAPlan

AutoConfig.register("st4vla", ST4VLAConfig)
AutoModel.register(ST4VLAConfig, ST4VLAForActionPrediction)
AutoModelForImageTextToText.register(ST4VLAConfig, ST4VLAForActionPrediction)

__all__ = ["ST4VLAConfig", "ST4VLAForActionPrediction", "ST4VLAOutput", "ST4VLAPlan"]
