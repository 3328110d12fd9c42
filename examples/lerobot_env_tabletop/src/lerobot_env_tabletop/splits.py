"""Splits: what a set of episodes varies, and the pinned seeds it is scored on."""

from __future__ import annotations

from dataclasses import dataclass

from .tasks import SINGLE_TASKS, TASKS

FIRST_SEED = 1000
"""First pinned seed of every task of every split; also where ``lerobot-eval`` starts by default."""


@dataclass(frozen=True)
class Split:
    """One way to draw episodes. Each split has its own random streams: no evaluation episode is ever recorded.

    Attributes:
        name: Its name in commands and tables.
        tasks: Tasks it scores.
        episodes_per_task: Number of pinned seeds of each task.
        description: One line for people.
        unseen_objects: Only colour-shape pairs and shapes that no training episode shows.
        unseen_wording: Held-out templates and phrases.
        unseen_look: Held-out table tops, lights with shadows, a shifted camera.
        clutter: Extra objects that no instruction mentions.
        interference: Something moves or knocks the target or its destination during the episode.
        simple: Three clearly different blocks and a plate on one plain table: for first experiments.
    """

    name: str
    tasks: tuple[str, ...]
    episodes_per_task: int
    description: str
    unseen_objects: bool = False
    unseen_wording: bool = False
    unseen_look: bool = False
    clutter: int = 0
    interference: bool = False
    simple: bool = False

    @property
    def seeds(self) -> range:
        """The pinned seeds of each task."""
        return range(FIRST_SEED, FIRST_SEED + self.episodes_per_task)

    def episodes(self) -> list[tuple[str, int]]:
        """Every pinned (task, seed) of the split, tasks interleaved."""
        return [(task, seed) for seed in self.seeds for task in self.tasks]


SPLITS: dict[str, Split] = {
    split.name: split
    for split in (
        Split("train", tuple(TASKS), 0, "what the recorder writes; never scored"),
        Split("train_easy", ("pick_place",), 0, "what the recorder writes for the split easy", simple=True),
        Split("easy", ("pick_place",), 200, "three blocks of different colours and a plate", simple=True),
        Split("in_distribution", SINGLE_TASKS, 40, "new scenes of the training distribution"),
        Split("unseen_objects", SINGLE_TASKS, 40, "colour-shape pairs and shapes never trained", unseen_objects=True),
        Split("unseen_instructions", SINGLE_TASKS, 40, "wordings never trained", unseen_wording=True),
        Split("new_backgrounds", SINGLE_TASKS, 40, "table tops, lights and camera never trained", unseen_look=True),
        Split("distractors", SINGLE_TASKS, 40, "three extra objects nobody mentions", clutter=3),
        Split("interference", SINGLE_TASKS, 40, "target or destination moved or knocked", interference=True),
        Split("long_horizon", ("long_horizon",), 200, "two to four orders in sequence"),
    )
}
EVALUATION_SPLITS: tuple[str, ...] = tuple(name for name, split in SPLITS.items() if split.episodes_per_task)


def get_split(name: str) -> Split:
    """The split of that name.

    Raises:
        ValueError: If there is none; the message lists them.
    """
    if name not in SPLITS:
        raise ValueError(f"There is no split {name!r}. Choose one of: {', '.join(SPLITS)}.")
    return SPLITS[name]
