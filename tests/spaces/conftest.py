"""A page with fixed answers, served once, and a browser to look at it."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from processing_st4vla import Box, GroundingResult, Point, Trace
from training_st4vla.asking import Answer, Timings

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


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


@pytest.fixture(scope="session")
def serve() -> Iterator[Callable[[Any], str]]:
    """Serves a page over a grounder on a free port and returns its address."""
    pytest.importorskip("gradio", reason="the demo needs gradio")
    from grounding_demo.page import build_page, launch_options

    pages = []

    def start(grounder: Any) -> str:
        page = build_page(grounder)
        _, url, _ = page.launch(**{**launch_options(), "prevent_thread_lock": True, "quiet": True})
        pages.append(page)
        return url.rstrip("/")

    yield start
    for page in pages:
        page.close()


@pytest.fixture(scope="session")
def fixed_page(serve: Callable[[Any], str]) -> str:
    """The address of a page with fixed answers."""
    return serve(FixedGrounder())


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    if CHROMIUM is None:
        pytest.skip("no chromium is installed: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture file, 640 x 400 pixels."""
    path = tmp_path_factory.mktemp("pictures") / "table.png"
    coarse = np.random.default_rng(0).integers(60, 200, (10, 16, 3), dtype=np.uint8)
    Image.fromarray(coarse.repeat(40, axis=0).repeat(40, axis=1)).save(path)
    return path
