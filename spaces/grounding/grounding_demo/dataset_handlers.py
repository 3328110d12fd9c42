"""The My dataset page: frames of a LeRobot dataset, predicted against annotated and against recorded."""

from __future__ import annotations

import re
from collections import OrderedDict
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from grounding_demo.action_plots import plots_html
from grounding_demo.agreement import agreement
from grounding_demo.exporting import events_jsonl
from grounding_demo.facts import facts_html
from grounding_demo.ground_tab import result_of, save
from grounding_demo.grounder import Asked, Grounder, explain
from grounding_demo.limits import check_prompt
from grounding_demo.overlay import message, picture, view
from processing_st4vla import GroundingResult
from training_st4vla.acting import RecordedActions
from training_st4vla.data.browsing import Annotation, DatasetBrowser
from training_st4vla.errors import UserError
from training_st4vla.pictures import Picture

_HUB_ID = re.compile(r"\w[\w.-]{0,95}/\w[\w.-]{0,95}")
_KEPT = 3


class DatasetHandlers:
    """
    Args:
        grounder: the model.
        allow_folders (`bool`): whether folders of this machine may be opened, not only Hub ids.
    """

    def __init__(self, grounder: Grounder, allow_folders: bool) -> None:
        self.grounder, self.allow_folders = grounder, allow_folders
        self._open: OrderedDict[str, DatasetBrowser] = OrderedDict()

    def browser(self, source: str | None) -> DatasetBrowser:
        """The dataset of a name; the last few stay open. Raises `UserError` or `DataError`."""
        source = (source or "").strip()
        if not source:
            raise UserError("Name a LeRobot dataset: a folder, or a Hub id such as lerobot/pusht.")
        is_folder = Path(source).expanduser().exists()
        if is_folder and not self.allow_folders:
            raise UserError("Folders can only be opened where the demo serves its own machine; give a Hub id.")
        if not is_folder and not _HUB_ID.fullmatch(source):
            raise UserError(f"Found no folder {source[:200]!r}, and it is no Hub id (owner/name).")
        if source not in self._open:
            self._open[source] = DatasetBrowser(source)
            while len(self._open) > _KEPT:
                self._open.popitem(last=False)
        self._open.move_to_end(source)
        return self._open[source]

    def open(self, source: str) -> tuple[Any, ...]:
        """Facts, the choices of episode and camera, and the first frame."""
        try:
            data = self.browser(source)
            cameras, first = data.frames.cameras, next(iter(data.episodes))
            info = data.frames.info
            annotated = "with" if data.grounding is not None else "no"
            robot = info.robot_type or "unknown robot"
            facts = (
                f"{info.version}, {robot}, {len(data.episodes)} episodes at {info.fps:g} Hz, {annotated} annotations"
            )
            shown = self.frame(source, first, 0, cameras[0])
        except Exception as error:
            said = view(message=message("error", explain(error), "Not opened"))
            return "", gr.skip(), gr.skip(), gr.skip(), said, gr.skip(), ""
        episodes = gr.Dropdown(list(data.episodes), value=first)
        frames = gr.Slider(0, max(data.episodes[first].length - 1, 1), 0, step=1)
        return escape(facts), episodes, frames, gr.Dropdown(cameras, value=cameras[0]), *shown, ""

    def episode(self, source: str, episode: int, camera: str) -> tuple[Any, ...]:
        """The frame slider and the first frame of another episode."""
        try:
            length = self.browser(source).episodes[int(episode)].length
        except Exception as error:
            return gr.skip(), view(message=message("error", explain(error), "No such episode")), gr.skip()
        return gr.Slider(0, max(length - 1, 1), 0, step=1), *self.frame(source, episode, 0, camera)

    def frame(self, source: str, episode: int, frame: float, camera: str) -> tuple[Any, Any]:
        """A frame as it was recorded, and the questions about it."""
        try:
            data = self.browser(source)
            found = data.annotations(camera, int(episode), int(frame))
            shown = self._picture(data, camera, int(episode), int(frame), _nothing, None)
        except Exception as error:
            return view(message=message("error", explain(error), "No such frame")), gr.skip()
        said = None
        if data.grounding is not None and not found:
            near = data.annotated_frames(camera, int(episode))
            said = message("info", f"Annotated are the frames {_ranges(near)}.") if near else None
        names = [_choice(one) for one in found]
        task = data.task(int(episode))
        return view([shown], said), gr.Dropdown(
            names, value=names[0] if names else task or None, allow_custom_value=True
        )

    def ask(self, source: str, episode: int, frame: float, camera: str, question: str) -> tuple[Any, str, Any]:
        """Predicted over annotated grounding for one question; one that is not annotated is asked as a task."""
        try:
            data = self.browser(source)
            place = (camera, int(episode), int(frame))
            chosen = next((one for one in data.annotations(*place) if _choice(one) == question), None)
            image = data.image(*place)
            text, kind = (chosen.instruction, chosen.kind) if chosen else (check_prompt(question), "spatial")
            asked = Asked(
                self.grounder.ask(image, text, kind, False, 256), self.grounder.name, self.grounder.device
            ).to_dict()
            truth = data.answer(chosen) if chosen else None
            shown = self._picture(data, *place, lambda _: result_of(asked), truth)
        except Exception as error:
            return view(message=message("error", explain(error), "Not answered")), "", None
        against = None
        if truth is not None:
            against = message("info", agreement(result_of(asked), truth), "Predicted against annotated (dashed, ✓)")
        return view([shown], against), facts_html([("", asked)]), asked

    def act(
        self,
        source: str,
        episode: int,
        frame: float,
        whole: bool,
        progress: gr.Progress = gr.Progress(track_tqdm=True),  # noqa: B008 (Gradio's way to ask for it)
    ) -> str:
        """Predicted against recorded actions: the chunk from one frame on, or the whole episode, as HTML."""
        try:
            if self.grounder.no_actions is not None:
                raise UserError(f"This model does not act: {self.grounder.no_actions}")
            progress((0, 1), desc="reading the dataset")
            return _plot(self.grounder.act_on(self.browser(source), int(episode), int(frame), whole))
        except Exception as error:
            return f'<p class="problem" role="alert">{escape(explain(error))}</p>'

    def export(
        self, source: str, episode: int, frame: float, camera: str, shown: dict[str, Any] | None, question: str
    ) -> tuple[str, str]:
        """Corrections with the place of the frame, one JSON object a line."""
        try:
            place = {"dataset": source.strip(), "episode_index": int(episode), "frame_index": int(frame)}
            words = question.split(": ", 1)[-1]
            return events_jsonl(shown, camera, words, place), ""
        except Exception as error:
            return "", f"Not exported: {explain(error)}"

    def _picture(
        self, data: DatasetBrowser, camera: str, episode: int, frame: int, answer: Any, truth: GroundingResult | None
    ) -> dict[str, Any]:
        image = data.image(camera, episode, frame)
        path = save(Picture(image, ()))
        name = f"{data.name}, episode {episode}, frame {frame}"
        return picture(path, image.size, name, answer(image.size), truth)


def _nothing(size: tuple[int, int]) -> GroundingResult:
    return GroundingResult((), (), (), image_size=size, raw_text="")


def _choice(annotation: Annotation) -> str:
    return f"{'task' if annotation.kind == 'spatial' else annotation.kind}: {annotation.instruction}"


def _ranges(frames: list[int]) -> str:
    return ", ".join(map(str, frames[:12])) + (f" … {frames[-1]}" if len(frames) > 12 else "")


def _plot(found: RecordedActions) -> str:
    action = found.contract.action
    error = np.nanmean(np.abs(found.predicted - found.recorded), axis=0)
    line = ", ".join(
        f"{name} {value:.3g} {unit}" for name, value, unit in zip(action.names, error, action.units, strict=True)
    )
    plots = plots_html(found.predicted, action.names, action.units, found.contract.control_hz, found.recorded)
    return f'<p class="facts">mean absolute difference: {escape(line)}</p>{plots}'


__all__ = ["DatasetHandlers"]
