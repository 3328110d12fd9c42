"""Flags of both stages that change images while training."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from training_st4vla.commands.arguments import flag
from training_st4vla.errors import UserError

if TYPE_CHECKING:
    from training_st4vla.data.augmentation import Augmentation


@dataclass
class AugmentFlags:
    """Whether and how far images are changed."""

    augment: bool = flag(
        "change images while training: random crops and colours, never mirrored; grounding answers move along", False
    )
    augment_crop: float = flag("smallest share of width and height that --augment keeps; 1 for no crop", 0.9)
    augment_color: float = flag(
        "largest relative change of brightness, contrast and saturation by --augment; 0 for none", 0.2
    )

    def augmentation(self) -> "Augmentation | None":
        """How images are changed; None when they are not. Raises `UserError` for a setting outside its range."""
        from training_st4vla.data.augmentation import Augmentation

        try:
            return Augmentation(crop=self.augment_crop, color=self.augment_color) if self.augment else None
        except ValueError as error:
            raise UserError(f"--augment-crop, --augment-color: {error}") from error


__all__ = ["AugmentFlags"]
