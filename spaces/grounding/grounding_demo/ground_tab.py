"""The Ground page: pictures and a question in, points, boxes and traces on the pictures out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.processing_utils import save_pil_to_cache
from gradio.utils import get_upload_folder

from grounding_demo.downloading import DOWNLOAD
from grounding_demo.examples import AnswerCache, Example, load_examples
from grounding_demo.exporting import events_jsonl
from grounding_demo.facts import facts_html
from grounding_demo.grounder import Asked, Grounder, explain
from grounding_demo.limits import MAX_NEW_TOKENS, MAX_PICTURES, check_prompt, check_tokens, open_pictures
from grounding_demo.overlay import message, overlay, picture, view
from grounding_demo.picture_input import picture_input
from grounding_demo.settings import MODEL
from grounding_demo.snippets import curl_snippet, python_snippet, server_url
from processing_st4vla import GroundingResult
from training_st4vla.pictures import Picture

KINDS = [("Auto", "auto"), ("Point", "point"), ("Box", "box"), ("Trace", "trace"), ("Task", "spatial")]
_WEBP_SIDE = 16_383  # pixels, the longest the format can hold
_RESULT_FIELDS = ("image_size", "space", "points", "boxes", "traces", "raw_text", "rejected")
NOTHING_READ = "No point, box or trace could be read from what the model wrote: see its words below the picture."


class GroundHandlers:
    """What the buttons and the endpoints of the page do."""

    def __init__(self, grounder: Grounder, examples: Sequence[Example], cache: AnswerCache) -> None:
        self.grounder, self.examples, self.cache = grounder, examples, cache

    def ground(
        self, image: str | None, text: str, kind: str, native_size: bool, max_new_tokens: float
    ) -> dict[str, Any]:
        """Asks about one image; numbers in pixels of that image, upright."""
        try:
            text, tokens = check_prompt(text), check_tokens(max_new_tokens)
            _, opened = open_pictures([image])[0]
            return self._ask(opened, text, kind, native_size, tokens)
        except Exception as error:
            raise gr.Error(_escaped(explain(error)), print_exception=False) from None

    def ask_page(
        self,
        image: str | None,
        more: list[str] | None,
        text: str,
        kind: str,
        native_size: bool,
        max_new_tokens: float,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (Gradio's way to ask for it)
    ) -> tuple[Any, ...]:
        """Asks about every image; everything the page shows."""
        try:
            text, tokens = check_prompt(text), check_tokens(max_new_tokens)
            progress((0, 1), desc="reading the images")
            opened = open_pictures([image, *(more or [])])
            answers = []
            for number, (_, found) in enumerate(opened):
                progress(
                    (number, len(opened)), desc=f"asking about image {number + 1} of {len(opened)}", unit="images"
                )
                answers.append(self._ask(found, text, kind, native_size, tokens))
        except Exception as error:
            return view(message=message("error", explain(error), "Not answered")), "", None, gr.skip(), gr.skip()
        return (*self._shown(opened, answers), *_snippets(request, text, kind))

    def show_example(self, number: int, request: gr.Request) -> tuple[Any, ...]:
        """An example with its answer: from the cache where there is one."""
        example = self.examples[int(number)]
        try:
            name, opened = open_pictures([str(example.path)])[0]
            answer = self.cache.get(number)
            if answer is None:
                answer = self._ask(opened, example.text, example.kind, False, 256)
                self.cache.put(number, answer)
        except Exception as error:
            shown = view(message=message("error", explain(error), "Not answered")), "", None
            return str(example.path), None, example.text, example.kind, *shown, gr.skip(), gr.skip()
        shown = self._shown([(name, opened)], [answer], [example.path])
        snippets = _snippets(request, example.text, example.kind)
        return str(example.path), None, example.text, example.kind, *shown, *snippets

    def export(self, shown: dict[str, Any] | None, camera: str, text: str) -> tuple[str, str]:
        """Corrections as rows of LeRobot's `language_events`, one JSON object a line."""
        try:
            return events_jsonl(shown, camera, text), ""
        except Exception as error:
            return "", f"Not exported: {explain(error)}"

    def _ask(self, opened: Picture, text: str, kind: str, native_size: bool, tokens: int) -> dict[str, Any]:
        answer = self.grounder.ask(opened.image, text, kind, native_size, tokens)
        return Asked(answer, self.grounder.name, self.grounder.device, opened.notes).to_dict()

    def _shown(
        self, opened: list[tuple[str, Picture]], answers: list[dict[str, Any]], paths: Sequence[Path] = ()
    ) -> tuple[dict[str, Any], str, Any]:
        pictures = []
        for number, ((name, found), answer) in enumerate(zip(opened, answers, strict=True)):
            path = paths[number] if paths else save(found)
            pictures.append(picture(path, found.image.size, name, result_of(answer)))
        named = [(name, answer) for (name, _), answer in zip(opened, answers, strict=True)]
        return view(pictures, _remark(named)), facts_html(named), answers[0] if len(answers) == 1 else answers


