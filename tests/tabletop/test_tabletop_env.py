"""The Gymnasium environment and its controller."""

import copy
import os
import subprocess
import sys
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch

from lerobot_env_tabletop import (
    ACTION_CONTRACT,
    CAMERAS,
    STATE_CONTRACT,
    TASKS,
    RenderingError,
    make_env,
    rendering,
    tool_point,
)
from lerobot_env_tabletop.policies import misread, random_policy, run_episode
from lerobot_env_tabletop.splits import SPLITS


def test_observations_fit_the_space_and_what_lerobot_reads():
    env = make_env("pick_place", seed=1000, image_size=64)
    observation, info = env.reset()
    assert env.observation_space.contains(observation)
    assert env._max_episode_steps == TASKS["pick_place"].max_steps
    assert env.task_description == info["instruction"] != ""
    assert info["is_success"] is info["found_target"] is False
    assert (info["task"], info["split"], info["seed"]) == ("pick_place", "in_distribution", 1000)
    assert env.render().shape == (64, 128, 3)
    assert env.metadata["render_fps"] == ACTION_CONTRACT["control_hz"] == 10
    for contract, size in ((ACTION_CONTRACT, 7), (STATE_CONTRACT, 8)):
        assert len(contract["names"]) == len(contract["units"]) == contract["dimension"] == size
    for camera in CAMERAS:
        assert observation["pixels"][camera].std() > 10
        sim = env.simulation
        assert np.all(np.isfinite(tool_point(sim.model, sim.data, camera, 64)))
    env.close()


def test_seed_fixes_pixels_states_and_outcome():
    traces = []
    for _ in range(2):
        env = make_env("push", "interference", image_size=48)
        observation, _ = env.reset(seed=1007)
        expert, seen = env.expert(), []
        for _ in range(12):
            observation, *_ = env.step(expert.act())
            seen.append(observation["agent_pos"].tobytes() + observation["pixels"]["front"].tobytes())
        traces.append(seen)
        env.close()
    assert traces[0] == traces[1]


def test_actions_mean_what_the_contract_says():
    env = make_env("pick_place", pixels=False)
    start, _ = env.reset(seed=1001)
    for _ in range(3):
        state, *_ = env.step(np.array([0.0, 0.02, 0.01, 0, 0, 0.1, 1.0], np.float32))
    for _ in range(3):
        state, *_ = env.step(np.array([0, 0, 0, 0, 0, 0, 1.0], np.float32))
    moved = state["agent_pos"] - start["agent_pos"]
    np.testing.assert_allclose(moved[:3], [0, 0.06, 0.03], atol=0.003)
    np.testing.assert_allclose(moved[3:6], [0, 0, 0.3], atol=0.02)
    assert state["agent_pos"][6] > 0.04
    for _ in range(4):
        state, *_ = env.step(np.zeros(7, np.float32))
    assert state["agent_pos"][6] < 0.002


@pytest.mark.parametrize("action", [np.zeros(6), np.full(7, np.nan)])
def test_bad_actions_are_refused(action):
    env = make_env("stack", pixels=False)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="7 finite numbers"):
        env.step(action)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="image_size"):
        make_env(image_size=4)
    with pytest.raises(ValueError, match="has no task"):
        make_env("long_horizon", "in_distribution")
    with pytest.raises(RuntimeError, match="reset"):
        _ = make_env().simulation


def test_missing_graphics_name_the_package(monkeypatch):
    def broken(size):
        raise OSError("no such library")

    monkeypatch.setattr(rendering, "_backends", lambda: {"egl": broken, "osmesa": broken})
    with pytest.raises(RenderingError, match=r"(?s)egl.*osmesa.*libegl1.*libosmesa6"):
        rendering._make_gl_context(64)


def test_ground_truth_follows_the_episode():
    env = make_env("pick_place", "easy", image_size=96)
    env.reset(seed=1000)
    expert, seen, info = env.expert(), [], {"is_success": False}
    while not info["is_success"]:
        before = env.simulation.controller.state()
        labels = env.ground_truth("front", trace=True)
        np.testing.assert_array_equal(env.simulation.controller.state(), before)  # looking ahead moves nothing
        x1, y1, x2, y2 = labels.target_box
        assert x1 <= labels.target[0] <= x2
        assert y1 <= labels.target[1] <= y2
        sim = env.simulation
        np.testing.assert_allclose(labels.trace[0], tool_point(sim.model, sim.data, "front", 96), atol=1e-9)
        seen.append(labels)
        *_, info = env.step(expert.act())
    assert info["found_target"]
    x1, y1, x2, y2 = seen[0].destination_box
    for labels in seen[:-1]:  # every look ahead ends above the plate
        assert x1 - 6 <= labels.trace[-1][0] <= x2 + 6
        assert y1 - 24 <= labels.trace[-1][1] <= y2 + 6
    assert env.ground_truth("wrist").goal is None
    env.close()


def test_found_target_is_about_the_first_object_approached():
    env = make_env("pick_place", "easy", pixels=False)
    for seed in range(1000, 1004):
        env.reset(seed=seed)
        others = [
            i.name for i in env.episode.scene.items if i.kind == "object" and i.name != env.episode.goals[0].target
        ]
        wrong = (replace(env.episode.goals[0], target=others[0]),)
        assert not run_episode(env, env.expert(wrong).act)
        assert env.simulation.approached == others[0]
        assert not env.simulation.found_target


