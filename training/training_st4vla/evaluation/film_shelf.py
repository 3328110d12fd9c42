"""Which films of an evaluation are kept: the failures, and a few successes."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from training_st4vla.evaluation.closed_loop import Rollout


class FilmShelf:
    """
    Keeps a bounded number of filmed episodes, spread evenly over the tasks; the others are let go.

    Args:
        failures (`int`), successes (`int`): at most so many films of each outcome, over the whole evaluation.
    """

    def __init__(self, failures: int, successes: int) -> None:
        self._most = {False: failures, True: successes}
        self._kept: list[Rollout] = []

    def add(self, rollout: Rollout) -> None:
        """Takes an episode with its film; where there are too many, the task with most films loses its latest."""
        if rollout.film is None:
            return
        self._kept.append(rollout)
        alike = [one for one in self._kept if one.result.success is rollout.result.success]
        if len(alike) > self._most[rollout.result.success]:
            films = Counter((one.result.suite, one.result.task) for one in alike)
            fullest = max(films.values())
            last = [one for one in alike if films[one.result.suite, one.result.task] == fullest][-1]
            self._kept = [one for one in self._kept if one is not last]

    def ask(self, ground: Callable[..., list[Any] | None]) -> None:
        """Asks the policy where it looked, in the films that were kept. See [`Film.ask`]."""
        for rollout in self._kept:
            if rollout.film is not None:
                rollout.film.ask(ground)

    @property
    def rollouts(self) -> list[Rollout]:
        """Failures first."""
        return sorted(self._kept, key=lambda rollout: rollout.result.success)

    def save(self, folder: Path) -> list[Path]:
        """Writes one MP4 per film, named by suite, task, seed and outcome."""
        paths = []
        for result, film in ((rollout.result, rollout.film) for rollout in self.rollouts):
            if film is not None:
                outcome = "success" if result.success else "failure"
                path = folder / f"{result.suite}-{result.task}-{result.seed}-{outcome}.mp4"
                film.write(path)
                paths.append(path)
        return paths


__all__ = ["FilmShelf"]