def save(found: Picture) -> Path:
    """The upright RGB picture in Gradio's cache: a browser may show the uploaded file turned, or not at all."""
    kind = "webp" if max(found.image.size) <= _WEBP_SIDE else "png"
    return Path(save_pil_to_cache(found.image, get_upload_folder(), format=kind))


def result_of(answer: dict[str, Any]) -> GroundingResult:
    """The grounding result in an answer of `Asked.to_dict`."""
    return GroundingResult.from_dict({field: answer[field] for field in _RESULT_FIELDS})


def _remark(named: Sequence[tuple[str, dict[str, Any]]]) -> dict[str, str] | None:
    empty = [name for name, answer in named if not any(answer[kind] for kind in ("points", "boxes", "traces"))]
    notes = [f"{name}: {', '.join(answer['notes'])}." for name, answer in named if answer["notes"]]
    if empty:
        where = "" if len(named) == 1 else f" ({', '.join(empty)})"
        return message("warning", " ".join([NOTHING_READ, *notes]), f"Nothing found{where}")
    return message("info", " ".join(notes), "Image converted") if notes else None


def _snippets(request: gr.Request, text: str, kind: str) -> tuple[str, str]:
    url = server_url(request)
    return python_snippet(url, text, kind), curl_snippet(url, text, kind)


def _escaped(text: str) -> str:
    from html import escape

    return escape(text)  # Gradio renders an error's words as HTML


def build_ground_tab(grounder: Grounder) -> None:
    """The page's components and events, inside the tab that is open now."""
    examples = load_examples()
    handlers = GroundHandlers(grounder, examples, AnswerCache(grounder.fingerprint))
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=300):
            image = picture_input("Image", height=280, elem_id="image")
            with gr.Accordion("More images, asked the same", open=False):
                more = gr.File(
                    label=f"up to {MAX_PICTURES - 1} more",
                    file_count="multiple",
                    file_types=["image"],
                    height=120,
                    elem_id="more",
                )
            text = gr.Textbox(
                label="What to find", placeholder="the red block", lines=2, max_lines=6, elem_id="question"
            )
            with gr.Row(elem_classes="chips", elem_id="examples"):
                chips = [
                    gr.Button(example.title, icon=str(example.path), size="sm", min_width=0, elem_classes="chip")
                    for example in examples
                ]
            kind = gr.Radio(KINDS, value="auto", label="Answer", elem_id="kind", elem_classes="segmented")
            ask = gr.Button("Ask", variant="primary", elem_id="ask")
            with gr.Accordion("Settings", open=False):
                native = gr.Checkbox(False, label="ask at the image's own size (slower; only for models trained so)")
                camera = gr.Textbox("observation.images.front", label="camera named in exported rows", max_lines=1)
                tokens = gr.Slider(1, MAX_NEW_TOKENS, 256, step=1, label="longest answer, in tokens")
        with gr.Column(scale=5, min_width=300):
            drawn = overlay(elem_id="answer")
            facts = gr.HTML("", elem_id="facts")
            with gr.Row():
                export = gr.Button("Export corrections", size="sm", elem_id="export", scale=1, min_width=140)
                gr.DeepLinkButton("Link to this result", size="sm", scale=1, min_width=140)
            problem = gr.Markdown("", elem_id="export-problem", sanitize_html=True)
            rows = gr.Code(label="LeRobot rows", language="json", visible="hidden", elem_id="rows", max_lines=8)
            with gr.Accordion("JSON", open=False):
                answer = gr.JSON(label="answer", show_label=False, elem_id="json")
            with gr.Accordion("Ask from Python or a shell", open=False):
                python = gr.Code(label="Python", language="python", elem_id="python", wrap_lines=True)
                curl = gr.Code(label="curl", language="shell", elem_id="curl", wrap_lines=True)
    shown = [drawn, facts, answer, python, curl]
    question = [image, more, text, kind, native, tokens]
    gr.on(
        [ask.click, text.submit],
        handlers.ask_page,
        question,
        shown,
        api_name="ask_page",
        api_visibility="undocumented",
        show_progress_on=[drawn],
        **MODEL,
    )
    _answer_examples(chips, handlers, [image, more, text, kind, *shown], drawn)
    export.click(
        handlers.export, [drawn, camera, text], [rows, problem], api_name="export", api_visibility="undocumented"
    ).then(None, [rows], None, js=DOWNLOAD)
    api = gr.Button(visible=False)
    reply = gr.JSON(visible=False)
    api.click(handlers.ground, [image, text, kind, native, tokens], reply, api_name="ground", **MODEL)


def _answer_examples(chips: Sequence[gr.Button], handlers: GroundHandlers, outputs: list[Any], drawn: gr.HTML) -> None:
    for number, chip in enumerate(chips):

        def show(request: gr.Request, number: int = number) -> tuple[Any, ...]:
            return handlers.show_example(number, request)

        chip.click(
            show,
            None,
            outputs,
            api_name=f"example_{number + 1}",
            api_visibility="undocumented",
            show_progress_on=[drawn],
            **MODEL,
        )


__all__ = ["GroundHandlers", "build_ground_tab", "result_of", "save"]
