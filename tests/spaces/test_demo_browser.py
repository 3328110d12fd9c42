"""The page in a real browser, on a desktop and on a phone with touch: what is drawn lies on the right pixels."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("playwright", reason="the browser tests need playwright")

SIZE = (640, 400)
# What `FixedGrounder` answers, as shares of the image, and the colour of a square painted there.
MARKS = {
    (0.25, 0.75): (255, 0, 255),
    (0.9, 0.1): (0, 255, 255),
    (0.5, 0.4): (255, 255, 0),
    (0.8, 0.9): (0, 255, 0),
    (0.1, 0.2): (255, 0, 0),
    (0.65, 0.65): (0, 0, 255),
}
DEVICES = {
    "desktop": {"viewport": {"width": 1280, "height": 900}},
    "phone": {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True},
}
EVIL = "<img src=x onerror=window.hacked=1>"


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grey picture with a coloured square, 12 pixels wide, wherever the fixed answers are."""
    pixels = np.full((SIZE[1], SIZE[0], 3), 128, dtype=np.uint8)
    for (x, y), colour in MARKS.items():
        column, row = round(x * SIZE[0]), round(y * SIZE[1])
        pixels[row - 6 : row + 6, column - 6 : column + 6] = colour
    path = tmp_path_factory.mktemp("marked") / f"{EVIL}.png"
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(params=list(DEVICES))
def device(request: pytest.FixtureRequest) -> str:
    """Desktop or phone."""
    return request.param


@pytest.fixture
def page(browser: Any, fixed_page: str, device: str) -> Iterator[Any]:
    """The page on a device, ready; afterwards nothing may have been said on the console, and nothing injected run."""
    context = browser.new_context(**DEVICES[device], accept_downloads=True)
    opened, problems = context.new_page(), []
    opened.on("console", lambda said: problems.append(said.text) if said.type == "error" else None)
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.goto(fixed_page)
    opened.wait_for_selector("#ask")
    yield opened
    assert opened.evaluate("window.hacked") is None
    assert problems == []
    context.close()


def ask(page: Any, picture: Path | None, question: str) -> None:
    """Uploads, types, asks, waits for the answer."""
    if picture is not None:
        page.locator("#image input[type=file]").first.set_input_files(picture)
        page.wait_for_selector("#image img")
    page.locator("#question textarea").fill(question)
    page.locator("#ask").click()
    page.wait_for_selector("#answer .ov-svg, #answer .ov-message:not([hidden])")


def handles(page: Any) -> list[tuple[str, float, float]]:
    """What a screen reader says of every handle, and where its middle is on the screen."""
    return page.evaluate(
        """() => [...document.querySelectorAll("#answer .ov-handle")].map((handle) => {
             const box = handle.querySelector(".ov-hit").getBoundingClientRect();
             return [handle.getAttribute("aria-label"), box.x + box.width / 2, box.y + box.height / 2];
           })"""
    )


def labels(page: Any) -> list[str]:
    """What a screen reader says of every handle."""
    return [label for label, *_ in handles(page)]


def squares(page: Any) -> dict[tuple[float, float], tuple[float, float]]:
    """Where the painted squares are on the screen, seen in a screenshot without what is drawn over them."""
    page.evaluate("document.querySelectorAll('#answer .ov-item').forEach((item) => item.style.display = 'none')")
    page.wait_for_timeout(150)
    canvas = page.locator("#answer .ov-svg")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    from io import BytesIO

    seen = np.asarray(Image.open(BytesIO(page.screenshot(clip=box))).convert("RGB")).astype(int)
    page.evaluate("document.querySelectorAll('#answer .ov-item').forEach((item) => item.style.display = '')")
    scale = seen.shape[1] / box["width"]
    found = {}
    for place, colour in MARKS.items():
        rows, columns = np.nonzero(np.abs(seen - colour).max(axis=2) < 90)
        assert len(rows), f"the square at {place} is not visible"
        found[place] = (box["x"] + (columns.mean() + 0.5) / scale, box["y"] + (rows.mean() + 0.5) / scale)
    return found


