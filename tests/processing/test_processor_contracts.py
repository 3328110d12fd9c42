"""The action contract: normalisation by its definition, exact ways back, and everything that does not fit refused."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoProcessor

from processing_st4vla import ActionContract, BinaryLevels, ST4VLAProcessor, VectorContract

NUMBERS = st.floats(-1e4, 1e4, width=32)
SPANS = st.floats(2**-10, 1e4, width=32)


@st.composite
def vectors(draw: Any) -> VectorContract:
    """A contract of three dimensions with one continuous mode."""
    mode = draw(st.sampled_from(["q99", "min_max", "mean_std", "identity"]))
    low = [draw(NUMBERS) for _ in range(3)]
    span = [draw(SPANS) for _ in range(3)]
    high = [a + b for a, b in zip(low, span, strict=True)]
    statistics = {
        "q99": {"q01": low, "q99": high},
        "min_max": {"min": low, "max": high},
        "mean_std": {"mean": low, "std": span},
        "identity": {},
    }[mode]
    return VectorContract.from_statistics(["x", "y", "z"], statistics, mode=mode, clip=draw(st.booleans()))


@settings(deadline=None, max_examples=200)
@given(vector=vectors(), shares=st.lists(st.floats(-1, 1, width=32), min_size=6, max_size=6))
def test_there_and_back_is_exact(vector: VectorContract, shares: list[float]) -> None:
    model_space = np.array(shares, dtype=np.float32).reshape(2, 3)
    raw = vector.unnormalize(model_space)
    assert raw.dtype == np.float32
    # float32 rounds once in each space, by at most 2^-24 of the largest number that takes part.
    reach = max(np.abs(raw).max(), *(abs(number) for values in vector.statistics.values() for number in values), 0.0)
    np.testing.assert_allclose(vector.unnormalize(vector.normalize(raw)), raw, rtol=0, atol=reach * 2**-22)


@settings(deadline=None, max_examples=100)
@given(vector=vectors(), values=st.lists(NUMBERS, min_size=3, max_size=3))
def test_clipping_keeps_everything_inside_and_nothing_else_changes(vector: VectorContract, values: list) -> None:
    found = vector.normalize(np.array(values))
    bounded = vector.normalization[0] in ("q99", "min_max")
    unclipped = VectorContract.from_dict({**vector.to_dict(), "clip": False}).normalize(np.array(values))
    if vector.clip and bounded:
        np.testing.assert_array_equal(found, np.clip(unclipped, -1, 1))
    else:
        np.testing.assert_array_equal(found, unclipped)


def test_each_mode_by_hand() -> None:
    statistics = {"q01": [-2.0], "q99": [6.0], "min": [-4.0], "max": [8.0], "mean": [1.0], "std": [2.0]}
    for mode, expected in (("q99", 0.5), ("min_max", 1 / 3), ("mean_std", 1.5), ("identity", 4.0)):
        vector = VectorContract.from_statistics(["x"], statistics, mode=mode)
        assert vector.normalize(np.array([4.0])).item() == pytest.approx(expected, rel=1e-6)
    clipped = VectorContract.from_statistics(["x"], statistics)
    assert clipped.normalize(np.array([100.0])).item() == 1
    assert clipped.unnormalize(np.array([-3.0])).item() == -2
    open_ended = VectorContract.from_statistics(["x"], statistics, clip=False)
    assert open_ended.normalize(np.array([10.0])).item() == 2
    assert open_ended.unnormalize(np.array([2.0])).item() == 10


def test_a_dimension_that_never_moves_comes_back_as_it_was() -> None:
    vector = VectorContract.from_statistics(["x"], {"q01": [0.3], "q99": [0.3]})
    assert vector.normalize(np.array([0.3])).item() == 0
    assert vector.unnormalize(np.array([0.7])).item() == pytest.approx(0.3)


def test_a_binary_gripper_has_exactly_two_raw_values() -> None:
    levels = {0: BinaryLevels(threshold=0.04, low=0.0, high=0.08)}
    vector = VectorContract.from_statistics(["gripper"], {}, binary=levels)
    assert vector.normalization == ("binary",)
    raw = np.array([[0.0], [0.04], [0.0401], [0.08], [0.5]])
    assert vector.normalize(raw).ravel().tolist() == [0, 0, 1, 1, 1]
    back = vector.unnormalize(np.array([[-7.0], [0.49], [0.5], [1.0], [20.0]]))
    np.testing.assert_array_equal(back.ravel(), np.float32([0, 0, 0.08, 0.08, 0.08]))
    for low, threshold, high in ((0, 1, 1), (1, 0.5, 0), (0, -1, 1)):
        with pytest.raises(ValueError, match="binary: expected low <= threshold < high"):
            BinaryLevels(threshold=threshold, low=low, high=high)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"units": ["m"]}, "units: expected 3 entries, one per dimension, found 1"),
        ({"normalization": ["q99"] * 2}, "normalization: expected 3 entries"),
        ({"normalization": ["q99", "log", "binary"]}, r"normalization\[1\]: expected one of .*found 'log'"),
        (
            {"statistics": {"q01": [0, 0, 0]}},
            r"statistics: mode 'mean_std' of dimension 0 \(dx\) needs \['mean', 'std'",
        ),
        ({"binary": {}}, r"binary: expected levels for dimensions \[2\], found \[\]"),
        ({"names": ["dx", "dy"]}, "units: expected 2 entries"),
        ({"mean": [0]}, r"unknown key\(s\) \['mean'\]"),
    ],
)
def test_vectors_that_do_not_fit_are_named(
    processor: Any, make_contract: Callable, change: dict, message: str
) -> None:
    contract = make_contract()
    contract["action"].update(change)
    parts = (processor.image_processor, processor.tokenizer, processor.video_processor)
    with pytest.raises(ValueError, match=message):
        ST4VLAProcessor(*parts, action_contracts={"toy": contract})


@pytest.mark.parametrize("where", ["q01", "q99", "mean"])
def test_statistics_that_do_not_fit_are_named(make_contract: Callable, where: str) -> None:
    for values, message in (([0.0] * 4, "expected 3 entries"), ([0.0, float("nan"), 0.0], "expected finite numbers")):
        contract = make_contract()
        contract["action"]["statistics"][where] = values
        with pytest.raises(ValueError, match=rf"statistics\.{where}: {message}"):
            ActionContract.from_dict(contract)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"representation": "relative"}, "representation: expected one of .*found 'relative'"),
        ({"gripper_polarity": "open"}, "gripper_polarity: expected one of"),
        ({"gripper_dims": (3,)}, r"gripper_dims: expected indices below 3, found \[3\]"),
        ({"chunk_size": 0}, "chunk_size: expected at least 1"),
        ({"control_hz": 0.0}, "control_hz: expected a positive rate"),
    ],
)
def test_contracts_that_do_not_fit_are_named(make_contract: Callable, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_contract(**change)


@pytest.fixture
def acting(processor: Any, make_contract: Callable) -> Any:
    processor.action_contracts = {"toy": make_contract()}
    return processor


def test_state_and_actions_are_normalised_into_the_inputs(acting: Any, draw_view: Callable) -> None:
    state, actions = np.array([[0.5, 2.0, 1.0, 3.0]]), np.tile([0.75, 4.0, 0.08], (1, 5, 1))
    inputs = acting(images=draw_view(0), text="go", state=state, actions=actions)
    assert inputs["state"].tolist() == [[0.5, 1.0, -0.5, 0.0]]
    assert inputs["actions"].dtype == torch.float32
    assert inputs["actions"][0, 0].tolist() == [1.0, 0.5, 1.0]
    back = acting.post_process_actions(inputs["actions"])
    assert isinstance(back, np.ndarray)
    np.testing.assert_allclose(back, actions, rtol=1e-6)


@pytest.mark.parametrize(
    ("field", "values", "message"),
    [
        (
            "state",
            [[0.0, float("nan"), 0.0, 3.0]],
            r"state: expected finite numbers, found NaN .*in \['b'\]",
        ),
        ("state", [[0.0, 0.0, float("inf"), 3.0]], r"in \['c'\]"),
        ("state", [[0.0] * 3], r"state: expected 4 dimensions \['a', 'b', 'c', 'd'\].*found shape \(3,\)"),
        ("state", [[0.0] * 4] * 2, r"state: expected one entry per sample \(1\), found 2"),
        ("actions", np.zeros((1, 5, 4)), r"action: expected 3 dimensions \['dx', 'dy', 'gripper'\].*\(5, 4\)"),
        ("actions", np.full((1, 5, 3), np.nan), "action: expected finite numbers"),
    ],
)
def test_values_that_do_not_fit_the_contract_are_named(
    acting: Any, draw_view: Callable, field: str, values: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        acting(images=draw_view(0), text="go", **{field: values})


def test_outputs_that_do_not_fit_the_contract_are_named(acting: Any) -> None:
    with pytest.raises(ValueError, match=r"actions: expected 3 dimensions .*found shape \(1, 5, 4\)"):
        acting.post_process_actions(torch.zeros(1, 5, 4))
    with pytest.raises(ValueError, match=r"actions: expected finite numbers, found NaN or infinity in \['dx'"):
        acting.post_process_actions(torch.full((1, 5, 3), float("nan")))


def test_which_contract_holds_must_be_clear(processor: Any, make_contract: Callable, draw_view: Callable) -> None:
    with pytest.raises(ValueError, match="action_contracts: this processor has none"):
        processor.post_process_actions(torch.zeros(1, 5, 3))
    other = make_contract(state=None)
    other["action"]["statistics"]["mean"] = [100.0, 0.0, 0.0]
    processor.action_contracts = {"toy": make_contract(), "other": other}
    with pytest.raises(ValueError, match=r"several contracts, choose one of \['other', 'toy'\]"):
        processor.post_process_actions(torch.zeros(1, 5, 3))
    with pytest.raises(ValueError, match=r"expected one of \['other', 'toy'\], found 'third'"):
        processor.contract("third")
    assert processor.post_process_actions(torch.zeros(3), "toy")[0] == 0.5
    assert processor.post_process_actions(torch.zeros(3), "other")[0] == 100
    with pytest.raises(ValueError, match="state: the action contract of other declares none"):
        processor(images=draw_view(0), text="go", state=[[0.0] * 4], dataset_key="other")
    both = processor(
        images=[[draw_view(0)], [draw_view(1)]],
        text=["go", "go"],
        actions=np.full((2, 5, 3), 0.5),
        dataset_key=["toy", "other"],
    )
    assert both["actions"][:, 0, 0].tolist() == [0.0, -398.0]


def test_saved_and_loaded_it_is_the_same_processor(
    processor: Any, make_contract: Callable, draw_view: Callable, tmp_path: Path
) -> None:
    processor.action_contracts = {"toy": make_contract(cameras=("front",)), "bare": make_contract(state=None)}
    processor.spatial_prompt = 'Say "{instruction}"\nnow: é'
    processor.lowercase_instruction = True
    processor.grounding_dialect = "qwen3_vl"
    before = copy.deepcopy(processor.action_contracts)
    processor.save_pretrained(tmp_path)
    for cls in (ST4VLAProcessor, AutoProcessor):
        loaded = cls.from_pretrained(tmp_path)
        assert type(loaded) is ST4VLAProcessor
        assert loaded.action_contracts == before == processor.action_contracts
        for name in ("spatial_prompt", "lowercase_instruction", "grounding_dialect", "chat_template"):
            assert getattr(loaded, name) == getattr(processor, name)
        assert list(loaded.image_size) == [112, 112]
        inputs, expected = (
            one(images=draw_view(0), text="GO left", state=[[0, 0, 0, 3]], dataset_key="toy")
            for one in (loaded, processor)
        )
        assert all(torch.equal(inputs[name], expected[name]) for name in expected)
