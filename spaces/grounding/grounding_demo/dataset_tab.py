"""The My dataset page: a LeRobot dataset frame by frame, with what the model says about it."""

from __future__ import annotations

from typing import Any

import gradio as gr

from grounding_demo.dataset_handlers import DatasetHandlers
from grounding_demo.downloading import DOWNLOAD
from grounding_demo.grounder import Grounder
from grounding_demo.overlay import overlay
from grounding_demo.settings import MODEL


def build_dataset_tab(grounder: Grounder, allow_folders: bool) -> None:
    """The page's components and events."""
    handlers = DatasetHandlers(grounder, allow_folders)
    where = "a folder of this machine, or a Hub id" if allow_folders else "a Hub id"
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=300):
            source = gr.Textbox(label=f"LeRobot dataset (v2.1 or v3.0): {where}", max_lines=1, elem_id="source")
            load = gr.Button("Open", elem_id="open")
            facts = gr.HTML("", elem_classes="facts")
            with gr.Row():
                episode = gr.Dropdown([0], value=0, label="Episode", min_width=90, scale=1, elem_id="episode")
                camera = gr.Dropdown([], label="Camera", min_width=150, scale=2)
            frame = gr.Slider(0, 1, 0, step=1, label="Frame", elem_id="frame")
            question = gr.Dropdown(
                [], label="Question: annotated, or your own task", allow_custom_value=True, elem_id="asked"
            )
            ask = gr.Button("Ask about this frame", variant="primary", elem_id="ask-frame")
            with gr.Row():
                chunk = gr.Button("Actions from here", min_width=120, interactive=grounder.no_actions is None)
                whole = gr.Button("Whole episode", min_width=120, interactive=grounder.no_actions is None)
        with gr.Column(scale=5, min_width=300):
            drawn = overlay("Open a dataset to see its frames.", elem_id="dataset-answer")
            said = gr.HTML("")
            plots = gr.HTML("", elem_id="dataset-plots")
            export = gr.Button("Export corrections", size="sm")
            problem = gr.Markdown("")
            rows = gr.Code(label="LeRobot rows", language="json", visible="hidden", max_lines=8)
            with gr.Accordion("JSON", open=False):
                numbers = gr.JSON(show_label=False)
    hidden: dict[str, Any] = {"api_visibility": "undocumented"}
    opened = [facts, episode, frame, camera, drawn, question, said]
    gr.on([load.click, source.submit], handlers.open, source, opened, api_name="open_dataset", **hidden)
    place = [source, episode, frame, camera]
    episode.input(handlers.episode, [source, episode, camera], [frame, drawn, question], api_name="episode", **hidden)
    seen: dict[str, Any] = {"trigger_mode": "always_last", "show_progress": "hidden", **hidden}
    gr.on([frame.input, camera.input], handlers.frame, place, [drawn, question], api_name="frame", **seen)
    ask.click(
        handlers.ask,
        [*place, question],
        [drawn, said, numbers],
        api_name="ask_frame",
        show_progress_on=[drawn],
        **hidden,
        **MODEL,
    )
    for button, everything in ((chunk, False), (whole, True)):

        def predict(
            source: str,
            episode: int,
            frame: float,
            progress: gr.Progress = gr.Progress(track_tqdm=True),  # noqa: B008 (Gradio's way to ask for it)
            everything: bool = everything,
        ) -> str:
            return handlers.act(source, episode, frame, everything, progress)

        name = "episode_actions" if everything else "frame_actions"
        button.click(predict, [source, episode, frame], plots, api_name=name, **hidden, **MODEL)
    export.click(handlers.export, [*place, drawn, question], [rows, problem], api_name="export_frame", **hidden).then(
        None, [rows], None, js=DOWNLOAD
    )


__all__ = ["build_dataset_tab"]
