"""Draw docs/images/page.webp: the page of `pe serve` with a query over the demo's files.

    python docs/page_picture.py [FILE]

`make docs` runs it. Without chromium, the picture stays as it is.
"""

from __future__ import annotations

import io
import queue
import shutil
import sys
import tempfile
import threading
from pathlib import Path

from PIL import Image
from playwright.sync_api import ViewportSize, expect, sync_playwright

import perception_encoder as pe
from perception_encoder.api import RunningServer
from perception_encoder.inference.samples import CLIP, QUERIES, SCENES, write_samples

PICTURE = Path(__file__).parent / "images" / "page.webp"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WIDTH, SCALE = 700, 2
"""Width of the window, where the two right hits fill a row; pixels of the picture for each pixel of the page."""


def draw(address: str, query: str, hits: set[str]) -> Image.Image:
    """Return the page at `address` with a query, down to the end of the first row; ValueError if it has other hits."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        size: ViewportSize = {"width": WIDTH, "height": 900}
        page = browser.new_page(viewport=size, device_scale_factor=SCALE, color_scheme="light")
        page.goto(address)
        page.get_by_label("Dismiss this note").click()
        page.get_by_label("Similar as one").uncheck()  # else the photograph is hidden behind the moment
        page.locator("#words").fill(query)
        expect(page.locator("#count")).to_contain_text("best match first")
        expect(page.locator("#grid")).to_have_attribute("aria-busy", "false")
        tiles = page.locator("#grid button.tile")
        page.wait_for_timeout(1000)  # for the large thumbnails
        page.locator("#words").press("ArrowDown")  # to the first hit, which then shows its name, time and score
        expect(tiles.first.locator(".label")).to_have_css("opacity", "1")
        boxes = [box for tile in tiles.all() if (box := tile.bounding_box())]
        row = [index for index, box in enumerate(boxes) if box["y"] == boxes[0]["y"]]
        found = {tiles.nth(index).get_attribute("title") for index in row}
        if found != hits:
            raise ValueError(f"the first hits of {query!r} are {found}, not {hits}; widen or narrow the window")
        height = boxes[0]["y"] + boxes[0]["height"] + 5
        return Image.open(io.BytesIO(page.screenshot(clip={"x": 0, "y": 0, "width": WIDTH, "height": height})))


def main(target: Path) -> None:
    """Index the demo's files, serve them, and write the picture."""
    started: queue.SimpleQueue[RunningServer] = queue.SimpleQueue()
    with tempfile.TemporaryDirectory() as directory:
        gallery, _ = write_samples(Path(directory))
        pe.open_index(gallery, "builtin").update()
        serving = {"port": 0, "on_start": started.put}
        threading.Thread(target=pe.serve_search, args=(gallery,), kwargs=serving, daemon=True).start()
        draw(started.get(timeout=60).address, QUERIES[1], {CLIP, SCENES[1]}).save(target, quality=85, method=6)


if __name__ == "__main__":
    if CHROMIUM is None:
        print("no chromium: docs/images/page.webp stays as it is (Debian: apt-get install chromium)")
    else:
        main(Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE)
