"""What is said about datasets: mixture files, presets on data of their layout, shared and separate contracts."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from training_st4vla.data import DataError
from training_st4vla.data.action_mixture import mix, open_source, settle_contracts
from training_st4vla.data.mixtures import MixtureDataset
from training_st4vla.data.sources import DataSource, PauseRule, preset_names, read_mixture, read_preset
from training_st4vla.errors import UserError

MakeDataset = Callable[..., Path]
COMPLETE = {
    "action_units": ["m"] * 3,
    "frame": "base",
    "rotation": "none",
    "representation": "absolute",
    "gripper_polarity": "none",
}


def settled(sources: list[DataSource], processor: Any) -> list[Any]:
    datasets = [open_source(source, 4, processor) for source in sources]
    settle_contracts(sources, datasets, processor, "training")
    return datasets


# --- mixture files ---------------------------------------------------------------------------------------------------


def test_a_mixture_file_says_everything_about_each_dataset(make_dataset: MakeDataset, tmp_path: Path) -> None:
    make_dataset("a")
    (tmp_path / "arm.json").write_text(json.dumps({"frame": "tool"}))
    content = [
        {"dataset": "a", "weight": 2, "cameras": ["wrist"], "contract": "arm.json", "episodes": [1]},
        {"dataset": "owner/name", "weight": 1, "pause": {"threshold": 0.1, "motion": ["x", 1]}, "to_delta": True},
    ]
    path = tmp_path / "mixture.yaml"
    path.write_text(yaml.safe_dump({"datasets": content}))
    first, second = read_mixture(path)
    assert first == DataSource(
        dataset=str(tmp_path / "a"), weight=2, cameras=("wrist",), contract={"frame": "tool"}, episodes=(1,)
    )
    assert second.dataset == "owner/name"
    assert second.pause == PauseRule(0.1, ("x", 1))
    path.write_text(json.dumps({"datasets": content}))
    assert read_mixture(path) == [first, second]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"datasets": [{"dataset": "a", "camera": ["x"]}]}, r"datasets\[0\] holds \['camera'\]"),
        ({"datasets": [{"dataset": "a", "cameras": "x"}]}, r"cameras: expected a list, found 'x'"),
        ({"datasets": [{"dataset": "a", "contract": {"unit": 1}}]}, r"contract holds \['unit'\]"),
        ({"datasets": [{"dataset": "a", "pause": {"motion": []}}]}, "pause.threshold: expected a number, found None"),
        ({"datasets": [{"dataset": "a", "pause": {"treshold": 1}}]}, r"pause holds \['treshold'\]"),
        ({"datasets": [], "seed": 1}, "a list and nothing else, found"),
        ({"datasets": ["a"]}, r"datasets\[0\] holds \['str'\]"),
        (["a"], "found list"),
    ],
)
def test_a_wrong_mixture_file_is_named(content: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mixture.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=message):
        read_mixture(path)
    with pytest.raises(UserError, match="found nothing at"):
        read_mixture(tmp_path / "none.yaml")


# --- contracts -------------------------------------------------------------------------------------------------------


def test_datasets_share_a_contract_only_when_told_to(make_dataset: MakeDataset, processor: Any) -> None:
    sources = [
        DataSource(str(make_dataset(f"{place}/toy", lengths=lengths)), contract=COMPLETE, weight=1)
        for place, lengths in (("a", (5, 5)), ("b", (30, 30)))
    ]
    with pytest.raises(UserError, match=r"'toy'.*would share one action contract because their last names are equal"):
        settled(sources, processor)
    shared = [replace(source, dataset_key="arm") for source in sources]
    datasets = settled(shared, processor)
    action = processor.action_contracts["arm"]["action"]
    assert (action["statistics"]["min"][0], action["statistics"]["max"][0]) == (0.0, 59.0)
    assert isinstance(mix(shared, datasets, 0), MixtureDataset)
    processor.action_contracts.clear()
    settled([replace(source, dataset_key=key) for source, key in zip(sources, "xy", strict=True)], processor)
    tops = [processor.action_contracts[key]["action"]["statistics"]["max"][0] for key in "xy"]
    assert tops == [9.0, 59.0]
    other = replace(shared[1], cameras=("front",))
    processor.action_contracts.clear()
    with pytest.raises(UserError, match="must agree, but cameras is"):
        settled([shared[0], other], processor)


def test_weights_are_for_all_or_none(make_dataset: MakeDataset, processor: Any) -> None:
    sources = [DataSource(str(make_dataset(name)), contract=COMPLETE) for name in ("a", "b")]
    datasets = settled(sources, processor)
    assert mix(sources[:1], datasets[:1], 0) is datasets[0]
    with pytest.raises(UserError, match="weights: expected one for every dataset or for none"):
        mix([replace(sources[0], weight=1.0), sources[1]], datasets, 0)
    with pytest.raises(UserError, match="named twice"):
        mix([sources[0], sources[0]], datasets, 0)


def test_steps_from_targets_are_a_delta_contract(make_dataset: MakeDataset, processor: Any) -> None:
    root = str(make_dataset(names={"action": ["x", "y", "gripper"]}))
    declared = {**COMPLETE, "gripper_polarity": "high_is_open"}
    source = DataSource(root, contract=declared, to_delta=True)
    (dataset,) = settled([source], processor)
    contract = processor.action_contracts["toy"]
    assert (dataset.delta_dims, contract["representation"]) == ((0, 1), "delta")
    assert contract["action"]["statistics"]["max"][0] == pytest.approx(1, abs=1e-3)
    assert contract["action"]["statistics"]["max"][2] > 40  # the gripper's command stays
    for change, found in (
        ({"rotation": "euler_xyz"}, "'absolute' and 'euler_xyz'"),
        ({"representation": "delta"}, ""),
    ):
        with pytest.raises(UserError, match=f"--to-delta: .* found .*{found}"):
            open_source(replace(source, contract={**declared, **change}), 4, processor)


def test_a_pause_filter_asks_what_actions_mean(make_dataset: MakeDataset, processor: Any) -> None:
    source = DataSource(str(make_dataset()), pause=PauseRule(0.5))
    with pytest.raises(UserError, match=r"whether the actions of .* are motions or targets is unknown"):
        open_source(source, 4, processor)
    absolute = open_source(replace(source, contract={"representation": "absolute"}), 4, processor)
    assert (absolute.pause_filter.absolute, absolute.pause_filter.motion, absolute.paused) == (True, (0, 1, 2), 0)
    with pytest.raises(UserError, match=r"pause.motion: expected one of .* found 'z'"):
        open_source(replace(source, pause=PauseRule(0.5, ("z",)), contract={"representation": "delta"}), 4, processor)


# --- presets ---------------------------------------------------------------------------------------------------------

POSE = ["x", "y", "z", "roll", "pitch", "yaw", "gripper"]
SO101 = [
    f"{name}.pos" for name in ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
]
LAYOUTS: dict[str, dict[str, Any]] = {
    "bridge_orig": {
        "columns": {"action": 7, "observation.state": 8},
        "cameras": ["observation.images.image_0"],
        "fps": 5,
    },
    "fractal": {"columns": {"action": 7, "observation.state": 8}, "cameras": ["observation.images.image"], "fps": 3},
    "libero": {
        "columns": {"action": 7, "observation.state": 8},
        "cameras": ["observation.images.image", "observation.images.wrist_image"],
        "fps": 20,
    },
    "interndata_m1": {
        "columns": {"action.delta_joints": 7, "action.gripper_close": 1, "action.joints": 7},
        "cameras": ["video.base_view", "video.base_view_2", "video.ego_view"],
        "fps": 30,
    },
    "so101": {
        "columns": {"action": 6, "observation.state": 6},
        "names": {"action": SO101, "observation.state": SO101},
        "cameras": ["observation.images.top"],
        "fps": 30,
    },
}
ASKED = {
    "bridge_orig": ["frame", "action.units"],
    "fractal": ["frame", "gripper_polarity", "action.units"],
    "libero": ["frame", "action.units"],
    "interndata_m1": ["action.units"],
    "so101": ["gripper_polarity", "action.units", "state.units"],
}


def test_every_preset_has_a_layout_here() -> None:
    assert preset_names() == sorted(LAYOUTS)
    with pytest.raises(UserError, match="--preset: expected one of"):
        DataSource("x", preset="bridge").completed()


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_a_preset_fits_its_layout_and_asks_for_what_nobody_says(
    name: str, make_dataset: MakeDataset, processor: Any
) -> None:
    source = DataSource(str(make_dataset(name, **LAYOUTS[name])), preset=name)
    dataset = open_source(source, 4, processor)
    preset = read_preset(name)
    assert len(dataset) == 50
    assert preset.about
    with pytest.raises(UserError) as refusal:
        settle_contracts([source], [dataset], processor, "training")
    assert f"needs to know {', '.join(ASKED[name])}, and" in str(refusal.value)

    declared = {"action_units": ["m"] * dataset.action_dim, "state_units": ["m"] * (dataset.state_dim or 0)}
    declared |= {"frame": "base"} if "frame" in ASKED[name] else {}
    declared |= {"gripper_polarity": "high_is_open"} if "gripper_polarity" in ASKED[name] else {}
    source = replace(source, contract=declared)
    settle_contracts([source], [dataset], processor, "training")
    contract = processor.action_contracts[preset.dataset_key or name]
    modes = preset.contract["normalization"]
    assert contract["action"]["normalization"] == (modes if isinstance(modes, list) else [modes] * dataset.action_dim)
    assert contract["gripper_dims"] == [dataset.action_dim - 1]


def test_a_preset_refuses_another_rate_and_yields_to_the_user(make_dataset: MakeDataset, processor: Any) -> None:
    layout = LAYOUTS["bridge_orig"]
    slow = DataSource(str(make_dataset("bridge", **{**layout, "fps": 10})), preset="bridge_orig")
    with pytest.raises(DataError, match=r"another rate than declared .*expected 5 frames per second, found 10"):
        open_source(slow, 4, processor)
    mine = open_source(replace(slow, fps=10.0, dataset_key="mine", pause=PauseRule(-1)), 4, processor)
    assert (mine.dataset_key, mine.pause_filter) == ("mine", None)
    assert open_source(replace(slow, fps=10.0), 4, processor).pause_filter is not None
