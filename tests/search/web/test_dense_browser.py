"""Regions, tracking and depth on the page in a real browser: clicks, keys, the slider, and what is said."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, Route, expect

from perception_encoder.dense_prediction import drawing
from perception_encoder.inference.encoder import Encoder
from perception_encoder.search.web import dense_routes, tracked_videos
from perception_encoder.search.web.library import MediaLibrary, open_library
from perception_encoder.search.web.server import create_page
from tests.browsing import contrast, opened_page, wait_until
from tests.search.indexes import make_library, update_folder, wait_for
from tests.serving.servers import served

pytestmark = pytest.mark.browser
PHOTO, CLIP = "04's <b>.jpg", "clip.mp4"
HINT = "Click a patch, or press Enter, to mark its region."


@pytest.fixture(scope="module")
def library(
    tmp_path_factory: pytest.TempPathFactory, checkpoint: Path, encoder: Encoder, draw: Callable[[int], Image.Image]
) -> MediaLibrary:
    return make_library(tmp_path_factory.mktemp("library") / "photos", checkpoint, encoder, draw)


@pytest.fixture(scope="module")
def address(library: MediaLibrary, depth_head: Path) -> Iterator[str]:
    with served(create_page(library, depth_head=depth_head)) as address:
        yield address


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """The page of a server with a depth head; errors in the console fail the test."""
    with opened_page(browser, address, "Failed to load resource: the server responded with a status of 4") as page:
        yield page


def open_tab(page: Page, title: str, tab: str) -> Locator:
    """Open an image's tab, and return the image in it."""
    page.locator(f'#grid button[title="{title}"]').last.click()  # the clip's first moment
    page.get_by_role("tab", name=tab).click()
    panel = page.locator(f"#{tab.lower()}")
    expect(panel).to_have_attribute("aria-busy", "false")
    return panel.locator(".pane").first


def click_at(pane: Locator, x: float, y: float) -> None:
    box = pane.bounding_box()
    assert box is not None
    pane.click(position={"x": x * box["width"], "y": y * box["height"]})


def status(page: Page) -> Locator:
    return page.locator("#regions-bar [role=status]")


def opacity_at(page: Page, x: float, y: float) -> int:
    """The opacity of the regions' overlay at a point, 0 to 255."""
    return page.evaluate(
        """([x, y]) => {
            const image = document.querySelector("#regions"), canvas = document.createElement("canvas");
            [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
            const pen = canvas.getContext("2d");
            pen.drawImage(image, 0, 0);
            return pen.getImageData(x * canvas.width, y * canvas.height, 1, 1).data[3];
        }""",
        [x, y],
    )


# ---- regions


def test_a_click_draws_the_region_that_looks_like_a_point(page: Page) -> None:
    pane = open_tab(page, PHOTO, "Features")
    overlay, pins = page.locator("#regions"), page.locator("#features .pane:first-child .pin")
    expect(status(page)).to_have_text(HINT)
    expect(overlay).to_be_hidden()
    click_at(pane, 0.3, 0.4)
    expect(status(page)).to_have_text("1 region. Click a pin to remove it.")
    expect(overlay).to_be_visible()
    assert opacity_at(page, 0.3, 0.4) >= 127
    assert page.evaluate("document.querySelector('#regions').naturalWidth") == 640
    expect(page.locator("#shade")).to_be_hidden()
    before = overlay.get_attribute("src")
    click_at(page.locator("#features .pane").last, 0.8, 0.9)  # on the features, too
    expect(status(page)).to_have_text("2 regions. Click a pin to remove it.")
    expect(pins).to_have_text(["1", "2"])
    expect(overlay).not_to_have_attribute("src", before or "")
    assert opacity_at(page, 0.8, 0.9) >= 127
    click_at(pane, 0.3, 0.4)
    expect(pins).to_have_text(["1"])
    expect(status(page)).to_have_text("1 region. Click a pin to remove it.")
    expect(page.locator("#track")).to_be_hidden()  # an image does not move
    page.get_by_role("button", name="Clear").click()
    expect(pins).to_have_count(0)
    expect(overlay).to_be_hidden()
    expect(status(page)).to_have_text(HINT)
    expect(pane).to_be_focused()


