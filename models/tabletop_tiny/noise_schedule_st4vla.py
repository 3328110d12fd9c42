"""One vocabulary for every diffusers scheduler: build it, noise actions, and say what the network must predict."""

from typing import Any

import torch


def build_scheduler(config: dict[str, Any]) -> Any:
    """
    Makes a diffusers scheduler from its config.

    Args:
        config (`dict`): a diffusers scheduler config with `_class_name`.

    Raises:
        ValueError: when `_class_name` is not a scheduler of the installed diffusers.
    """
    import diffusers

    name = config["_class_name"]
    scheduler_class = getattr(diffusers, name, None)
    if not (isinstance(scheduler_class, type) and issubclass(scheduler_class, diffusers.SchedulerMixin)):
        raise ValueError(
            f"scheduler._class_name: expected the name of a diffusers scheduler, found {name!r} "
            f"(diffusers {diffusers.__version__})."
        )
    # `from_pretrained` constructs models on the meta device; schedulers hold plain tensors that would stay there.
    with torch.device("cpu"):
        return scheduler_class.from_config(config)


def is_flow_matching(scheduler: Any) -> bool:
    """Whether `scheduler` interpolates linearly between data and noise (it then has `scale_noise`, no `add_noise`)."""
    return not hasattr(scheduler, "add_noise")


def sample_timesteps(scheduler: Any, shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """
    Uniform training timesteps of `scheduler`: integers in `[0, num_train_timesteps)`, or, for flow matching, entries
    of its own timestep table (float, in `(0, num_train_timesteps]`).
    """
    steps = scheduler.config.num_train_timesteps
    indices = torch.randint(0, steps, shape, device=device)
    if not is_flow_matching(scheduler):
        return indices
    table = build_scheduler({"_class_name": type(scheduler).__name__, **scheduler.config}).timesteps
    return table.to(device=device, dtype=torch.float32)[indices]


def add_noise(scheduler: Any, actions: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
    """
    The noisy sample at `timesteps`.

    Args:
        actions, noise (`torch.FloatTensor` of shape `(batch, chunk, dim)`), timesteps (shape `(batch,)`).
    """
    if not is_flow_matching(scheduler):
        return scheduler.add_noise(actions, noise, timesteps)
    sigma = _flow_sigma(scheduler, timesteps)
    return sigma * noise + (1 - sigma) * actions


def training_target(
    scheduler: Any, actions: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
) -> torch.Tensor:
    """
    What the action expert must predict at `timesteps` for the prediction type of `scheduler`.

    Raises:
        ValueError: for a prediction type other than epsilon, sample, v_prediction or flow matching.
    """
    if is_flow_matching(scheduler):
        return noise - actions
    kind = scheduler.config.get("prediction_type", "epsilon")
    if kind == "epsilon":
        return noise
    if kind == "sample":
        return actions
    if kind == "v_prediction":
        return scheduler.get_velocity(actions, noise, timesteps)
    raise ValueError(
        f"scheduler.prediction_type: expected epsilon, sample or v_prediction to train with, found {kind!r}."
    )


def _flow_sigma(scheduler: Any, timesteps: torch.Tensor) -> torch.Tensor:
    # diffusers defines a flow-matching timestep as sigma times the number of training steps.
    return (timesteps.float() / scheduler.config.num_train_timesteps)[:, None, None]


__all__ = ["add_noise", "build_scheduler", "is_flow_matching", "sample_timesteps", "training_target"]
