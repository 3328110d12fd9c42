"""`st4vla evaluate-policy`: which tasks and splits it runs, what it refuses, and what its JSON says."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training_st4vla.commands.evaluate_policy import (
    EvaluatePolicyArguments,
    environment_configs,
    evaluate_policy,
)
from training_st4vla.errors import UserError

pytest.importorskip("lerobot_env_tabletop", reason="the tabletop environment is not installed (extra `sim`)")


class Still:
    """Keeps the arm where it is."""

    name = "still"

    def reset(self, envs: Any, seeds: list[int]) -> None: ...

    def act(self, observation: dict, instructions: list[str]) -> np.ndarray:
        return np.zeros((len(instructions), 7), np.float32)

    def ground(self, observation: dict, instructions: list[str], rows: list[int]) -> None: ...


def test_without_tasks_a_split_brings_its_own() -> None:
    splits = ["long_horizon", "easy", "in_distribution"]
    configs = environment_configs(EvaluatePolicyArguments(model="m", split=splits))
    assert [config.split for config in configs] == splits
    assert [config.tasks() for config in configs[:2]] == [["long_horizon"], ["pick_place"]]
    assert {"pick_place", "push", "stack"} <= set(configs[2].tasks())
    (chosen,) = environment_configs(EvaluatePolicyArguments(model="m", tasks=["push", "stack"]))
    assert (chosen.split, chosen.tasks()) == ("in_distribution", ["push", "stack"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"split": ["easy", "nowhere"]}, "--env tabletop: There is no split 'nowhere'"),
        ({"split": ["easy"], "tasks": ["push"]}, "--env tabletop: Split 'easy' has no task push; it has: pick_place"),
        ({"env_options": ["colour=red"]}, "--env tabletop: has no colour; it has "),
        ({"env": "pusht", "split": ["easy"]}, "--env pusht: has no split"),
        ({"env": "moon"}, "--env: expected one of .* found 'moon'"),
    ],
)
def test_what_does_not_exist_is_named(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        environment_configs(EvaluatePolicyArguments(model="m", **flags))


def test_two_splits_in_one_call_and_a_json_that_says_how(tmp_path: Path) -> None:
    args = EvaluatePolicyArguments(
        model="the-model",
        split=["easy", "distractors"],
        tasks=["pick_place"],
        env_options=["image_size=64", "episode_length=5"],
        episodes=2,
        batch_size=2,
        failure_films=3,
        json=str(tmp_path / "scores.json"),
        report=str(tmp_path / "report.html"),
    )
    results = evaluate_policy(args, Still())
    assert [(result.suite, result.seed) for result in results] == [
        ("easy", 1000),
        ("easy", 1001),
        ("distractors", 1000),
        ("distractors", 1001),
    ]
    value = json.loads((tmp_path / "scores.json").read_text())
    assert value["model"] == "the-model"
    assert (value["flags"]["split"], value["flags"]["episodes"]) == (["easy", "distractors"], 2)
    assert {"machine", "versions", "command", "date", "threads"} <= set(value["run"])
    assert [row["suite"] for row in value["summary"]] == ["easy", "distractors"]
    assert (tmp_path / "report.html").read_text().count("<video") == 3
