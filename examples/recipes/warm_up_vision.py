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
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn
from tqdm.auto import tqdm

from training_st4vla.data.grounding import open_grounding_dataset
from training_st4vla.divergence import not_finite
from training_st4vla.loading import load_model, pick_device, training_attention
from training_st4vla.muon import MuonAdamW
from training_st4vla.precision import multiplies_bfloat16
from training_st4vla.provenance import describe_source, public_name, trace_ancestry
from training_st4vla.saving import refuse_existing, save_model_folder

SHIFT = 14
"""At most so many pixels up, down, left or right: a thing is seen at every place within a patch."""


@dataclass(frozen=True)
class LabelledImage:
    """An image `uint8 [3, H, W]` and what lies in it: boxes `(x1, y1, x2, y2)` in pixels, the words of each label."""

    pixels: torch.Tensor
    boxes: tuple[tuple[float, float, float, float], ...]
    words: tuple[tuple[str, ...], ...]

    @property
    def centres(self) -> tuple[tuple[float, float], ...]:
        """Of the boxes, `(x, y)` in pixels."""
        return tuple(((x1 + x2) / 2, (y1 + y2) / 2) for x1, y1, x2, y2 in self.boxes)

    def moved(self, right: int, down: int, mirrored: bool) -> "LabelledImage":
        """The same image shifted (what leaves on one side enters on the other) and then perhaps mirrored."""
        height, width = self.pixels.shape[-2:]
        pixels = torch.roll(self.pixels, (down, right), (-2, -1))
        boxes = [(x1 + right, y1 + down, x2 + right, y2 + down) for x1, y1, x2, y2 in self.boxes]
        centres = replace(self, boxes=tuple(boxes)).centres
        kept = [at for at, (x, y) in enumerate(centres) if 0 <= x < width and 0 <= y < height]
        if mirrored:
            pixels, boxes = pixels.flip(-1), [(width - x2, y1, width - x1, y2) for x1, y1, x2, y2 in boxes]
        return LabelledImage(pixels, tuple(boxes[at] for at in kept), tuple(self.words[at] for at in kept))


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
        pixels = torch.from_numpy(np.array(sample.image.load())).permute(2, 0, 1).contiguous()
        words = tuple(tuple(box.label.lower().split()) for box in boxes)
        return LabelledImage(pixels, tuple(tuple(box.xyxy) for box in boxes), words)

    with ThreadPoolExecutor() as pool:
        found = tqdm(pool.map(decoded, samples), total=len(samples), desc="images", unit="image")
        return [replace(one, pixels=one.pixels.to(device)) for one in found]


