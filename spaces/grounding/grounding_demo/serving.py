"""From a model's name to a served page."""

from __future__ import annotations

from typing import Any

from grounding_demo.grounder import Grounder, ModelGrounder, NoModel
from grounding_demo.page import build_page, launch_options
from training_st4vla.loading import load_grounder
from training_st4vla.published import model_fingerprint, published_model


def load(model: str | None = None, dtype: str = "auto", device: str = "auto") -> ModelGrounder:
    """
    The model of a name; the published one without a name.

    Raises:
        UserError: when there is none, or it cannot be opened.
    """
    path = model or str(published_model())
    return ModelGrounder(*load_grounder(path, dtype, device), path, model_fingerprint(path))


def load_or_explain(model: str | None = None) -> Grounder:
    """As `load`; where that fails, a page that says why, for a Space that nobody watches start."""
    try:
        return load(model)
    except (OSError, ValueError) as error:
        return NoModel(str(error))


def serve(grounder: Grounder, other: Grounder | None = None, allow_folders: bool = False, **options: Any) -> None:
    """Serves [`build_page`] until interrupted. `options` are `gr.Blocks.launch`'s, before `launch_options`."""
    build_page(grounder, other, allow_folders).launch(**{**launch_options(), **options})


__all__ = ["load", "load_or_explain", "serve"]
