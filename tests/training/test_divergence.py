"""A run whose weights are no longer numbers stops before it writes them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.trainer_callback import TrainerCallback

from training_st4vla.divergence import DivergenceError


class Spoil(TrainerCallback):
    """Spoils one weight before the third step."""

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step == 2:
            with torch.no_grad():
                list(model.action_expert.parameters())[-1].view(-1)[0] = torch.nan


@pytest.mark.parametrize(
    ("logging_steps", "found"), [(1, "at step 3.*gradient norm of nan"), (100, "at step 4.*values in ")]
)
def test_a_spoilt_model_is_never_saved(
    tmp_path: Path, train: Callable[..., Any], logging_steps: int, found: str
) -> None:
    with pytest.raises(DivergenceError, match=found):
        train("run", callbacks=[Spoil()], save_strategy="steps", save_steps=2, logging_steps=logging_steps)
    assert sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*")) == ["checkpoint-2"]


def test_the_last_step_is_looked_at_without_checkpoints(train: Callable[..., Any]) -> None:
    with pytest.raises(DivergenceError, match="at step 4"):
        train("run", callbacks=[Spoil()], logging_steps=100)
