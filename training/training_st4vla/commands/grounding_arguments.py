"""Grounding data as the flags of both stages name them: one set or a mixture, some kinds, so many samples."""

from collections.abc import Sequence
from typing import Any

from training_st4vla.errors import UserError


def open_grounding(
    paths: Sequence[str],
    weights: Sequence[float] | None = None,
    kinds: Sequence[str] | None = None,
    *,
    roles: Sequence[str] | None = None,
    max_rows: int | None = None,
    max_samples: int | None = None,
    questions_per_image: int | None = None,
    seed: int = 0,
    flag: str = "--dataset",
) -> Any:
    """
    A map-style dataset of grounding samples.

    Args:
        paths (`Sequence[str]`): folders, files or Hub ids. weights (`Sequence[float]`, *optional*): share of each.
        kinds (`Sequence[str]`, *optional*): answers to keep: `point`, `box`, `trace`, `text`.
        roles (`Sequence[str]`, *optional*): roles in the task to keep, as the data name them: `target`, `place`, ...
        max_rows, max_samples (`int`, *optional*): of each set: its first rows; samples of these kinds and roles,
            drawn evenly by `seed`.
        questions_per_image (`int`, *optional*): deal out questions about one image together, at most so many; each
            item is then a list.
        flag (`str`): named in errors.

    Raises:
        UserError: for a set without such samples, and for weights that are not one per set.
    """
    from training_st4vla.data.grounding import QuestionsPerImage, open_grounding_dataset
    from training_st4vla.data.mixtures import MixtureDataset

    if weights is not None and len(weights) != len(paths):
        raise UserError(f"--weights: expected one for each of {len(paths)} datasets, found {len(weights)}.")
    if len(set(paths)) != len(paths):
        raise UserError(f"{flag}: a dataset is named twice in {list(paths)}; give it a larger weight instead.")
    parts: dict[str, Any] = {}
    for path in paths:
        dataset: Any = open_grounding_dataset(path, max_rows=max_rows)
        if kinds or roles:
            dataset = dataset.filter(lambda one: (not kinds or one.kind in kinds) and (not roles or one.role in roles))
        if not len(dataset):
            wanted = " ".join(f"{name} {list(given)}" for name, given in (("kinds", kinds), ("roles", roles)) if given)
            raise UserError(f"{flag}: {path} holds no sample" + (f" of {wanted}." if wanted else "."))
        dataset = dataset.thin_out(max_samples, seed)
        if questions_per_image is not None:
            dataset = QuestionsPerImage(dataset, questions_per_image, seed)
        parts[path] = dataset
    if len(parts) == 1:
        return dataset
    shares = 1.0 if weights is None else dict(zip(paths, weights, strict=True))
    return MixtureDataset(parts, weights=shares, seed=seed)


__all__ = ["open_grounding"]
