"""Changed images: labels stay on their pixels, draws follow from seed, epoch and index alone."""

from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from processing_st4vla import Box, GroundingResult, Point, Trace
from training_st4vla.data.augmentation import (
    Augmentation,
    AugmentedDataset,
    augment_questions,
    augment_views,
    crop_answer,
    draw_crop,
)
from training_st4vla.data.grounding.schema import PlainAnswer

PLAIN = Augmentation(crop=0.5, color=0.0, hue=0.0)


def marked(xy: tuple[int, int], size: tuple[int, int] = (80, 60)) -> Image.Image:
    """Grey with one white pixel."""
    image = Image.new("RGB", size, (90, 90, 90))
    image.putpixel(xy, (255, 255, 255))
    return image


def test_points_boxes_and_traces_stay_on_their_pixels() -> None:
    x, y = 37, 22
    answer = GroundingResult(
        points=(Point((x + 0.5, y + 0.5), "dot"),),
        boxes=(Box((x, y, x + 1, y + 1), "dot"),),
        traces=(Trace(((x + 0.5, y + 0.5), (x + 1.0, y + 1.0))),),
        image_size=(80, 60),
    )
    sample = {"image": marked((x, y)), "instruction": "dot", "kind": "point", "answer": answer}
    crops = set()
    for seed in range(40):
        found = augment_questions([sample], PLAIN, np.random.default_rng(seed))[0]
        image, moved = np.asarray(found["image"]), found["answer"]
        crops.add(image.shape)
        assert moved.image_size == found["image"].size
        (row, column), *others = np.argwhere(image[..., 0] == 255)
        assert not others
        assert moved.points[0].xy == (column + 0.5, row + 0.5)
        assert moved.boxes[0].xyxy == (column, row, column + 1, row + 1)
        assert moved.traces[0].points[1] == (column + 1.0, row + 1.0)
        assert moved.points[0].label == "dot"
    assert len(crops) > 5


def test_boxes_are_clipped_and_what_is_lost_is_refused() -> None:
    answer = GroundingResult(boxes=(Box((10, 10, 30, 20)),), image_size=(80, 60))
    clipped = crop_answer(answer, (14, 0, 80, 60), min_box=0.7)
    assert clipped is not None
    assert clipped.boxes[0].xyxy == (0, 10, 16, 20)
    assert crop_answer(answer, (17, 0, 80, 60), min_box=0.7) is None
    assert crop_answer(answer, (30, 0, 80, 60), min_box=0.0) is None
    corner = GroundingResult(points=(Point((1, 1)),), image_size=(80, 60))
    assert crop_answer(corner, (2, 0, 80, 60), 0.7) is None
    path = GroundingResult(traces=(Trace(((1, 1), (70, 50))),), image_size=(80, 60))
    assert crop_answer(path, (0, 0, 69, 60), 0.7) is None
    corners = GroundingResult(points=(Point((0, 0)), Point((80, 60))), image_size=(80, 60))
    sample = {"image": marked((0, 0)), "instruction": "corners", "kind": "point", "answer": corners}
    found = augment_questions([sample], PLAIN, np.random.default_rng(0))[0]
    assert (found["image"].size, found["answer"]) == ((80, 60), corners)  # every crop would lose one


def test_words_and_published_questions_keep_their_frame() -> None:
    box = GroundingResult(boxes=(Box((10, 10, 30, 20)),), image_size=(80, 60))
    for kind, answer in (("text", PlainAnswer("two")), ("auto", box)):
        sample = {"image": marked((5, 5)), "instruction": "?", "kind": kind, "answer": answer}
        found = augment_questions([sample], Augmentation(crop=0.5), np.random.default_rng(1))[0]
        assert (found["image"].size, found["answer"]) == ((80, 60), answer)


