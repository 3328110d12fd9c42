"""Open-loop errors and baselines by hand."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training_st4vla.evaluation.open_loop import ActionArrays, evaluate_open_loop, previous_actions

NAN = float("nan")


def by_hand() -> dict:
    """Two episodes; three frames, chunks of two steps, two dimensions; one padded step; one frame without previous."""
    recorded = np.array([[[0, 1], [2, 1]], [[2, 1], [4, 3]], [[1, 0], [NAN, NAN]]], dtype=float)
    predicted = np.array([[[1, 1], [2, 3]], [[2, 1], [3, 3]], [[1, 4], [50, 50]]], dtype=float)
    previous = np.array([[NAN, NAN], [0, 1], [3, 0]], dtype=float)
    environment = ActionArrays(predicted, recorded, previous, np.array([1.0, 1.0]))
    scale = np.array([2.0, 4.0])
    normalized = ActionArrays(predicted / scale, recorded / scale, previous / scale, np.array([1.0, 1.0]) / scale)
    return {
        "environment": environment,
        "normalized": normalized,
        "episodes": ["a", "a", "b"],
        "action_is_pad": [[False, False], [False, False], [False, True]],
        "names": ["x", "gripper"],
        "units": ["m", "level"],
        "num_resamples": 200,
    }


def test_errors_by_hand() -> None:
    found = evaluate_open_loop(**by_hand())
    assert (found.num_frames, found.num_steps, found.num_episodes, found.num_without_previous) == (3, 5, 2, 1)
    # Model errors at the five valid steps: x = 1, 0, 0, -1, 0 and gripper = 0, 2, 0, 0, 4.
    model = found.environment.model
    assert [i.estimate for i in model.mae] == pytest.approx([2 / 5, 6 / 5], abs=1e-12)
    assert [i.estimate for i in model.rmse] == pytest.approx([math.sqrt(2 / 5), math.sqrt(20 / 5)], abs=1e-12)
    assert model.mean_mae.estimate == pytest.approx((2 / 5 + 6 / 5) / 2, abs=1e-12)
    assert model.mean_rmse.estimate == pytest.approx((math.sqrt(2 / 5) + 2) / 2, abs=1e-12)
    normalized = found.normalized.model
    assert [i.estimate for i in normalized.mae] == pytest.approx([2 / 5 / 2, 6 / 5 / 4], abs=1e-12)
    np.testing.assert_allclose(model.mae_by_step, [(1 + 0 + 4) / 2 / 3, (2 + 1) / 2 / 2])


def test_baselines_by_hand() -> None:
    found = evaluate_open_loop(**by_hand()).environment
    # Repeat, frames 1 and 2 only: x = |0-2|, |0-4|, |3-1| and gripper = 0, |1-3|, 0.
    assert found.repeat is not None
    assert [i.estimate for i in found.repeat.mae] == pytest.approx([8 / 3, 2 / 3], abs=1e-12)
    # Mean action (1, 1), all frames: x = 1, 1, 1, 3, 0 and gripper = 0, 0, 0, 2, 1.
    assert [i.estimate for i in found.mean.mae] == pytest.approx([6 / 5, 3 / 5], abs=1e-12)
    # On the frames that both have: model x = 0, 1, 0, gripper = 0, 0, 4; mean x = 1, 3, 0, gripper = 0, 2, 1.
    model, repeat, mean = (1 + 4) / 6, (8 + 2) / 6, (4 + 3) / 6
    assert found.better_baseline == "mean"
    assert found.mae_ratio.estimate == pytest.approx(model / min(repeat, mean), abs=1e-12)
    assert [i.estimate for i in found.mae_ratio_by_dimension] == pytest.approx([(1 / 3) / (4 / 3), 4 / 2], abs=1e-12)
    rmse = [
        (math.sqrt(1 / 3) + math.sqrt(16 / 3)) / 2,
        (math.sqrt(24 / 3) + math.sqrt(4 / 3)) / 2,
        (math.sqrt(10 / 3) + math.sqrt(5 / 3)) / 2,
    ]
    assert found.rmse_ratio.estimate == pytest.approx(rmse[0] / min(rmse[1:]), abs=1e-12)


def test_episodes_by_hand() -> None:
    found = evaluate_open_loop(**by_hand())
    first, second = found.episodes
    assert (first.episode, first.num_frames, first.num_steps) == ("a", 2, 4)
    assert first.model == pytest.approx((2 / 4 / 2 + 2 / 4 / 4) / 2, abs=1e-12)
    assert first.repeat == pytest.approx((6 / 2 / 2 + 2 / 2 / 4) / 2, abs=1e-12)
    assert second.model == pytest.approx((0 + 4 / 4) / 2, abs=1e-12)
    assert second.mean == pytest.approx((0 + 1 / 4) / 2, abs=1e-12)
    assert [row.episode for row in found.worst_episodes(1)] == ["b"]


def test_a_perfect_model_and_a_model_that_repeats() -> None:
    rng = np.random.default_rng(0)
    recorded, previous = rng.normal(size=(12, 4, 3)), rng.normal(size=(12, 3))
    episodes = np.repeat(np.arange(4), 3)
    for predicted, ratio in ((recorded, 0.0), (np.repeat(previous[:, None], 4, axis=1), None)):
        arrays = ActionArrays(predicted, recorded, previous, np.zeros(3))
        found = evaluate_open_loop(environment=arrays, normalized=arrays, episodes=episodes, num_resamples=200)
        assert found.normalized.repeat is not None
        if ratio is None:
            assert found.normalized.model.mean_mae == found.normalized.repeat.mean_mae
            assert found.normalized.mae_ratio.estimate >= 1.0
        else:
            interval = found.normalized.mae_ratio
            assert (interval.estimate, interval.low, interval.high) == (0.0, 0.0, 0.0)


def test_no_frame_has_a_previous_action() -> None:
    arguments = by_hand()
    for key in ("environment", "normalized"):
        a = arguments[key]
        arguments[key] = ActionArrays(a.predicted, a.recorded, np.full((3, 2), NAN), a.mean)
    found = evaluate_open_loop(**arguments)
    assert found.environment.repeat is None
    assert found.environment.better_baseline == "mean"
    assert found.environment.mae_ratio.estimate == pytest.approx(8 / 9, abs=1e-12)
    assert found.num_without_previous == 3
    assert all(math.isnan(row.repeat) for row in found.episodes)
    assert "repeat" not in [row[0] for row in found.summary_table().rows]
    json.dumps(found.to_dict(), allow_nan=False)


def test_one_episode_has_estimates_without_bounds() -> None:
    found = evaluate_open_loop(**{**by_hand(), "episodes": [0, 0, 0]})
    assert found.normalized.model.mean_mae.estimate > 0
    assert not found.normalized.model.mean_mae.has_bounds
    assert not found.normalized.mae_ratio.has_bounds
    assert "One episode allows no interval" in found.summary_table().to_text()


def test_a_constant_dimension_does_not_break_the_ratio() -> None:
    recorded = np.zeros((6, 2, 2))
    recorded[..., 0] = np.random.default_rng(1).normal(size=(6, 2))
    arrays = ActionArrays(recorded + 0.1, recorded, np.zeros((6, 2)), np.zeros(2))
    found = evaluate_open_loop(environment=arrays, normalized=arrays, episodes=[0, 0, 1, 1, 2, 2], num_resamples=50)
    assert math.isinf(found.environment.mae_ratio_by_dimension[1].estimate)
    assert math.isfinite(found.environment.mae_ratio.estimate)
    json.dumps(found.to_dict(), allow_nan=False)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000))
def test_padding_and_order_do_not_matter(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, t, a = 6, 3, 2
    recorded, predicted, previous = rng.normal(size=(n, t, a)), rng.normal(size=(n, t, a)), rng.normal(size=(n, a))
    pad = rng.random((n, t)) < 0.4
    pad[:, 0] = False
    episodes = rng.integers(0, 3, size=n)

    def run(order: np.ndarray, junk: float) -> dict:
        filled = np.where(pad[..., None], junk, predicted)[order]
        arrays = ActionArrays(filled, recorded[order], previous[order], np.zeros(a))
        found = evaluate_open_loop(
            environment=arrays, normalized=arrays, episodes=episodes[order], action_is_pad=pad[order], num_resamples=20
        )
        return found.to_dict()["normalized"]["model"]

    first, second = run(np.arange(n), 0.0), run(rng.permutation(n), NAN)
    assert first["mean_mae"]["estimate"] == pytest.approx(second["mean_mae"]["estimate"], abs=1e-12)
    assert first["mae_by_step"] == pytest.approx(second["mae_by_step"], abs=1e-12)


def test_results_are_json_and_tables() -> None:
    found = evaluate_open_loop(**by_hand())
    loaded = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert loaded["normalized"]["better_baseline"] in ("repeat", "mean")
    assert loaded["mixed_units"] is True
    summary = found.summary_table().to_text()
    assert "model / better baseline" in summary
    assert "1 frames have no previous action" in summary
    assert "gripper" in found.dimension_table().to_text()
    assert found.episode_table(1).rows[0][0] == "b"


def test_previous_actions() -> None:
    found = previous_actions([[1], [2], [3], [4]], ["a", "a", "b", "b"])
    np.testing.assert_array_equal(found, [[NAN], [1], [NAN], [3]])
    with pytest.raises(ValueError, match="adjacent"):
        previous_actions([[1], [2], [3]], ["a", "b", "a"])
    with pytest.raises(ValueError, match="episodes"):
        previous_actions([[1], [2]], ["a"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"episodes": ["a"]}, "episodes"),
        ({"names": ["x"]}, "names"),
        ({"action_is_pad": [[True, True]] * 3}, "nothing to evaluate"),
        ({"action_is_pad": [[True]] * 3}, "action_is_pad"),
        (
            {"field": "predicted", "value": np.full((3, 2, 2), NAN)},
            "model: the action at frame 0, step 0, dimension 0",
        ),
        ({"field": "recorded", "value": np.zeros((3, 2, 3))}, "recorded"),
        ({"field": "previous", "value": np.array([[NAN, 1.0], [0, 0], [0, 0]])}, "all NaN"),
        ({"field": "previous", "value": np.zeros((3, 2))}, "one system of units but not in the other"),
        ({"field": "mean", "value": np.array([NAN, 1.0])}, "mean"),
        ({"field": "predicted", "value": np.zeros((3, 2))}, "predicted"),
    ],
)
def test_bad_input_is_named(change: dict, message: str) -> None:
    arguments = by_hand()
    if "field" in change:
        a = arguments["environment"]
        fields = {name: getattr(a, name) for name in ("predicted", "recorded", "previous", "mean")}
        arguments["environment"] = ActionArrays(**{**fields, change["field"]: change["value"]})
    else:
        arguments.update(change)
    with pytest.raises(ValueError, match=message):
        evaluate_open_loop(**arguments)
