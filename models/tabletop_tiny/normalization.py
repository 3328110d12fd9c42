"""The action contract: what each number of an action or a state means, and the exact maps to and from model space."""

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

UNKNOWN = "unknown"

# The statistics each mode reads; every other entry of `statistics` is kept for the reader only.
NORMALIZATION_MODES: dict[str, tuple[str, ...]] = {
    "q99": ("q01", "q99"),
    "min_max": ("min", "max"),
    "mean_std": ("mean", "std"),
    "binary": (),
    "identity": (),
}

REPRESENTATIONS = ("absolute", "delta", UNKNOWN)
GRIPPER_POLARITIES = ("high_is_open", "high_is_closed", "none", UNKNOWN)


@dataclass(frozen=True)
class BinaryLevels:
    """
    A two-valued dimension. Model space holds 0 below and 1 above; 0.5 separates them on the way back.

    Args:
        threshold (`float`): raw values above it are `high`.
        low, high (`float`): the two raw levels, in the dimension's own unit.
    """

    threshold: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low < self.high or not self.low <= self.threshold < self.high:
            raise ValueError(
                f"binary: expected low <= threshold < high, found low={self.low}, threshold={self.threshold}, "
                f"high={self.high}."
            )


@dataclass(frozen=True)
class VectorContract:
    """
    The meaning and the normalisation of one vector: an action, or a proprioceptive state.

    Args:
        names (`tuple[str, ...]`): one name per dimension.
        units (`tuple[str, ...]`): one unit per dimension, for example `m`, `rad`, `1`, or `unknown`.
        normalization (`tuple[str, ...]`): one mode per dimension, a key of `NORMALIZATION_MODES`.
        statistics (`dict[str, tuple[float, ...]]`): per statistic (`q01`, `q99`, `min`, `max`, `mean`, `std`), one
            number per dimension, in raw units.
        clip (`bool`): whether `q99` and `min_max` values are clipped to [-1, 1], on the way in and on the way back.
        binary (`dict[int, BinaryLevels]`): the levels of every dimension whose mode is `binary`.

    Raises:
        ValueError: for a length, a mode, a statistic or levels that do not fit.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    normalization: tuple[str, ...]
    statistics: dict[str, tuple[float, ...]]
    clip: bool
    binary: dict[int, BinaryLevels]

    def __post_init__(self) -> None:
        for field in ("units", "normalization"):
            _require_length(field, getattr(self, field), self.dim)
        for name, values in self.statistics.items():
            _require_length(f"statistics.{name}", values, self.dim)
            if not all(math.isfinite(value) for value in values):
                raise ValueError(f"statistics.{name}: expected finite numbers, found {list(values)}.")
        for index, mode in enumerate(self.normalization):
            if mode not in NORMALIZATION_MODES:
                raise ValueError(
                    f"normalization[{index}]: expected one of {list(NORMALIZATION_MODES)}, found {mode!r}."
                )
            absent = [name for name in NORMALIZATION_MODES[mode] if name not in self.statistics]
            if absent:
                raise ValueError(
                    f"statistics: mode {mode!r} of dimension {index} ({self.names[index]}) needs {absent}, found "
                    f"{sorted(self.statistics)}. Compute the statistics of the training data and pass them in."
                )
        expected = {index for index, mode in enumerate(self.normalization) if mode == "binary"}
        if set(self.binary) != expected:
            raise ValueError(
                f"binary: expected levels for dimensions {sorted(expected)}, found {sorted(self.binary)}."
            )

    @property
    def dim(self) -> int:
        """Number of dimensions."""
        return len(self.names)

    def normalize(self, values: np.ndarray) -> np.ndarray:
        """
        Raw units to model space.

        Args:
            values (`np.ndarray` of shape `(..., dim)`): finite.

        Returns:
            `np.ndarray` of the same shape, float32. A dimension whose statistics span nothing becomes 0.

        Raises:
            ValueError: for another dimension, or a value that is not finite (named with its dimension).
        """
        values = self._checked(values)
        offset, scale, bounded, binary = self._affine()
        normalized = np.divide(values - offset, scale, out=np.zeros_like(values), where=scale != 0)
        if self.clip:
            normalized = np.where(bounded, np.clip(normalized, -1.0, 1.0), normalized)
        for index, levels in binary.items():
            normalized[..., index] = values[..., index] > levels.threshold
        return normalized.astype(np.float32)

    def unnormalize(self, values: np.ndarray) -> np.ndarray:
        """
        Model space to raw units: the inverse of `normalize` on its range.

        Args:
            values (`np.ndarray` of shape `(..., dim)`): finite.

        Returns:
            `np.ndarray` of the same shape, float32. A dimension whose statistics span nothing gives its constant.
        """
        values = self._checked(values)
        offset, scale, bounded, binary = self._affine()
        clipped = np.where(bounded, np.clip(values, -1.0, 1.0), values) if self.clip else values
        raw = clipped * scale + offset
        for index, levels in binary.items():
            raw[..., index] = np.where(values[..., index] >= 0.5, levels.high, levels.low)
        return raw.astype(np.float32)

    def _checked(self, values: np.ndarray) -> np.ndarray:
        values = np.asarray(values, dtype=np.float64)
        if values.ndim == 0 or values.shape[-1] != self.dim:
            raise ValueError(
                f"expected {self.dim} dimensions {list(self.names)} on the last axis, found shape {values.shape}."
            )
        finite = np.isfinite(values).reshape(-1, self.dim).all(axis=0)
        if not finite.all():
            bad = [self.names[index] for index in np.flatnonzero(~finite)]
            raise ValueError(f"expected finite numbers, found NaN or infinity in {bad}.")
        return values

    def _affine(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[int, BinaryLevels]]:
        # raw = model * scale + offset per dimension; `bounded` marks the modes that clipping concerns.
        offset, scale, bounded = np.zeros(self.dim), np.ones(self.dim), np.zeros(self.dim, dtype=bool)
        for index, mode in enumerate(self.normalization):
            if mode in ("q99", "min_max"):
                low, high = (self.statistics[name][index] for name in NORMALIZATION_MODES[mode])
                offset[index], scale[index], bounded[index] = (low + high) / 2, (high - low) / 2, True
            elif mode == "mean_std":
                offset[index], scale[index] = self.statistics["mean"][index], self.statistics["std"][index]
        return offset, scale, bounded, self.binary

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able form; `from_dict` gives back an equal contract."""
        return {
            "names": list(self.names),
            "units": list(self.units),
            "normalization": list(self.normalization),
            "statistics": {name: list(values) for name, values in self.statistics.items()},
            "clip": self.clip,
            "binary": {str(index): asdict(levels) for index, levels in self.binary.items()},
        }

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> "VectorContract":
        """Reads `to_dict`'s form. Raises `ValueError` for missing or unknown keys."""
        _require_keys(cls, value)
        return cls(
            names=tuple(value["names"]),
            units=tuple(value["units"]),
            normalization=tuple(value["normalization"]),
            statistics={name: tuple(map(float, numbers)) for name, numbers in value["statistics"].items()},
            clip=bool(value["clip"]),
            binary={int(index): BinaryLevels(**levels) for index, levels in value["binary"].items()},
        )

    @classmethod
    def from_statistics(
        cls,
        names: list[str],
        statistics: dict[str, list[float]],
        mode: str = "q99",
        units: list[str] | None = None,
        binary: dict[int, BinaryLevels] | None = None,
        clip: bool = True,
    ) -> "VectorContract":
        """
        A contract with one mode for all dimensions but those in `binary`.

        Args:
            names (`list[str]`), statistics (`dict[str, list[float]]`), mode (`str`), units (`list[str]`, *optional*:
            unknown), binary (`dict[int, BinaryLevels]`, *optional*), clip (`bool`).
        """
        binary = binary or {}
        return cls(
            names=tuple(names),
            units=tuple(units or [UNKNOWN] * len(names)),
            normalization=tuple("binary" if index in binary else mode for index in range(len(names))),
            statistics={name: tuple(map(float, values)) for name, values in statistics.items()},
            clip=clip,
            binary=binary,
        )


