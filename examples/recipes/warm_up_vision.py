"""Teaches the vision tower of a small planner made from nothing to tell things apart, before stage 1 goes on.

usage: python examples/recipes/warm_up_vision.py --model FOLDER --dataset FOLDER... --output FOLDER --max-steps N

The data are boxes with labels. Of every box the tower's own output, at the cell that holds the centre of the box, must
say the words of the label through one linear layer, which is thrown away in the end. The gradient reaches the pixels
at once, not through sentences, and images stay decoded in memory: thousands of them a second on a GPU, where stage 1
takes hundreds. A pretrained planner needs none of this. Images are shifted and mirrored, which changes no label;
labels that say left or right are not for this.
"""

import argparse
import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from training_st4vla.data.grounding import open_grounding_dataset
from training_st4vla.divergence import not_finite
from training_st4vla.loading import load_model, pick_device
from training_st4vla.muon import MuonAdamW
from training_st4vla.provenance import describe_source, public_name, trace_ancestry
from training_st4vla.saving import refuse_existing, save_model_folder

SHIFT = 14
"""At most so many pixels up, down, left or right: a thing is seen at every place within a patch."""


@dataclass(frozen=True)
class LabelledImage:
    """An image `uint8 [3, H, W]` and what lies in it: centres in pixels `(x, y)`, and the words of each label."""

    pixels: torch.Tensor
    centres: tuple[tuple[float, float], ...]
    words: tuple[tuple[str, ...], ...]

    def moved(self, right: int, down: int, mirrored: bool) -> "LabelledImage":
        """The same image shifted (what leaves on one side enters on the other) and then perhaps mirrored."""
        height, width = self.pixels.shape[-2:]
        pixels = torch.roll(self.pixels, (down, right), (-2, -1))
        places = [(x + right, y + down) for x, y in self.centres]
        kept = [at for at, (x, y) in enumerate(places) if 0 <= x < width and 0 <= y < height]
        if mirrored:
            pixels, places = pixels.flip(-1), [(width - x, y) for x, y in places]
        return LabelledImage(pixels, tuple(places[at] for at in kept), tuple(self.words[at] for at in kept))


def read(paths: Sequence[str], roles: Sequence[str] | None, device: str) -> list[LabelledImage]:
    """All images that have boxes with labels, decoded.

    Raises:
        SystemExit: There is none.
    """
    samples = [one for path in paths for one in open_grounding_dataset(path).of(["box"], roles).samples()]
    samples = [one for one in samples if any(box.label for box in one.answer.boxes)]
    if not samples:
        raise SystemExit(f"--dataset: expected boxes with labels in {', '.join(paths)}, found none. See --roles.")

    def decoded(sample: Any) -> LabelledImage:
        boxes = [box for box in sample.answer.boxes if box.label]
        centres = [((box.xyxy[0] + box.xyxy[2]) / 2, (box.xyxy[1] + box.xyxy[3]) / 2) for box in boxes]
        pixels = torch.from_numpy(np.array(sample.image.load())).permute(2, 0, 1).contiguous()
        return LabelledImage(pixels, tuple(centres), tuple(tuple(box.label.lower().split()) for box in boxes))

    with ThreadPoolExecutor() as pool:
        found = tqdm(pool.map(decoded, samples), total=len(samples), desc="images", unit="image")
        return [replace(one, pixels=one.pixels.to(device)) for one in found]


class Naming(nn.Module):
    """The vision tower of a planner, and a linear layer that names what a cell of its output shows.

    Args:
        model: An ST4VLA model; nothing but its vision tower is trained.
        image_processor: The planner's.
        vocabulary: The words, in the order of the layer's outputs.
    """

    def __init__(self, model: Any, image_processor: Any, vocabulary: Sequence[str]) -> None:
        super().__init__()
        model.requires_grad_(False)
        self.planner, self.image_processor = model.vlm, image_processor
        self.place = {word: at for at, word in enumerate(vocabulary)}
        self.planner.model.visual.requires_grad_(True)
        self.head = nn.Linear(self.planner.config.get_text_config().hidden_size, len(vocabulary), device=model.device)

    def targets(
        self, images: Sequence[LabelledImage], grid: Sequence[Sequence[int]]
    ) -> tuple[list[int], torch.Tensor]:
        """Cells of all things, counted over the tower's output for all images; their words `float [things, words]`.

        Args:
            images: In order. grid: Frames, rows and columns of patches of each.
        """
        merge = self.image_processor.merge_size
        cells: list[int] = []
        things: list[int] = []
        words: list[int] = []
        first = 0
        for image, (_, rows, columns) in zip(images, grid, strict=True):
            down, across = rows // merge, columns // merge
            height, width = image.pixels.shape[-2:]
            for (x, y), label in zip(image.centres, image.words, strict=True):
                known = [self.place[word] for word in label if word in self.place]
                things += [len(cells)] * len(known)
                words += known
                row, column = min(int(y / height * down), down - 1), min(int(x / width * across), across - 1)
                cells.append(first + row * across + column)
            first += down * across
        labels = torch.zeros(len(cells), len(self.place))
        labels[things, words] = 1
        return cells, labels.to(self.head.weight.device)

    def forward(self, images: Sequence[LabelledImage]) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and targets, both `[things, words]`."""
        device = self.head.weight.device
        inputs = self.image_processor(images=[one.pixels for one in images], return_tensors="pt", device=device)
        cells, labels = self.targets(images, inputs["image_grid_thw"].tolist())
        grid = inputs["image_grid_thw"].to(device)
        seen = torch.cat(list(self.planner.get_image_features(inputs["pixel_values"], grid).pooler_output))
        return self.head(seen[torch.tensor(cells, device=device)].to(self.head.weight.dtype)), labels


def batches(images: Sequence[LabelledImage], size: int, random: np.random.Generator) -> Iterator[list[LabelledImage]]:
    """Endless batches, in a new order each time through, shifted and mirrored; each has something in it."""
    order: list[int] = []
    while True:
        if len(order) < size:
            order += random.permutation(len(images)).tolist()
        chosen, order = order[:size], order[size:]
        moves = random.integers(-SHIFT, SHIFT + 1, (len(chosen), 2)).tolist()
        mirrored = (random.random(len(chosen)) < 0.5).tolist()
        batch = [images[at].moved(*move, flip) for at, move, flip in zip(chosen, moves, mirrored, strict=True)]
        if any(one.centres for one in batch):
            yield batch


@torch.no_grad()
def words_found(naming: Naming, images: Sequence[LabelledImage], size: int = 64) -> float:
    """Share of the labels' words that are among the likeliest of their thing, as many as its label has."""
    found = asked = 0.0
    naming.eval()
    for start in range(0, len(images), size):
        logits, labels = naming(images[start : start + size])
        rank = logits.argsort(dim=-1, descending=True).argsort(dim=-1)
        found += float(((rank < labels.sum(-1, keepdim=True)) & (labels > 0)).sum())
        asked += float(labels.sum())
    naming.train()
    if not asked:
        raise SystemExit("--eval-dataset: expected words of the labels of --dataset, found none of them.")
    return found / asked


