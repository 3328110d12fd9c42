"""Is this grounding data healthy? Nothing is changed, and images are decoded for the contact sheet only."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from processing_st4vla import GroundingResult
from processing_st4vla.spatial import RejectReason
from training_st4vla.data.errors import DataError
from training_st4vla.data.findings import Findings
from training_st4vla.data.grounding.dataset import GroundingDataset
from training_st4vla.data.grounding.schema import COORDINATE_SPACES, GroundingSample
from training_st4vla.data.grounding.spaces import raw_coordinates, space_doubt

_EXAMPLES = 3
_LARGE_BOX = 0.95


def check_grounding(
    splits: Mapping[str, GroundingDataset],
    findings: Findings,
    *,
    max_samples: int | None = None,
    pictures: int = 12,
    seed: int = 0,
) -> None:
    """Looks at every sample of every split; of large ones at a drawn part, and at the rest for duplicates only.

    Found are rows that cannot be read or used, by reason; boxes that reach out of their image; spaces that the
    distribution of the numbers contradicts; images that are missing or have another size than declared; images that
    several splits share; questions asked twice with different answers; what the data consist of.

    Args:
        splits: Datasets by split.
        findings: Where to add what is found, and the pictures of drawn samples.
        max_samples: Look at no more samples per split, drawn evenly by the seed, and say so. Questions asked twice and
            images that splits share are looked for in all samples.
        pictures: Drawn samples per split.
        seed: Of all draws.
    """
    images: dict[str, dict[str, str]] = {}
    for name, dataset in splits.items():
        split = "" if len(splits) == 1 else f"{name}: "
        chosen = dataset.thin_out(max_samples, seed)
        is_draw = len(chosen) < len(dataset)
        prefix = f"{split}in a draw of {len(chosen)} of {len(dataset)} samples: " if is_draw else split
        samples = _readable(chosen, findings, prefix)
        if samples:
            _check_samples(samples, findings, prefix)
            _check_contradictions(dataset.readable() if is_draw else samples, findings, split)
            _check_space(samples, findings, prefix)
            images[name], unusable = _check_images(samples, findings, prefix)
            drawable = [sample for sample in samples if sample.image.key not in unusable]
            _draw(drawable, findings, split, pictures, seed)
        if is_draw and len(splits) > 1:
            images[name] = _image_places(dataset, f"images of {name}")
    _check_overlap(images, findings)


def _image_places(dataset: GroundingDataset, title: str) -> dict[str, str]:
    """The place of the first sample of each image content; images that cannot be read are left out."""
    places: dict[str, str] = {}
    seen: set[str] = set()
    for sample in tqdm(dataset.readable(), desc=title, total=len(dataset), unit="sample"):
        if sample.image.key not in seen:
            seen.add(sample.image.key)
            with suppress(DataError):
                places.setdefault(sample.image.digest(), sample.where)
    return places


def _readable(dataset: GroundingDataset, findings: Findings, prefix: str) -> list[GroundingSample]:
    samples: list[GroundingSample] = []
    errors: list[str] = []
    for index in range(len(dataset)):
        try:
            samples.append(dataset.sample(index))
        except DataError as error:
            errors.append(str(error))
    if errors:
        findings.error("rows", f"{prefix}rows cannot be read.", count=len(errors), examples=errors[:_EXAMPLES])
    kinds = Counter(sample.kind for sample in samples)
    parts = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()) or "none"
    findings.info("samples", f"{prefix}{len(dataset)} samples of layout {dataset.layout!r}: {parts}.")
    return samples


def _check_samples(samples: Sequence[GroundingSample], findings: Findings, prefix: str) -> None:
    problems: dict[str, list[GroundingSample]] = defaultdict(list)
    for sample in samples:
        problem = sample.problem(training=False)
        if problem is not None:
            problems[problem.partition(":")[0]].append(sample)
    for reason, bad in sorted(problems.items()):
        examples = [f"{sample.where}: {sample.problem(training=False)}" for sample in bad[:_EXAMPLES]]
        findings.error("answers", f"{prefix}{reason}.", count=len(bad), examples=examples)
    answers = [(sample, sample.answer) for sample in samples if isinstance(sample.answer, GroundingResult)]
    clipped = [s for s, answer in answers if any(entry.reason == RejectReason.CLIPPED for entry in answer.rejected)]
    if clipped:
        text = f"{prefix}boxes reach out of their image; their visible part is used."
        findings.warning("clipped", text, count=len(clipped), examples=[s.where for s in clipped[:_EXAMPLES]])
    huge = [s for s, answer in answers if any(_share(box.xyxy, s) > _LARGE_BOX for box in answer.boxes)]
    if huge:
        text = f"{prefix}boxes cover more than {_LARGE_BOX:.0%} of their image: is the space right?"
        findings.warning("large boxes", text, count=len(huge), examples=[s.where for s in huge[:_EXAMPLES]])
    free = [sample.where for sample in samples if sample.license == "unknown"]
    if free:
        text = f"{prefix}samples have no declared licence."
        findings.warning("license", text, count=len(free), examples=free[:_EXAMPLES])


def _share(xyxy: Sequence[float], sample: GroundingSample) -> float:
    x1, y1, x2, y2 = xyxy
    return (x2 - x1) * (y2 - y1) / (sample.image_size[0] * sample.image_size[1])


def _check_contradictions(samples: Iterable[GroundingSample], findings: Findings, prefix: str) -> None:
    seen: dict[tuple[Any, ...], tuple[Any, str]] = {}
    repeated: list[str] = []
    differing: list[str] = []
    for sample in samples:
        key = (sample.image.key, sample.kind, sample.question, sample.instruction)
        if key not in seen:
            seen[key] = sample.answer, sample.where
            continue
        answer, where = seen[key]
        (repeated if answer == sample.answer else differing).append(f"{sample.where} and {where}")
    if differing:
        text = f"{prefix}the same question about the same image has different answers."
        findings.warning("contradictions", text, count=len(differing), examples=differing[:_EXAMPLES])
    if repeated:
        text = f"{prefix}samples occur twice."
        findings.warning("repetitions", text, count=len(repeated), examples=repeated[:_EXAMPLES])


def _check_space(samples: Sequence[GroundingSample], findings: Findings, prefix: str) -> None:
    for space in COORDINATE_SPACES:
        mine = [sample for sample in samples if sample.coordinate_space == space]
        if not mine:
            continue
        points, sizes = raw_coordinates(mine)
        doubt = space_doubt(points, sizes, space)
        if doubt is None:
            findings.info("coordinate space", f"{prefix}{space}, in {len(mine)} samples; the numbers agree.")
        else:
            findings.error("coordinate space", f"{prefix}declared {space!r}, but {doubt}", count=len(mine))


def _check_images(
    samples: Sequence[GroundingSample], findings: Findings, prefix: str
) -> tuple[dict[str, str], set[str]]:
    """Reads the header of every image once; returns the place of the first sample of each content, and the keys of
    unusable images."""
    places: dict[str, str] = {}
    unusable: set[str] = set()
    broken: list[str] = []
    wrong: list[str] = []
    for sample in {sample.image.key: sample for sample in samples}.values():
        try:
            size = sample.image.size()
            if size != sample.image_size:
                wrong.append(f"{sample.where}: declared {sample.image_size}, found {size}")
                unusable.add(sample.image.key)
            places.setdefault(sample.image.digest(), sample.where)
        except DataError as error:
            broken.append(f"{sample.where}: {error}")
            unusable.add(sample.image.key)
    findings.info("images", f"{prefix}{len(places)} different images.")
    if broken:
        text = f"{prefix}images are missing or damaged."
        findings.error("images", text, count=len(broken), examples=broken[:_EXAMPLES])
    if wrong:
        text = f"{prefix}images have another size than declared: coordinates may belong to another version of them."
        findings.error("image size", text, count=len(wrong), examples=wrong[:_EXAMPLES])
    return places, unusable


def _check_overlap(images: Mapping[str, Mapping[str, str]], findings: Findings) -> None:
    names = list(images)
    for index, first in enumerate(names):
        for second in names[index + 1 :]:
            shared = sorted(set(images[first]) & set(images[second]))
            if shared:
                examples = [f"{images[first][key]} and {images[second][key]}" for key in shared[:_EXAMPLES]]
                text = f"the splits {first!r} and {second!r} share images: scores on one do not measure the other."
                findings.error("duplicate images", text, count=len(shared), examples=examples)


def _draw(samples: Sequence[GroundingSample], findings: Findings, prefix: str, number: int, seed: int) -> None:
    """Adds drawn samples to the contact sheet, one of each kind and role in turn."""
    groups: dict[tuple[str, str], list[GroundingSample]] = defaultdict(list)
    for index in np.random.default_rng(seed).permutation(len(samples)):
        sample = samples[int(index)]
        if isinstance(sample.answer, GroundingResult) and len(groups[sample.kind, sample.role]) < number:
            groups[sample.kind, sample.role].append(sample)
    turns = [sample for group in _in_turn(list(groups.values())) for sample in group][:number]
    for sample in turns:
        try:
            image = sample.image.load()
            picture = sample.answer.draw(image)  # type: ignore[union-attr]
        except (DataError, ValueError) as error:
            text = f"{prefix}a sample cannot be drawn."
            findings.error("pictures", text, count=1, examples=[f"{sample.where}: {error}"])
            continue
        findings.pictures.append((picture, f"{prefix}{sample.kind}: {sample.instruction[:160]} ({sample.where})"))


def _in_turn(groups: list[list[GroundingSample]]) -> list[list[GroundingSample]]:
    longest = max((len(group) for group in groups), default=0)
    return [[group[turn] for group in groups if turn < len(group)] for turn in range(longest)]


__all__ = ["check_grounding"]
