"""The Act page: camera views, a state and a task in; the action chunk with its units out. Nothing moves."""

from __future__ import annotations

import math
from html import escape
from typing import Any

import gradio as gr
import numpy as np

from grounding_demo.action_plots import plots_html
from grounding_demo.examples import FOLDER
from grounding_demo.facts import milliseconds
from grounding_demo.ground_tab import save
from grounding_demo.grounder import Grounder, explain
from grounding_demo.limits import check_prompt, open_pictures
from grounding_demo.overlay import message, overlay, picture, view
from grounding_demo.picture_input import picture_input
from grounding_demo.settings import MODEL
from processing_st4vla import ActionContract
from training_st4vla.acting import ActionAnswer
from training_st4vla.errors import UserError

BANNER = "**Predictions only: nothing moves.** No robot is connected to this page."
MAX_VIEWS = 4


class ActHandlers:
    """What the button and the endpoint of the page do."""

    def __init__(self, grounder: Grounder) -> None:
        self.grounder = grounder

    def act(self, text: str, state: str, dataset_key: str | None, seed: float, *images: str | None) -> dict[str, Any]:
        """One action chunk as numbers, in units of the action contract."""
        try:
            answer, _, _ = self._act(text, state, dataset_key, seed, images)
            return answer.to_dict()
        except Exception as error:
            raise gr.Error(escape(explain(error)), print_exception=False) from None

    def act_page(
        self, text: str, state: str, dataset_key: str | None, seed: float, *images: str | None
    ) -> tuple[Any, ...]:
        """Everything the page shows."""
        try:
            answer, opened, used = self._act(text, state, dataset_key, seed, images)
        except Exception as error:
            return view(message=message("error", explain(error), "No action")), "", "", None
        name, first = opened[0]
        shown = picture(save(first), first.image.size, name, answer.result)
        return view([shown], warning_of(answer)), facts_of(answer, used), chunk_html(answer), answer.to_dict()

    def _act(self, text: str, state: str, key: str | None, seed: float, images: tuple[str | None, ...]) -> Any:
        text = check_prompt(text)
        if seed is None or not 0 <= seed < 2**31:
            raise UserError(f"Seed: expected a whole number from 0 to {2**31 - 1}, found {seed}.")
        contract = self.grounder.contracts()[key or next(iter(self.grounder.contracts()))]
        missing = [name for name, path in zip(slots(contract), images, strict=False) if not path]
        if missing:
            raise UserError(f"Every camera view is needed; still empty: {', '.join(missing)}.")
        opened = open_pictures(images[: len(slots(contract))])
        numbers, used = read_state(state, contract)
        views = [found.image for _, found in opened]
        return self.grounder.act(views, text, numbers, key, int(seed)), opened, used


def slots(contract: ActionContract) -> tuple[str, ...]:
    """The camera of every view slot."""
    return contract.cameras or ("camera",)


def read_state(text: str | None, contract: ActionContract) -> tuple[list[float] | None, str]:
    """
    Numbers of a state field, and words on where they come from: typed, or the mean of the training data, or zeros.

    Raises:
        UserError: for something else than numbers.
    """
    words = (text or "").replace(",", " ").replace("[", " ").replace("]", " ").split()
    if contract.state is None:
        if words:
            raise UserError("State: this model takes none. Leave the field empty.")
        return None, "no state"
    if not words:
        mean = contract.state.statistics.get("mean")
        return (list(mean), "mean state of the training data") if mean else ([0.0] * contract.state.dim, "zero state")
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        raise UserError("State: expected numbers separated by spaces or commas.") from None
    if len(numbers) != contract.state.dim or not all(map(math.isfinite, numbers)):
        raise UserError(
            f"State: expected {contract.state.dim} finite numbers ({', '.join(contract.state.names)}), found "
            f"{len(numbers)}."
        )
    return numbers, "state as typed"