def test_keys_do_what_clicks_do_and_escape_removes_the_pins_first(page: Page) -> None:
    pane = open_tab(page, PHOTO, "Features")
    page.get_by_role("tab", name="Features").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    expect(pane).to_be_focused()
    for key in ("ArrowRight", "ArrowDown", "Enter"):
        page.keyboard.press(key)
    expect(status(page)).to_have_text("1 region. Click a pin to remove it.")
    page.keyboard.press("Enter")
    expect(status(page)).to_have_text(HINT)
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")  # the patch beside it
    expect(status(page)).to_have_text("2 regions. Click a pin to remove it.")
    page.keyboard.press("Escape")
    expect(page.locator("#viewer")).to_be_visible()
    expect(page.locator(".pin")).to_have_count(0)
    expect(status(page)).to_have_text(HINT)
    page.keyboard.press("Escape")
    expect(page.locator("#viewer")).to_be_hidden()


def test_regions_are_of_the_layer_and_of_one_image(page: Page) -> None:
    pane = open_tab(page, PHOTO, "Features")
    click_at(pane, 0.3, 0.4)
    overlay = page.locator("#regions")
    expect(overlay).to_be_visible()
    before = overlay.get_attribute("src")
    page.get_by_role("slider", name="Layer").fill("2")
    expect(overlay).not_to_have_attribute("src", before or "")
    page.locator("#viewer .close").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#viewer h2")).to_have_text("03's <b>.jpg")
    expect(overlay).to_be_hidden()
    expect(page.locator(".pin")).to_have_count(0)


def test_regions_are_few_and_errors_are_told(page: Page) -> None:
    pane = open_tab(page, PHOTO, "Features")
    for number in range(7):
        click_at(pane, 0.1 + 0.12 * number, 0.5)
    expect(status(page)).to_have_text("Maximum: 6 regions. Click a pin to remove it.")
    expect(page.locator("#features .pane:first-child .pin")).to_have_count(6)
    page.keyboard.press("Escape")
    message = "the file is no longer in the directory"
    page.route("**/api/regions/*", lambda route: route.fulfill(status=400, json={"error": message}))
    click_at(pane, 0.5, 0.5)
    expect(status(page)).to_have_text(message)
    expect(page.locator("#regions")).to_be_hidden()


def test_the_page_of_another_librarys_model_searches_and_says_that_it_has_no_features(
    browser: Browser, draw: Callable[[int], Image.Image], tmp_path: Path
) -> None:
    pytest.importorskip("timm")
    for number in range(3):
        draw(number).save(tmp_path / f"{number}.jpg")
    update_folder(tmp_path, "random:timm:test_vit")
    refused = "Failed to load resource: the server responded with a status of 4"
    with served(create_page(open_library(tmp_path))) as address, opened_page(browser, address, refused) as page:
        pane = open_tab(page, "1.jpg", "Features")
        message = "features are shown for Perception Encoder models only; this index is of random:timm:test_vit"
        expect(page.locator("#problem")).to_have_text(message)
        for hidden in (pane, page.locator("#layers"), page.locator("#regions-bar")):
            expect(hidden).to_be_hidden()
        page.get_by_role("button", name="More like this").click()
        wait_until(page, "document.querySelector('#grid button.tile')?.title === '1.jpg'")


# ---- tracking


