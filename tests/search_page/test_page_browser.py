"""The page in a real browser: what is seen, typed, hovered, clicked and dropped."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlparse

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, Route, expect

from perception_encoder.inference.encoder import Encoder
from perception_encoder.search.storage.store import IndexStore
from perception_encoder.search_page.library import MediaLibrary, open_library
from perception_encoder.search_page.server import create_page
from perception_encoder.serving.queues import GenerationQueue
from tests.browsing import contrast, opened_page, wait_until
from tests.clips import clip
from tests.search.indexes import make_library, update_folder, wait_for
from tests.serving.generators import ENDLESS, TOO_LONG, EchoGenerator
from tests.serving.servers import served

pytestmark = pytest.mark.browser
IDLE = "document.querySelector('#grid').getAttribute('aria-busy') === 'false'"


@pytest.fixture(scope="module")
def library(
    tmp_path_factory: pytest.TempPathFactory, checkpoint: Path, encoder: Encoder, draw: Callable[[int], Image.Image]
) -> MediaLibrary:
    return make_library(tmp_path_factory.mktemp("library") / "photos", checkpoint, encoder, draw)


@pytest.fixture(scope="module")
def address(library: MediaLibrary) -> Iterator[str]:
    with served(create_page(library)) as address:
        yield address


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """The page, opened; whatever it complains of in the console fails the test."""
    refused = "Failed to load resource: the server responded with a status of 400 (Bad Request)"
    with opened_page(browser, address, refused) as page:
        expect(page.locator("#grid button.tile").first).to_be_visible()
        yield page


def names(page: Page) -> list[str]:
    return page.locator("#grid button.tile").evaluate_all("all => all.map(one => one.title)")


def test_it_opens_on_the_newest(page: Page) -> None:
    assert names(page)[0] == "clip.mp4" and names(page)[-1] == "00's <b>.jpg"
    expect(page.locator("#count")).to_contain_text("13 images and moments")
    first = "[...document.querySelectorAll('#grid img')].slice(0, 8)"
    wait_until(page, f"{first}.every(one => one.complete && one.naturalWidth > 0)")


def test_results_are_counted(page: Page) -> None:
    expect(page.locator("#count")).to_have_text("13 images and moments, newest first")
    expect(page.locator("#count")).to_have_role("status")
    page.locator("#words").fill("a cat")
    expect(page.locator("#count")).to_have_text("13 images and moments, best match first")
    page.get_by_text("Images", exact=True).click()
    expect(page.locator("#count")).to_have_text("12 images, best match first")
    page.get_by_label("To", exact=True).fill("2023-01")
    expect(page.locator("#count")).to_have_text("1 image")


def test_words_are_looked_for_as_they_are_typed(page: Page, address: str) -> None:
    page.keyboard.press("Escape")  # out of the field, that has the focus at first
    page.keyboard.press("/")
    page.keyboard.type("a red mug")
    page.wait_for_url("**/?q=text%3Aa%20red%20mug")
    wait_until(page, IDLE)
    found = page.request.get(f"{address}/api/hits?q=text:a red mug").json()["tiles"]
    assert names(page) == [tile["path"] for tile in found]
    page.reload()
    expect(page.locator("#words")).to_have_value("a red mug")
    page.locator("#words").fill("")
    wait_until(page, "document.querySelector('#grid button.tile')?.title === 'clip.mp4'")


def test_filters_and_the_empty_state(page: Page) -> None:
    page.get_by_text("Videos", exact=True).click()
    wait_until(page, "[...document.querySelectorAll('#grid button.tile')].every(one => one.title === 'clip.mp4')")
    page.locator("#since").fill("2025")
    expect(page.locator("#empty h2")).to_have_text("No results")
    page.locator("#since").fill("soon")
    expect(page.locator("#error")).to_contain_text("is not a date")


def test_one_is_opened_stepped_through_and_closed_by_keys(page: Page) -> None:
    page.get_by_text("Images", exact=True).click()
    wait_until(page, "document.querySelector('#grid button.tile')?.title === \"sub/11's <b>.jpg\"")
    page.locator("#words").press("ArrowDown")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    viewer = page.locator("#viewer")
    expect(viewer).to_be_visible()
    expect(viewer.locator("h2")).to_have_text("10's <b>.jpg")  # as text, not as markup
    wait_until(page, "document.querySelector('#stage img')?.naturalWidth === 80")
    expect(viewer.locator("#around [aria-current]")).to_have_count(1)
    page.keyboard.press("ArrowLeft")
    expect(viewer.locator("h2")).to_have_text("11's <b>.jpg")
    page.keyboard.press("Escape")
    expect(viewer).to_be_hidden()
    wait_until(page, 'document.activeElement.title === "sub/11\'s <b>.jpg"')


def test_more_like_one(page: Page) -> None:
    page.locator('button[title="04\'s <b>.jpg"]').click()
    page.get_by_role("button", name="More like this").click()
    wait_until(page, "document.querySelector('#grid button.tile')?.title === \"04's <b>.jpg\"")
    expect(page.locator("#terms img")).to_be_visible()
    expect(page.locator("#terms input")).to_be_hidden()  # of one term the weight says nothing
    page.get_by_role("button", name="Remove 04's <b>.jpg").click()
    wait_until(page, "document.querySelector('#grid button.tile')?.title === 'clip.mp4'")
    expect(page.locator("#terms")).to_be_hidden()


def asked(page: Page) -> list[str]:
    """What the address says is looked for."""
    return parse_qs(urlparse(page.url).query).get("q", [])


def test_terms_have_weights(page: Page, address: str) -> None:
    page.locator("#words").fill("2:a cat - snow")
    expect(page.locator("#terms li")).to_have_text(["a cat2×", "snow−1×"])
    slider = page.get_by_role("slider", name="Weight of snow")
    slider.focus()
    for _ in range(2):
        page.keyboard.press("ArrowLeft")
    expect(page.locator("#words")).to_have_value("2:a cat - 1.5:snow")
    wait_until(page, "location.search.includes('1.5')")
    wait_until(page, IDLE)
    expect(slider).to_be_focused()  # the answer has not taken it away
    found = page.request.get(f"{address}/api/hits?q=text:2:a cat - 1.5:snow").json()["tiles"]
    assert names(page) == [tile["path"] for tile in found]
    page.get_by_role("button", name="Remove a cat").click()
    expect(page.locator("#words")).to_have_value("-1.5:snow")
    expect(page.locator("#terms")).to_be_hidden()
    assert asked(page) == ["text:-1.5:snow"]


def test_pictures_are_added_and_taken_away(page: Page) -> None:
    page.locator("#words").fill("a cat")
    wait_until(page, "location.search.includes('cat')")
    wait_until(page, IDLE)
    for title, name in (("04's <b>.jpg", "Add to search"), ("sub/05's <b>.jpg", "Less like this")):
        page.locator(f'#grid button[title="{title}"]').click()
        page.get_by_role("button", name=name).click()
        wait_until(page, IDLE)
    text, more, less = asked(page)
    assert text == "text:a cat" and more.startswith("like:") and less.startswith("-1:like:")
    expect(page.locator("#terms li")).to_have_count(3)
    order = names(page)
    assert order.index("04's <b>.jpg") < order.index("sub/05's <b>.jpg") == len(order) - 1
    page.reload()
    expect(page.locator("#terms li")).to_have_count(3)
    page.locator("#words").fill("")
    page.keyboard.press("Backspace")
    expect(page.locator("#terms li")).to_have_count(1)
    assert asked(page) == [more]


def test_inside_shows_a_layer_and_what_is_like_a_place(page: Page) -> None:
    page.locator('#grid button[title="04\'s <b>.jpg"]').click()
    page.get_by_role("tab", name="Image").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Features")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#stage")).to_be_hidden()
    wait_until(page, "document.querySelector('#features').ariaBusy === 'false'")
    size = "[document.querySelector('#map').naturalWidth, document.querySelector('#map').naturalHeight]"
    assert page.evaluate(size) == [40, 30]  # a pixel a patch
    last = page.locator("#map").get_attribute("src")
    slider = page.get_by_role("slider", name="Layer")
    slider.focus()
    page.keyboard.press("Home")
    wait_until(page, f"document.querySelector('#map').src !== {last!r}")
    expect(page.locator("#layers output")).to_have_text("0")
    expect(page.locator("#viewer h2")).to_have_text("04's <b>.jpg")  # the key was the slider's
    expect(page.locator("#shade")).to_be_hidden()
    page.locator(".pane").first.hover(position={"x": 30, "y": 30})
    expect(page.locator("#shade")).to_be_visible()
    page.locator("#viewer h2").hover()
    expect(page.locator("#shade")).to_be_hidden()
    page.locator(".pane").last.focus()
    page.keyboard.press("ArrowDown")
    expect(page.locator("#shade")).to_be_visible()
    page.locator("#viewer .close").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#viewer h2")).to_have_text("sub/03's <b>.jpg".rpartition("/")[2])
    expect(page.locator("#features")).to_be_visible()  # the tab stays


def test_inside_shows_a_second_model_beside_the_first(browser: Browser, library: MediaLibrary) -> None:
    with served(create_page(library, features_model="builtin")) as address:
        page = browser.new_page(viewport={"width": 1200, "height": 800})
        page.goto(address)
        page.locator('#grid button[title="04\'s <b>.jpg"]').click()
        page.get_by_role("tab", name="Features").click()
        wait_until(page, "document.querySelector('#features').ariaBusy === 'false'")
        assert page.evaluate("document.querySelector('#baseline').naturalWidth") == 40
        boxes = [pane.bounding_box() for pane in page.locator(".pane").all()]
        assert len(boxes) == 3 and boxes[0]["x"] < boxes[1]["x"] < boxes[2]["x"] and boxes[2]["width"] > 200
        expect(page.locator(".pane .name")).to_have_text("builtin")
        page.locator(".pane").last.hover(position={"x": 30, "y": 30})
        expect(page.locator("#shade")).to_be_visible()
        expect(page.locator("#baseline-shade")).to_be_visible()
        page.locator("#viewer h2").hover()
        expect(page.locator("#baseline-shade")).to_be_hidden()
        page.close()


def test_a_file_that_is_gone_has_no_inside(page: Page) -> None:
    said = {"error": "the file is no longer in the directory"}
    page.route("**/api/inside/*", lambda route: route.fulfill(status=400, json=said))
    page.locator('#grid button[title="04\'s <b>.jpg"]').click()
    page.get_by_role("tab", name="Features").click()
    expect(page.locator("#problem")).to_have_text(said["error"])
    expect(page.locator(".pane").first).to_be_hidden()


def test_the_page_of_another_librarys_model_searches_and_says_that_it_has_no_features(
    browser: Browser, draw: Callable[[int], Image.Image], tmp_path: Path
) -> None:
    pytest.importorskip("timm")
    for number in range(3):
        draw(number).save(tmp_path / f"{number}.jpg")
    update_folder(tmp_path, "random:timm:test_vit")
    refused = "Failed to load resource: the server responded with a status of 4"
    with served(create_page(open_library(tmp_path))) as address, opened_page(browser, address, refused) as page:
        page.locator('#grid button[title="1.jpg"]').click()
        page.get_by_role("tab", name="Features").click()
        message = "features are shown for Perception Encoder models only; this index is of random:timm:test_vit"
        expect(page.locator("#problem")).to_have_text(message)
        for hidden in (page.locator("#features .pane").first, page.locator("#layers")):
            expect(hidden).to_be_hidden()
        page.get_by_role("button", name="More like this").click()
        wait_until(page, "document.querySelector('#grid button.tile')?.title === '1.jpg'")


def test_a_picture_is_chosen_or_dropped(page: Page, draw: Callable[[int], Image.Image], tmp_path: Path) -> None:
    draw(7).save(tmp_path / "query.jpg", quality=90)
    page.locator("#file").set_input_files(tmp_path / "query.jpg")
    wait_until(page, "document.querySelector('#grid button.tile')?.title === \"sub/07's <b>.jpg\"")
    draw(8).save(tmp_path / "other.jpg", quality=90)
    drop(page, tmp_path / "other.jpg", "image/jpeg")
    wait_until(page, "document.querySelector('#grid button.tile')?.title === \"08's <b>.jpg\"")


def test_a_moment_plays_under_the_pointer(page: Page) -> None:
    tile = page.locator("button[title='clip.mp4']").first
    tile.hover()
    expect(tile.locator("video")).to_have_count(1)
    page.locator("#words").hover()
    expect(tile.locator("video")).to_have_count(0)


def test_progress_and_files_that_cannot_be_read_are_shown(page: Page) -> None:
    reason = "is not an image in a supported format"
    failed = [{"name": f"<b>{number}.jpg", "reason": reason} for number in range(2)]

    def running(route: Route) -> None:
        route.fulfill(json={**route.fetch().json(), "running": True, "done": 470, "total": 507})

    def ended(route: Route) -> None:
        route.fulfill(json={**route.fetch().json(), "failures": 3, "failed": failed})

    expect(page.locator("#failed")).to_be_hidden()
    page.route("**/api/status", running)
    expect(page.locator("#progress")).to_contain_text("470 of 507 files", timeout=10_000)
    page.unroute("**/api/status")
    page.route("**/api/status", ended)
    expect(page.locator("#failed summary")).to_have_text("3 files could not be read", timeout=10_000)
    expect(page.locator("#progress")).to_be_hidden()
    page.locator("#failed summary").click()
    lines = [f"<b>0.jpg: {reason}", f"<b>1.jpg: {reason}", "and 1 more"]
    expect(page.locator("#failed li")).to_have_text(lines)
    page.unroute("**/api/status")


def test_a_link_from_another_page_opens_this_one(browser: Browser, address: str) -> None:
    """And another page of the same browser gets none of its images."""
    page = browser.new_page()
    tile = page.request.get(f"{address}/api/hits").json()["tiles"][0]
    foreign = address.replace("127.0.0.1", "localhost")
    images = f'<img src="{address}{tile["thumbnail"]}"><img src="{foreign}/static/page.css">'
    body = f'{images}<a href="{address}">go</a>'
    page.route("http://elsewhere.test/**", lambda route: route.fulfill(content_type="text/html", body=body))
    statuses: list[int] = []
    page.on("response", lambda response: statuses.append(response.status) if "elsewhere" not in response.url else None)
    page.goto("http://elsewhere.test/")
    page.wait_for_load_state("load")
    assert not any(page.evaluate("[...document.images].map(one => one.naturalWidth)"))
    assert set(statuses) <= {403}
    page.get_by_role("link", name="go").click()
    expect(page.locator("#grid button.tile").first).to_be_visible()
    page.close()


@pytest.mark.parametrize("width", [360, 768, 1600])
def test_nothing_is_wider_than_the_screen(browser: Browser, address: str, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 720}, color_scheme="dark")
    page.goto(address)
    expect(page.locator("#grid button.tile").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert sum(map(int, ground.removeprefix("rgb(").removesuffix(")").split(","))) < 150  # dark
    page.close()


def test_a_minimum_score_leaves_what_reaches_it(page: Page) -> None:
    page.locator("#min_score").fill("0.99")
    expect(page.locator("#grid button.tile")).not_to_have_count(0)  # without a query there are no scores
    page.locator("#words").fill("a cat")
    message = "Nothing scores 0.99 or higher. Lower the minimum score to see more."
    expect(page.locator("#empty")).to_have_text(f"No match{message}")
    page.locator("#min_score").fill("-1")
    page.wait_for_url("**/?q=text%3Aa%20cat&min_score=-1")
    expect(page.locator("#grid button.tile")).not_to_have_count(0)
    page.locator("#min_score").fill("high")
    expect(page.locator("#error")).to_contain_text("the minimum score is 'high'; it must be a number from -1 to 1")


def test_back_restores_the_query_and_the_filters(page: Page, address: str) -> None:
    page.locator("#words").fill("a cat")
    page.wait_for_url("**/?q=text%3Aa%20cat")
    page.get_by_text("Images", exact=True).click()
    page.wait_for_url("**/?q=text%3Aa%20cat&kind=image")
    page.get_by_label("From", exact=True).fill("2023-06")
    page.get_by_label("Path", exact=True).fill("sub/")
    page.wait_for_url("**/?q=text%3Aa%20cat&kind=image&since=2023-06&path=sub%2F")
    expect(page.locator("#count")).to_have_text("4 images, best match first")
    page.reload()
    expect(page.locator("#words")).to_have_value("a cat")
    expect(page.get_by_label("Images", exact=True)).to_be_checked()
    expect(page.get_by_label("From", exact=True)).to_have_value("2023-06")
    expect(page.get_by_label("Path", exact=True)).to_have_value("sub/")
    expect(page.locator("#count")).to_have_text("4 images, best match first")
    while page.url != f"{address}/?q=text%3Aa%20cat&kind=image":
        page.go_back()
    expect(page.locator("#count")).to_have_text("12 images, best match first")
    expect(page.get_by_label("Path", exact=True)).to_have_value("")
    page.go_back()
    expect(page.get_by_label("All", exact=True)).to_be_checked()
    expect(page.locator("#count")).to_have_text("13 images and moments, best match first")
    page.go_back()
    expect(page.locator("#words")).to_have_value("")
    expect(page.locator("#count")).to_have_text("13 images and moments, newest first")
    page.go_forward()
    expect(page.locator("#words")).to_have_value("a cat")


def test_typing_on_makes_one_entry(page: Page, address: str) -> None:
    page.locator("#words").press_sequentially("a red mug", delay=100)  # pauses shorter than what starts a search
    page.locator("#words").press("Enter")
    page.wait_for_url("**/?q=text%3Aa%20red%20mug")
    page.go_back()
    assert page.url == f"{address}/"


def test_a_press_beside_the_viewer_closes_it_and_a_drag_out_of_it_does_not(page: Page) -> None:
    viewer = page.locator("#viewer")
    page.locator('#grid button[title="04\'s <b>.jpg"]').click()
    tab = page.get_by_role("tab", name="Features").bounding_box()
    assert tab is not None
    page.mouse.move(tab["x"] + 5, tab["y"] + 5)
    page.mouse.down()
    page.mouse.move(2, 300)
    page.mouse.up()
    expect(viewer).to_be_visible()
    page.mouse.click(2, 300)
    expect(viewer).to_be_hidden()


def test_the_tabs_stay_where_they_are_while_an_image_opens(page: Page) -> None:
    """Else a press that begins on one may end elsewhere."""
    waiting: list[Route] = []
    page.route("**/api/around/*", lambda route: waiting.append(route))
    page.locator('#grid button[title="04\'s <b>.jpg"]').click()
    tabs, around = page.get_by_role("tablist"), page.locator("#around button")
    before = tabs.bounding_box()
    expect(around).to_have_count(0)
    waiting[0].continue_()
    expect(around.first).to_be_visible()
    assert tabs.bounding_box() == before
    for name in ("Features", "Ask"):
        page.get_by_role("tab", name=name).click()
        assert tabs.bounding_box() == before, name


def test_back_closes_the_viewer(page: Page) -> None:
    page.locator("#words").fill("a cat")
    page.wait_for_url("**/?q=text%3Aa%20cat")
    wait_until(page, IDLE)
    url = page.url
    page.locator("#grid button.tile").first.click()
    expect(page.locator("#viewer")).to_be_visible()
    page.go_back()
    expect(page.locator("#viewer")).to_be_hidden()
    assert page.url == url
    page.locator("#grid button.tile").first.click()
    page.keyboard.press("Escape")
    expect(page.locator("#viewer")).to_be_hidden()
    wait_until(page, "!history.state")
    page.locator("#grid button.tile").first.click()
    page.get_by_role("button", name="More like this").click()
    wait_until(page, "location.search.includes('like')")
    page.go_back()
    expect(page.locator("#words")).to_have_value("a cat")
    assert page.url == url
    expect(page.locator("#viewer")).to_be_hidden()


def test_an_opened_image_has_an_address(page: Page) -> None:
    url = page.url
    tiles = page.locator("#grid button.tile")
    tiles.first.click()
    expect(page.locator("#viewer")).to_be_visible()
    assert f"open={tiles.first.get_attribute('data-id')}" in page.url
    page.keyboard.press("ArrowRight")
    second = tiles.nth(1).get_attribute("data-id")
    wait_until(page, f"location.search.includes('{second}')")
    name = page.locator("#about h2").text_content()
    page.reload()
    expect(page.locator("#viewer")).to_be_visible()
    expect(page.locator("#about h2")).to_have_text(str(name))
    page.go_back()
    expect(page.locator("#viewer")).to_be_hidden()
    assert urlparse(page.url).query == urlparse(url).query
    page.go_forward()
    expect(page.locator("#about h2")).to_have_text(str(name))


def test_a_dismissed_note_stays_dismissed_until_it_says_something_else(browser: Browser, library: MediaLibrary) -> None:
    context = browser.new_context()
    for note, visible in (("a demo", True), ("a demo", False), ("another", True)):
        with served(create_page(library, note=note), 18_437) as address:  # what a browser stores is by host and port
            page = context.new_page()
            page.goto(address)
            expect(page.locator("#note")).to_be_visible(visible=visible)
            if visible:
                page.get_by_role("button", name="Dismiss this note").click()
                expect(page.locator("#note")).to_be_hidden()
            page.close()
    context.close()


def test_escape_leaves_the_field_and_its_text(page: Page) -> None:
    page.locator("#words").fill("a cat")
    page.keyboard.press("Escape")
    expect(page.locator("#words")).not_to_be_focused()
    expect(page.locator("#words")).to_have_value("a cat")


def drop(page: Page, path: Path, kind: str) -> None:
    """Drop a file on the page."""
    page.evaluate(
        """([bytes, name, type]) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], name, { type }));
            dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
        }""",
        [list(path.read_bytes()), path.name, kind],
    )


def test_a_dropped_image_combines_with_the_text(
    page: Page, draw: Callable[[int], Image.Image], tmp_path: Path, address: str
) -> None:
    page.locator("#words").fill("a cat")
    page.wait_for_url("**/?q=text%3Aa%20cat")
    draw(7).save(tmp_path / "query.jpg", quality=90)
    drop(page, tmp_path / "query.jpg", "image/jpeg")
    expect(page.locator("#terms li")).to_have_count(2)
    expect(page.locator("#words")).to_have_value("a cat")
    text, image = asked(page)
    assert text == "text:a cat" and image.startswith("image:")
    wait_until(page, IDLE)
    answer = page.request.get(f"{address}/api/hits", params=f"q={text}&q={image}").json()
    assert names(page) == [tile["path"] for tile in answer["tiles"]]
    page.get_by_role("slider", name="Weight of query.jpg").press("End")
    wait_until(page, f"location.search.includes('2%3A{image.replace(':', '%3A')}')")
    page.go_back()
    page.go_forward()
    expect(page.locator("#terms img")).to_be_visible()  # as long as the page is open
    page.reload()
    expect(page.locator("#terms li")).to_have_count(2)


def test_a_video_is_searched_by(page: Page, tmp_path: Path) -> None:
    assert "video/*" in page.get_by_label("Search by image").get_attribute("accept")
    (tmp_path / "query.mp4").write_bytes(clip(100, rate=10))
    page.get_by_label("Search by image").set_input_files(tmp_path / "query.mp4")
    wait_until(page, "document.querySelector('#grid button.tile')?.title === 'clip.mp4' && location.search")
    expect(page.locator("#terms .name")).to_have_text("query.mp4")


def test_a_file_that_is_too_large_is_not_sent(page: Page, tmp_path: Path) -> None:
    page.locator("#file").evaluate("input => { input.dataset.limit = 2 << 20; }")
    (tmp_path / "long.mp4").write_bytes(bytes((2 << 20) + 1))
    page.get_by_label("Search by image").set_input_files(tmp_path / "long.mp4")
    expect(page.locator("#error")).to_have_text("long.mp4 is larger than 2 MiB, the limit")
    expect(page.locator("#count")).to_have_text("13 images and moments, newest first")


def test_rescan_says_what_came_of_it(page: Page) -> None:
    page.get_by_role("button", name="Rescan").click()
    expect(page.locator("#scan")).to_have_text("No changes", timeout=20_000)
    expect(page.get_by_role("button", name="Rescan")).to_be_enabled()


def test_a_rescan_before_the_first_status_says_the_same(page: Page) -> None:
    held: list[Route] = []
    page.route("**/api/status", lambda route: held.append(route))
    page.reload()
    with page.expect_request("**/api/status"):
        page.get_by_role("button", name="Rescan").click()
    for route in held:
        route.continue_()
    page.unroute("**/api/status")
    expect(page.locator("#scan")).to_have_text("No changes", timeout=20_000)


def test_help_is_behind_a_button_and_a_key(page: Page) -> None:
    opener, dialog = page.get_by_role("button", name="Query syntax and keys"), page.locator("#help")
    expect(dialog).to_be_hidden()
    opener.click()
    expect(page.get_by_role("dialog", name="Query syntax and keys")).to_contain_text("2:dog - 0.5:snow")
    page.keyboard.press("ArrowRight")  # moves nothing behind it
    dialog.get_by_role("button", name="Close").click()
    expect(dialog).to_be_hidden()
    expect(opener).to_be_focused()
    page.keyboard.press("?")
    expect(dialog).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    page.locator("#words").fill("")
    page.locator("#words").press_sequentially("what?")
    expect(page.locator("#words")).to_have_value("what?")
    expect(dialog).to_be_hidden()


def test_videos_show_how_long_they_last(page: Page) -> None:
    tile = page.locator("#grid button[title='clip.mp4']").last
    expect(tile.locator(".time")).to_have_text("▶ 0:20")
    expect(page.locator("#grid button[title$='.jpg'] .time")).to_have_count(0)
    tile.click()
    expect(page.locator("#around .time").first).to_have_text("0:00")  # where the moment begins


def test_every_control_has_a_name(page: Page) -> None:
    page.locator("#words").fill("a cat - snow")
    expect(page.locator("#terms li")).to_have_count(2)
    page.locator("#grid button.tile").first.click()
    nameless = page.evaluate(
        """[...document.querySelectorAll("button, input, a, progress, dialog, [role=group], [role=tabpanel]")].filter(
            (one) => !one.ariaLabel && !one.getAttribute("aria-labelledby") && !(one.labels ?? []).length
                && !(one.innerText ?? "").trim()
        ).map((one) => one.outerHTML)"""
    )
    assert nameless == []
    assert page.evaluate("[...document.images].every((one) => one.hasAttribute('alt'))")
    tile = page.locator("#grid button[title='clip.mp4']").first
    assert re.fullmatch(r"clip\.mp4, video of 0:20, moment at 0:\d\d, -?0\.\d\d", tile.get_attribute("aria-label"))


def test_the_filters_fold_away_on_a_phone(browser: Browser, address: str) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 844}, has_touch=True)
    page.goto(f"{address}/?kind=image&since=2023")
    expect(page.locator("#count")).to_have_text("12 images, newest first")
    opener, filters = page.get_by_role("button", name="Filters, 2 set"), page.locator("#filters")
    expect(filters).to_be_hidden()
    height = page.locator("header").bounding_box()["height"]
    assert height < 90
    opener.tap()
    expect(filters).to_be_visible()
    expect(opener).to_have_attribute("aria-expanded", "true")
    page.get_by_text("Videos", exact=True).tap()
    wait_until(page, "[...document.querySelectorAll('#grid button.tile')].every(one => one.title === 'clip.mp4')")
    opener.tap()
    expect(filters).to_be_hidden()
    expect(page.get_by_role("button", name="Search by image")).to_have_count(1)  # the icon has kept its label
    page.set_viewport_size({"width": 1200, "height": 800})
    expect(filters).to_be_visible()
    expect(opener).to_be_hidden()
    page.close()


@pytest.mark.parametrize("density", [1, 2])
def test_thumbnails_are_sharp(
    browser: Browser,
    checkpoint: Path,
    encoder: Encoder,
    draw: Callable[[int], Image.Image],
    tmp_path: Path,
    density: int,
) -> None:
    for number in range(3):
        draw(number).resize((1600, 1200)).save(tmp_path / f"{number}.jpg")
    draw(4).save(tmp_path / "small.jpg")
    update_folder(tmp_path, checkpoint)
    with served(create_page(MediaLibrary(IndexStore.open(tmp_path), encoder))) as address:
        page = browser.new_page(viewport={"width": 1100, "height": 800}, device_scale_factor=density)
        page.goto(address)
        images = "[...document.querySelectorAll('#grid img')]"
        wait_until(page, f"{images}.length === 4 && {images}.every(one => one.complete && one.naturalWidth)")
        enough = f"one.naturalHeight * 1.1 >= one.clientHeight * {density} || one.naturalWidth === 80"
        wait_until(page, f"{images}.every(one => {enough})")
        large = page.evaluate(f"{images}.filter(one => one.src.includes('/large?')).length")
        assert large == (3 if density == 2 else 0)
        page.close()


def test_the_network_needs_the_key_once(browser: Browser, library: MediaLibrary) -> None:
    with served(create_page(library, key="a key & more")) as address:
        phone = browser.new_context(viewport={"width": 390, "height": 844})
        page = phone.new_page()
        page.goto(f"{address}/?key=a%20key%20%26%20more&kind=image")
        expect(page.locator("#count")).to_have_text("12 images, newest first")
        assert page.url == f"{address}/?kind=image"
        wait_until(page, "[...document.querySelectorAll('#grid img')].slice(0, 4).every(one => one.naturalWidth > 0)")
        assert page.evaluate("document.cookie") == ""  # scripts cannot read it
        page.reload()
        expect(page.locator("#count")).to_have_text("12 images, newest first")
        phone.close()

        stranger = browser.new_context()
        page = stranger.new_page()
        page.goto(address)
        expect(page.get_by_role("heading")).to_have_text("This page needs its key")
        page.get_by_label("Key").fill("a guess")
        page.get_by_role("button", name="Open").click()
        expect(page.get_by_role("heading")).to_have_text("This page needs its key")
        page.get_by_label("Key").fill("a key & more")
        page.get_by_role("button", name="Open").click()
        expect(page.locator("#grid button.tile").first).to_be_visible()
        stranger.close()


def test_a_link_with_the_key_on_another_page_opens_this_one(browser: Browser, library: MediaLibrary) -> None:
    """The browser sends a strict cookie only once the user goes on from here."""
    with served(create_page(library, key="secret")) as address:
        context = browser.new_context()
        page = context.new_page()
        link = f'<a href="{address}/?key=secret">go</a>'
        page.route("http://elsewhere.test/**", lambda route: route.fulfill(content_type="text/html", body=link))
        page.goto("http://elsewhere.test/")
        page.get_by_role("link", name="go").click()
        page.get_by_role("link", name="Continue").click()
        expect(page.locator("#grid button.tile").first).to_be_visible()
        context.close()


# ---- questions, answered by a language model

QUESTION = "Ask about this image"


@pytest.fixture
def echo() -> EchoGenerator:
    return EchoGenerator(pause=0.05)


@pytest.fixture
def ask_page(browser: Browser, library: MediaLibrary, echo: EchoGenerator) -> Iterator[Page]:
    """The page of a server with a language model, with an image opened; errors in the console fail the test."""
    with served(create_page(library, ask=GenerationQueue("echo", lambda: echo))) as address:
        page = browser.new_page(viewport={"width": 1200, "height": 800})
        errors: list[str] = []
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        page.locator('#grid button[title="04\'s <b>.jpg"]').click()
        yield page
        page.close()
        aborted = "Failed to load resource: net::ERR_FAILED"  # by a test; is said on the page
        assert [error for error in errors if error != aborted] == []


def test_questions_are_answered_as_the_model_writes(ask_page: Page, echo: EchoGenerator) -> None:
    """All of it by keys."""
    echo.pause = 1.5  # longer than between two looks of the browser
    ask_page.get_by_role("tab", name="Image").focus()
    ask_page.keyboard.press("End")
    expect(ask_page.get_by_role("tab", name="Ask")).to_be_focused()
    expect(ask_page.locator("#subject img")).to_be_visible()
    expect(ask_page.locator("#stage")).to_be_hidden()
    for _ in range(3):  # the button Close, the answers, the field
        ask_page.keyboard.press("Tab")
    field = ask_page.get_by_label(QUESTION)
    expect(field).to_be_focused()
    ask_page.keyboard.type("what <b>is</b> this?")
    ask_page.keyboard.press("Enter")
    answers = ask_page.locator("#answers p")
    expect(answers).to_have_text(["what <b>is</b> this?", "80x60 what "])  # half of it, as text and not as markup
    echo.pause = 0.1
    expect(answers).to_have_text(["what <b>is</b> this?", "80x60 what <b>is</b> this? "])
    expect(ask_page.get_by_role("log", name="Questions and answers")).to_have_attribute("aria-busy", "false")
    expect(field).to_be_focused()
    ask_page.keyboard.type("why?")
    ask_page.keyboard.press("Enter")
    expect(answers).to_have_count(4)
    expect(answers.last).to_have_text("80x60 why? ")
    assert [message.content[-1] for message in echo.conversations[1]] == [
        "what <b>is</b> this?",
        "80x60 what <b>is</b> this? ",
        "why?",
    ]
    ask_page.keyboard.press("Escape")
    expect(ask_page.locator("#viewer")).to_be_hidden()


def open_ask(page: Page) -> None:
    page.get_by_role("tab", name="Ask").click()


def send(page: Page, question: str) -> None:
    page.locator("#question input").fill(question)
    page.get_by_role("button", name="Ask", exact=True).click()


def test_each_image_has_its_conversation(ask_page: Page) -> None:
    open_ask(ask_page)
    send(ask_page, "what?")
    answers = ask_page.locator("#answers p")
    expect(answers).to_have_text(["what?", "80x60 what? "])
    ask_page.locator("#viewer .close").focus()
    ask_page.keyboard.press("ArrowRight")
    expect(ask_page.locator("#viewer h2")).to_have_text("03's <b>.jpg")
    expect(answers).to_have_count(0)
    ask_page.keyboard.press("ArrowLeft")
    expect(answers).to_have_text(["what?", "80x60 what? "])
    send(ask_page, "sure?")
    expect(answers.last).to_have_text("80x60 sure? ")
    ask_page.keyboard.press("Escape")
    ask_page.locator("#grid button[title='clip.mp4']").first.click()
    open_ask(ask_page)
    expect(ask_page.get_by_label("Ask about this moment")).to_be_visible()
    expect(ask_page.locator("#subject video")).to_have_count(1)


def test_an_answer_is_stopped_by_its_button_and_by_closing(ask_page: Page, echo: EchoGenerator) -> None:
    open_ask(ask_page)
    send(ask_page, ENDLESS)
    answer = ask_page.locator("#answers .answer")
    expect(answer).to_contain_text("3 ")
    ask_page.get_by_role("button", name="Stop").click()
    expect(ask_page.locator("#answers .note")).to_have_text("Stopped.")
    expect(ask_page.get_by_role("button", name="Ask", exact=True)).to_be_visible()
    wait_for(lambda: not echo.running, "the generation ends")
    send(ask_page, ENDLESS)
    wait_for(lambda: echo.running, "the second answer")
    expect(answer).to_have_count(2)
    expect(answer.last).to_contain_text("1 ")
    ask_page.keyboard.press("Escape")
    expect(ask_page.locator("#viewer")).to_be_hidden()
    wait_for(lambda: not echo.running, "the generation ends")
    assert echo.tokens < 200


def test_a_failed_question_stays_in_the_field(ask_page: Page) -> None:
    open_ask(ask_page)
    ask_page.route("**/api/ask/*", lambda route: route.abort())
    send(ask_page, "what?")
    expect(ask_page.locator("#answers .failed")).to_have_text("The server does not answer. Is it still running?")
    expect(ask_page.get_by_label(QUESTION)).to_have_value("what?")
    expect(ask_page.locator("#answers .answer")).to_have_count(0)


def test_limits_of_an_answer_are_told(ask_page: Page, echo: EchoGenerator) -> None:
    echo.pause = 0.0
    open_ask(ask_page)
    send(ask_page, TOO_LONG)
    note = ask_page.locator("#answers .note")
    expect(note).to_have_text("The conversation is too long for the model: 7 tokens were cut.")
    send(ask_page, ENDLESS)
    expect(note.last).to_have_text("The answer reached its maximum length.")


def test_a_page_without_a_language_model_says_how_to_start_one(page: Page) -> None:
    page.locator('#grid button[title="04\'s <b>.jpg"]').click()
    open_ask(page)
    expect(page.get_by_role("heading", name="No language model")).to_be_visible()
    expect(page.locator("#talk code")).to_have_text("pe serve DIR --ask-model facebook/Perception-LM-1B")
    expect(page.locator("#question")).to_have_count(0)


def test_questions_fit_the_screen_in_both_colour_schemes(browser: Browser, library: MediaLibrary) -> None:
    with served(create_page(library, ask=GenerationQueue("echo", EchoGenerator))) as address:
        page = browser.new_page(viewport={"width": 390, "height": 844})
        large = io.BytesIO()
        Image.new("RGB", (1600, 1200), "green").save(large, "JPEG")
        page.route("**/file/*", lambda route: route.fulfill(body=large.getvalue(), content_type="image/jpeg"))
        page.goto(address)
        page.locator('#grid button[title="04\'s <b>.jpg"]').click()
        open_ask(page)
        questions = itertools.count()
        for _ in range(7):
            send_long_question(page, next(questions))
        for width, height in ((390, 844), (320, 568), (1200, 800)):
            page.set_viewport_size({"width": width, "height": height})
            send_long_question(page, next(questions))
            for scheme in ("light", "dark"):
                page.emulate_media(color_scheme=scheme)
                check_questions_fit(page, width)
        page.close()


def send_long_question(page: Page, number: int) -> None:
    send(page, f"question {number} " + "word " * 30)
    expect(page.locator("#answers .answer").nth(number)).to_contain_text("word")


def check_questions_fit(page: Page, width: int) -> None:
    assert page.evaluate("document.querySelector('#viewer').scrollWidth") <= width
    field, image = page.locator("#question input"), page.locator("#subject img")
    expect(field).to_be_in_viewport(ratio=1)
    expect(image).to_be_in_viewport(ratio=1)
    expect(page.locator("#answers p").last).to_be_in_viewport()
    panel, answers = page.locator("#conversation").bounding_box(), page.locator("#answers").bounding_box()
    assert answers["height"] > 100 and answers["x"] + answers["width"] <= panel["x"] + panel["width"]
    shown, talk = image.bounding_box(), page.locator("#talk").bounding_box()
    assert shown["x"] + shown["width"] <= talk["x"] or shown["y"] + shown["height"] <= talk["y"]
    assert shown["height"] > 100 and shown["width"] == pytest.approx(shown["height"] * 4 / 3, rel=0.02)
    for selector in ("#answers .answer", "#answers .asked", "#talk > p", "#question input"):
        assert contrast(page, selector) >= 4.5, selector
