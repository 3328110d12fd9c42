"""What the pages ask: one model, its name, its device, and what it can do."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image

from processing_st4vla import ActionContract
from training_st4vla.acting import ActionAnswer, RecordedActions, act, act_on_episode
from training_st4vla.asking import Answer, ask
from training_st4vla.errors import UserError

log = logging.getLogger("st4vla.demo")


class Grounder(Protocol):
    """
    Anything that answers; [`ModelGrounder`] does it with a model, tests with fixed answers.

    Args:
        name: how the model is called on the page. device: what it runs on, in words.
        fingerprint: hash of the model's files, `None` when it has none.
        no_actions: why it cannot act, or `None` when it can.
    """

    name: str
    device: str
    fingerprint: str | None
    no_actions: str | None

    def ask(self, image: Image.Image, text: str, kind: str, native_size: bool, max_new_tokens: int) -> Answer:
        """As [`training_st4vla.asking.ask`]."""
        ...

    def act(
        self,
        views: Sequence[Image.Image],
        text: str,
        state: Sequence[float] | None,
        dataset_key: str | None,
        seed: int,
    ) -> ActionAnswer:
        """As [`training_st4vla.acting.act`]; only where `no_actions` is `None`."""
        ...

    def act_on(self, data: Any, episode: int, frame: int, whole: bool) -> RecordedActions:
        """As [`training_st4vla.acting.act_on_episode`]; only where `no_actions` is `None`."""
        ...

    def contracts(self) -> dict[str, ActionContract]:
        """The action contracts by dataset key."""
        ...


def _gpu(function: Callable[..., Any]) -> Callable[..., Any]:
    # ZeroGPU lends a GPU per call of a decorated function. Its package is called `spaces`, as our folder is.
    try:
        import spaces
    except ImportError:
        return function
    lend = getattr(spaces, "GPU", None)
    return function if lend is None else lend(duration=60)(function)


class ModelGrounder:
    """
    A loaded model.

    Args:
        model, processor: of [`training_st4vla.loading.load_grounder`]. path (`str`): where they come from.
        fingerprint (`str`, *optional*): of [`training_st4vla.published.model_fingerprint`].
    """

    def __init__(self, model: Any, processor: Any, path: str, fingerprint: str | None = None) -> None:
        self.model, self.processor = model, processor
        self.name = Path(path).name if Path(path).is_dir() else path
        self.fingerprint = fingerprint
        self.device = describe_device(model.device)
        self.no_actions = reason_not_to_act(model, processor)
        self._run = _gpu(lambda function, *arguments: function(model, processor, *arguments))

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """`function(model, processor, *arguments)`, where the model's device is."""
        return self._run(function, *arguments)

    def ask(self, image: Image.Image, text: str, kind: str, native_size: bool, max_new_tokens: int) -> Answer:
        """As [`training_st4vla.asking.ask`]."""
        return self.run(ask, image, text, kind, native_size, max_new_tokens)

    def act(
        self,
        views: Sequence[Image.Image],
        text: str,
        state: Sequence[float] | None,
        dataset_key: str | None,
        seed: int,
    ) -> ActionAnswer:
        """As [`training_st4vla.acting.act`]."""
        return self.run(act, views, text, state, dataset_key, seed)

    def act_on(self, data: Any, episode: int, frame: int, whole: bool) -> RecordedActions:
        """As [`training_st4vla.acting.act_on_episode`]."""
        return self.run(act_on_episode, data, episode, frame, whole)

    def contracts(self) -> dict[str, ActionContract]:
        """The action contracts by dataset key."""
        return {key: self.processor.contract(key) for key in sorted(self.processor.action_contracts)}


class NoModel:
    """
    A page without a model still opens, and says why there is no answer.

    Args:
        reason (`str`): in words.
    """

    def __init__(self, reason: str) -> None:
        self.name, self.device = "none", "nothing"
        self.fingerprint: str | None = None
        self.no_actions: str | None = reason

    def ask(self, *arguments: Any, **named: Any) -> Any:
        """Raises `UserError` with the reason."""
        raise UserError(str(self.no_actions))

    act = act_on = ask

    def contracts(self) -> dict[str, ActionContract]:
        """None."""
        return {}


def describe_device(device: torch.device) -> str:
    """A device in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' if threads > 1 else ''}" if device.type == "cpu" else device.type.upper()


def reason_not_to_act(model: Any, processor: Any) -> str | None:
    """Why a model has no Act page, or `None`."""
    if not hasattr(model, "sample_actions"):
        return "this is a plain vision-language model: it grounds, but has no action expert."
    if not processor.action_contracts:
        return (
            "this model has no action contract, so its action numbers would have no names, units or scale. It gets "
            "one from `st4vla train-actions`."
        )
    return None


@dataclass(frozen=True)
class Asked:
    """An answer, with what the page and the API say about it."""

    answer: Answer
    model: str
    device: str
    notes: tuple[str, ...] = ()
    from_cache: bool = False

    def to_dict(self) -> dict[str, Any]:
        """[`GroundingResult.to_dict`] plus the size the model saw, timings, model, device, notes, `from_cache`."""
        return {
            **self.answer.result.to_dict(),
            "model_size": list(self.answer.model_size),
            "timings": self.answer.timings.to_dict(),
            "model": self.model,
            "device": self.device,
            "notes": list(self.notes),
            "from_cache": self.from_cache,
        }


def explain(error: Exception) -> str:
    """What a person reads about an error. What nobody foresaw goes to the log with its traceback."""
    if isinstance(error, UserError | ValueError):
        return str(error)
    log.exception("unexpected error", exc_info=error)
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return "The device ran out of memory. Ask about a smaller image, or without its full size."
    return f"This did not work ({type(error).__name__}). The log of the server says more."


__all__ = ["Asked", "Grounder", "ModelGrounder", "NoModel", "describe_device", "explain", "reason_not_to_act"]
