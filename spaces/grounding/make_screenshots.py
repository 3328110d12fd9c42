"""The four pictures of the demo in the documents, taken by a headless Chromium from a running `st4vla demo`.

st4vla demo --port 7860
python spaces/grounding/make_screenshots.py http://127.0.0.1:7860 --example 6
"""

import argparse
import shutil
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import ViewportSize, sync_playwright

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "pictures"
SCREENS: dict[str, ViewportSize] = {
    "desktop": {"width": 1280, "height": 960},
    "phone": {"width": 390, "height": 844},
}


def main() -> None:
    """Reads the command line, takes the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="address of the running demo")
    parser.add_argument("--example", type=int, default=6, help="which example is shown, from 1")
    parser.add_argument("--output", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for device, screen in SCREENS.items():
            for scheme in ("light", "dark"):
                phone = device == "phone"
                context = browser.new_context(
                    viewport=screen, color_scheme=scheme, has_touch=phone, is_mobile=phone, device_scale_factor=1
                )
                page = context.new_page()
                page.goto(arguments.url)
                page.locator(".chip").nth(arguments.example - 1).click(timeout=60_000)
                page.wait_for_selector("#answer .ov-svg", timeout=120_000)
                page.wait_for_timeout(1500)
                if phone:
                    page.evaluate("document.querySelector('#answer').scrollIntoView()")
                else:
                    page.evaluate("window.scrollTo(0, 0)")
                page.wait_for_timeout(300)
                path = arguments.output / f"demo-{device}-{scheme}.png"
                picture = Image.open(BytesIO(page.screenshot())).convert("RGB")
                picture.quantize(192, method=Image.Quantize.MEDIANCUT).save(path, optimize=True)
                print(f"{path}: {path.stat().st_size} bytes")
                context.close()
        browser.close()


if __name__ == "__main__":
    main()
