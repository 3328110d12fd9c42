"""What a contract takes from names, what from numbers, and what somebody has to declare."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from training_st4vla.data.action_dataset import LeRobotActionDataset
from training_st4vla.data.contracts import build_contract, contract_template, declare, detect_representation
from training_st4vla.errors import UserError

MakeDataset = Callable[..., Path]


def two_valued(episode: int, columns: dict[str, Any]) -> None:
    """The last two dimensions take two values each."""
    columns["action"] = [
        [float(number), float(number % 2), float(number % 3 == 0)] for number in columns["frame_index"]
    ]


@pytest.fixture
def contract_of(make_dataset: MakeDataset) -> Callable[..., Any]:
    """The contract of a toy dataset with these names and declarations; its last two dimensions are two-valued."""

    def build(names: list[str] | None, **declared: Any) -> Any:
        root = make_dataset(names={"action": names}, edit=two_valued)
        return build_contract(LeRobotActionDataset(root, chunk_size=4, action_keys=["action"]), declared)

    return build


@pytest.mark.parametrize("names", [None, ["0", "1", "2"], ["motor_0", "motor_1", "motor_2"]])
def test_without_telling_names_a_gripper_must_be_declared(
    names: list[str] | None, contract_of: Callable[..., Any]
) -> None:
    contract = contract_of(names)
    assert contract.gripper_polarity == "unknown"
    assert contract.action.normalization == ("q99",) * 3
    template = json.loads(contract_template(contract))
    assert template["gripper_polarity"] == "high_is_open or high_is_closed, or none"
    assert "[] where there is none" in template["gripper_dims"]
    with pytest.raises(ValueError, match="gripper_polarity"):
        contract.require_known("training")


@pytest.mark.parametrize("declared", [{"gripper_dims": []}, {"gripper_polarity": "none"}])
def test_no_gripper_is_something_one_can_declare(declared: dict[str, Any], contract_of: Callable[..., Any]) -> None:
    contract = contract_of(None, **declared)
    assert (contract.gripper_dims, contract.gripper_polarity) == ((), "none")


def test_complete_names_say_that_there_is_no_gripper(contract_of: Callable[..., Any]) -> None:
    assert contract_of(["x", "y", "brake"]).gripper_polarity == "none"
    named = contract_of(["x", "y", "gripper"])
    assert (named.gripper_dims, named.gripper_polarity) == ((2,), "unknown")
    assert "gripper_dims" not in json.loads(contract_template(named))


def test_two_values_make_a_gripper_binary_and_nothing_else(contract_of: Callable[..., Any]) -> None:
    assert contract_of(["x", "lamp", "gripper"]).action.normalization == ("q99", "q99", "binary")
    declared = contract_of(None, gripper_dims=[1], gripper_polarity="high_is_open")
    assert declared.action.normalization == ("q99", "binary", "q99")
    assert (declared.action.binary[1].low, declared.action.binary[1].high) == (0.0, 1.0)
    levels = {"threshold": 0.5, "low": 0.0, "high": 1.0}
    switch = contract_of(["x", "lamp", "gripper"], binary={"lamp": levels})
    assert switch.action.normalization == ("q99", "binary", "binary")


def test_a_polarity_needs_a_gripper(contract_of: Callable[..., Any]) -> None:
    with pytest.raises(
        UserError, match=r"gripper_dims: gripper_polarity 'high_is_open' is declared, but no dimension"
    ):
        contract_of(None, gripper_polarity="high_is_open")


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["action.delta_joints", "action.gripper_close"], "delta"),
        (["action.delta_joints"], "delta"),
        (["action.gripper_close"], "unknown"),
        (["action"], "unknown"),
        (["action.delta_xyz", "action.rotation"], "unknown"),
        (["action.delta_xyz", "action.joints_and_gripper"], "unknown"),
        (["action.deltarobot_joints"], "unknown"),
    ],
)
def test_delta_is_a_word_in_the_name_of_every_column(keys: list[str], expected: str) -> None:
    assert detect_representation(keys) == expected


def test_a_trained_contract_takes_its_own_normalization_again(contract_of: Callable[..., Any]) -> None:
    """As when a model that was trained with a preset is evaluated with it."""
    levels = {"threshold": 0.5, "low": 0.0, "high": 1.0}
    modes = ["q99", "q99", "binary"]
    trained = contract_of(None, gripper_dims=[2], normalization=modes, binary={2: levels})
    same = {"normalization": modes, "binary": {2: levels}, "frame": "base"}
    assert declare(trained, same).frame == "base"
    assert declare(trained, {"normalization": "q99"}).action == trained.action
    for change in (
        {"normalization": "min_max"},
        {"normalization": ["q99"] * 3},
        {"binary": {2: {**levels, "high": 2}}},
    ):
        with pytest.raises(UserError, match="cannot change for a model that already has this contract"):
            declare(trained, change)