def test_questions_about_one_image_share_its_crop() -> None:
    box = GroundingResult(boxes=(Box((10, 10, 30, 20)),), image_size=(80, 60))
    point = GroundingResult(points=(Point((70, 50)),), image_size=(80, 60))
    image = marked((5, 5))
    samples = [
        {"image": image, "instruction": "?", "kind": kind, "answer": answer}
        for kind, answer in (("box", box), ("point", point))
    ]
    first, second = augment_questions(samples, Augmentation(crop=0.8), np.random.default_rng(3))
    assert first["image"] is second["image"]
    assert first["image"].size == first["answer"].image_size == second["answer"].image_size != (80, 60)
    shift = 70 - second["answer"].points[0].xy[0]
    assert first["answer"].boxes[0].xyxy[0] == 10 - shift
    words = [*samples, {"image": image, "instruction": "?", "kind": "text", "answer": PlainAnswer("two")}]
    assert augment_questions(words, Augmentation(crop=0.8), np.random.default_rng(3))[0]["image"].size == (80, 60)


def test_nothing_is_mirrored_and_views_share_a_light() -> None:
    ramp = np.repeat(np.arange(0, 160, 2, dtype=np.uint8)[None, :, None], 60, axis=0).repeat(3, axis=2)
    draw = np.random.default_rng(0)
    for _ in range(20):
        first, _ = augment_views([ramp, ramp], Augmentation(crop=0.6, color=0.3, hue=0.0), draw)
        assert (np.diff(first[0, :, 0].astype(int)) >= 0).all()
        assert first.shape[0] / first.shape[1] == pytest.approx(60 / 80, abs=0.03)
    one, same = augment_views([ramp, ramp], Augmentation(crop=1.0, color=0.3), draw)
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, ramp)
    left = augment_views([ramp], Augmentation(crop=1.0, color=0.0, hue=0.0), draw)[0]
    np.testing.assert_array_equal(left, ramp)


def test_crops_reach_every_place_and_size() -> None:
    draw = np.random.default_rng(0)
    crops = np.array([draw_crop((100, 50), Augmentation(crop=0.8), draw) for _ in range(2000)])
    assert crops.min(axis=0).tolist() == [0, 0, 80, 40]
    assert crops.max(axis=0).tolist() == [20, 10, 100, 50]
    assert (crops[:, 2] - crops[:, 0]).min() == 80


def samples() -> list[dict[str, Any]]:
    draw = np.random.default_rng(0)
    return [{"images": [draw.integers(0, 256, (24, 32, 3), dtype=np.uint8)], "index": i} for i in range(6)]


def pictures(batch: list[dict[str, Any]]) -> list[bytes]:
    return [sample["images"][0].tobytes() for sample in batch]


def test_seed_epoch_and_index_decide_whatever_the_workers() -> None:
    def epoch(number: int, seed: int = 0, workers: int = 0) -> list[bytes]:
        dataset = AugmentedDataset(samples(), Augmentation(), seed)  # type: ignore[arg-type]
        dataset.set_epoch(number)
        loader = DataLoader(dataset, batch_size=2, num_workers=workers, collate_fn=pictures)
        return [picture for batch in loader for picture in batch]

    first = epoch(0)
    assert first == epoch(0) == epoch(0, workers=2)
    assert not set(first) & set(epoch(1))
    assert not set(first) & set(epoch(0, seed=1))
    assert not set(first) & {sample["images"][0].tobytes() for sample in samples()}


def test_the_epoch_is_passed_on() -> None:
    from training_st4vla.data.mixtures import MixtureDataset

    mixture = MixtureDataset({"a": samples()}, epoch_size=2)  # type: ignore[dict-item]
    first = [mixture.locate(index) for index in range(2)]
    AugmentedDataset(mixture, Augmentation()).set_epoch(2)
    assert not set(first) & {mixture.locate(index) for index in range(2)}


@pytest.mark.parametrize("bad", [{"crop": 0.0}, {"crop": 1.1}, {"color": -0.1}, {"hue": 0.6}, {"min_box": 2.0}])
def test_settings_outside_their_range_are_named(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"augmentation, {next(iter(bad))}"):
        Augmentation(**bad)
