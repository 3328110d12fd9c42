"""Closed-loop runs on an environment that fits on a page: one result per seed, films, reports, comparisons."""

import base64
import json
import re
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from training_st4vla.errors import UserError
from training_st4vla.evaluation.closed_loop import EpisodeResult, run_episodes
from training_st4vla.evaluation.film_shelf import FilmShelf
from training_st4vla.evaluation.policies import named_images
from training_st4vla.evaluation.policy_scores import (
    compare_results,
    comparison_table,
    results_from_json,
    results_to_json,
    success_table,
    write_policy_report,
)
from training_st4vla.evaluation.rollout_video import Film

LIMIT = 6


class CountingEnv(gym.Env):
    """Succeeds when the action has been `seed % 4 + 1` in that many steps; `seed % 4 == 3` never succeeds."""

    metadata = {"render_modes": [], "render_fps": 5}  # noqa: RUF012  # as Gymnasium wants it
    observation_space = gym.spaces.Dict(
        {
            "pixels": gym.spaces.Dict({"front": gym.spaces.Box(0, 255, (32, 32, 3), np.uint8)}),
            "agent_pos": gym.spaces.Box(-np.inf, np.inf, (1,), np.float32),
        }
    )
    action_space = gym.spaces.Box(-10, 10, (1,), np.float32)
    _max_episode_steps = LIMIT

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[dict, dict]:
        self.seed_ = 0 if seed is None else seed
        self.steps = 0
        self.task_description = f"count to {self.seed_ % 4 + 1}"
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[dict, float, bool, bool, dict]:
        self.steps += 1
        success = self.seed_ % 4 != 3 and self.steps == self.seed_ % 4 + 1 and action[0] > 0
        return (
            self._observe(),
            float(success),
            success,
            self.steps >= LIMIT,
            {
                "is_success": success,
                "found_target": action[0] > 0,
            },
        )

    def _observe(self) -> dict:
        picture = np.full((32, 32, 3), 20 * self.steps, np.uint8)
        return {"pixels": {"front": picture}, "agent_pos": np.array([self.steps], np.float32)}


class Scripted:
    """Presses forward, or does not."""

    def __init__(self, command: float) -> None:
        self.name, self.command = f"scripted {command:g}", command
        self.resets: list[list[int]] = []
        self.asked: list[tuple[int, ...]] = []

    def reset(self, envs: Any, seeds: list[int]) -> None:
        self.resets.append(list(seeds))

    def act(self, observation: dict, instructions: list[str]) -> np.ndarray:
        return np.full((len(instructions), 1), self.command, np.float32)

    def ground(self, observation: dict, instructions: list[str], rows: list[int]) -> list:
        from processing_st4vla import GroundingResult, Point

        self.asked.append(observation["pixels"]["front"].shape)
        return [GroundingResult(points=(Point(xy=(5.0, 6.0), label="it"),), image_size=(32, 32)) for _ in rows]


@pytest.fixture
def envs() -> Any:
    """Three of them in step."""
    made = gym.vector.SyncVectorEnv([CountingEnv] * 3, autoreset_mode=gym.vector.AutoresetMode.SAME_STEP)
    yield made
    made.close()


def test_every_seed_has_one_result_and_the_right_one(envs: Any) -> None:
    policy = Scripted(1.0)
    rollouts = list(run_episodes(policy, envs, range(8), suite="s", task="t", film=True))
    assert [rollout.result.seed for rollout in rollouts] == list(range(8))
    assert [rollout.result.success for rollout in rollouts] == [True, True, True, False] * 2
    assert [rollout.result.steps for rollout in rollouts] == [1, 2, 3, LIMIT] * 2
    assert [rollout.result.instruction for rollout in rollouts] == [f"count to {s % 4 + 1}" for s in range(8)]
    assert [rollout.result.found_target for rollout in rollouts] == [True] * 8
    assert policy.resets == [[0, 1, 2], [3, 4, 5], [6, 7, 7]]
    assert [len(rollout.film.frames) for rollout in rollouts if rollout.film] == [1, 2, 3, LIMIT] * 2


def test_the_films_of_failures_are_kept_wherever_they_happen(envs: Any) -> None:
    """Every fourth episode fails: none is among the first three of its task."""
    shelf = FilmShelf(failures=4, successes=3)
    for task in ("a", "b"):
        for rollout in run_episodes(Scripted(1.0), envs, range(16), suite="s", task=task, film=True):
            shelf.add(rollout)
    kept = [(one.result.success, one.result.task, one.result.seed) for one in shelf.rollouts]
    failures = [(task, seed) for success, task, seed in kept if not success]
    assert failures == [("a", 3), ("a", 7), ("b", 3), ("b", 7)], "spread over the tasks"
    successes = [task for success, task, _ in kept if success]
    assert sorted(successes) in (["a", "a", "b"], ["a", "b", "b"])
    nothing = FilmShelf(failures=0, successes=0)
    nothing.add(next(iter(run_episodes(Scripted(1.0), envs, [3], suite="s", task="t", film=True))))
    assert nothing.rollouts == []


