"""An image input that hands over the uploaded file as it is: our own checks come before any decoding."""

from typing import Any

import gradio as gr


def picture_input(label: str, **options: Any) -> gr.Image:
    """An image from a file, the clipboard or a camera; handlers get the path of the uploaded file, or `None`."""
    component = gr.Image(label=label, sources=["upload", "webcam", "clipboard"], type="filepath", **options)
    # `gr.Image` opens the file itself first, and what it cannot open never reaches the handler that would explain it.
    component.preprocess = lambda payload: None if payload is None else payload.path
    return component


__all__ = ["picture_input"]
