"""Draw docs/images/layers.webp: the top of a report of `pe layers`, down to its curves.

python docs/report_picture.py report/report.html [FILE]
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

PICTURE = Path(__file__).parent / "images" / "layers.webp"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WIDTH, MARGIN = 1100, 20


def draw(report: Path) -> Image.Image:
    """Return the report down to the caption of its curves."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": 1000}, color_scheme="light")
        page.goto(report.resolve().as_uri())
        box = page.locator("figure").first.bounding_box()
        assert box is not None
        clip = {"x": 0.0, "y": 0.0, "width": float(WIDTH), "height": box["y"] + box["height"] + MARGIN}
        return Image.open(io.BytesIO(page.screenshot(clip=clip, full_page=True)))  # type: ignore[arg-type]


if __name__ == "__main__":
    draw(Path(sys.argv[1])).save(sys.argv[2] if len(sys.argv) > 2 else PICTURE, quality=85, method=6)
