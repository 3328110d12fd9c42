"""The evaluation path on the tabletop: the expert solves its tasks, a random policy does not."""

from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from training_st4vla.evaluation.closed_loop import run_episodes

pytest.importorskip("lerobot_env_tabletop", reason="the tabletop environment is not installed (extra `sim`)")


class ExpertPolicy:
    """The environment's own scripted expert, acting through the evaluation's interface."""

    name = "expert"

    def reset(self, envs: Any, seeds: list[int]) -> None:
        self.envs = envs
        # Same-step autoreset starts further episodes in finished environments: those get their own expert.
        self.episodes = [env.unwrapped.episode for env in envs.envs]
        self.experts = [env.unwrapped.expert() for env in envs.envs]

    def act(self, observation: dict, instructions: list[str]) -> np.ndarray:
        for row, env in enumerate(self.envs.envs):
            if env.unwrapped.episode is not self.episodes[row]:
                self.episodes[row], self.experts[row] = env.unwrapped.episode, env.unwrapped.expert()
        return np.stack([expert.act() for expert in self.experts])

    def ground(self, observation: dict, instructions: list[str], rows: list[int]) -> None:
        return None


class RandomPolicy:
    """Uniform actions within the limits."""

    name = "random"

    def reset(self, envs: Any, seeds: list[int]) -> None:
        self.rng = np.random.default_rng(seeds)

    def act(self, observation: dict, instructions: list[str]) -> np.ndarray:
        moves = self.rng.uniform(-0.05, 0.05, (len(instructions), 6))
        return np.concatenate([moves, self.rng.integers(0, 2, (len(instructions), 1))], axis=1).astype(np.float32)

    def ground(self, observation: dict, instructions: list[str], rows: list[int]) -> None:
        return None


def success_rate(policy: Any, task: str, split: str, seeds: range) -> float:
    """Share of solved episodes, without rendering."""
    from lerobot_env_tabletop import make_env

    make = partial(make_env, task=task, split=split, pixels=False)
    envs = gym.vector.SyncVectorEnv([make] * 4, autoreset_mode=gym.vector.AutoresetMode.SAME_STEP)
    try:
        rollouts = list(run_episodes(policy, envs, seeds, suite=split, task=task))
    finally:
        envs.close()
    assert len(rollouts) == len(seeds)
    return sum(rollout.result.success for rollout in rollouts) / len(rollouts)


@pytest.mark.slow
@pytest.mark.parametrize(("task", "split", "least"), [("pick_place", "easy", 0.97), ("stack", "in_distribution", 0.9)])
def test_the_expert_solves_what_is_evaluated(task: str, split: str, least: float) -> None:
    assert success_rate(ExpertPolicy(), task, split, range(1000, 1040)) >= least


@pytest.mark.slow
def test_random_actions_solve_nothing() -> None:
    assert success_rate(RandomPolicy(), "pick_place", "easy", range(1000, 1012)) == 0.0