@dataclass(frozen=True)
class ActionContract:
    """
    What a model's actions mean on one robot and dataset. Saved with the processor; checked at train, evaluate, serve.

    Args:
        action (`VectorContract`), state (`VectorContract`, *optional*).
        representation (`str`): `absolute`, `delta` or `unknown`.
        frame (`str`): the frame that positions or deltas are expressed in, for example `base`, `tool`, `joint`.
        rotation (`str`): for example `euler_xyz`, `rotation_vector`, `none`.
        gripper_dims (`tuple[int, ...]`): which action dimensions drive a gripper.
        gripper_polarity (`str`): `high_is_open`, `high_is_closed`, `none` or `unknown`.
        control_hz (`float`, *optional*): actions per second; `None` when unknown.
        chunk_size (`int`): actions per chunk.
        cameras (`tuple[str, ...]`): the camera of each view slot, in order; empty when unknown.
    """

    action: VectorContract
    state: VectorContract | None
    representation: str
    frame: str
    rotation: str
    gripper_dims: tuple[int, ...]
    gripper_polarity: str
    control_hz: float | None
    chunk_size: int
    cameras: tuple[str, ...]

    def __post_init__(self) -> None:
        for field, value, allowed in (
            ("representation", self.representation, REPRESENTATIONS),
            ("gripper_polarity", self.gripper_polarity, GRIPPER_POLARITIES),
        ):
            if value not in allowed:
                raise ValueError(f"{field}: expected one of {list(allowed)}, found {value!r}.")
        outside = [index for index in self.gripper_dims if not 0 <= index < self.action.dim]
        if outside:
            raise ValueError(f"gripper_dims: expected indices below {self.action.dim}, found {outside}.")
        if self.chunk_size < 1:
            raise ValueError(f"chunk_size: expected at least 1, found {self.chunk_size}.")
        if self.control_hz is not None and not self.control_hz > 0:
            raise ValueError(f"control_hz: expected a positive rate or None, found {self.control_hz}.")

    @property
    def unknown_fields(self) -> list[str]:
        """The fields that nobody has declared yet."""
        found = [
            name
            for name in ("representation", "frame", "rotation", "gripper_polarity")
            if getattr(self, name) == UNKNOWN
        ]
        found += ["control_hz"] if self.control_hz is None else []
        found += ["cameras"] if not self.cameras else []
        found += ["action.units"] if UNKNOWN in self.action.units else []
        found += ["state.units"] if self.state is not None and UNKNOWN in self.state.units else []
        return found

    def require_known(self, purpose: str) -> None:
        """
        Refuses a contract with unknown fields.

        Raises:
            ValueError: naming them, the purpose and how to declare them.
        """
        if self.unknown_fields:
            raise ValueError(
                f"action contract: {purpose} needs every field declared, but {self.unknown_fields} are unknown. "
                "Write what they are into a JSON file and pass it with --contract FILE."
            )

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able form; `from_dict` gives back an equal contract."""
        return {
            "action": self.action.to_dict(),
            "state": None if self.state is None else self.state.to_dict(),
            "representation": self.representation,
            "frame": self.frame,
            "rotation": self.rotation,
            "gripper_dims": list(self.gripper_dims),
            "gripper_polarity": self.gripper_polarity,
            "control_hz": self.control_hz,
            "chunk_size": self.chunk_size,
            "cameras": list(self.cameras),
        }

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> "ActionContract":
        """Reads `to_dict`'s form. Raises `ValueError` for missing or unknown keys."""
        _require_keys(cls, value)
        return cls(
            **{
                **value,
                "action": VectorContract.from_dict(value["action"]),
                "state": None if value["state"] is None else VectorContract.from_dict(value["state"]),
                "gripper_dims": tuple(value["gripper_dims"]),
                "cameras": tuple(value["cameras"]),
            }
        )


def _require_keys(cls: type, value: dict[str, Any]) -> None:
    expected = {field.name for field in fields(cls)}
    if set(value) != expected:
        raise ValueError(
            f"{cls.__name__}: missing key(s) {sorted(expected - set(value))}, unknown key(s) "
            f"{sorted(set(value) - expected)}."
        )


def _require_length(field: str, values: tuple, expected: int) -> None:
    if len(values) != expected:
        raise ValueError(f"{field}: expected {expected} entries, one per dimension, found {len(values)}.")


__all__ = [
    "GRIPPER_POLARITIES",
    "NORMALIZATION_MODES",
    "REPRESENTATIONS",
    "UNKNOWN",
    "ActionContract",
    "BinaryLevels",
    "VectorContract",
]
