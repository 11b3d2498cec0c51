"""Words on the page, in a real browser: lines under hits, boxes on the image, copies, and the switch."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image, ImageDraw
from playwright.sync_api import Browser, Locator, Page, expect

from perception_encoder.inference.encoder import Encoder
from perception_encoder.search.storage.store import IndexStore
from perception_encoder.search_page.library import MediaLibrary
from perception_encoder.search_page.server import create_page
from perception_encoder.words.reader import TextLine
from tests.browsing import contrast, opened_page, wait_until
from tests.clips import clip
from tests.search.indexes import text_line, update_folder, write_words
from tests.serving.servers import served

pytestmark = pytest.mark.browser

HOSTILE = 'Total <img src=x onerror="document.title=1">& <b>41</b>'
HEBREW = "סך הכל 41,20 ₪ total " + "שלום " * 30
LONG = "total " + "of all that was bought on that day " * 20
SLANTED = (0.55, 0.5, 0.9, 0.6, 0.88, 0.7, 0.53, 0.6)
RECEIPT = [
    text_line("Total 41,20 €", 0.25, 0.4, 0.75, 0.5),
    text_line("Café Zentral", 0.25, 0.1, 0.75, 0.2),
    text_line(HOSTILE, 0.1, 0.75, 0.5, 0.8),
]
IDLE = "document.querySelector('#grid').getAttribute('aria-busy') === 'false'"


@pytest.fixture(scope="module")
def library(
    tmp_path_factory: pytest.TempPathFactory, checkpoint: Path, encoder: Encoder, draw: Callable[[int], Image.Image]
) -> MediaLibrary:
    """Images, one of them stored turned by 90 degrees, and a clip; three images and the clip have words."""
    folder = tmp_path_factory.mktemp("words")
    for number, name in enumerate(("plain", "hostile", "hebrew", "long")):
        draw(number).resize((400, 300)).save(folder / f"{name}.png")
    large = Image.new("RGB", (3000, 2000), "white")
    ImageDraw.Draw(large).rectangle((750, 800, 2250, 1000), fill="black")  # where the receipt's first line is
    turned = Image.Exif()
    turned[0x0112] = 8
    large.transpose(Image.Transpose.ROTATE_270).save(folder / "receipt.jpg", exif=turned)
    (folder / "clip.mp4").write_bytes(clip(40, rate=10))
    update_folder(folder, checkpoint, every=0.5)
    lines = {"receipt.jpg": RECEIPT, "hostile.png": [text_line(HOSTILE)], "hebrew.png": [text_line(HEBREW)]}
    slanted = TextLine(text="SALE", confidence=0.8, box=SLANTED)
    write_words(folder, lines | {"long.png": [text_line(LONG), slanted], "clip.mp4": [text_line("Total eclipse")]})
    return MediaLibrary(IndexStore.open(folder), encoder)


@pytest.fixture(scope="module")
def address(library: MediaLibrary) -> Iterator[str]:
    with served(create_page(library)) as address:
        yield address


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """The page with a query; whatever it complains of in the console fails the test."""
    with opened_page(browser, f"{address}/?q=text%3Atotal%2041", "nothing") as page:
        expect(page.locator("#grid button.tile").first).to_be_visible()
        yield page


def names(page: Page) -> set[str]:
    return set(page.locator("#grid button.tile").evaluate_all("all => all.map(one => one.title)"))


def tile(page: Page, name: str) -> Locator:
    return page.locator(f'#grid button[title="{name}"]').first


def open_lines(page: Page, name: str) -> Locator:
    """Open an image, and return the lines beside it."""
    tile(page, name).click()
    lines = page.locator("#lines li")
    expect(lines.first).to_be_visible()
    return lines


def test_the_line_is_under_its_hit(page: Page) -> None:
    why = tile(page, "receipt.jpg").locator(".why")
    expect(why).to_have_text("Total 41,20 €")
    expect(tile(page, "plain.png").locator(".why")).to_have_count(0)
    assert 'words: "Total 41,20 €"' in str(tile(page, "receipt.jpg").get_attribute("aria-label"))
    image, line = tile(page, "receipt.jpg").locator("img").bounding_box(), why.bounding_box()
    assert image and line and line["y"] >= image["y"] + image["height"] - 1 and line["height"] >= 20
    assert image["height"] == pytest.approx(tile(page, "plain.png").bounding_box()["height"], abs=1)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert contrast(page, ".why bdi") >= 4.5, scheme
    page.locator("#words").fill("receipt")
    expect(why).to_have_text("by name")


def test_a_line_is_text_however_it_reads(page: Page) -> None:
    expect(tile(page, "hostile.png").locator("bdi")).to_have_text(HOSTILE)
    assert page.locator("#grid bdi *").count() == 0 and page.title() != "1"
    assert tile(page, "hebrew.png").locator("bdi").evaluate("node => getComputedStyle(node).direction") == "rtl"
    page.locator("#words").fill("total")
    cut = tile(page, "long.png").locator("bdi")
    expect(cut).to_be_visible()
    assert (
        cut.evaluate("node => node.scrollWidth > node.clientWidth && getComputedStyle(node).textOverflow") == "ellipsis"
    )
    width, box = tile(page, "long.png").bounding_box()["width"], cut.bounding_box()
    assert box and box["width"] <= width and box["height"] <= 24
    lines = open_lines(page, "hostile.png")
    expect(lines.locator("span")).to_have_text(HOSTILE)
    assert page.locator("#lines img, #lines b").count() == 0


def corners(page: Page, number: int) -> list[tuple[float, float]]:
    """The corners of a box, in pixels of the window."""
    return page.evaluate(
        """(number) => {
            const polygon = document.querySelectorAll("#stage polygon")[number], matrix = polygon.getScreenCTM();
            return [...polygon.points].map((point) => point.matrixTransform(matrix)).map(({ x, y }) => [x, y]);
        }""",
        number,
    )


def check_box(page: Page, number: int, box: tuple[float, ...]) -> None:
    image = page.locator("#stage img").bounding_box()
    assert image is not None
    wanted = [
        (image["x"] + x * image["width"], image["y"] + y * image["height"])
        for x, y in zip(box[::2], box[1::2], strict=True)
    ]
    for corner, expected in zip(corners(page, number), wanted, strict=True):
        assert corner == pytest.approx(expected, abs=1.5)


def test_boxes_are_where_the_lines_are_at_every_size(page: Page) -> None:
    open_lines(page, "receipt.jpg")
    polygons = page.locator("#stage polygon")
    expect(polygons).to_have_count(3)
    assert polygons.evaluate_all("all => all.map(one => one.classList.contains('found'))") == [True, False, True]
    for width, height in ((1200, 800), (700, 900), (390, 844), (1600, 500)):
        page.set_viewport_size({"width": width, "height": height})
        image, panel = page.locator("#stage img").bounding_box(), page.locator("#lines").bounding_box()
        assert image and panel and image["width"] == pytest.approx(1.5 * image["height"], rel=0.02)
        apart = image["x"] + image["width"] <= panel["x"] + 1 or image["y"] + image["height"] <= panel["y"] + 1
        assert apart and image["height"] > 80
        assert page.evaluate("document.querySelector('#viewer').scrollWidth") <= width
        for number, line in enumerate(RECEIPT):
            check_box(page, number, line.box)
    page.set_viewport_size({"width": 1200, "height": 800})
    check_the_black_bar_is_boxed(page)


def check_the_black_bar_is_boxed(page: Page) -> None:
    """The image is shown upright, as the shares of the box assume: within the box it is black, around it white."""
    left, top, right, bottom = (*corners(page, 0)[0], *corners(page, 0)[2])
    page.locator(".boxes").evaluate("node => node.remove()")
    shot = Image.open(io.BytesIO(page.screenshot())).convert("L")
    middle = round((top + bottom) / 2)
    row = [shot.getpixel((round(x), middle)) for x in (left - 3, left + 3, right - 3, right + 3)]
    column = [shot.getpixel((round((left + right) / 2), round(y))) for y in (top - 3, top + 3, bottom - 3, bottom + 3)]
    for values in (row, column):
        assert [value > 128 for value in values] == [True, False, False, True], values


def test_a_slanted_line_has_a_slanted_box(page: Page) -> None:
    page.locator("#words").fill("sale")
    wait_until(page, IDLE)
    open_lines(page, "long.png")
    check_box(page, 1, SLANTED)


@pytest.fixture
def clipboard(page: Page) -> Page:
    """The page, in a browser that lets it write to the clipboard, and the test read it."""
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    return page


def copied(page: Page) -> str:
    return page.evaluate("navigator.clipboard.readText()")


def test_lines_are_copied_by_a_button_by_keys_and_by_their_box(clipboard: Page) -> None:
    page = clipboard
    lines, notice = open_lines(page, "receipt.jpg"), page.locator("#lines [role=status]")
    expect(lines.locator("span")).to_have_text([line.text for line in RECEIPT])
    lines.first.hover()
    page.get_by_role("button", name="Copy Total 41,20 €").click()
    expect(notice).to_have_text("Copied")
    assert copied(page) == "Total 41,20 €"
    expect(notice).to_have_text("")
    page.keyboard.press("Tab")
    button = page.get_by_role("button", name="Copy Café Zentral")
    expect(button).to_be_focused()
    expect(button).to_have_css("opacity", "1")
    page.keyboard.press("Enter")
    expect(notice).to_have_text("Copied")
    assert copied(page) == "Café Zentral"
    page.get_by_role("button", name="Copy all lines").click()
    expect(notice).to_have_text("Copied")
    wait_until(page, "navigator.clipboard.readText().then((text) => text.split('\\n').length === 3)")
    (x, y), (right, bottom) = corners(page, 0)[0], corners(page, 0)[2]
    page.mouse.move((x + right) / 2, (y + bottom) / 2)
    expect(lines.first).to_have_class(re.compile("pointed"))
    page.mouse.click((x + right) / 2, (y + bottom) / 2)
    wait_until(page, "navigator.clipboard.readText().then((text) => text === 'Total 41,20 €')")


def test_lines_are_copied_without_https(clipboard: Page) -> None:
    """A page that is not from this machine has no navigator.clipboard."""
    page = clipboard
    page.evaluate("Object.defineProperty(navigator, 'clipboard', { configurable: true, value: undefined })")
    open_lines(page, "hostile.png").first.hover()
    page.get_by_role("button", name="Copy Total").click()
    expect(page.locator("#lines [role=status]")).to_have_text("Copied")
    page.evaluate("delete navigator.clipboard")
    assert copied(page) == HOSTILE


def test_lines_can_be_selected(page: Page) -> None:
    text = open_lines(page, "receipt.jpg").first.locator("span")
    box = text.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 1, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 1, box["y"] + box["height"] / 2)
    page.mouse.up()
    assert page.evaluate("getSelection().toString()").startswith("Total 41,20")
    expect(page.locator("#viewer")).to_be_visible()


def test_a_moment_has_lines_and_no_boxes(page: Page) -> None:
    expect(open_lines(page, "clip.mp4").locator("span")).to_have_text("Total eclipse")
    expect(page.locator("#lines h3")).to_have_text(re.compile(r"Words at 0:\d\d"))
    expect(page.locator("#stage video")).to_have_count(1)
    expect(page.locator("polygon")).to_have_count(0)
    page.get_by_role("tab", name="Ask").click()
    expect(page.locator("#lines")).to_have_count(0)


def test_an_image_without_words_has_the_stage_to_itself(page: Page) -> None:
    open_lines(page, "receipt.jpg")
    page.keyboard.press("Escape")
    with page.expect_response("**/api/words/*"):
        tile(page, "plain.png").click()
    expect(page.locator("#stage img")).to_be_visible()
    expect(page.locator("#lines, .boxes")).to_have_count(0)
    stage, image = page.locator("#stage").bounding_box(), page.locator("#stage img").bounding_box()
    assert stage and image
    assert image["x"] + image["width"] / 2 == pytest.approx(stage["x"] + stage["width"] / 2, abs=1)
    assert (image["width"], image["height"]) == (400, 300)


def test_the_switch_changes_what_is_found(page: Page, address: str) -> None:
    wait_until(page, IDLE)
    everything = names(page)
    assert {"plain.png", "receipt.jpg"} <= everything
    both = page.get_by_role("radio", name="Both")
    expect(both).to_be_checked()
    page.get_by_role("radiogroup", name="Search texts by").get_by_text("Words").click()
    page.wait_for_url("**/?q=text%3Atotal%2041&by=words")
    wait_until(page, "!document.querySelector('#grid button[title=\"plain.png\"]')")
    assert names(page) == {"receipt.jpg", "hostile.png", "hebrew.png"}
    expect(page.locator("#count")).to_have_text("")
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_role("radio", name="Meaning")).to_be_checked()
    page.wait_for_url("**/?q=text%3Atotal%2041&by=meaning")
    wait_until(page, "document.querySelector('#grid button[title=\"plain.png\"]')")
    expect(page.locator(".why")).to_have_count(0)
    page.reload()
    expect(page.get_by_role("radio", name="Meaning")).to_be_checked()
    both.check(force=True)
    page.wait_for_url(f"{address}/?q=text%3Atotal%2041")
    page.go_back()
    expect(page.get_by_role("radio", name="Meaning")).to_be_checked()


def test_words_that_no_image_has_are_said_to_be_in_none(page: Page) -> None:
    page.locator("#words").fill('"total zebra"')
    expect(page.locator("#empty")).to_contain_text("No image has all of these words")
    page.locator("#words").fill("zebra")
    expect(page.locator("#empty")).to_be_hidden()
    page.get_by_role("radiogroup", name="Search texts by").get_by_text("Words").click()
    expect(page.locator("#empty")).to_contain_text("No match")


def test_a_weight_keeps_a_term_in_quotes(page: Page) -> None:
    page.locator("#words").fill('"total 41" + cat')
    slider = page.get_by_role("slider", name="Weight of cat")
    expect(slider).to_be_visible()
    slider.focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#words")).to_have_value('words:"total 41" + 1.25:cat')
    wait_until(page, "location.search.includes('1.25')")
    wait_until(page, IDLE)
    assert names(page) == {"receipt.jpg", "hostile.png", "hebrew.png"}
