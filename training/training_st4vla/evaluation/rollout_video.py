"""Films of episodes: what the camera saw, where the model looked, how it ended."""

import os
from dataclasses import dataclass, field
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
    """

    instruction: str
    fps: float
    frames: list[np.ndarray] = field(default_factory=list)
    groundings: list[Any] = field(default_factory=list)
    success: bool | None = None

    def add(self, frame: np.ndarray, grounding: Any = None) -> None:
        """A camera image `[H, W, 3]` uint8, with the `GroundingResult` predicted on it, if there is a new one."""
        self.frames.append(np.array(frame))
        self.groundings.append(grounding)

    def finish(self, success: bool) -> None:
        """Says how it ended."""
        self.success = success

    def picture(self, index: int) -> Image.Image:
        """One frame as it is shown: enlarged, the latest grounding drawn, words and outcome below."""
        frame = Image.fromarray(self.frames[index])
        grounding = next((seen for seen in reversed(self.groundings[: index + 1]) if seen is not None), None)
        if grounding is not None:
            frame = grounding.draw(frame)
        width = round(frame.width * HEIGHT / frame.height / 2) * 2
        frame = frame.resize((width, HEIGHT), Image.Resampling.BICUBIC)
        last = index in (-1, len(self.frames) - 1) and self.success is not None
        colour = (GOOD if self.success else BAD) if last else (31, 35, 40)
        canvas = Image.new("RGB", (width, HEIGHT + CAPTION), colour)
        canvas.paste(frame, (0, 0))
        words = f"{'SUCCESS' if self.success else 'FAILURE'}: {self.instruction}" if last else self.instruction
        write_caption(canvas, words, HEIGHT)
        return canvas

    def write(self, path: Path) -> None:
        """H.264 MP4; the last picture stays for a second."""
        import av
        from av.logging import ERROR, set_level

        path.parent.mkdir(parents=True, exist_ok=True)
        set_level(ERROR)  # the encoder reports every file at length
        partial = path.with_suffix(".partial.mp4")
        with av.open(str(partial), "w") as container:
            stream = container.add_stream("libx264", rate=round(self.fps), options={"crf": "23", "preset": "veryfast"})
            indices = [*range(len(self.frames)), *[-1] * round(self.fps)]
            first = self.picture(0)
            stream.width, stream.height, stream.pix_fmt = first.width, first.height, "yuv420p"
            for index in indices:
                frame = av.VideoFrame.from_image(self.picture(index))
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
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
