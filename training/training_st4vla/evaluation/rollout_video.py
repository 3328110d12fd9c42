"""Films of episodes: what the camera saw, where the model looked, how it ended."""

import io
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

HEIGHT = 384
CAPTION = 44
GOOD, BAD = (26, 127, 55), (207, 34, 46)


@dataclass
class Film:
    """
    One episode.

    Args:
        instruction (`str`): written below the picture. fps (`float`): frames per second.
        views (`dict[int, Any]`): what all cameras saw at the pictures where the policy can be asked afterwards.
    """

    instruction: str
    fps: float
    frames: list[np.ndarray] = field(default_factory=list)
    groundings: list[Any] = field(default_factory=list)
    success: bool | None = None
    views: dict[int, Any] = field(default_factory=dict)

    def add(self, frame: np.ndarray, grounding: Any = None) -> None:
        """A camera image `[H, W, 3]` uint8, with the `GroundingResult` predicted on it, if there is a new one."""
        self.frames.append(np.array(frame))
        self.groundings.append(grounding)

    def ask(self, ground: Callable[[dict[str, Any], list[str], list[int]], list[Any] | None]) -> None:
        """Asks where the policy looked at the pictures of `views`, in one batch; for films that are kept."""
        if not self.views:
            return
        pixels = list(self.views.values())
        batch = {name: np.stack([one[name] for one in pixels]) for name in pixels[0]}
        rows = list(range(len(pixels)))
        answers = ground({"pixels": batch}, [self.instruction] * len(rows), rows)
        if answers is not None:
            for number, answer in zip(self.views, answers, strict=True):
                self.groundings[number] = answer
        self.views = {}

    def finish(self, success: bool) -> None:
        """Says how it ended."""
        self.success = success

    def picture(self, index: int) -> Image.Image:
        """One frame as it is shown: enlarged, the latest grounding drawn, words and outcome below."""
        index %= len(self.frames)
        frame = Image.fromarray(self.frames[index])
        grounding = next((seen for seen in reversed(self.groundings[: index + 1]) if seen is not None), None)
        if grounding is not None:
            frame = grounding.draw(frame)
        width = round(frame.width * HEIGHT / frame.height / 2) * 2
        frame = frame.resize((width, HEIGHT), Image.Resampling.BICUBIC)
        last = index == len(self.frames) - 1 and self.success is not None
        colour = (GOOD if self.success else BAD) if last else (31, 35, 40)
        canvas = Image.new("RGB", (width, HEIGHT + CAPTION), colour)
        canvas.paste(frame, (0, 0))
        words = f"{'SUCCESS' if self.success else 'FAILURE'}: {self.instruction}" if last else self.instruction
        write_caption(canvas, words, HEIGHT)
        return canvas

    @cached_property
    def video(self) -> bytes:
        """H.264 MP4; the last picture stays for a second. Made once: of a finished film, after it was asked about."""
        import av
        from av.logging import ERROR, set_level

        set_level(ERROR)  # the encoder reports every file at length
        buffer = io.BytesIO()
        with av.open(buffer, "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=round(self.fps), options={"crf": "23", "preset": "veryfast"})
            indices = [*range(len(self.frames)), *[-1] * round(self.fps)]
            first = self.picture(0)
            stream.width, stream.height, stream.pix_fmt = first.width, first.height, "yuv420p"
            for index in indices:
                frame = av.VideoFrame.from_image(self.picture(index))
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return buffer.getvalue()

    def write(self, path: Path) -> None:
        """The video as a file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial.mp4")
        partial.write_bytes(self.video)
        os.replace(partial, path)


def write_caption(canvas: Image.Image, words: str, top: int) -> None:
    """White words from `top` to the bottom edge, in at most two lines that fit the width."""
    draw = ImageDraw.Draw(canvas)
    size = 15
    while size > 8:
        font = ImageFont.load_default(size)
        lines = _wrap(draw, words, font, canvas.width - 12)
        if len(lines) <= 2:
            break
        size -= 1
    for number, line in enumerate(lines[:2]):
        draw.text((6, top + 4 + number * (size + 4)), line, fill=(255, 255, 255), font=font)


def _wrap(draw: ImageDraw.ImageDraw, words: str, font: Any, width: int) -> list[str]:
    lines: list[str] = [""]
    for word in words.split():
        longer = f"{lines[-1]} {word}".strip()
        if draw.textlength(longer, font=font) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


__all__ = ["Film", "write_caption"]
