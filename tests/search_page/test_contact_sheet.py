"""Contact sheets: whole in one file, and nothing from outside becomes markup."""

from __future__ import annotations

import os
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest
from PIL import Image

from perception_encoder.errors import OutputError
from perception_encoder.search_page.contact_sheet import (
    SheetSection,
    Tile,
    contact_sheet,
    link_to,
    write_contact_sheet,
)

HOSTILE = (
    '"><script>alert(1)</script>.jpg',
    "' onerror='alert(1)",
    "</title></style><img src=x onerror=alert(1)>",
    "two\nlines &amp; <b>bold</b>",
    "\u202egpj.exe",
    "{title}%s",
)


class Page(HTMLParser):
    """Collects a page's elements, and its text by the element that holds it."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.open[-1], data))

    def text_in(self, tag: str) -> list[str]:
        return [text for holder, text in self.texts if holder == tag]


def drawn(width: int = 30, height: int = 20) -> Image.Image:
    return Image.new("RGB", (width, height), 120)


def sheet(text: str = "a cat", **tile: object) -> str:
    tile_of_text = Tile(
        **{"image": drawn(), "caption": text, "value": text, "link": text, "hint": text, "why": text} | tile
    )
    return "".join(contact_sheet(text, text, [SheetSection(heading=text, tiles=[tile_of_text], image=drawn())]))


@pytest.mark.parametrize("text", HOSTILE)
def test_names_and_queries_inject_nothing(text: str) -> None:
    page, plain = Page(sheet(text)), Page(sheet())
    assert page.open == []
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in plain.elements]
    assert [attributes.keys() for _, attributes in page.elements] == [a.keys() for _, a in plain.elements]
    assert page.text_in("h2") == [text]
    assert page.text_in("bdi") == [text, text]
    assert page.text_in("title") == [text]


def test_control_characters_and_names_that_are_not_utf8_are_shown_as_escapes() -> None:
    assert Page(sheet("a\x00\x1b\udcff.jpg")).text_in("h2") == ["a\\x00\\x1b\\udcff.jpg"]


def test_a_page_fetches_nothing_and_runs_nothing() -> None:
    page = Page(sheet())
    assert not {tag for tag, _ in page.elements} & {"script", "link", "iframe", "object"}
    assert all(a["src"].startswith("data:image/jpeg;base64,") for tag, a in page.elements if tag == "img")
    (policy,) = (a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    assert "url(" not in sheet() and "@import" not in sheet()


def test_tiles_say_what_they_have() -> None:
    page = Page(sheet("cat", value="93 %", time=63.2, link=None))
    assert page.text_in("span") == ["1:03", "93 %"]
    assert "a" not in [tag for tag, _ in page.elements]
    whys = [[a for tag, a in Page(sheet(why=why)).elements if a.get("class") == "why"] for why in ("name", "")]
    assert list(map(len, whys)) == [1, 0]
    assert "no preview" in Page(sheet(image=None)).text_in("span")


@pytest.mark.parametrize("name", ["a b.jpg", "javascript:alert(1)", "#1?.png", os.fsdecode(b"\xff.jpg"), "é.jpg"])
def test_links_lead_to_files_from_where_the_page_is(tmp_path: Path, name: str) -> None:
    link = link_to(tmp_path / "photos" / name, tmp_path / "pages" / "index.html")
    assert unquote_to_bytes(link) == b"../photos/" + os.fsencode(name)
    assert not set(link) & set(":?#\"'<> ")
    assert link_to(tmp_path / name, tmp_path / "index.html") == link.removeprefix("../photos/")


def test_links_to_addresses_are_http_only() -> None:
    assert link_to("https://example.org/a.jpg", Path("index.html")) == "https://example.org/a.jpg"
    assert link_to("javascript:alert(1)", Path("index.html")) == ""


def test_a_page_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "index.html"

    def fails():
        yield SheetSection(heading="a", tiles=[])
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_contact_sheet(path, "a", "b", fails())
    assert not any(tmp_path.rglob("*.html*"))
    write_contact_sheet(path, "a", "b", [SheetSection(heading="a", tiles=[])])
    assert [entry.name for entry in path.parent.iterdir()] == ["index.html"]
    with pytest.raises(OutputError, match="file"):
        (tmp_path / "file").touch()
        write_contact_sheet(tmp_path / "file" / "index.html", "a", "b", [])


@pytest.mark.browser
def test_a_browser_shows_it_without_a_server(tmp_path: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no browser is installed")
    from playwright.sync_api import sync_playwright

    tiles = [Tile(image=drawn(200 + 40 * i, 200), caption="x" * 80, value="0.31", time=3.0) for i in range(7)]
    write_contact_sheet(tmp_path / "index.html", "Search", "seven", [SheetSection(heading=HOSTILE[0], tiles=tiles)])
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 360, "height": 800})
        requested, said = [], []
        page.on("request", lambda request: requested.append(request.url.partition(":")[0]))
        page.on("console", lambda message: said.append(message.text))
        page.on("dialog", lambda dialog: said.append(dialog.message))
        for width in (360, 1280):
            page.set_viewport_size({"width": width, "height": 800})
            page.goto((tmp_path / "index.html").as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.evaluate("[...document.images].filter(i => i.naturalWidth > 0).length") == len(tiles)
        browser.close()
    assert set(requested) <= {"file", "data"}
    assert said == []
