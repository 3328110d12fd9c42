"""A page with fixed answers, served once, and a browser to look at it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from demo_toy import FixedGrounder
from PIL import Image


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Any], str]]:
    """Serves a page over a grounder on a free port and returns its address."""
    pytest.importorskip("gradio", reason="the demo needs gradio")
    from grounding_demo.page import build_page, launch_options

    pages = []

    def start(grounder: Any) -> str:
        page = build_page(grounder)
        _, url, _ = page.launch(**{**launch_options(), "prevent_thread_lock": True, "quiet": True})
        pages.append(page)
        return url.rstrip("/")

    with pytest.MonkeyPatch.context() as patch:
        # A page that closes empties its cache; processes that test side by side must not share one.
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("gradio")))
        yield start
        for page in pages:
            page.close()


@pytest.fixture(scope="session")
def fixed_page(serve: Callable[[Any], str]) -> str:
    """The address of a page with fixed answers."""
    return serve(FixedGrounder())


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture file, 640 x 400 pixels."""
    path = tmp_path_factory.mktemp("pictures") / "table.png"
    coarse = np.random.default_rng(0).integers(60, 200, (10, 16, 3), dtype=np.uint8)
    Image.fromarray(coarse.repeat(40, axis=0).repeat(40, axis=1)).save(path)
    return path
