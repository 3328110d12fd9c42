"""Labelled images of many scenes: what recordings say of the same frames, resumable, readable by the trainers."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lerobot_env_tabletop.annotations import PATH_CORNERS, frame_answers
from lerobot_env_tabletop.env import TabletopEnv
from lerobot_env_tabletop.episodes import make_episode
from lerobot_env_tabletop.language import phrase
from lerobot_env_tabletop.other_orders import named_order, other_orders
from lerobot_env_tabletop.paths import corners
from lerobot_env_tabletop.record import RecordingError
from lerobot_env_tabletop.recording import demonstrate
from lerobot_env_tabletop.scenes import main, write_scenes
from lerobot_env_tabletop.splits import SPLITS
from lerobot_env_tabletop.tasks import feasible, place_point, possible_goals

SETTINGS = {"split": "train_easy", "seed": 2, "image_size": 64, "stride": 10}
TASKS = SPLITS["train_easy"].tasks


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("scenes") / "few", 22, **SETTINGS, workers=2, progress=False)


def _rows(folder):
    return pq.read_table(folder / "grounding").to_pylist()


def test_frames_are_those_of_the_recording_with_the_same_seed(scenes):
    rows = _rows(scenes)
    whole = demonstrate(3, 2, "train_easy", TASKS, 64)
    few = demonstrate(3, 2, "train_easy", TASKS, 64, stride=10)
    assert few.actions.tobytes() == whole.actions.tobytes()
    assert few.seen == list(range(few.seen[0], len(whole), 10))
    for at, frame in enumerate(few.seen):
        np.testing.assert_array_equal(few.images["wrist"][at], whole.images["wrist"][frame])
        asked = frame_answers(whole, frame, whole.labels["front"][frame], other_items=None)
        mine = [
            row
            for row in rows
            if (row["episode_index"], row["frame_index"], row["camera"]) == (3, frame, "observation.images.front")
        ]
        # Free points are drawn at random, by a generator that is asked once more where frames are left out.
        known = [(row["role"], row["kind"], row["instruction"]) for row in mine if row["role"] != "free_space"]
        assert known == [(a["role"], a["kind"], a["instruction"]) for a in asked if a["role"] != "free_space"]
        named = {row["instruction"] for row in mine if row["role"] in ("object", "target") and row["kind"] == "box"}
        assert len(named) >= len(whole.labels["front"][frame].visible) - 1
        image = np.asarray(Image.open(scenes / mine[0]["image"]), np.float32)
        assert np.abs(image - whole.images["front"][frame]).mean() < 3


def test_the_trainers_read_it(scenes):
    from training_st4vla.data.grounding import open_grounding_dataset

    dataset = open_grounding_dataset(scenes)
    assert len(dataset) == len(_rows(scenes))
    assert dataset[0]["image"].size == (64, 64)


def test_an_interrupted_set_is_completed_and_a_finished_one_left_alone(scenes, tmp_path, monkeypatch, capsys):
    from lerobot_env_tabletop import scenes as module

    flags = ["--scenes", "22", "--split", "train_easy", "--seed", "2", "--image-size", "64", "--stride", "10"]
    flags += ["--workers", "1", "--output", str(tmp_path / "few")]
    write = module._write_shard

    def killed_at_the_second(folder, settings, shard):
        if shard == 1:
            raise KeyboardInterrupt
        return write(folder, settings, shard)

    monkeypatch.setattr(module, "_write_shard", killed_at_the_second)
    assert main(flags) == 130
    kept = (tmp_path / "few" / "grounding" / "file-00000.parquet").stat().st_mtime_ns
    monkeypatch.setattr(module, "_write_shard", write)
    assert main(flags) == 0
    assert (tmp_path / "few" / "grounding" / "file-00000.parquet").stat().st_mtime_ns == kept
    assert _rows(tmp_path / "few") == _rows(scenes)

    monkeypatch.setattr(module, "_write_shard", None)  # nothing is written any more
    assert main(flags) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["output"].endswith("few")


def test_what_lies_in_the_folder_is_not_touched(scenes, tmp_path):
    with pytest.raises(RecordingError, match="other settings"):
        write_scenes(scenes, 23, **SETTINGS, workers=1)
    (tmp_path / "mine").mkdir()
    with pytest.raises(RecordingError, match="something else"):
        write_scenes(tmp_path, 2, **SETTINGS, workers=1)
    with pytest.raises(RecordingError, match="stride"):
        write_scenes(tmp_path / "new", 2, stride=0)
    assert not (tmp_path / "new" / "grounding").exists()


def _at(task, frame, seed=3):
    """A running episode after so many steps of the expert, and the expert."""
    env = TabletopEnv(task, "train", 64, pixels=False)
    env.start(make_episode(task, "train", seed))
    expert = env.expert()
    for _ in range(frame):
        env.simulation.step(expert.act())
    return env, expert


def test_other_orders_are_played_out_in_a_copy():
    env, expert = _at("pick_place", 4)
    sim, goal = env.simulation, env.simulation.episode.goals[0]
    before, state = sim.positions(), sim.data.qpos.copy()
    found = other_orders(sim, goal, expert.phase, np.random.default_rng(0), 6)
    np.testing.assert_array_equal(sim.data.qpos, state)
    assert sim.steps == 4
    assert sim.episode.goals == (goal,)
    assert len({other.goal for other in found}) == len(found) == 6
    assert all(other.goal != goal for other in found)
    assert len({other.goal.action for other in found}) > 2  # not those of its own task alone
    for other in found:
        assert feasible(other.goal, sim.episode.scene, before)
        assert phrase(other.order.target) in other.instruction
        assert phrase(other.order.target) in other.subtask
        np.testing.assert_array_equal(other.path[0], sim.controller.tool_position)
        end = place_point(other.goal, sim.episode.scene, before)
        assert np.linalg.norm(other.path[-1][:2] - end[:2]) < 0.03  # it has just let go there
        near = np.linalg.norm(other.path[:, :2] - before[other.goal.target][:2], axis=1).min()
        assert near < 0.02 if other.goal.action != "push" else near < 0.1
    again = other_orders(sim, goal, expert.phase, np.random.default_rng(0), 6)
    assert [other.instruction for other in again] == [other.instruction for other in found]
    env.close()


def test_what_is_held_can_only_be_ordered_elsewhere():
    env, expert = _at("pick_place", 0)
    sim, goal = env.simulation, env.simulation.episode.goals[0]
    while expert.phase != "grasp":
        sim.step(expert.act())
    assert other_orders(sim, goal, expert.phase, np.random.default_rng(0), 3) == []
    while expert.phase != "carry":
        sim.step(expert.act())
    found = other_orders(sim, goal, expert.phase, np.random.default_rng(0), 3)
    assert {other.goal.target for other in found} == {goal.target}
    assert all(other.goal.action != "push" and other.goal.destinations != goal.destinations for other in found)
    assert other_orders(sim, None, "reach", np.random.default_rng(0), 3) == []
    env.close()


def test_scenes_ask_for_other_orders_beside_what_they_ask_without(tmp_path):
    settings = {"split": "train", "seed": 5, "image_size": 64, "stride": 10, "workers": 1, "progress": False}
    plain = _rows(write_scenes(tmp_path / "plain", 2, **settings))
    rows = _rows(write_scenes(tmp_path / "orders", 2, **settings, orders=3))

    def key(row):
        return row["episode_index"], row["frame_index"], row["camera"], row["kind"], row["instruction"]

    known = {key(row): row for row in rows}
    assert all(known[key(row)] == row for row in plain)  # the same episodes, images and answers
    new = [known[one] for one in known.keys() - {key(row) for row in plain}]
    assert {(row["role"], row["kind"]) for row in new} == {("task", "box"), ("place", "point"), ("gripper", "trace")}
    # The words alone tell the orders of an image apart, and what they are about differs where an image shows enough.
    orders: dict[str, list[dict]] = {}
    for row in rows:
        if row["role"] == "task":
            orders.setdefault(row["image"], []).append(row)
    assert all(len({row["instruction"] for row in about}) == len(about) for about in orders.values())
    asked = [about for about in orders.values() if len(about) > 1]
    assert sum(len({str(row["boxes"]) for row in about}) > 1 for about in asked) > len(asked) / 2
    for row in new:
        assert row["subtask"].startswith(("pick up the ", "push the "))
        if row["role"] == "task":
            box, label = row["boxes"][0], row["labels"][0]
            same = [
                r
                for r in rows
                if r["image"] == row["image"] and r["role"] in ("object", "target") and r["labels"] == [label]
            ]
            assert all(r["boxes"] == [box] for r in same)
    with pytest.raises(RecordingError, match="other settings"):
        write_scenes(tmp_path / "orders", 2, **settings)
    with pytest.raises(RecordingError, match="orders"):
        write_scenes(tmp_path / "negative", 2, orders=-1)


@pytest.mark.parametrize("action", ["put", "push", "stack", "next_to", "between"])
def test_a_named_order_is_about_items_of_its_kinds_and_names_each_unmistakably(action):
    env, _ = _at("pick_place" if action == "put" else "push" if action == "push" else "between", 0)
    scene = env.simulation.episode.scene
    items = [item for item in scene.items if item.mentionable]
    rng = np.random.default_rng(0)
    made = [found for _ in range(40) if (found := named_order(items, scene, [action], rng)) is not None]
    assert len({goal for _, goal in made}) > 3
    for order, goal in made:
        kinds = {"put": "container", "push": "zone"}
        assert scene.item(goal.target).kind == "object"
        assert {scene.item(name).kind for name in goal.destinations} == {kinds.get(action, "object")}
        assert len({goal.target, *goal.destinations}) == (3 if action == "between" else 2)
        named = [order.target, *order.destinations]
        found = [[item.name for item in reference.matches(scene.items)] for reference in named]
        assert found == [[name] for name in (goal.target, *goal.destinations)]
    if action != "put":  # which is always possible; of the others not only what is
        able = possible_goals([action], scene, env.simulation.positions())
        assert any(goal not in able for _, goal in made)
    assert named_order(items[:1], scene, [action], rng) is None
    assert named_order([], scene, [action], rng) is None
    env.close()


def test_scenes_ask_named_orders_for_their_things_alone(tmp_path):
    settings = {"split": "train", "seed": 5, "image_size": 64, "stride": 10, "workers": 1, "progress": False}
    plain = _rows(write_scenes(tmp_path / "plain", 2, **settings))
    rows = _rows(write_scenes(tmp_path / "named", 2, **settings, named_orders=4))
    # The same episodes and images are asked the same.
    assert [row for row in rows if row["subtask"] is not None] == plain
    new = [row for row in rows if row["subtask"] is None]
    assert {(row["role"], row["kind"], row["question"]) for row in new} == {("task", "box", "spatial")}
    seen = {row["image"]: row for row in rows if row["role"] == "objects"}
    for row in new:
        boxes = list(zip(row["boxes"], row["labels"], strict=True))
        shown = list(zip(seen[row["image"]]["boxes"], seen[row["image"]]["labels"], strict=True))
        assert len(boxes) == (3 if "between" in row["instruction"] else 2)
        assert all(box in shown for box in boxes)
    again = _rows(write_scenes(tmp_path / "again", 2, **settings, named_orders=4))
    assert again == rows
    with pytest.raises(RecordingError, match="named_orders"):
        write_scenes(tmp_path / "negative", 2, named_orders=-1)


def test_paths_come_with_what_they_go_by_and_may_be_written_by_their_corners(tmp_path):
    from training_st4vla.data.grounding import open_grounding_dataset

    settings = {"split": "train", "seed": 5, "image_size": 64, "stride": 10, "workers": 1, "progress": False}
    whole = _rows(write_scenes(tmp_path / "whole", 2, **settings))
    few = _rows(write_scenes(tmp_path / "few", 2, **settings, whole_paths=False))
    assert [row for row in whole if row["kind"] != "trace"] == [row for row in few if row["kind"] != "trace"]
    tasks = {(row["image"], row["instruction"]): row for row in whole if row["role"] == "task"}
    paths = [(row, short) for row, short in zip(whole, few, strict=True) if row["kind"] == "trace"]
    assert len(paths) > 5
    for row, short in paths:
        (path,), (turns,) = row["traces"], short["traces"]
        assert len(turns) == PATH_CORNERS
        assert np.abs(np.array(turns) - corners(np.array(path), PATH_CORNERS)).max() < 0.03
        assert row["points"] == short["points"] == turns[:0:-1]  # from the end back
        assert row["labels"][: PATH_CORNERS - 1] == ["end", *["via"] * (PATH_CORNERS - 2)]
        assert row["labels"][-1] == "gripper"
        task = tasks.get((row["image"], row["instruction"]))
        assert (row["boxes"], row["labels"][PATH_CORNERS - 1 : -1]) == (
            (task["boxes"], task["labels"]) if task else ([], [])
        )
    # What is learnt: the things, then the corners, then the path.
    samples = open_grounding_dataset(tmp_path / "few").samples()
    written = next(one for one in samples if one.kind == "trace" and one.answer.boxes)
    written = written.learnt_answer().to_text(model_size=(64, 64))
    order = [written.index(key) for key in ("bbox_2d", '"end"', '"via"', "trace_2d")]
    assert order == sorted(order)


def test_between_is_about_three_things():
    demo = demonstrate(0, 5, "train", ("between",), 64, stride=10)
    goal, scene = demo.episode.goals[0], demo.episode.scene
    named = [scene.item(name).label for name in (goal.target, *goal.destinations)]
    seen = [label.visible for label in demo.labels["front"]]
    answers = [frame_answers(demo, frame, label) for frame, label in zip(demo.seen, demo.labels["front"], strict=True)]
    tasks = [next((one for one in known if one["role"] == "task"), None) for known in answers]
    whole = [task for task, names in zip(tasks, seen, strict=True) if {goal.target, *goal.destinations} <= set(names)]
    assert whole
    assert all(task["labels"] == named and len(task["boxes"]) == 3 for task in whole)


def test_corners_are_where_a_path_turns():
    path = np.array([(0, 0), (0, 4), (0, 9), (3, 9.5), (6, 9.2), (6, 5), (6, 1)], float)
    np.testing.assert_array_equal(corners(path, 4), path[[0, 2, 4, 6]])
    np.testing.assert_array_equal(corners(path, 2), path[[0, -1]])
    # Fewer points than corners, or a path that stays where it is: still as many.
    np.testing.assert_allclose(corners(np.array([(0.0, 0.0), (9.0, 0.0)]), 4)[:, 1], 0)
    assert corners(np.ones((5, 2)), 4).tolist() == np.ones((4, 2)).tolist()
    assert len(corners(np.ones((2, 2)), 4)) == 4
