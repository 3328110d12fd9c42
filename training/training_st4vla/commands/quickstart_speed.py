"""A stopwatch for training steps on this machine, so that `quickstart` keeps its promise of minutes."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from training_st4vla.commands.quickstart_plan import IMAGES, QUESTIONS_PER_IMAGE, ROLES

WARM_UP, TIMED = 2, 3
# Optimizer, clipping, logging and the trainer's own work, seen on two cores beside forward and backward; Muon, of
# stage 1, multiplies matrices once more.
OVERHEAD_1, OVERHEAD_2 = 1.6, 1.25


def measure_speed(model_path: Path, demos: Path, device: str, batch_size: int) -> tuple[float, float]:
    """
    Seconds per optimiser step of stage 1 and of stage 2, loading of data included.

    Args:
        model_path (`Path`), demos (`Path`): the model that will be trained and its demonstrations.
        device (`str`), batch_size (`int`): of the training.
    """
    import torch

    from training_st4vla.data.action_dataset import LeRobotActionDataset
    from training_st4vla.data.co_training import CoTrainingDataset
    from training_st4vla.data.collators import CoTrainingCollator, GroundingCollator
    from training_st4vla.data.contracts import build_contract, shipped_declaration
    from training_st4vla.data.grounding import QuestionsPerImage, open_grounding_dataset
    from training_st4vla.loading import load_model, training_attention
    from training_st4vla.precision import multiplies_bfloat16

    half = multiplies_bfloat16(device)  # as the runs will be
    attention = training_attention("auto", device, half)
    model, processor = load_model(str(model_path), "float32", device, attention)
    model.train()
    actions = LeRobotActionDataset(
        demos, chunk_size=model.config.chunk_size, state_keys=["observation.state"], max_frames=8 * batch_size
    )
    contract = build_contract(actions, shipped_declaration(actions))
    processor.action_contracts[actions.dataset_key] = contract.to_dict()
    grounding = open_grounding_dataset(demos, max_rows=40 * IMAGES)
    asked = grounding.of(("point", "box"), ROLES)
    grouped = QuestionsPerImage(asked, QUESTIONS_PER_IMAGE)
    both = CoTrainingDataset(actions, grounding, 0.25)
    collate_grounding, collate_both = GroundingCollator(processor), CoTrainingCollator(processor)

    def step(batch: dict[str, Any]) -> None:
        with torch.autocast(device, dtype=torch.bfloat16, enabled=half):
            loss = model(**to(batch, device)).loss
        loss.backward()
        model.zero_grad(set_to_none=True)

    def samples(dataset: Any, number: int, size: int) -> list[Any]:
        return [dataset[(number * size + row) % len(dataset)] for row in range(size)]

    first = timed(lambda n: step(collate_grounding(samples(grouped, n, IMAGES))))
    second = timed(lambda n: step(collate_both(samples(both, n, batch_size))))
    return first * OVERHEAD_1, second * OVERHEAD_2


def timed(step: Callable[[int], None]) -> float:
    """Seconds per call, after warming up."""
    for number in range(WARM_UP):
        step(number)
    started = time.perf_counter()
    for number in range(WARM_UP, WARM_UP + TIMED):
        step(number)
    return (time.perf_counter() - started) / TIMED


def to(batch: Any, device: str) -> Any:
    """A nested batch on a device."""
    if isinstance(batch, dict):
        return {name: to(value, device) for name, value in batch.items()}
    return batch.to(device) if hasattr(batch, "to") else batch


__all__ = ["measure_speed"]