def train(naming: Naming, images: Sequence[LabelledImage], args: argparse.Namespace) -> int:
    """Warm-up and cosine over `--max-steps`, or over `--max-minutes` if that ends sooner; returns the steps taken."""
    named = [(name, weight) for name, weight in naming.named_parameters() if weight.requires_grad]
    optimizer = MuonAdamW(named, lr=args.learning_rate)
    drawn = batches(images, args.batch_size, np.random.default_rng(args.seed))
    device = naming.head.weight.device.type
    started, step = time.monotonic(), 0
    with tqdm(total=args.max_steps, desc="warm-up", unit="step") as bar:
        while (done := max(step / args.max_steps, (time.monotonic() - started) / (60 * args.max_minutes))) < 1:
            for group in optimizer.param_groups:
                group["lr"] = args.learning_rate * min(1.0, (step + 1) / 30) * (1 + math.cos(math.pi * done)) / 2
            with torch.autocast(device, torch.bfloat16) if device == "cuda" else nullcontext():
                logits, labels = naming(next(drawn))
            losses = nn.functional.binary_cross_entropy_with_logits(logits.float(), labels, reduction="none")
            loss = losses.sum() / len(labels)
            loss.backward()
            nn.utils.clip_grad_norm_([weight for _, weight in named], 1.0)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            bar.update()
            if step % 50 == 0:
                bar.set_postfix(loss=f"{loss.item():.3f}")
    if wrong := not_finite(naming):
        raise SystemExit(f"Training has diverged: {wrong[0]} is not finite. Nothing is saved; lower --learning-rate.")
    return step


def main() -> None:
    """Reads flags, trains, saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="ST4VLA model to start from")
    parser.add_argument("--dataset", required=True, nargs="+", help="grounding datasets with labelled boxes")
    parser.add_argument("--output", required=True, type=Path, help="folder of the new model")
    parser.add_argument("--roles", nargs="+", help="only boxes of these roles (`objects` on the tabletop)")
    parser.add_argument("--eval-dataset", help="held-out boxes, to be named in the end")
    parser.add_argument("--max-steps", required=True, type=int, help="optimiser steps")
    parser.add_argument("--max-minutes", type=float, default=math.inf, help="end sooner than --max-steps, after these")
    parser.add_argument("--batch-size", type=int, default=8, help="images per step (8)")
    parser.add_argument("--learning-rate", type=float, default=7e-4, help="of Muon and AdamW, cosine (7e-4)")
    parser.add_argument("--device", default="auto", help="auto, cuda, mps or cpu (auto)")
    parser.add_argument("--seed", type=int, default=0, help="of order, shifts and the new layer (0)")
    args = parser.parse_args()
    refuse_existing(args.output)
    device = pick_device(args.device)
    model, processor = load_model(args.model, "float32", device=device)
    images = read(args.dataset, args.roles, device)
    held_out = read([args.eval_dataset], args.roles, device) if args.eval_dataset else None
    torch.manual_seed(args.seed)
    vocabulary = sorted({word for image in images for label in image.words for word in label})
    naming = Naming(model, processor.image_processor, vocabulary).train()
    started = time.monotonic()
    steps = train(naming, images, args)
    took = f"{steps} steps of {args.batch_size} images, {time.monotonic() - started:.0f} seconds"
    found = f", {words_found(naming, held_out):.0%} of the words of held-out labels found" if held_out else ""
    named = ", ".join(f"`{public_name(path)}`" for path in args.dataset)
    save_model_folder(
        model.cpu().eval(),
        processor,
        args.output,
        summary=f"Vision tower of `{public_name(args.model)}` warmed up on labelled boxes of {named}: {took}{found}.",
        sources=[describe_source(path) for path in args.dataset],
        ancestry=trace_ancestry(args.model),
    )
    print(f"{args.output}: saved after {took}{found}.")


if __name__ == "__main__":
    main()
