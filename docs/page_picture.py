"""Draw the page of `pe serve` over the demo's files: docs/images/page.webp with a query, and words.webp
beside it with the words in an image.

    python docs/page_picture.py [FILE]

`make docs` runs it. Without chromium, the pictures stay as they are.
"""

from __future__ import annotations

import io
import queue
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, ViewportSize, expect, sync_playwright

import perception_encoder as pe
from perception_encoder.api import RunningServer
from perception_encoder.inference.samples import CLIP, QUERIES, SCENES, WORDS, write_samples

PICTURE = Path(__file__).parent / "images" / "page.webp"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WIDTH, SCALE = 700, 2
"""Width of the window, where the two right hits fill a row; pixels of the picture for each pixel of the page."""


@contextmanager
def opened(address: str, height: int) -> Iterator[Page]:
    """Open the page at `address`, without its note."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        size: ViewportSize = {"width": WIDTH, "height": height}
        page = browser.new_page(viewport=size, device_scale_factor=SCALE, color_scheme="light")
        page.goto(address)
        page.get_by_label("Dismiss this note").click()
        yield page


def draw(address: str, query: str, hits: set[str]) -> Image.Image:
    """Return the page with a query, down to the end of the first row; ValueError if it has other hits."""
    with opened(address, 900) as page:
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


def draw_words(address: str, query: str, image: str) -> Image.Image:
    """Return the viewer with an image that is found by words, and boxes around its lines."""
    with opened(address, 660) as page:
        page.get_by_label("Similar as one").uncheck()
        page.locator("#words").fill(query)
        page.locator(f'#grid button[title="{image}"]').click()
        page.locator(".boxes .found").first.wait_for()
        page.wait_for_timeout(1000)  # for what is around it, and until all is painted
        viewer, about = page.locator("#viewer").bounding_box(), page.locator("#about").bounding_box()
        assert viewer and about
        shown = Image.open(io.BytesIO(page.locator("#viewer").screenshot()))
        return shown.crop((0, 0, shown.width, round(SCALE * (about["y"] - viewer["y"]))))


def main(target: Path) -> None:
    """Index the demo's files, serve them, and write the pictures."""
    started: queue.SimpleQueue[RunningServer] = queue.SimpleQueue()
    with tempfile.TemporaryDirectory() as directory:
        gallery, _ = write_samples(Path(directory))
        pe.open_index(gallery, "builtin", words=True).update()
        serving = {"port": 0, "on_start": started.put}
        threading.Thread(target=pe.serve_search, args=(gallery,), kwargs=serving, daemon=True).start()
        address = started.get(timeout=60).address
        draw(address, QUERIES[1], {CLIP, SCENES[1]}).save(target, quality=85, method=6)
        draw_words(address, WORDS, SCENES[3]).save(target.with_name("words.webp"), quality=85, method=6)


if __name__ == "__main__":
    if CHROMIUM is None:
        print("no chromium: docs/images/page.webp and words.webp stay as they are (Debian: apt-get install chromium)")
    else:
        main(Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE)