def assert_on_the_right_pixels(page: Any) -> None:
    """Every painted square has a handle within two pixels."""
    painted, drawn = squares(page), handles(page)
    for place, (x, y) in painted.items():
        nearest = min(((abs(x - u), abs(y - v), label) for label, u, v in drawn), key=lambda gap: max(gap[:2]))
        assert max(nearest[:2]) <= 2, f"{place}: {nearest}"


def move(page: Any, device: str, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Drags with the mouse, or with a finger."""
    middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
    if device == "desktop":
        page.mouse.move(*start)
        page.mouse.down()
        page.mouse.move(*middle)
        page.mouse.move(*end)
        page.mouse.up()
        return
    session = page.context.new_cdp_session(page)
    for kind, places in (("touchStart", [start]), ("touchMove", [middle]), ("touchMove", [end]), ("touchEnd", [])):
        points = [{"x": x, "y": y} for x, y in places]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})


def test_upload_ask_see_correct_export(page: Any, device: str, marked: Path) -> None:
    ask(page, marked, "where?")
    assert page.locator("#answer .ov-item").count() == 4
    assert_on_the_right_pixels(page)
    wide, high = page.viewport_size["width"], page.viewport_size["height"]
    for width in (wide * 3 // 4, wide):
        page.set_viewport_size({"width": width, "height": high})
        page.wait_for_timeout(200)
        assert_on_the_right_pixels(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width

    before = handles(page)
    label, x, y = next(handle for handle in before if handle[0].startswith("point 1"))
    box = page.locator("#answer .ov-svg").bounding_box()
    unit = box["width"] / SIZE[0]
    move(page, device, (x, y), (x + 40 * unit, y - 30 * unit))
    after = handles(page)
    assert "point 1, red block: x 200.0, y 270.0" in after[[one[0] for one in before].index(label)][0]
    assert sum(one != other for one, other in zip(before, after, strict=True)) == 1  # nothing else moved

    with page.expect_download() as download:
        page.locator("#export").click()
    rows = [json.loads(line) for line in Path(download.value.path()).read_text().splitlines()]
    answers = [json.loads(row["content"]) for row in rows if row["role"] == "assistant"]
    keypoints = next(answer["keypoints"] for answer in answers if "keypoints" in answer)
    assert np.abs(np.array(keypoints[0]["point"]) - [200, 270]).max() <= 2
    assert keypoints[1]["point"] == [576, 40]
    assert {row["image"] for row in rows} == {re.sub("[<>]", "", marked.name)}  # Gradio leaves the brackets out

    page.get_by_role("button", name="undo corrections").click()
    assert labels(page) == [one[0] for one in before]


def test_keyboard_layers_and_deleting(page: Any, marked: Path) -> None:
    ask(page, marked, "where?")
    first = page.locator("#answer .ov-points .ov-handle").first
    first.focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "Shift+ArrowLeft"):
        page.keyboard.press(key)
    assert "x 152.0, y 301.0" in first.get_attribute("aria-label")
    assert "x 152.0, y 301.0" in page.locator("#answer .ov-info").inner_text()

    toggle = page.locator("#answer [data-layer=boxes]")
    assert page.locator("#answer .ov-boxes").is_visible()
    toggle.click()
    assert toggle.get_attribute("aria-pressed") == "false"
    assert not page.locator("#answer .ov-boxes").is_visible()

    first.focus()
    page.keyboard.press("Delete")
    assert page.locator("#answer .ov-points").count() == 1


def test_words_are_never_run(page: Any, marked: Path) -> None:
    ask(page, marked, f"label:{EVIL}${{window.hacked=1}}{{{{value}}}}<script>window.hacked=1</script>")
    page.wait_for_selector("#answer .ov-points")
    assert "<img src=x" in page.locator("#answer .ov-points text").text_content()
    assert EVIL in page.locator("#facts").inner_text()  # the raw text, as it was written
    page.wait_for_timeout(300)


def test_problems_are_said_in_the_page(page: Any, marked: Path, tmp_path: Path) -> None:
    message = page.locator("#answer .ov-message")

    def problem(picture: Path | None, question: str) -> str:
        page.locator("#question textarea").fill(question)
        if picture is not None:
            page.locator("#image input[type=file]").first.set_input_files(picture)
            page.wait_for_timeout(400)
        page.locator("#ask").click()
        page.wait_for_function("() => document.querySelector('#answer .ov-message').innerText.length > 0")
        page.wait_for_timeout(400)
        return message.inner_text()

    assert "Choose an image first" in problem(None, "the cube")
    assert "Write what to find" in problem(marked, "  ")
    assert "at most 1,000 characters, found 10,000" in problem(None, "x" * 10_000)
    assert "RuntimeError" in (failed := problem(None, "fail"))
    assert "secret" not in failed
    assert "Nothing found" in problem(None, "nothing")
    assert "I <i>cannot</i> see it." in page.locator("#facts").inner_text()
    assert page.locator("#answer .ov-svg").count() == 1  # the picture stays
    page.get_by_role("button", name="Remove Image").first.click()
    page.wait_for_selector("#image input[type=file]", state="attached")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG no picture")
    assert "broken.png is not a readable image" in problem(tmp_path / "broken.png", "the cube")
    ask(page, None, "where?")  # the queue goes on


def test_several_images(page: Any, marked: Path, table: Path) -> None:
    page.get_by_text("More images, asked the same").click()
    page.locator("#more input[type=file]").first.set_input_files([table, table])
    page.wait_for_function("() => document.querySelector('#more').innerText.includes('table')")
    ask(page, marked, "where?")
    page.wait_for_selector("#answer .ov-strip button")
    tabs = page.locator("#answer .ov-strip button")
    assert tabs.count() == 3
    tabs.nth(1).click()
    assert tabs.nth(1).get_attribute("aria-selected") == "true"
    assert re.search(r"gradio_api/file=.+\.webp", page.locator("#answer .ov-svg image").get_attribute("href"))


def test_a_link_shows_the_same_result(browser: Any, fixed_page: str, marked: Path) -> None:
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.goto(fixed_page)
    page.wait_for_selector("#ask")
    ask(page, marked, "where?")
    page.get_by_role("button", name="Link to this result").click()
    link = ""
    for _ in range(100):
        page.wait_for_timeout(100)
        link = page.evaluate("navigator.clipboard.readText()")
        if "deep_link" in link:
            break
    assert "deep_link" in link
    other = context.new_page()
    other.goto(link)
    other.wait_for_selector("#answer .ov-svg")
    assert labels(other) == labels(page)
    assert other.locator("#question textarea").input_value() == "where?"
    context.close()

    """Keeps the page's server in this module's session."""


def open_tab(page: Any, name: str) -> None:
    """Goes to a page; on a phone some are behind a menu."""
    tab = page.get_by_role("tab", name=name, exact=True)
    if not tab.is_visible():
        page.locator(".overflow-menu button").first.click()
        tab = page.locator(".overflow-dropdown button", has_text=name)
    tab.click()
    page.wait_for_timeout(400)


def test_every_page_fits_the_screen(page: Any, marked: Path) -> None:
    width = page.viewport_size["width"]
    for name in ("Act", "Compare", "My dataset", "API"):
        open_tab(page, name)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        if name == "Act":
            assert "Act is off: these answers are fixed." in page.locator("#act-off").inner_text()
        if name == "Compare":
            page.locator("#compare-image input[type=file]").set_input_files(marked)
            page.wait_for_selector("#compare-image img")
            page.locator("#compare-A textarea").fill("where?")
            page.locator("#compare").click()
            page.wait_for_selector("#answer-B .ov-svg")
            assert "mean IoU 1.00" in page.locator("#compare-line").inner_text()
        if name == "My dataset":
            page.locator("#source input, #source textarea").fill("/no/such <b>folder</b>")
            page.locator("#open").click()
            page.wait_for_selector("#dataset-answer .ov-message:not([hidden])")
            assert "<b>folder</b>" in page.locator("#dataset-answer .ov-message").inner_text()
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
