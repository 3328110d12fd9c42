"""A film above its plot, in one file: the script is the one the policy admits, and the cursor follows in a browser."""

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training_st4vla.evaluation.plots import plot_actions
from training_st4vla.evaluation.report import Report, RunInfo
from training_st4vla.evaluation.rollout_video import Film

INFO = RunInfo("st4vla", {"Python": "3"}, "machine", 1, "float32", "today")


def _video(path: Path, frames: int = 20) -> bytes:
    film = Film("move <b>it</b>", fps=10)
    for number in range(frames):
        film.add(np.full((64, 64, 3), 10 * number, dtype=np.uint8))
    film.write(path / "film.mp4")
    return (path / "film.mp4").read_bytes()


@pytest.fixture
def report(tmp_path: Path) -> Path:
    actions = np.random.default_rng(0).normal(size=(20, 3))
    plot = plot_actions(actions, actions + 0.1, fps=10.0)
    page = Report("Film", info=INFO).film(_video(tmp_path), plot, 10.0, "Episode <0>")
    return page.write(tmp_path / "report.html")


def test_the_policy_admits_this_script_and_no_other(report: Path) -> None:
    text = report.read_text()
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src &#x27;sha256-{digest}&#x27;" in text or f"script-src 'sha256-{digest}'" in text
    assert "unsafe-inline" not in text.split("script-src")[1].split(";")[0]
    assert "Episode &lt;0&gt;" in text


def test_what_is_no_film_is_refused() -> None:
    plot = plot_actions(np.zeros((4, 1)), np.zeros((4, 1)), fps=10.0)
    with pytest.raises(ValueError, match="must be MP4"):
        Report("Film").film(b"no video at all", plot, 10.0)


def test_the_cursor_follows_the_film(report: Path, browser: Any) -> None:
    page = browser.new_page()
    errors: list[str] = []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.goto(report.as_uri())
    page.wait_for_function("document.querySelector('video').readyState >= 1")
    left, right, start, end = (
        float(number)
        for number in page.get_attribute("figure.film", "data-extent").split()  # type: ignore[union-attr]
    )
    box = page.locator(".plot").bounding_box()
    assert box is not None
    half = box["x"] + box["width"] * (left + right) / 2
    page.mouse.click(half, box["y"] + 40)
    page.wait_for_function("document.querySelector('video').currentTime > 0.5")
    seconds = page.evaluate("document.querySelector('video').currentTime")
    assert seconds == pytest.approx((start + end) / 2, abs=0.06)
    # It is drawn when the browser says that it has sought, some time after the film's own clock does.
    page.wait_for_function(
        "([half, near]) => Math.abs(document.querySelector('.cursor').getBoundingClientRect().x - half) < near",
        arg=[half, 0.04 * box["width"]],
    )
    assert errors == []
    page.close()