class Seen(NamedTuple):
    """
    What is said of all things of a batch, and what is right.

    Attributes:
        words (`torch.Tensor` of shape `(things, words)`): logits. labels (the same): 0 and 1.
        digits (`torch.Tensor` of shape `(things, 4, 3, 10)`): logits of the digits of x1, y1, x2, y2, in pixels of the
            image that the planner sees; None without layers of the language model.
        numbers (`torch.LongTensor` of shape `(things, 4)`): these pixels; -1 where the box leaves the image.
    """

    words: torch.Tensor
    labels: torch.Tensor
    digits: torch.Tensor | None
    numbers: torch.Tensor

    def loss(self) -> torch.Tensor:
        """Nats per thing: of the words of its label, and of the digits of its box if they are asked for."""
        missed = nn.functional.binary_cross_entropy_with_logits(self.words.float(), self.labels, reduction="none")
        loss = missed.sum() / len(self.labels)
        whole = (self.numbers >= 0).all(dim=1)
        if self.digits is None or not whole.any():
            return loss
        numbers = self.numbers[whole]
        right = torch.stack([numbers // 100, numbers // 10 % 10, numbers % 10], dim=-1)
        spelled = self.digits[whole].float().flatten(0, 2)
        return loss + nn.functional.cross_entropy(spelled, right.flatten(), reduction="sum") / len(numbers)


class Naming(nn.Module):
    """
    The vision tower of a planner, and a linear layer that names what a cell of its output shows.

    Args:
        model: An ST4VLA model; nothing is trained but its vision tower and the first layers of its language model.
        processor: Its processor.
        vocabulary: The words, in the order of the layer's outputs.
        layers: How many layers of the language model the states go through; 0 is the tower's own output.
    """

    def __init__(self, model: Any, processor: Any, vocabulary: Sequence[str], layers: int = 0) -> None:
        super().__init__()
        model.requires_grad_(False)
        self.planner, self.processor, self.layers = model.vlm, processor, layers
        self.place = {word: at for at, word in enumerate(vocabulary)}
        self.planner.model.visual.requires_grad_(True)
        width = self.planner.config.get_text_config().hidden_size
        self.head = nn.Linear(width, len(vocabulary), device=model.device)
        self.spelling = nn.Linear(width, 4 * 3 * 10, device=model.device) if layers else None
        for layer in self.planner.model.language_model.layers[:layers]:
            layer.requires_grad_(True)

    def targets(
        self, images: Sequence[LabelledImage], grid: Sequence[Sequence[int]]
    ) -> tuple[list[int], torch.Tensor, torch.Tensor]:
        """
        Cells of all things, counted over the tower's output for all images; their words `float [things, words]`; their
        boxes `int64 [things, 4]` in pixels of the image that the planner sees, -1 where one leaves it.

        Args:
            images: In order. grid: Frames, rows and columns of patches of each.
        """
        patch, merge = (getattr(self.processor.image_processor, name) for name in ("patch_size", "merge_size"))
        cells: list[int] = []
        things: list[int] = []
        words: list[int] = []
        numbers: list[list[int]] = []
        first = 0
        for image, (_, rows, columns) in zip(images, grid, strict=True):
            down, across = rows // merge, columns // merge
            height, width = image.pixels.shape[-2:]
            sides, seen = (width, height), (columns * patch, rows * patch)
            for (x, y), box, label in zip(image.centres, image.boxes, image.words, strict=True):
                known = [self.place[word] for word in label if word in self.place]
                things += [len(cells)] * len(known)
                words += known
                row, column = min(int(y / height * down), down - 1), min(int(x / width * across), across - 1)
                cells.append(first + row * across + column)
                inside = min(box) >= 0 and box[2] <= width and box[3] <= height
                pixels = [round(side / sides[at % 2] * seen[at % 2]) for at, side in enumerate(box)]
                numbers.append([min(pixel, seen[at % 2] - 1) if inside else -1 for at, pixel in enumerate(pixels)])
            first += down * across
        labels = torch.zeros(len(cells), len(self.place))
        labels[things, words] = 1
        device = self.head.weight.device
        return cells, labels.to(device), torch.tensor(numbers, device=device).view(-1, 4)

    def forward(self, images: Sequence[LabelledImage]) -> Seen:
        """What all things of the images look like, one image after the other."""
        device = self.head.weight.device
        if self.layers:
            states, grid = self._behind_layers(images)
        else:
            pixels = [one.pixels for one in images]
            inputs = self.processor.image_processor(images=pixels, return_tensors="pt", device=device)
            grid = inputs["image_grid_thw"]
            states = torch.cat(
                list(self.planner.get_image_features(inputs["pixel_values"], grid.to(device)).pooler_output)
            )
        cells, labels, numbers = self.targets(images, grid.tolist())
        seen = states[torch.tensor(cells, device=device)].to(self.head.weight.dtype)
        digits = None if self.spelling is None else self.spelling(seen).unflatten(-1, (4, 3, 10))
        return Seen(self.head(seen), labels, digits, numbers)

    def _behind_layers(self, images: Sequence[LabelledImage]) -> tuple[torch.Tensor, torch.Tensor]:
        """States of all cells `[cells, width]` at unit scale, and the grid of each image."""
        shown = [[Image.fromarray(one.pixels.permute(1, 2, 0).cpu().numpy())] for one in images]
        asked = self.processor.ground(images=shown, text=["anything"] * len(shown), kind="box")
        # The question is the same for all and stands behind the images, which do not see it.
        kinds = asked["mm_token_type_ids"]
        until = int(kinds.any(dim=0).nonzero()[-1]) + 1
        names = ("input_ids", "attention_mask", "mm_token_type_ids")
        device = self.head.weight.device
        inputs = {name: asked[name][:, :until].to(device) for name in names}
        inputs |= {name: asked[name].to(device) for name in ("pixel_values", "image_grid_thw")}
        with first_layers(self.planner.model.language_model, self.layers):
            states = self.planner.model(**inputs, use_cache=False).last_hidden_state
        states = states[inputs["mm_token_type_ids"].bool()]
        return nn.functional.rms_norm(states.float(), states.shape[-1:]), asked["image_grid_thw"]


@contextmanager
def first_layers(language_model: Any, count: int) -> Iterator[None]:
    """Within, the language model ends after its first layers."""
    whole = language_model.layers
    language_model.layers = whole[:count]
    try:
        yield
    finally:
        language_model.layers = whole


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
        logits, labels, *_ = naming(images[start : start + size])
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
            with torch.autocast(device, torch.bfloat16) if multiplies_bfloat16(device) else nullcontext():
                seen = naming(next(drawn))
            loss = seen.loss()
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
    parser.add_argument("--layers", type=int, default=0, help="train so many layers of the language model too (0)")
    parser.add_argument("--batch-size", type=int, default=8, help="images per step (8)")
    parser.add_argument("--learning-rate", type=float, default=7e-4, help="of Muon and AdamW, cosine (7e-4)")
    parser.add_argument("--device", default="auto", help="auto, cuda, mps or cpu (auto)")
    parser.add_argument("--seed", type=int, default=0, help="of order, shifts and the new layer (0)")
    args = parser.parse_args()
    refuse_existing(args.output)
    device = pick_device(args.device)
    attention = training_attention("auto", device, multiplies_bfloat16(device))
    model, processor = load_model(args.model, "float32", device=device, attn_implementation=attention)
    depth = model.config.text_config.num_hidden_layers
    if not 0 <= args.layers <= depth:
        raise SystemExit(f"--layers: expected 0 to {depth}, the layers of the model, found {args.layers}.")
    images = read(args.dataset, args.roles, device)
    held_out = read([args.eval_dataset], args.roles, device) if args.eval_dataset else None
    torch.manual_seed(args.seed)
    vocabulary = sorted({word for image in images for label in image.words for word in label})
    naming = Naming(model, processor, vocabulary, args.layers).train()
    started = time.monotonic()
    steps = train(naming, images, args)
    took = f"{steps} steps of {args.batch_size} images, {time.monotonic() - started:.0f} seconds"
    found = f", {words_found(naming, held_out):.0%} of the words of held-out labels found" if held_out else ""
    parts = f"Vision tower and {args.layers} layers" if args.layers else "Vision tower"
    named = ", ".join(f"`{public_name(path)}`" for path in args.dataset)
    save_model_folder(
        model.cpu().eval(),
        processor,
        args.output,
        summary=f"{parts} of `{public_name(args.model)}` warmed up on labelled boxes of {named}: {took}{found}.",
        sources=[describe_source(path) for path in args.dataset],
        ancestry=trace_ancestry(args.model),
    )
    print(f"{args.output}: saved after {took}{found}.")


if __name__ == "__main__":
    main()