def test_track_plays_the_video_with_the_regions(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (tracked_videos, dense_routes):
        monkeypatch.setattr(module, "SECONDS", 1.0)
    pane = open_tab(page, CLIP, "Features")
    expect(page.locator("#track")).to_be_hidden()
    click_at(pane, 0.1, 0.9)
    button = page.locator("#track")
    expect(button).to_have_text("Track")
    button.click()
    video = page.get_by_label("The regions through the video")
    expect(video).to_be_visible(timeout=60_000)
    expect(status(page)).to_have_text("Tracked for the maximum of 1 s.")
    expect(page.locator("#tracking")).to_be_hidden()
    expect(pane).to_be_hidden()
    wait_until(page, "tracked.readyState >= 2 && tracked.currentTime > 0")  # it plays
    assert page.evaluate("[tracked.videoWidth, tracked.videoHeight, tracked.error]") == [128, 64, None]
    assert page.evaluate("tracked.duration") == pytest.approx(1, abs=0.05)
    assert (video.get_attribute("src") or "").startswith("blob:")
    expect(button).to_have_text("Back to the image")
    button.click()
    expect(video).to_be_hidden()
    expect(pane).to_be_visible()
    expect(page.locator("#regions")).to_be_visible()
    expect(button).to_be_focused()
    expect(button).to_have_text("Track")


def test_progress_is_shown_and_tracking_can_be_stopped(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    running, go = threading.Semaphore(0), threading.Event()

    def slow(image: Image.Image, labels: np.ndarray) -> Image.Image:
        running.release()
        go.wait(0.3)
        return image

    monkeypatch.setattr(drawing, "draw_objects", slow)
    pane, button = open_tab(page, CLIP, "Features"), page.locator("#track")
    click_at(pane, 0.1, 0.9)
    button.click()
    expect(button).to_have_text("Stop")
    expect(status(page)).to_have_text("Tracking …")
    progress = page.get_by_role("progressbar", name="Frames tracked")
    wait_until(page, "document.querySelector('#tracking progress').value >= 2")
    expect(page.locator("#tracking")).to_contain_text("of 35 frames")
    assert float(progress.get_attribute("max") or 0) == 35
    button.click()
    expect(status(page)).to_have_text("Stopped.")
    expect(page.locator("#tracking")).to_be_hidden()
    wait_for(lambda: not ended(running), "the work ends")
    for leave in (lambda: page.keyboard.press("Escape"), lambda: page.get_by_role("tab", name="Ask").click()):
        if not page.locator(".pin").count():
            click_at(pane, 0.1, 0.9)
        button.click()
        wait_for(lambda: ended(running), "tracking begins again")
        leave()
        wait_for(lambda: not ended(running), "the work ends")
    expect(page.locator("#viewer")).to_be_visible()


def ended(running: threading.Semaphore) -> bool:
    """Whether a frame is drawn within a second."""
    return running.acquire(timeout=1.0)


def test_errors_of_tracking_are_shown(page: Page) -> None:
    pane, button = open_tab(page, CLIP, "Features"), page.locator("#track")
    click_at(pane, 0.1, 0.9)

    def break_off(route: Route) -> None:
        route.fulfill(body='{"done": 1, "total": 35}\n{"error": "frame 1: cannot be decoded"}\n')

    for answer, message in (
        (lambda route: route.fulfill(status=429, json={"error": "4 videos wait already"}), "4 videos wait already"),
        (break_off, "frame 1: cannot be decoded"),
        (lambda route: route.fulfill(body='{"done": 1, "total": 35}\n'), "The server does not answer."),
    ):
        page.unroute("**/api/track/*")
        page.route("**/api/track/*", answer)
        button.click()
        expect(status(page)).to_contain_text(message)
        expect(button).to_have_text("Track")
        expect(page.locator("#tracking")).to_be_hidden()
    page.unroute("**/api/track/*")


# ---- depth


def test_the_boundary_moves_and_the_depth_is_read(page: Page, address: str) -> None:
    pane = open_tab(page, PHOTO, "Depth")
    wait_until(page, "document.querySelector('#depth-map').naturalWidth === 80")
    slider = page.get_by_role("slider", name="Boundary between image and depth")
    clip_path = "getComputedStyle(document.querySelector('#depth-map')).clipPath"
    assert page.evaluate(clip_path) == "inset(0px 0px 0px 50%)"
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate(clip_path) == "inset(0px 0px 0px 51%)"
    expect(slider).to_have_attribute("aria-valuetext", "image 51 %, depth 49 %")
    expect(page.locator("#viewer h2")).to_have_text(PHOTO)  # the key was the slider's
    box = pane.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 0.51 * box["width"], box["y"] + 0.5 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 0.5 * box["height"])
    page.mouse.up()
    expect(slider).to_have_value("20")
    assert page.evaluate(clip_path) == "inset(0px 0px 0px 20%)"
    page.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + 0.25 * box["height"])
    expect(slider).to_have_value("20")  # without the button it only reads
    tile = next(
        tile for tile in page.request.get(f"{address}/api/hits?count=200").json()["tiles"] if tile["path"] == PHOTO
    )
    about = page.request.get(f"{address}/api/depth/{tile['id']}?at=0.7,0.25").json()
    expect(page.get_by_label("Depth at the pointer")).to_have_text(f"{about['depth']:.2f} m")
    expect(page.locator("#nearest")).to_have_text(f"{about['nearest']:.2f} m")
    expect(page.locator("#farthest")).to_have_text(f"{about['farthest']:.2f} m")
    page.locator("#viewer h2").hover()
    expect(page.locator("#metres")).to_have_text("")


