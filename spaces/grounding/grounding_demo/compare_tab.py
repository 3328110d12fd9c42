"""The Compare page: one picture, two questions, or two models, side by side."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from grounding_demo.agreement import agreement
from grounding_demo.facts import facts_html
from grounding_demo.ground_tab import KINDS, result_of, save
from grounding_demo.grounder import Asked, Grounder, explain
from grounding_demo.limits import check_prompt, open_pictures
from grounding_demo.overlay import message, overlay, picture, view
from grounding_demo.picture_input import picture_input
from grounding_demo.settings import MODEL

SIZES = [("the processor's size", "processor"), ("the image's own size", "native")]


class CompareHandlers:
    """What the button of the page does."""

    def __init__(self, left: Grounder, right: Grounder) -> None:
        self.sides = (left, right)

    def compare(
        self, image: str | None, text_a: str, kind_a: str, size_a: str, text_b: str, kind_b: str, size_b: str
    ) -> tuple[Any, ...]:
        """Both answers, their facts, and how far they agree."""
        try:
            name, opened = open_pictures([image])[0]
            path = save(opened)
            text_a = check_prompt(text_a)
            questions = ((text_a, kind_a, size_a), (text_b.strip() or text_a, kind_b, size_b))
            answers = []
            for grounder, (text, kind, size) in zip(self.sides, questions, strict=True):
                answer = grounder.ask(opened.image, check_prompt(text), kind, size == "native", 256)
                answers.append(Asked(answer, grounder.name, grounder.device, opened.notes).to_dict())
        except Exception as error:
            said = view(message=message("error", explain(error), "Not answered"))
            return said, "", None, "", ""
        results = [result_of(answer) for answer in answers]
        left, right = (view([picture(path, opened.image.size, name, result)]) for result in results)
        line = f'<p class="facts"><b>A against B:</b> {escape(agreement(*results))}</p>'
        return left, facts_html([("", answers[0])]), right, facts_html([("", answers[1])]), line


def build_compare_tab(grounder: Grounder, other: Grounder | None) -> None:
    """The page's components and events."""
    handlers = CompareHandlers(grounder, other or grounder)
    with gr.Row(equal_height=False):
        with gr.Column(scale=1, min_width=280):
            image = picture_input("Image", height=240, elem_id="compare-image")
        inputs: list[Any] = [image]
        for side, one in (("A", grounder), ("B", other or grounder)):
            with gr.Column(scale=1, min_width=280):
                hint = "the red block" if side == "A" else "empty: the same question"
                inputs.append(gr.Textbox(label=f"{side}: {one.name}", placeholder=hint, elem_id=f"compare-{side}"))
                kind = "box" if side == "A" or other is not None else "point"
                inputs.append(gr.Radio(KINDS, value=kind, label="Answer", elem_classes="segmented"))
                inputs.append(gr.Radio(SIZES, value="processor", label="Asked at"))
    start = gr.Button("Compare", variant="primary", elem_id="compare")
    line = gr.HTML("", elem_id="compare-line")
    outputs: list[Any] = []
    with gr.Row(equal_height=False):
        for side in ("A", "B"):
            with gr.Column(scale=1, min_width=280):
                outputs += [overlay(f"Answer {side} appears here.", elem_id=f"answer-{side}"), gr.HTML("")]
    if other is None:
        gr.Markdown("To compare two models, start `st4vla demo --model A --compare B`.")
    start.click(
        handlers.compare,
        inputs,
        [*outputs, line],
        api_name="compare",
        api_visibility="undocumented",
        show_progress_on=outputs[::2],
        **MODEL,
    )


__all__ = ["CompareHandlers", "build_compare_tab"]
