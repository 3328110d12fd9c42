"""Closed-loop evaluation: a policy in LeRobot environments, one result per seed, films of what happened."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from training_st4vla.errors import UserError
from training_st4vla.evaluation.policies import Policy
from training_st4vla.evaluation.rollout_video import Film

FIRST_SEED = 1000
"""Where `lerobot-eval` starts to seed its episodes, too."""


@dataclass(frozen=True, slots=True)
class EpisodeResult:
    """
    Args:
        suite (`str`): the environment's group of tasks; for the tabletop, the split.
        task (`str`): its name or number. seed (`int`): of the environment's reset.
        instruction (`str`): as given to the policy.
        success (`bool`), steps (`int`): control steps until the end.
        found_target (`bool`, *optional*): whether it went to the object that was named, where the environment says so:
            grounding and manipulation fail apart.
    """

    suite: str
    task: str
    seed: int
    instruction: str
    success: bool
    steps: int
    found_target: bool | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields."""
        return asdict(self)

    @property
    def key(self) -> tuple[str, str, int]:
        """What names the episode, whoever acts in it."""
        return self.suite, self.task, self.seed


@dataclass(frozen=True, slots=True)
class Rollout:
    """
    Args:
        result ([`EpisodeResult`]).
        film ([`Film`], *optional*): what the first camera saw.
    """

    result: EpisodeResult
    film: Film | None


def run_episodes(
    policy: Policy,
    envs: Any,
    seeds: Sequence[int],
    *,
    suite: str,
    task: str,
    film: bool = False,
    ground_every: int = 20,
    on_step: Callable[[], None] = lambda: None,
) -> Iterable[Rollout]:
    """
    Runs one episode per seed in a vector environment with same-step autoreset, a batch at a time.

    Args:
        envs (`gymnasium.vector.VectorEnv`): each of its environments takes every `num_envs`-th seed.
        film (`bool`): record every episode: which one fails is known at its end only. A film holds its pictures in
            memory until it is let go; see [`FilmShelf`].
        ground_every (`int`): control steps between two views kept for `Film.ask`; 0 keeps none.
        on_step (`Callable`): called after every control step of the batch.

    Raises:
        UserError: when the environment does not report `is_success`.
    """
    for start in range(0, len(seeds), envs.num_envs):
        chosen = list(seeds[start : start + envs.num_envs])
        # A last, smaller batch fills up with its own last seed; those episodes are not counted.
        padded = chosen + [chosen[-1]] * (envs.num_envs - len(chosen))
        observation, _ = envs.reset(seed=padded)
        instructions = _instructions(envs)
        policy.reset(envs, padded)
        reels = {row: Film(instructions[row], _fps(envs)) for row in range(len(chosen) if film else 0)}
        running, success = np.ones(len(padded), dtype=bool), np.zeros(len(padded), dtype=bool)
        found: list[bool | None] = [None] * len(padded)
        steps = np.zeros(len(padded), dtype=int)
        running[len(chosen) :] = False
        first_words = list(instructions)
        while running.any():
            _expose(reels, observation, running, steps, ground_every)
            observation, _, terminated, truncated, info = envs.step(policy.act(observation, instructions))
            steps[running] += 1
            ended = running & (terminated | truncated)
            if ended.any():
                success[ended] = _final_success(info, envs.num_envs)[ended]
                for row in np.flatnonzero(ended):
                    found[row] = _found_target(info, int(row))
                running &= ~ended
            on_step()
        for row, seed in enumerate(chosen):
            reel = reels.get(row)
            if reel is not None:
                reel.finish(bool(success[row]))
            outcome = bool(success[row]), int(steps[row]), found[row]
            result = EpisodeResult(suite, task, int(seed), first_words[row], *outcome)
            yield Rollout(result, reel)


def _expose(
    reels: dict[int, Film], observation: dict[str, Any], running: np.ndarray, steps: np.ndarray, ground_every: int
) -> None:
    rows = [row for row in reels if running[row]]
    if not rows:
        return
    pixels = observation["pixels"]
    cameras = pixels if isinstance(pixels, dict) else {"image": pixels}
    first = next(iter(cameras.values()))
    for row in rows:
        if ground_every and steps[row] % ground_every == 0:
            reels[row].views[int(steps[row])] = {name: np.array(images[row]) for name, images in cameras.items()}
        reels[row].add(first[row])


def _instructions(envs: Any) -> list[str]:
    for name in ("task_description", "task"):
        try:
            return [str(words) for words in envs.call(name)]
        except (AttributeError, NotImplementedError):
            continue
    raise UserError("instruction: the environment has neither `task_description` nor `task` to read it from.")


def _fps(envs: Any) -> float:
    return float(envs.metadata.get("render_fps") or 10)


def _final_success(info: dict[str, Any], count: int) -> np.ndarray:
    final = info.get("final_info")
    if not isinstance(final, dict) or "is_success" not in final:
        raise UserError("success: the environment's info holds no `is_success` at the end of an episode.")
    return np.asarray(final["is_success"], dtype=bool).reshape(count)


def _found_target(info: dict[str, Any], row: int) -> bool | None:
    found = info["final_info"].get("found_target")
    return None if found is None else bool(np.asarray(found).reshape(-1)[row])


__all__ = ["FIRST_SEED", "EpisodeResult", "Rollout", "run_episodes"]
