"""Chunk execution: the queue, the adaptive ensemble against its formula, and the gripper hold."""

import numpy as np
import pytest

from training_st4vla.evaluation.chunking import AdaptiveEnsemble, ChunkQueue, GripperHold


def test_the_queue_executes_the_first_steps_and_then_asks_again() -> None:
    queue = ChunkQueue(2)
    assert queue.is_empty
    queue.push(np.arange(2 * 5 * 1).reshape(2, 5, 1))
    assert queue.pop().tolist() == [[0], [5]]
    assert queue.pop().tolist() == [[1], [6]]
    assert queue.is_empty
    with pytest.raises(ValueError, match="n_action_steps: expected at most the model's chunk of 1 steps, found 2"):
        queue.push(np.zeros((2, 1, 1)))
    with pytest.raises(ValueError, match="n_action_steps: expected at least 1, found 0"):
        ChunkQueue(0)


def test_the_ensemble_weights_by_agreement_with_the_newest() -> None:
    rng = np.random.default_rng(0)
    chunks = rng.normal(size=(4, 3, 6, 2))  # call, batch, chunk, action
    ensemble = AdaptiveEnsemble(horizon=3, alpha=0.7)
    found = [ensemble.step(chunk) for chunk in chunks]
    for row in range(3):
        # At the fourth call the last three chunks speak about now with their third, second and first action.
        said = [chunks[1, row, 2], chunks[2, row, 1], chunks[3, row, 0]]
        newest = said[-1]
        weights = [np.exp(0.7 * one @ newest / (np.linalg.norm(one) * np.linalg.norm(newest))) for one in said]
        expected = sum(weight * one for weight, one in zip(weights, said, strict=True)) / sum(weights)
        assert found[3][row] == pytest.approx(expected, abs=1e-12)
    assert found[0] == pytest.approx(chunks[0][:, 0])


def test_chunks_that_ended_no_longer_speak() -> None:
    ensemble = AdaptiveEnsemble(horizon=5)
    ensemble.step(np.full((1, 1, 1), 100.0))
    assert ensemble.step(np.ones((1, 1, 1))) == pytest.approx(np.ones((1, 1)))


def test_the_gripper_keeps_a_new_command_for_a_while() -> None:
    hold = GripperHold(dims=(1,), steps=3)
    wanted = [1, 0, 1, 1, 1, 0, 0]
    got = [hold.step(np.array([[9.0, command]])) for command in wanted]
    assert [int(action[0, 1]) for action in got] == [1, 0, 0, 0, 1, 1, 1]
    assert all(action[0, 0] == 9.0 for action in got)
    unchanged = np.array([[1.0, 2.0]])
    assert GripperHold((1,), 0).step(unchanged) is unchanged