def test_keys_read_the_depth_and_a_moment_has_one(page: Page) -> None:
    pane = open_tab(page, CLIP, "Depth")
    wait_until(page, "document.querySelector('#scene').naturalWidth === 128")
    pane.focus()
    page.keyboard.press("ArrowUp")
    expect(page.locator("#metres")).to_contain_text(" m")
    expect(pane.locator(".mark")).to_be_visible()
    expect(page.locator("#viewer h2")).to_have_text(CLIP)
    page.keyboard.press("Tab")
    expect(page.locator("#boundary")).to_be_focused()
    expect(pane.locator(".mark")).to_be_hidden()


def test_a_file_that_is_gone_has_no_depth(page: Page) -> None:
    message = "the file is no longer in the directory"
    page.route("**/api/depth/*", lambda route: route.fulfill(status=400, json={"error": message}))
    pane = open_tab(page, PHOTO, "Depth")
    expect(page.locator("#depth-problem")).to_have_text(message)
    expect(pane).to_be_hidden()
    expect(page.locator("#depth-bar")).to_be_hidden()


def test_a_page_without_a_depth_head_says_how_to_get_one(browser: Browser, library: MediaLibrary) -> None:
    with served(create_page(library)) as address:
        page = browser.new_page()
        page.goto(address)
        open_tab(page, PHOTO, "Depth")
        expect(page.get_by_role("heading", name="No depth head")).to_be_visible()
        code = page.locator("#depth code")
        expect(code.first).to_have_text("pe train depth --data DATA -o runs/depth")
        expect(code.last).to_have_text("pe serve DIR --depth-head runs/depth/head.safetensors")
        assert contrast(page, "#depth p") >= 4.5
        page.close()


# ---- looks


@pytest.mark.parametrize(("width", "height"), [(390, 844), (320, 568), (1200, 800)])
def test_everything_fits_the_screen_in_both_colour_schemes(
    browser: Browser, address: str, width: int, height: int
) -> None:
    page = browser.new_page(viewport={"width": width, "height": height})
    page.goto(address)
    pane = open_tab(page, CLIP, "Features")
    click_at(pane, 0.1, 0.9)
    expect(page.locator("#regions")).to_be_visible()
    check_fit(page, width, "#track", "#clear", "#features .pane")
    page.get_by_role("tab", name="Depth").click()
    expect(page.locator("#depth-bar")).to_be_visible()
    pane = page.locator("#depth .pane")
    pane.hover()
    expect(page.locator("#metres")).to_contain_text(" m")
    check_fit(page, width, "#boundary", "#depth .pane", ".scale")
    box = pane.bounding_box()
    assert box is not None and box["width"] == pytest.approx(2 * box["height"], rel=0.03) and box["height"] > 100
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for selector in ("#metres", "#depth-bar p", ".scale", "#regions-bar"):
            assert contrast(page, selector) >= 4.5, selector
    page.close()


def check_fit(page: Page, width: int, *selectors: str) -> None:
    """Check that the viewer is as wide as the screen at most, with its controls and tabs inside."""
    assert page.evaluate("document.querySelector('#viewer').scrollWidth") <= width
    for selector in (*selectors, "#tab-ask", "#viewer .close"):
        box = page.locator(selector).first.bounding_box()
        assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= width, selector
    close, tab = page.locator("#viewer .close").bounding_box(), page.locator("#tab-ask").bounding_box()
    assert close is not None and tab is not None and tab["x"] + tab["width"] <= close["x"]


def test_every_control_has_a_name(page: Page) -> None:
    pane = open_tab(page, CLIP, "Features")
    click_at(pane, 0.5, 0.5)
    expect(page.locator("#regions")).to_be_visible()
    nameless = page.evaluate(
        """[...document.querySelectorAll(
            "button, input, output, progress, video, [role=group], [role=tabpanel]"
        )].filter((one) => !one.ariaLabel && !one.getAttribute("aria-labelledby") && !(one.labels ?? []).length
                && !(one.htmlFor ?? "").toString() && !(one.innerText ?? "").trim()
        ).map((one) => one.outerHTML)"""
    )
    assert nameless == []
    assert page.evaluate("[...document.images].every((one) => one.hasAttribute('alt'))")
