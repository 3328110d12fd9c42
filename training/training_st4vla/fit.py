"""Whether a model, its processor and its action data fit each other; said before any training."""

from typing import Any

from processing_st4vla import ST4VLAProcessor
from training_st4vla.errors import UserError


def check_fit(model: Any, processor: ST4VLAProcessor, dataset: Any) -> None:
    """
    Checks a model, its processor and a dataset, or every part of a mixture, against each other.

    A dataset may be narrower than the model when the processor fills it up (its `action_dim`, `state_dim`).

    Raises:
        UserError: naming the field that differs.
    """
    for width in ("action_dim", "state_dim"):
        ours, theirs = getattr(model.config, width), getattr(processor, width, None)
        if theirs is not None and ours != theirs:
            raise UserError(f"{width}: the model has {ours}, its processor fills up to {theirs}. They must be equal.")
    for part in parts_of(dataset):
        _check_part(model.config, processor, part)


def parts_of(dataset: Any) -> list[Any]:
    """The LeRobot datasets that a training dataset consists of: itself, or the parts of a mixture."""
    if hasattr(dataset, "datasets"):
        return [leaf for part in dataset.datasets.values() for leaf in parts_of(part)]
    return parts_of(dataset.dataset) if hasattr(dataset, "dataset") else [dataset]


def _check_part(config: Any, processor: ST4VLAProcessor, dataset: Any) -> None:
    missing_state = processor.state_dim is not None and dataset.state_dim is None
    for field, ours, theirs, filled, remedy in (
        (
            "action dimension",
            config.action_dim,
            dataset.action_dim,
            processor.action_dim is not None and dataset.action_dim < processor.action_dim,
            "st4vla init --action-dim",
        ),
        ("chunk size", config.chunk_size, dataset.chunk_size, False, "st4vla init --chunk-size"),
        (
            "state dimension",
            config.state_dim,
            dataset.state_dim,
            missing_state or (processor.state_dim or 0) > (dataset.state_dim or 0) > 0,
            "st4vla init --state-dim, or --state-keys",
        ),
    ):
        if ours != theirs and not filled:
            raise UserError(f"{field}: the model has {ours}, the dataset {theirs}. Choose it with {remedy}.")
    contract = processor.contract(dataset.dataset_key)
    for field, ours, theirs in (
        ("action dimension", contract.action.dim, dataset.action_dim),
        ("cameras", list(contract.cameras), list(dataset.cameras)),
        ("state dimension", contract.state.dim if contract.state else None, dataset.state_dim),
    ):
        if ours != theirs:
            raise UserError(
                f"{field}: the action contract {dataset.dataset_key!r} of the model says {ours}, the dataset {theirs}."
            )
    contract.require_known("training")


__all__ = ["check_fit", "parts_of"]
