"""Words, scenes and splits: what is said is true, unambiguous, and held out where it has to be."""

from itertools import combinations, pairwise

import numpy as np
import pytest

from lerobot_env_tabletop import EVALUATION_SPLITS, SPLITS, TASKS, make_episode
from lerobot_env_tabletop.episodes import start_positions
from lerobot_env_tabletop.language import HELD_OUT_TEMPLATES, TEMPLATES, Reference, phrase, render
from lerobot_env_tabletop.objects import UNSEEN_CONTAINERS, UNSEEN_PAIRS, UNSEEN_SHAPES
from lerobot_env_tabletop.tasks import reached
from lerobot_env_tabletop.textures import TRAIN_TABLES, UNSEEN_TABLES

CASES = [(split, task) for split in SPLITS for task in SPLITS[split].tasks]


def test_training_and_held_out_templates_are_disjoint():
    assert TEMPLATES.keys() == HELD_OUT_TEMPLATES.keys()
    for action, templates in TEMPLATES.items():
        assert len(templates) >= 3
        assert not set(templates) & set(HELD_OUT_TEMPLATES[action])
    assert not set(TRAIN_TABLES) & set(UNSEEN_TABLES)


@pytest.mark.parametrize(("split", "task"), CASES)
def test_episodes_are_unambiguous_and_cannot_be_solved_without_reading(split, task):
    for seed in range(1000, 1006):
        episode = make_episode(task, split, seed)
        items = episode.scene.items
        for order, goal in zip(episode.orders, episode.goals, strict=True):
            assert [item.name for item in order.target.matches(items)] == [goal.target]
            for reference, name in zip(order.destinations, goal.destinations, strict=True):
                assert [item.name for item in reference.matches(items)] == [name]
        objects = [item for item in items if item.kind == "object" and item.mentionable]
        assert len(objects) >= (3 if SPLITS[split].simple else 4)
        alike = any(a.color == b.color or a.shape == b.shape for a, b in combinations(objects, 2))
        assert alike or SPLITS[split].simple
        assert episode.alternatives >= 3
        assert not reached(episode.goals[0], episode.scene, start_positions(episode.scene))


@pytest.mark.parametrize("task", TASKS)
def test_nothing_held_out_occurs_in_training_episodes(task):
    for seed in range(30):
        episode = make_episode(task, "train", seed)
        for item in episode.scene.items:
            assert item.shape not in UNSEEN_SHAPES + UNSEEN_CONTAINERS
            assert (item.color, item.shape) not in UNSEEN_PAIRS
        assert episode.scene.look.table in TRAIN_TABLES


def test_unseen_objects_are_all_unseen():
    for seed in range(1000, 1020):
        for item in make_episode("stack", "unseen_objects", seed).scene.items:
            assert item.shape in UNSEEN_SHAPES or (item.color, item.shape) in UNSEEN_PAIRS


def test_held_out_wordings_never_coincide_with_training_wordings():
    rng = np.random.default_rng(0)
    for task in TASKS:
        episodes = [make_episode(task, "train", seed) for seed in range(20)]
        trained = {render(e.orders, rng) for e in episodes for _ in range(6)}
        held_out = {render(e.orders, rng, held_out=True) for e in episodes for _ in range(6)}
        assert not trained & held_out


def test_phrases():
    red = Reference(shape="cube", color="red", size="small")
    assert phrase(red) == "the small red cube"
    assert phrase(red, held_out=True) == "the cube that is small and red"
    assert phrase(Reference(shape="ball", ordinal=1, side="left")) == "the second ball from the left"
    plate = Reference("container", shape="plate")
    assert phrase(Reference(shape="ball", relation="nearest", anchor=plate)) == "the ball closest to the plate"


def test_every_evaluation_split_has_at_least_200_pinned_episodes():
    for name in EVALUATION_SPLITS:
        episodes = SPLITS[name].episodes()
        assert len(episodes) == len(set(episodes)) >= 200


def test_task_split_and_seed_fix_the_episode():
    assert make_episode("push", "distractors", 1003) == make_episode("push", "distractors", 1003)
    different = [
        make_episode("push", split, 1003).instruction for split in ("train", "in_distribution", "distractors")
    ]
    assert len(set(different)) == 3
    assert all(a != b for a, b in pairwise(make_episode("push", seed=s).scene.items for s in range(5)))


@pytest.mark.parametrize(
    ("task", "split", "message"),
    [("juggle", "train", "no task 'juggle'"), ("push", "mars", "no split 'mars'"), ("push", "long_horizon", "it has")],
)
def test_unknown_names_are_named(task, split, message):
    with pytest.raises(ValueError, match=message):
        make_episode(task, split, 0)


def test_no_scored_scene_is_ever_recorded():
    streams = {}
    for split in SPLITS:
        episode = make_episode("pick_place" if split != "long_horizon" else split, split, 1000)
        streams[split] = tuple((item.shape, item.color, item.xy) for item in episode.scene.items)
    assert len(set(streams.values())) == len(SPLITS)