def warning_of(answer: ActionAnswer) -> dict[str, str] | None:
    """What is said when the model left the range of its training data."""
    if not answer.clipped.any():
        return None
    names = [
        name
        for name, hit in zip(answer.contract.action.names, np.any(answer.clipped, axis=0).tolist(), strict=True)
        if hit
    ]
    return message(
        "warning",
        f"{int(answer.clipped.sum())} of {answer.clipped.size} numbers ({', '.join(names)}) lay beyond the range of "
        "the training data and were clipped to its edge.",
        "Clipped",
    )


def facts_of(answer: ActionAnswer, used: str) -> str:
    """Units, frame and time of a chunk, and what the planner wrote; escaped."""
    contract = answer.contract
    hz = "an unknown rate" if contract.control_hz is None else f"{contract.control_hz:g} Hz"
    line = (
        f"{len(answer.actions)} actions at {hz} · {contract.representation}, frame {contract.frame}, rotation "
        f"{contract.rotation}, gripper {contract.gripper_polarity} · contract {answer.dataset_key} · {used} · total "
        f"{milliseconds(answer.seconds)}"
    )
    return (
        f'<div class="facts"><p class="soft">{escape(line)}</p><p>What the planner wrote</p>'
        f"<pre>{escape(answer.result.raw_text) or '(nothing)'}</pre></div>"
    )


def chunk_html(answer: ActionAnswer) -> str:
    """The plots of a chunk."""
    action = answer.contract.action
    return plots_html(answer.actions, action.names, action.units, answer.contract.control_hz)


def build_act_tab(grounder: Grounder) -> None:
    """The page's components and events, or the reason why there are none."""
    if grounder.no_actions is not None:
        gr.Markdown(f"**Act is off:** {escape(grounder.no_actions)}", elem_id="act-off")
        return
    handlers, contracts = ActHandlers(grounder), grounder.contracts()
    first = next(iter(contracts.values()))
    gr.Markdown(BANNER, elem_id="banner")
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=300):
            names = max((slots(contract) for contract in contracts.values()), key=len)[:MAX_VIEWS]
            with gr.Row():
                views = [
                    picture_input(name.removeprefix("observation.images."), height=190, min_width=140)
                    for name in names
                ]
            text = gr.Textbox(label="Task", placeholder="put the red block on the plate", lines=2, elem_id="task")
            state = gr.Textbox(
                label=f"State: {', '.join(first.state.names)}" if first.state else "State: this model takes none",
                placeholder="empty: the mean state of the training data",
                interactive=first.state is not None,
            )
            with gr.Row():
                key = gr.Dropdown(
                    list(contracts), value=next(iter(contracts)), label="Contract", min_width=120, scale=2
                )
                seed = gr.Number(0, precision=0, minimum=0, label="Seed", min_width=90, scale=1)
            predict = gr.Button("Predict actions", variant="primary", elem_id="act")
            _act_examples(text, views)
        with gr.Column(scale=5, min_width=300):
            drawn = overlay("What the planner sees appears here.", elem_id="act-answer")
            facts = gr.HTML("", elem_id="act-facts")
            plots = gr.HTML("", elem_id="act-plots")
            with gr.Accordion("JSON", open=False):
                numbers = gr.JSON(show_label=False)
    question = [text, state, key, seed, *views]
    predict.click(
        handlers.act_page,
        question,
        [drawn, facts, plots, numbers],
        api_name="act_page",
        api_visibility="undocumented",
        show_progress_on=[drawn],
        **MODEL,
    )
    endpoint, reply = gr.Button(visible=False), gr.JSON(visible=False)
    endpoint.click(handlers.act, question, reply, api_name="act", **MODEL)


def _act_examples(text: gr.Textbox, views: list[gr.Image]) -> None:
    if len(views) == 2:
        row = ["put the yellow ball in the blue tray", str(FOLDER / "scene_b.jpg"), str(FOLDER / "act_wrist.jpg")]
        gr.Examples([row], [text, *views], label="Example", cache_examples=False, api_visibility="private")


__all__ = ["ActHandlers", "build_act_tab", "chunk_html", "facts_of", "read_state", "slots", "warning_of"]
