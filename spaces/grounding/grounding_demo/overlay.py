"""The overlay component: pictures with points, boxes and ordered traces, drawn and corrected in the browser."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import FileData

from processing_st4vla import GroundingResult
from processing_st4vla.spatial_drawing import PALETTE

_FOLDER = Path(__file__).parent
_KINDS = ("points", "boxes", "traces")
# No `${...}` and no `{{...}}` in it: Gradio fills such places with the value, unescaped.
_SKELETON = """<div class="ov">
<div class="ov-message" hidden></div>
<div class="ov-empty">PLACEHOLDER</div>
<div class="ov-strip" role="tablist" aria-label="pictures" hidden></div>
<div class="ov-bar" hidden><span class="ov-toggles ov-bar"></span>
<button type="button" class="ov-delete" disabled>delete</button>
<button type="button" class="ov-reset" disabled>undo corrections</button></div>
<div class="ov-stage" hidden></div>
<div class="ov-info" aria-live="polite" hidden></div>
</div>"""


def overlay(placeholder: str = "The answer appears here.", **options: Any) -> gr.HTML:
    """
    A component that shows what `view` makes; as an input it gives the same value back, with the user's corrections.

    A configured `gr.HTML`, not a subclass: Gradio writes an interface file beside the source of every subclass.

    Args:
        placeholder (`str`): what stands there before the first answer.
    """
    return gr.HTML(
        value=None,
        html_template=_SKELETON.replace("PLACEHOLDER", escape(placeholder)),
        css_template=(_FOLDER / "overlay.css").read_text(),
        js_on_load=(_FOLDER / "overlay.js").read_text(),
        apply_default_css=False,
        palette=["#{:02x}{:02x}{:02x}".format(*colour) for colour in PALETTE],
        **options,
    )


def view(pictures: Sequence[dict[str, Any]] = (), message: dict[str, str] | None = None) -> dict[str, Any]:
    """A value of the component: pictures made by `picture`, and a message made by `message`."""
    return {"pictures": list(pictures), "message": message, "edited": False}


def message(kind: str, text: str, title: str = "") -> dict[str, str]:
    """What is said above the picture; `kind` is `info`, `warning` or `error`. Plain text: the browser escapes it."""
    return {"kind": kind, "title": title, "text": text}


def picture(
    path: str | Path,
    size: tuple[int, int],
    name: str,
    answer: GroundingResult,
    annotated: GroundingResult | None = None,
) -> dict[str, Any]:
    """
    One picture with what was answered, which can be corrected, and what is annotated, which cannot.

    Args:
        path: image file that Gradio may serve, upright RGB of `size` (width, height). name: shown as plain text.
    """
    layers = [_layer(answer, editable=True)]
    layers += [] if annotated is None else [_layer(annotated, editable=False)]
    return {
        "image": FileData(path=str(path), orig_name=Path(path).name).model_dump(),
        "width": size[0],
        "height": size[1],
        "name": name,
        "layers": layers,
    }


def _layer(result: GroundingResult, editable: bool) -> dict[str, Any]:
    values: Mapping[str, Any] = result.to_dict()
    return {"editable": editable, **{kind: values[kind] for kind in _KINDS}}


def corrected(shown: Mapping[str, Any]) -> GroundingResult:
    """
    What a picture of a value shows now, checked: the value comes back from a browser.

    Raises:
        ValueError: naming what is no point, box or trace of this picture.
    """
    layer = next((layer for layer in shown.get("layers", ()) if layer.get("editable")), None)
    if layer is None:
        raise ValueError("the picture holds no answer to export.")
    size = [shown.get("width"), shown.get("height")]
    items = {kind: layer.get(kind) for kind in _KINDS}
    return GroundingResult.from_dict({"image_size": size, "space": "px", "raw_text": "", "rejected": [], **items})


__all__ = ["corrected", "message", "overlay", "picture", "view"]