def _make():
    return make_env("pick_place", image_size=32)


@pytest.mark.parametrize("use_async_envs", [False, True])
def test_vector_environments_of_the_plugin(use_async_envs):
    from lerobot.envs.configs import EnvConfig

    config = EnvConfig.get_choice_class("tabletop")(task="pick_place", image_size=32)
    envs = config.create_envs(2, use_async_envs)["in_distribution"][0]
    try:
        observation, info = envs.reset(seed=[1000, 1001])
        assert observation["pixels"]["wrist"].shape == (2, 32, 32, 3)
        assert info["instruction"][0] != info["instruction"][1]
        assert list(envs.call("task_description")) == list(info["instruction"])
        alone = make_env("pick_place", image_size=32)
        expected, _ = alone.reset(seed=1001)
        np.testing.assert_array_equal(observation["agent_pos"][1], expected["agent_pos"])
        np.testing.assert_array_equal(observation["pixels"]["front"][1], expected["pixels"]["front"])
        assert envs.call("ground_truth", "front")[1].target_box == alone.ground_truth("front").target_box
        *_, info = envs.step(np.zeros((2, 7), np.float32))
        assert not info["is_success"].any()
    finally:
        envs.close()


def test_a_machine_without_graphics_still_simulates_and_says_what_to_install():
    code = (
        "import ctypes; real = ctypes.CDLL\n"
        "def absent(name, *more, **options):\n"
        "    if 'EGL' in str(name) or 'OSMesa' in str(name): raise OSError(name)\n"
        "    return real(name, *more, **options)\n"
        "ctypes.CDLL = absent\n"
        "from lerobot_env_tabletop import make_env\n"
        "print(make_env(pixels=False).reset(seed=0)[1]['instruction'])\n"
        "make_env(image_size=32).reset(seed=0)\n"
    )
    environment = {**os.environ, "MUJOCO_GL": "egl"}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False, env=environment
    )
    assert run.stdout.strip(), run.stderr
    assert "RenderingError" in run.stderr
    assert "apt-get install -y libegl1" in run.stderr


class _Replay(torch.nn.Module):
    """The expert's actions for known seeds, as LeRobot sees a policy."""

    def __init__(self, task, seeds):
        super().__init__()
        env, self.actions = make_env(task, pixels=False), []
        for seed in seeds:
            env.reset(seed=seed)
            expert, actions, done = env.expert(), [], False
            while not done:
                actions.append(expert.act())
                _, _, done, _, _ = env.step(actions[-1])
            self.actions.append(actions)

    def reset(self):
        self.step = 0

    def select_action(self, observation):
        assert observation["observation.images.front"].shape[1:] == (3, 32, 32)
        assert observation["observation.state"].shape[1:] == (8,)
        self.step += 1
        return torch.tensor(np.stack([actions[min(self.step, len(actions)) - 1] for actions in self.actions]))


@pytest.mark.parametrize("use_async_envs", [False, True])
def test_lerobots_rollout_sees_the_expert_succeed(use_async_envs):
    from lerobot.envs.configs import EnvConfig
    from lerobot.scripts.lerobot_eval import rollout

    seeds, keep = [1000, 1001], copy.copy
    config = EnvConfig.get_choice_class("tabletop")(task="push", image_size=32)
    envs = config.create_envs(2, use_async_envs)["in_distribution"][0]
    try:
        result = rollout(envs, _Replay("push", seeds), keep, keep, keep, keep, seeds=seeds)
    finally:
        envs.close()
    assert result["success"].any(dim=1).tolist() == [True, True]
    assert result["reward"].sum(dim=1).tolist() == [1, 1]


def test_environments_may_be_spawned():
    envs = gym.vector.AsyncVectorEnv([_make], context="spawn")
    try:
        assert envs.reset(seed=[1000])[0]["agent_pos"].shape == (1, 8)
    finally:
        envs.close()


@pytest.mark.parametrize(("split", "task"), [(s, t) for s in SPLITS for t in SPLITS[s].tasks if s != "train"])
def test_expert_solves(split, task):
    env = make_env(task, split, pixels=False)
    results = []
    for seed in range(1000, 1003):
        env.reset(seed=seed)
        results.append(run_episode(env, env.expert().act))
    assert sum(results) >= 2


def test_expert_needs_the_right_instruction_and_random_does_not_do():
    env = make_env("pick_place", pixels=False)
    other, rng, misled, chance = make_env("pick_place", pixels=False), np.random.default_rng(0), 0, 0
    for seed in range(1000, 1020):
        other.reset(seed=seed + 500)
        env.reset(seed=seed)
        misled += run_episode(env, env.expert(misread(env.episode, other.episode.orders, rng)).act)
    for seed in range(1000, 1003):
        env.reset(seed=seed)
        chance += run_episode(env, random_policy(env, rng))
    assert misled <= 7  # chance is 0.11: more than 7 of 20 has probability < 1e-3
    assert chance == 0
