"""Fixed answers for the demo: what is drawn can be compared with where it should be."""

from PIL import Image

from processing_st4vla import Box, GroundingResult, Point, Trace
from training_st4vla.asking import Answer, Timings


class FixedGrounder:
    """
    Answers every question with the same items, as shares of the image; the question can change that: `nothing` gives
    words only, `fail` raises, `label:WORDS` gives one point with that label.
    """

    name, device, fingerprint = "fixed <b>answers</b>", "no device", None
    no_actions: str | None = "these answers are fixed."

    def ask(self, image: Image.Image, text: str, kind: str, native_size: bool, max_new_tokens: int) -> Answer:
        """See the class."""
        if text == "fail":
            raise RuntimeError("a secret of the server")
        return Answer(_result(image.size, text), (224, 224), Timings(0.014, 0.82, 0.001, 23))


def _result(size: tuple[int, int], text: str) -> GroundingResult:
    def at(x: float, y: float) -> tuple[float, float]:
        return (x * size[0], y * size[1])

    if text == "nothing":
        return GroundingResult.from_text("I <i>cannot</i> see it.", image_size=size, model_size=(224, 224))
    if text.startswith("label:"):
        return GroundingResult((Point(at(0.5, 0.5), text[6:]),), (), (), image_size=size, raw_text=text)
    return GroundingResult(
        (Point(at(0.25, 0.75), "red block"), Point(at(0.9, 0.1), "free space")),
        (Box((*at(0.5, 0.4), *at(0.8, 0.9)), "plate"),),
        (Trace((at(0.1, 0.2), at(0.3, 0.3), at(0.45, 0.6), at(0.65, 0.65)), "gripper"),),
        image_size=size,
        raw_text="[...]",
    )