def test_only_the_films_that_are_kept_are_asked_about(envs: Any) -> None:
    policy, shelf = Scripted(1.0), FilmShelf(failures=1, successes=0)
    for rollout in run_episodes(policy, envs, range(8), suite="s", task="t", film=True, ground_every=2):
        shelf.add(rollout)
    assert policy.asked == []
    shelf.ask(policy.ground)
    assert policy.asked == [(3, 32, 32, 3)], "one batch: the pictures 0, 2 and 4"
    (kept,) = shelf.rollouts
    assert kept.film is not None
    assert [number for number, answer in enumerate(kept.film.groundings) if answer] == [0, 2, 4]
    held, plain = np.array(kept.film.picture(-1)), np.array(Film("", 5, kept.film.frames).picture(-1))
    assert (held[:200] != plain[:200]).any(), "the last picture keeps the last answer"
    shelf.ask(lambda *_: None)  # a policy that cannot; and nothing is asked twice
    assert kept.film.groundings[4] is not None


def test_films_and_report_can_be_looked_at(envs: Any, tmp_path: Path) -> None:
    import av

    shelf, results = FilmShelf(failures=2, successes=2), []
    for rollout in run_episodes(Scripted(1.0), envs, [2, 3], suite="s", task="t", film=True):
        shelf.add(rollout)
        results.append(rollout.result)
    shelf.ask(Scripted(1.0).ground)
    paths = shelf.save(tmp_path / "films")
    assert [path.name for path in paths] == ["s-t-3-failure.mp4", "s-t-2-success.mp4"]
    with av.open(str(paths[1])) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 3 + 5  # what happened, and a second of its end
    ground = frames[-1][-4, -4].astype(int)
    assert ground[1] > ground[0] + 40, "a success ends on green"
    report = write_policy_report(tmp_path / "report.html", "me", "there", results, filmed=shelf.rollouts)
    text = report.read_text()
    assert text.index("Failures</h2>") < text.index("Successes</h2>")
    embedded = [base64.b64decode(data) for data in re.findall(r'src="data:video/mp4;base64,([^"]+)"', text)]
    assert embedded == [path.read_bytes() for path in paths], "the films play in the report"
    assert "http://" not in text.replace("http://www.w3.org", "")


def test_two_policies_are_compared_on_the_same_seeds(envs: Any) -> None:
    good, bad = (
        [rollout.result for rollout in run_episodes(Scripted(c), envs, range(12), suite="s", task="t")]
        for c in (1, -1)
    )
    comparison = compare_results(bad, good)
    assert (comparison.first_better, comparison.second_better, comparison.ties) == (0, 9, 3)
    assert comparison.difference.estimate == pytest.approx(0.75)
    assert comparison.p_value == pytest.approx(2 * 0.5**9)
    assert "p = 0.0039" in comparison_table(("bad", "good"), comparison).to_text()
    with pytest.raises(UserError, match="--compare: expected results on the same episodes, found 1 that only one has"):
        compare_results(bad[1:], good)


def test_results_survive_json(envs: Any) -> None:
    results = [rollout.result for rollout in run_episodes(Scripted(1), envs, range(4), suite="s", task="t")]
    value = json.loads(json.dumps(results_to_json("me", results, flags={"seed": 7})))
    assert value["flags"] == {"seed": 7}
    assert results_from_json(value) == results
    assert value["summary"][0]["success"]["estimate"] == 0.75


def test_the_table_has_wilson_intervals_and_a_row_for_all() -> None:
    results = [
        EpisodeResult("s", task, seed, "do", seed < won, 5) for task, won in (("a", 7), ("b", 3)) for seed in range(10)
    ]
    text = success_table(results).to_text()
    # Wilson, 7 of 10: [0.397, 0.892]; 10 of 20: [0.299, 0.701]
    assert "[0.397, 0.892]" in text
    assert "[0.299, 0.701]" in text


def test_cameras_are_found_by_name_in_contract_order() -> None:
    pixels = {"front": np.zeros((1, 2, 2, 3)), "wrist": np.ones((1, 2, 2, 3))}
    wrist, front = named_images({"pixels": pixels}, ("observation.images.wrist", "observation.images.front"))
    assert (wrist.max(), front.max()) == (1, 0)
    with pytest.raises(UserError, match=r"cameras: the model was trained with .*top.*the environment has"):
        named_images({"pixels": pixels}, ("observation.images.top", "observation.images.front"))
    with pytest.raises(UserError, match="gives no images"):
        named_images({}, ("front",))
